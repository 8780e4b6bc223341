//! The permissions of each role, as minimal policy documents. Pure, so that `eirs setup --print
//! iam` can show them without any request.

mod boundary;
mod operator;
mod roles;
mod scope;

use serde_json::{Value, json};

pub(crate) use self::{
    boundary::boundary,
    operator::operator,
    roles::{web, worker},
    scope::Scope,
};

/// Allows instances to assume the roles.
pub(crate) fn trust() -> Value {
    document(vec![json!({
        "Effect": "Allow",
        "Principal": { "Service": "ec2.amazonaws.com" },
        "Action": "sts:AssumeRole",
    })])
}

fn document(statements: Vec<Value>) -> Value {
    json!({ "Version": "2012-10-17", "Statement": statements })
}

fn allow(name: &str, actions: &[&str], resources: &[String]) -> Value {
    json!({ "Sid": name, "Effect": "Allow", "Action": actions, "Resource": resources })
}

fn conditional(name: &str, actions: &[&str], resources: &[String], condition: Value) -> Value {
    let mut statement = allow(name, actions, resources);
    statement["Condition"] = condition;
    statement
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use eirs_platform::settings::Settings;

    use super::*;
    use crate::aws::iam::Profile;

    fn scope() -> Scope {
        Scope::of(&Settings::default(), "123456789012", "eu-central-1")
    }

    /// Returns the resources of the statements that allow an action.
    fn resources(document: &Value, action: &str) -> Vec<String> {
        let statements = document["Statement"].as_array().unwrap();
        let allows = |statement: &&Value| {
            statement["Action"].as_array().unwrap().iter().any(|allowed| allowed == action)
        };
        let texts =
            |statement: &Value| serde_json::from_value::<Vec<String>>(statement["Resource"].clone()).unwrap();
        statements.iter().filter(allows).flat_map(texts).collect()
    }

    #[test]
    fn roles_of_instances_have_only_read_access_to_all_resources() {
        for document in [worker(&scope(), "default"), web(&scope())] {
            for statement in document["Statement"].as_array().unwrap() {
                let actions: Vec<String> = serde_json::from_value(statement["Action"].clone()).unwrap();
                assert!(actions.iter().all(|action| !action.contains('*')), "{statement}");
                let is_wide =
                    statement["Resource"].as_array().unwrap().iter().any(|resource| resource == "*");
                let harmless =
                    ["Describe", "List", "Get", "ssmmessages", "ec2messages", "UpdateInstanceInformation"];
                let only_looks =
                    actions.iter().all(|action| harmless.iter().any(|word| action.contains(word)));
                assert!(!is_wide || only_looks, "{statement}");
            }
        }
    }

    #[test]
    fn a_worker_may_change_neither_instances_nor_images() {
        let worker = worker(&scope(), "default");
        for action in [
            "ec2:StartInstances",
            "ec2:StopInstances",
            "ec2:TerminateInstances",
            "ssm:SendCommand",
            "s3:DeleteObject",
        ] {
            assert!(resources(&worker, action).is_empty(), "{action}");
        }
        assert!(
            resources(&worker, "sqs:SendMessage").iter().any(|resource| resource.contains("requests-")),
            "a job that failed is sent once more"
        );
        let is_of_results = |resource: &String| {
            ["results", "versions", "attempts"]
                .iter()
                .any(|kind| resource.contains(&format!("-output/{kind}/")))
        };
        assert!(resources(&worker, "s3:PutObject").iter().all(is_of_results));
    }

    #[test]
    fn a_worker_has_access_only_to_the_queues_of_its_model() {
        let dogs = worker(&scope(), "dogs");
        let queue = |name: &str| format!("arn:aws:sqs:eu-central-1:123456789012:eirs-{name}");
        for action in ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"] {
            assert_eq!(resources(&dogs, action), [queue("requests-dogs"), queue("trial-dogs")], "{action}");
        }
        let sends = resources(&dogs, "sqs:SendMessage");
        let shared = [queue("responses-*"), queue("events")];
        assert!(sends.iter().all(|to| to.ends_with("-dogs") || shared.contains(to)), "{sends:?}");
    }

    #[test]
    fn each_model_has_a_role_with_a_valid_name() {
        let scope = Scope { prefix: "a".repeat(20), region: "b".repeat(16), ..scope() };
        let name = |model: &str| scope.profile(&Profile::Worker(model.to_owned()));
        assert_eq!(name("dogs"), format!("{}-{}-worker-dogs", scope.prefix, scope.region));
        let long = "x".repeat(60);
        let models = ["dogs", "Dogs", "DOGS", &long, &long[1..], &long[..20]];
        let names: BTreeSet<_> = models.into_iter().map(|model| name(model).to_lowercase()).collect();
        assert_eq!(names.len(), models.len(), "{names:?}");
        assert!(names.iter().all(|name| name.len() <= 64), "{names:?}");
    }

    #[test]
    fn a_web_host_runs_one_document_on_tagged_instances_and_no_shell() {
        let web = web(&scope());
        assert_eq!(
            resources(&web, "ssm:SendCommand"),
            [
                "arn:aws:ssm:eu-central-1:123456789012:document/eirs-drain",
                "arn:aws:ec2:eu-central-1:123456789012:instance/*",
                "arn:aws:ec2:eu-central-1:123456789012:instance/*"
            ]
        );
        let conditions: Vec<_> = web["Statement"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|s| s["Resource"][0].as_str().unwrap().contains("instance/*"))
            .collect();
        assert_eq!(conditions.len(), 4);
        for statement in &conditions {
            let tags = &statement["Condition"]["StringEquals"];
            let own =
                [&tags["aws:ResourceTag/eirs:installation"], &tags["ssm:resourceTag/eirs:installation"]];
            assert_eq!(
                own.iter().filter(|tag| **tag == "eirs").count(),
                1,
                "each has one of the keys: {statement}"
            );
        }
        assert!(resources(&web, "ec2:TerminateInstances").is_empty());
    }

    #[test]
    fn a_worker_overwrites_only_results_that_it_has_read() {
        let worker = worker(&scope(), "default");
        let about_results = |s: &&Value| {
            s["Action"][0] == "s3:PutObject" && s["Resource"].to_string().contains("-output/results/")
        };
        let writes: Vec<_> = worker["Statement"]
            .as_array()
            .unwrap()
            .iter()
            .filter(about_results)
            .map(|s| &s["Condition"])
            .collect();
        let is_set = |header: &str| json!({ "Null": { header: "false" } });
        assert_eq!(writes, [&is_set("s3:if-none-match"), &is_set("s3:if-match")]);
    }

    #[test]
    fn roles_are_passed_only_to_instances_and_by_name() {
        let operator = operator(&scope());
        let passes = resources(&operator, "iam:PassRole");
        assert_eq!(passes.len(), 2);
        assert!(
            passes.iter().all(|arn| arn.starts_with("arn:aws:iam::123456789012:role/eirs-eu-central-1-"))
        );
    }

    #[test]
    fn launches_need_the_tag_and_an_image_of_the_installation_or_a_vendor() {
        let operator = operator(&scope());
        let statements = operator["Statement"].as_array().unwrap();
        let launches = statements.iter().filter(|s| s["Action"].to_string().contains("RunInstances"));
        for statement in launches {
            let (resources, condition) =
                (statement["Resource"].to_string(), statement["Condition"].to_string());
            if resources.contains(":instance/*") {
                assert!(condition.contains("aws:RequestTag/eirs:installation"), "{statement}");
            }
            if resources.contains(":image/*") {
                let bounds = ["aws:ResourceTag/eirs:installation", "ec2:Owner"];
                assert!(bounds.iter().any(|key| condition.contains(key)), "{statement}");
            }
            assert!(!resources.contains("\"*\""), "{statement}");
        }
    }

    #[test]
    fn roles_are_created_only_with_the_configured_boundary() {
        let arn = "arn:aws:iam::123456789012:policy/most";
        let bounded = Scope { boundary: Some(arn.into()), ..scope() };
        let makes = |scope: &Scope| {
            let document = operator(scope);
            let statements = document["Statement"].as_array().unwrap().clone();
            let makes = |s: &&Value| s["Action"].to_string().contains("iam:PutRolePolicy\"");
            statements.iter().filter(makes).cloned().collect::<Vec<_>>()
        };
        let [statement] = makes(&bounded).try_into().unwrap();
        assert_eq!(statement["Condition"]["StringEquals"]["iam:PermissionsBoundary"], arn);
        let [statement] = makes(&scope()).try_into().unwrap();
        assert_eq!(statement["Condition"], Value::Null);
        assert!(!operator(&bounded).to_string().contains("DeleteRolePermissionsBoundary"));
    }

    /// Returns whether a pattern of a policy matches a text.
    fn covers(pattern: &str, text: &str) -> bool {
        let Some((start, rest)) = pattern.split_once('*') else { return pattern == text };
        let Some(text) = text.strip_prefix(start) else { return false };
        rest.is_empty() || (0..=text.len()).any(|at| covers(rest, &text[at..]))
    }

    #[test]
    fn the_boundary_allows_all_permissions_of_the_roles() {
        let key = Some("arn:aws:kms:eu-central-1:123456789012:key/1".to_owned());
        let scope = Scope { kms_key: key, launches: true, ..scope() };
        let most = boundary(&scope);
        let texts = |value: &Value| serde_json::from_value::<Vec<String>>(value.clone()).unwrap();
        for statement in
            [worker(&scope, "default"), web(&scope)].iter().flat_map(|d| d["Statement"].as_array().unwrap())
        {
            for action in texts(&statement["Action"]) {
                for resource in texts(&statement["Resource"]) {
                    let allows = |most: &Value| {
                        let condition = &most["Condition"]["StringEquals"];
                        let is_bound = |(key, value): (&String, &Value)| {
                            statement["Condition"]["StringEquals"][key] == *value
                        };
                        texts(&most["Action"]).iter().any(|pattern| covers(pattern, &action))
                            && texts(&most["Resource"]).iter().any(|pattern| covers(pattern, &resource))
                            && condition.as_object().is_none_or(|keys| keys.iter().all(is_bound))
                    };
                    let all = most["Statement"].as_array().unwrap();
                    assert!(all.iter().any(allows), "{action} on {resource}");
                }
            }
        }
        assert!(most.to_string().len() < 6_144, "a managed policy has 6,144 characters");
    }

    #[test]
    fn a_customer_key_may_only_be_used_through_ec2() {
        let key = "arn:aws:kms:eu-central-1:123456789012:key/1";
        let scope = Scope { kms_key: Some(key.into()), ..scope() };
        for document in [web(&scope), operator(&scope)] {
            let statements = document["Statement"].as_array().unwrap();
            let about_keys: Vec<_> =
                statements.iter().filter(|s| s["Action"].to_string().contains("\"kms:")).collect();
            assert_eq!(about_keys.len(), 2);
            for statement in about_keys {
                assert_eq!(statement["Resource"], json!([key]));
                let through = &statement["Condition"]["StringEquals"]["kms:ViaService"];
                assert_eq!(through, "ec2.eu-central-1.amazonaws.com");
            }
            assert_eq!(resources(&document, "kms:CreateGrant"), [key]);
        }
        assert!(resources(&worker(&scope, "default"), "kms:CreateGrant").is_empty());
        assert!(web(&scope).to_string().len() < 10_240 && operator(&scope).to_string().len() < 6_144);
    }

    #[test]
    fn a_web_host_launches_workers_only_if_a_policy_does_and_terminates_only_these() {
        assert!(resources(&web(&scope()), "ec2:RunInstances").is_empty());
        let web = web(&Scope { launches: true, ..scope() });
        assert_eq!(
            resources(&web, "iam:PassRole"),
            ["arn:aws:iam::123456789012:role/eirs-eu-central-1-worker-*"]
        );
        let statements = web["Statement"].as_array().unwrap();
        let terminates = |s: &&Value| s["Action"].to_string().contains("TerminateInstances");
        let [statement] = statements.iter().filter(terminates).collect::<Vec<_>>().try_into().unwrap();
        let tags = &statement["Condition"]["StringEquals"];
        assert_eq!(tags["aws:ResourceTag/eirs:installation"], "eirs");
        assert_eq!(tags["aws:ResourceTag/eirs:tier"], json!(["launched", "spot"]));
        assert!(web.to_string().len() < 10_240);
    }

    #[test]
    fn every_region_is_in_its_partition() {
        for (region, expected) in [
            ("eu-central-1", "aws"),
            ("us-west-2", "aws"),
            ("ap-southeast-5", "aws"),
            ("cn-north-1", "aws-cn"),
            ("us-gov-west-1", "aws-us-gov"),
            ("eusc-de-east-1", "aws-eusc"),
            ("us-isob-east-1", "aws-iso-b"),
        ] {
            assert_eq!(Scope::of(&Settings::default(), "1", region).partition, expected, "{region}");
            let scope = Scope::of(&Settings::default(), "123456789012", region);
            let start = format!("\"arn:{expected}:");
            let scope = Scope { launches: true, ..scope };
            for document in [worker(&scope, "default"), web(&scope), operator(&scope), boundary(&scope)] {
                let text = document.to_string();
                assert_eq!(text.matches("\"arn:").count(), text.matches(&start).count(), "{region}");
            }
        }
    }

    #[test]
    fn every_document_fits_into_an_inline_policy() {
        for document in [worker(&scope(), "default"), web(&scope())] {
            let size = document.to_string().len();
            assert!(size < 10_240, "the inline policies of a role have 10,240 characters: {size}");
        }
        let full = Scope {
            elastic_ip: true,
            boundary: Some("arn:aws:iam::123456789012:policy/most".into()),
            ..scope()
        };
        for scope in [scope(), full] {
            let size = operator(&scope).to_string().len();
            assert!(size < 6_144, "a managed policy has 6,144 characters: {size}");
        }
    }
}
