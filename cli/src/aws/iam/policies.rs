//! Who may do what: the least that each role needs, as policy documents. Pure, so that `eirs setup --print-iam` shows what
//! setup would write, without asking anybody.

use eirs_controller::fleet::ssm;
use eirs_platform::{aws::tag, settings::Settings};
use serde_json::{Value, json};

/// What the documents are about.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    pub(crate) prefix: String,
    pub(crate) region: String,
    /// Twelve digits, or `*`.
    pub(crate) account: String,
    pub(crate) input_bucket: String,
    pub(crate) output_bucket: String,
    /// The first word of every ARN after `arn`, such as `aws`.
    pub(crate) partition: &'static str,
    /// The key that disks are encrypted with, where it is one of the account's own.
    pub(crate) kms_key: Option<String>,
}

/// The partition of AWS that a region is in, by the table that botocore 1.44.8 carries (`data/partitions.json`).
fn partition(region: &str) -> &'static str {
    let by_prefix = [
        ("cn-", "aws-cn"),
        ("us-gov-", "aws-us-gov"),
        ("eusc-", "aws-eusc"),
        ("us-iso-", "aws-iso"),
        ("us-isob-", "aws-iso-b"),
        ("eu-isoe-", "aws-iso-e"),
        ("us-isof-", "aws-iso-f"),
    ];
    by_prefix.iter().find(|(prefix, _)| region.starts_with(prefix)).map_or("aws", |(_, partition)| partition)
}

impl Scope {
    /// Of an installation in an account.
    pub(crate) fn of(settings: &Settings, account: &str, region: &str) -> Self {
        let bucket = |set: &Option<String>, what: &str| {
            set.clone().unwrap_or_else(|| format!("{}-{account}-{region}-{what}", settings.aws.prefix))
        };
        Self {
            prefix: settings.aws.prefix.clone(),
            region: region.to_owned(),
            account: account.to_owned(),
            input_bucket: bucket(&settings.aws.input_bucket, "input"),
            output_bucket: bucket(&settings.aws.output_bucket, "output"),
            partition: partition(region),
            kms_key: settings.setup.kms_key.clone(),
        }
    }

    fn arn(&self, service: &str, resource: &str) -> String {
        format!("arn:{}:{service}:{}:{}:{resource}", self.partition, self.region, self.account)
    }

    fn queue(&self, name: &str) -> String {
        self.arn("sqs", &format!("{}-{name}", self.prefix))
    }

    fn bucket(&self, bucket: &str) -> String {
        format!("arn:{}:s3:::{bucket}", self.partition)
    }

    fn objects(&self, bucket: &str, keys: &str) -> String {
        format!("{}/{keys}", self.bucket(bucket))
    }

    fn drain_document(&self) -> String {
        self.arn("ssm", &format!("document/{}", ssm::document_name(&self.prefix)))
    }

    /// The roles of the instances (`role`), or their profiles (`instance-profile`).
    fn roles(&self, kind: &str) -> Vec<String> {
        let arn = |what: &str| {
            let name = format!("{}-{}-{what}", self.prefix, self.region);
            format!("arn:{}:iam::{}:{kind}/{name}", self.partition, self.account)
        };
        [tag::WORKER, tag::WEB].map(arn).to_vec()
    }

    fn roles_and_profiles(&self) -> Vec<String> {
        [self.roles("role"), self.roles("instance-profile")].concat()
    }

    /// By these the makers of the systems name their images.
    fn public_parameters(&self) -> Vec<String> {
        let names = ["canonical", "ami-amazon-linux-latest"];
        let arn =
            |name| format!("arn:{}:ssm:{}::parameter/aws/service/{name}/*", self.partition, self.region);
        names.into_iter().map(arn).collect()
    }

    /// The condition that a thing is tagged ours.
    fn ours(&self) -> Value {
        self.tagged("aws:ResourceTag")
    }

    fn tagged(&self, key: &str) -> Value {
        json!({ "StringEquals": { format!("{key}/{}", tag::INSTALLATION): self.prefix } })
    }

    /// What whoever starts or launches an instance must be allowed to do with the key of its disk, through EC2 and not otherwise
    /// (EBS user guide, "Requirements for Amazon EBS encryption"). AWS's own key for disks needs no permission.
    fn use_of_the_key(&self) -> Vec<Value> {
        let Some(key) = &self.kms_key else { return Vec::new() };
        let keys = std::slice::from_ref(key);
        let service = format!("ec2.{}.{}", self.region, domain(self.partition));
        let through = json!({ "StringEquals": { "kms:ViaService": service } });
        let mut grant = conditional("LetEc2UseTheKey", &["kms:CreateGrant"], keys, through.clone());
        grant["Condition"]["Bool"] = json!({ "kms:GrantIsForAWSResource": "true" });
        let uses = [
            "kms:DescribeKey",
            "kms:Decrypt",
            "kms:GenerateDataKeyWithoutPlaintext",
            "kms:ReEncryptFrom",
            "kms:ReEncryptTo",
        ];
        vec![grant, conditional("UseTheKeyThroughEc2", &uses, keys, through)]
    }
}

/// What the names of a partition's services end with, by the same table.
fn domain(partition: &str) -> &'static str {
    match partition {
        "aws-cn" => "amazonaws.com.cn",
        "aws-eusc" => "amazonaws.eu",
        "aws-iso" => "c2s.ic.gov",
        "aws-iso-b" => "sc2s.sgov.gov",
        "aws-iso-e" => "cloud.adc-e.uk",
        "aws-iso-f" => "csp.hci.ic.gov",
        _ => "amazonaws.com",
    }
}

const CONSUME: [&str; 3] = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"];
const FIND: [&str; 2] = ["sqs:GetQueueUrl", "sqs:GetQueueAttributes"];

/// Who may take the roles on: the instances.
pub(crate) fn trust() -> Value {
    document(vec![json!({
        "Effect": "Allow",
        "Principal": { "Service": "ec2.amazonaws.com" },
        "Action": "sts:AssumeRole",
    })])
}

/// What a worker's instance may do: take jobs, read images, write results, answer, report, and be told to drain.
pub(crate) fn worker(scope: &Scope) -> Value {
    let results = scope.objects(&scope.output_bucket, "results/*");
    let versions = scope.objects(&scope.output_bucket, "versions/*");
    let attempts = scope.objects(&scope.output_bucket, "attempts/*");
    let mut statements = vec![
        // A job that failed is sent once more.
        allow(
            "Jobs",
            &[&CONSUME[..], &FIND[..], &["sqs:SendMessage"]].concat(),
            &[scope.queue("requests-*")],
        ),
        allow(
            "AnswersAndReports",
            &["sqs:SendMessage", "sqs:GetQueueUrl"],
            &[scope.queue("dead-*"), scope.queue("responses-*"), scope.queue("events")],
        ),
        allow("WhetherThereIsAController", &["sqs:ListQueueTags"], &[scope.queue("events")]),
        allow("Images", &["s3:GetObject"], &[scope.objects(&scope.input_bucket, "images/*")]),
        allow("Results", &["s3:GetObject"], &[results.clone(), versions.clone()]),
        allow("Versions", &["s3:PutObject"], &[versions]),
        // What was begun and never ended, by which a job that kills its workers is known.
        allow("Attempts", &["s3:GetObject", "s3:PutObject"], &[attempts]),
        // A result that is stored is not written over by who does not know it: a write without `If-None-Match` or `If-Match` is
        // refused (S3 user guide, "Enforce conditional writes"). One that was given up is replaced by a verdict, when it was read.
        conditional(
            "NewResults",
            &["s3:PutObject"],
            std::slice::from_ref(&results),
            json!({ "Null": { "s3:if-none-match": "false" } }),
        ),
        conditional(
            "ResultsThatWereRead",
            &["s3:PutObject"],
            std::slice::from_ref(&results),
            json!({ "Null": { "s3:if-match": "false" } }),
        ),
        missing_is_missing(scope),
    ];
    statements.push(ssm_agent());
    document(statements)
}

/// What a web host may do: take uploads in, and start, drain and stop the instances that are tagged ours.
pub(crate) fn web(scope: &Scope) -> Value {
    let instances = scope.arn("ec2", "instance/*");
    let mut tagging =
        conditional("WriteDown", &["ec2:CreateTags"], std::slice::from_ref(&instances), scope.ours());
    tagging["Condition"]["ForAllValues:StringEquals"] =
        json!({ "aws:TagKeys": [tag::GENERATION, tag::MODEL, tag::DRAIN] });
    let mut statements = vec![
        allow("Jobs", &[&["sqs:SendMessage"], &FIND[..]].concat(), &[scope.queue("requests-*")]),
        allow(
            "OwnAnswers",
            &[
                &["sqs:CreateQueue", "sqs:DeleteQueue", "sqs:TagQueue", "sqs:ListQueueTags"],
                &CONSUME[..],
                &FIND[..],
            ]
            .concat(),
            &[scope.queue("responses-*")],
        ),
        allow(
            "ReportsAndDeadLetters",
            &[&["sqs:SendMessage"], &CONSUME[..], &FIND[..]].concat(),
            &[scope.queue("events"), scope.queue("dead-*"), scope.queue("webhook")],
        ),
        allow("SayThatTheControllerIsHere", &["sqs:TagQueue"], &[scope.queue("events")]),
        allow(
            "TheControllersClaim",
            &["s3:GetObject", "s3:PutObject"],
            &[scope.objects(&scope.input_bucket, "control/*")],
        ),
        allow("PutDeadLettersAway", &["sqs:PurgeQueue"], &[scope.queue("dead-*")]),
        allow("Queues", &["sqs:ListQueues"], &["*".to_owned()]),
        allow(
            "Images",
            &["s3:GetObject", "s3:PutObject", "s3:DeleteObject"],
            &[scope.objects(&scope.input_bucket, "images/*"), scope.objects(&scope.input_bucket, "asked/*")],
        ),
        allow(
            "Results",
            &["s3:GetObject", "s3:DeleteObject"],
            &[scope.objects(&scope.output_bucket, "results/*")],
        ),
        missing_is_missing(scope),
        // EC2 knows no narrower permission to look.
        allow("See", &["ec2:DescribeInstances"], &["*".to_owned()]),
        conditional("StartAndStop", &["ec2:StartInstances", "ec2:StopInstances"], &[instances], scope.ours()),
        tagging,
        allow("DrainByThisDocumentOnly", &["ssm:SendCommand"], &[scope.drain_document()]),
        // Two keys carry an instance's tags (service authorization reference, "AWS Systems Manager", SendCommand), and SSM's own is
        // the one that its user guide shows. In one statement both would have to be there.
        conditional("DrainOurs", &["ssm:SendCommand"], &[scope.arn("ec2", "instance/*")], scope.ours()),
        conditional(
            "DrainOursBySsm",
            &["ssm:SendCommand"],
            &[scope.arn("ec2", "instance/*")],
            scope.tagged("ssm:resourceTag"),
        ),
        allow("HowItWent", &["ssm:GetCommandInvocation"], &["*".to_owned()]),
    ];
    statements.extend(check(scope));
    statements.extend(scope.use_of_the_key());
    document(statements)
}

/// What `eirs check` looks at on a web host, to tell whether all is as setup made it.
fn check(scope: &Scope) -> Vec<Value> {
    let buckets = [scope.bucket(&scope.input_bucket), scope.bucket(&scope.output_bucket)];
    vec![
        allow(
            "CheckBuckets",
            &[
                "s3:GetBucketTagging",
                "s3:GetEncryptionConfiguration",
                "s3:GetBucketPublicAccessBlock",
                "s3:GetLifecycleConfiguration",
            ],
            &buckets,
        ),
        allow("CheckQueues", &["sqs:ListQueueTags"], &[scope.queue("*")]),
        allow("CheckMachines", &["ec2:DescribeImages", "ec2:DescribeSecurityGroups"], &["*".to_owned()]),
        allow("CheckDocument", &["ssm:GetDocument", "ssm:DescribeDocument"], &[scope.drain_document()]),
        allow("CheckSystem", &["ssm:GetParameter"], &scope.public_parameters()),
        allow(
            "CheckRoles",
            &["iam:GetRole", "iam:GetRolePolicy", "iam:GetInstanceProfile"],
            &scope.roles_and_profiles(),
        ),
    ]
}

/// What whoever runs `eirs setup`, `check` and `cleanup` must be allowed to do.
pub(crate) fn operator(scope: &Scope) -> Value {
    let roles = scope.roles_and_profiles();
    let buckets = [&scope.input_bucket, &scope.output_bucket]
        .map(|bucket| [scope.bucket(bucket), scope.objects(bucket, "*")])
        .concat();
    let machines = [scope.arn("ec2", "*"), image_arn(scope)];
    let made = ["RunInstances", "CreateImage", "CreateSecurityGroup", "CreateKeyPair"];
    let mut statements = vec![
        allow("Buckets", &["s3:*"], &buckets),
        allow("Queues", &["sqs:*"], &[scope.queue("*")]),
        allow("ListQueues", &["sqs:ListQueues"], &["*".to_owned()]),
        allow(
            "Roles",
            &[
                "iam:CreateRole",
                "iam:GetRole",
                "iam:DeleteRole",
                "iam:TagRole",
                "iam:ListRoleTags",
                "iam:PutRolePolicy",
                "iam:GetRolePolicy",
                "iam:ListRolePolicies",
                "iam:DeleteRolePolicy",
                "iam:CreateInstanceProfile",
                "iam:GetInstanceProfile",
                "iam:DeleteInstanceProfile",
                "iam:TagInstanceProfile",
                "iam:AddRoleToInstanceProfile",
                "iam:RemoveRoleFromInstanceProfile",
            ],
            &roles,
        ),
        conditional(
            "HandRolesToInstances",
            &["iam:PassRole"],
            &scope.roles("role"),
            json!({
                "StringEquals": { "iam:PassedToService": "ec2.amazonaws.com" }
            }),
        ),
        // Describing knows no resources.
        allow(
            "LookAround",
            &["ec2:Describe*", "ssm:DescribeInstanceInformation", "sts:GetCallerIdentity"],
            &["*".to_owned()],
        ),
        allow(
            "MakeInstancesImagesGroupsAndKeys",
            &["ec2:RunInstances", "ec2:CreateImage", "ec2:CreateSecurityGroup", "ec2:CreateKeyPair"],
            &["*".to_owned()],
        ),
        // What is somebody else's cannot be made ours by a tag.
        conditional(
            "TagWhatIsMade",
            &["ec2:CreateTags"],
            &machines,
            json!({ "StringEquals": { "ec2:CreateAction": made } }),
        ),
        conditional("TagOurs", &["ec2:CreateTags"], &machines, scope.ours()),
        conditional(
            "ChangeAndDeleteOurs",
            &[
                "ec2:AuthorizeSecurityGroupIngress",
                "ec2:RevokeSecurityGroupIngress",
                "ec2:DeleteSecurityGroup",
                "ec2:DeleteKeyPair",
                "ec2:DeregisterImage",
                "ec2:DeleteSnapshot",
                "ec2:StartInstances",
                "ec2:StopInstances",
                "ec2:TerminateInstances",
            ],
            &["*".to_owned()],
            scope.ours(),
        ),
        allow(
            "DrainDocument",
            &[
                "ssm:CreateDocument",
                "ssm:UpdateDocument",
                "ssm:UpdateDocumentDefaultVersion",
                "ssm:GetDocument",
                "ssm:DescribeDocument",
                "ssm:DeleteDocument",
                "ssm:AddTagsToResource",
                "ssm:ListTagsForResource",
            ],
            &[scope.drain_document()],
        ),
        allow("BaseImages", &["ssm:GetParameter", "ssm:GetParameters"], &scope.public_parameters()),
    ];
    statements.extend(scope.use_of_the_key());
    document(statements)
}

fn image_arn(scope: &Scope) -> String {
    format!("arn:{}:ec2:{}::*", scope.partition, scope.region)
}

/// Without the permission to list, S3 says of a blob that is not there that one may not read it.
fn missing_is_missing(scope: &Scope) -> Value {
    let buckets = [scope.bucket(&scope.input_bucket), scope.bucket(&scope.output_bucket)];
    allow("WhatIsMissingIsMissing", &["s3:ListBucket"], &buckets)
}

/// What AWS's own `AmazonSSMManagedInstanceCore` allows, without reading every parameter of the account.
fn ssm_agent() -> Value {
    let actions = [
        "ssm:UpdateInstanceInformation",
        "ssm:ListAssociations",
        "ssm:ListInstanceAssociations",
        "ssm:GetDocument",
        "ssm:DescribeDocument",
        "ssmmessages:CreateControlChannel",
        "ssmmessages:CreateDataChannel",
        "ssmmessages:OpenControlChannel",
        "ssmmessages:OpenDataChannel",
        "ec2messages:AcknowledgeMessage",
        "ec2messages:DeleteMessage",
        "ec2messages:FailMessage",
        "ec2messages:GetEndpoint",
        "ec2messages:GetMessages",
        "ec2messages:SendReply",
    ];
    allow("BeTold", &actions, &["*".to_owned()])
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
    use super::*;

    fn scope() -> Scope {
        Scope::of(&Settings::default(), "123456789012", "eu-central-1")
    }

    /// The statements of a document that allow an action, by their resources.
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
    fn no_role_of_an_instance_may_do_anything_to_everything_but_look() {
        for document in [worker(&scope()), web(&scope())] {
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
    fn a_worker_cannot_touch_instances_nor_the_images_it_reads() {
        let worker = worker(&scope());
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
    fn a_worker_writes_over_no_result_that_it_has_not_read() {
        let worker = worker(&scope());
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
        let told = |header: &str| json!({ "Null": { header: "false" } });
        assert_eq!(writes, [&told("s3:if-none-match"), &told("s3:if-match")]);
    }

    #[test]
    fn roles_are_handed_to_instances_by_their_names_and_to_nothing_else() {
        let operator = operator(&scope());
        let passes = resources(&operator, "iam:PassRole");
        assert_eq!(passes.len(), 2);
        assert!(
            passes.iter().all(|arn| arn.starts_with("arn:aws:iam::123456789012:role/eirs-eu-central-1-"))
        );
    }

    #[test]
    fn a_key_of_ones_own_may_be_used_through_ec2_and_not_otherwise() {
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
        assert!(resources(&worker(&scope), "kms:CreateGrant").is_empty());
        assert!(web(&scope).to_string().len() < 10_240 && operator(&scope).to_string().len() < 6_144);
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
            assert_eq!(partition(region), expected, "{region}");
            let scope = Scope::of(&Settings::default(), "123456789012", region);
            let start = format!("\"arn:{expected}:");
            for document in [worker(&scope), web(&scope), operator(&scope)] {
                let text = document.to_string();
                assert_eq!(text.matches("\"arn:").count(), text.matches(&start).count(), "{region}");
            }
        }
    }

    #[test]
    fn every_document_fits_into_an_inline_policy() {
        for document in [worker(&scope()), web(&scope())] {
            let size = document.to_string().len();
            assert!(size < 10_240, "the inline policies of a role have 10,240 characters: {size}");
        }
        assert!(operator(&scope()).to_string().len() < 6_144, "a managed policy has 6,144");
    }
}
