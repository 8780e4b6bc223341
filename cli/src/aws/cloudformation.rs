//! The installation as a CloudFormation template, for organisations in which tools must not create
//! roles: a platform team reviews it and creates a stack. `eirs setup` then finds everything, and
//! only bakes and parks machines. All properties are the ones that setup itself would write. The
//! template names no account or region: CloudFormation inserts those of the stack.

use std::collections::BTreeMap;

use aws_sdk_s3::types::LifecycleRule;
use eirs_platform::{aws::tag, queue::sqs, settings::Settings};
use serde_json::{Map, Value, json};

use super::{
    buckets::{self, Bucket},
    document,
    iam::{self, Profile, Role, policies},
    network, queues,
};

/// The network that a stack creates if the settings name no subnets: a private range, with a part
/// for each zone.
const RANGE: &str = "10.83.0.0/16";
const ZONES: [&str; 2] = ["10.83.0.0/20", "10.83.16.0/20"];
const WORLD: &str = "0.0.0.0/0";

/// The parameter with the VPC, if the settings name subnets.
const VPC: &str = "Vpc";

struct Template<'a> {
    settings: &'a Settings,
    scope: policies::Scope,
    resources: Map<String, Value>,
}

/// Returns the template for the installation that the settings describe.
pub(crate) fn template(settings: &Settings) -> anyhow::Result<Value> {
    let scope = policies::Scope::of_template(settings);
    let mut template = Template { settings, scope, resources: Map::new() };
    template.buckets()?;
    template.queues();
    template.documents();
    template.roles();
    template.network();
    template.operator();
    let prefix = &settings.aws.prefix;
    let mut whole = json!({
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": format!("EIRS, the installation {prefix}: all but images, machines and key"),
        "Resources": template.resources,
        "Outputs": { "OperatorPolicy": {
            "Description": "What the person who runs eirs setup needs",
            "Value": { "Ref": "OperatorPolicy" },
        } },
    });
    if !settings.setup.subnets.is_empty() {
        let description = format!("The VPC of the subnets {}", settings.setup.subnets.join(", "));
        whole["Parameters"] = json!({ VPC: { "Type": "AWS::EC2::VPC::Id", "Description": description } });
    }
    Ok(substituted(whole))
}

impl Template<'_> {
    /// Adds a resource and returns its name in the template.
    fn add(&mut self, id: &str, kind: &str, properties: Value) -> String {
        // Two queues may differ only in characters that are not allowed here.
        let mut free = id.to_owned();
        for number in 2.. {
            if !self.resources.contains_key(&free) {
                break;
            }
            free = format!("{id}{number}");
        }
        self.resources.insert(free.clone(), json!({ "Type": kind, "Properties": properties }));
        free
    }

    fn after(&mut self, resource: &str, needed: &str) {
        self.resources[resource]["DependsOn"] = needed.into();
    }

    fn tags(&self) -> Value {
        let tag = |key: &str, value: Value| json!({ "Key": key, "Value": value });
        json!([
            tag(tag::INSTALLATION, self.settings.aws.prefix.as_str().into()),
            tag(tag::STACK, json!({ "Ref": "AWS::StackName" })),
        ])
    }

    fn buckets(&mut self) -> anyhow::Result<()> {
        let names = [self.scope.input_bucket.clone(), self.scope.output_bucket.clone()];
        let both = Bucket::named(self.settings, [&names[0], &names[1]]);
        for (id, bucket) in ["Images", "Results"].into_iter().zip(both) {
            let closed = buckets::closed();
            let by = json!({ "SSEAlgorithm": buckets::ENCRYPTION.as_str() });
            let made = json!({
                "BucketName": bucket.name,
                "BucketEncryption": {
                    "ServerSideEncryptionConfiguration": [{ "ServerSideEncryptionByDefault": by }],
                },
                "PublicAccessBlockConfiguration": {
                    "BlockPublicAcls": closed.block_public_acls(),
                    "IgnorePublicAcls": closed.ignore_public_acls(),
                    "BlockPublicPolicy": closed.block_public_policy(),
                    "RestrictPublicBuckets": closed.restrict_public_buckets(),
                },
                "LifecycleConfiguration": { "Rules": [lifecycle(&bucket.lifecycle()?)] },
                "Tags": self.tags(),
            });
            // CloudFormation only deletes empty buckets, so uploads survive the stack.
            self.add(&format!("{id}Bucket"), "AWS::S3::Bucket", made);
            let policy = buckets::only_over_tls(&self.scope.bucket(&bucket.name));
            let named = json!({ "Bucket": { "Ref": format!("{id}Bucket") }, "PolicyDocument": policy });
            self.add(&format!("{id}OnlyOverTls"), "AWS::S3::BucketPolicy", named);
        }
        Ok(())
    }

    fn queues(&mut self) {
        let mut ids: BTreeMap<String, String> = BTreeMap::new();
        for queue in queues::wanted(self.settings) {
            let full = format!("{}-{}", self.settings.aws.prefix, queue.name);
            let rule = queue.options.dead_letters.as_ref();
            let target = rule.map(|rule| self.scope.queue(&rule.queue)).unwrap_or_default();
            let attributes = sqs::attributes(&queue.options, &target);
            // CloudFormation has the attribute names of SQS, but with typed values.
            let value = |text: &String| serde_json::from_str(text).unwrap_or_else(|_| text.clone().into());
            let mut properties: Map<_, _> =
                attributes.iter().map(|(key, text)| (key.as_str().to_owned(), value(text))).collect();
            properties.insert("QueueName".into(), full.into());
            properties.insert("Tags".into(), self.tags());
            let added = self.add(&id(&queue.name), "AWS::SQS::Queue", properties.into());
            if let Some(needed) = rule.and_then(|rule| ids.get(&rule.queue)) {
                self.after(&added, needed);
            }
            ids.insert(queue.name, added);
        }
    }

    fn documents(&mut self) {
        for kind in document::Kind::ALL {
            let name = kind.name(&self.settings.aws.prefix);
            let made = json!({
                "Name": name,
                "DocumentType": "Command",
                "DocumentFormat": "JSON",
                // A document with a custom name cannot be replaced.
                "UpdateMethod": "NewVersion",
                "Content": kind.content(),
                "Tags": self.tags(),
            });
            self.add(&format!("{kind:?}Document"), "AWS::SSM::Document", made);
        }
    }

    fn roles(&mut self) {
        for profile in Profile::all(self.settings) {
            let (name, who) = (
                self.scope.profile(&profile),
                match &profile {
                    Profile::Worker(model) => format!("Worker{}", letters(model)),
                    Profile::Web => "Web".to_owned(),
                },
            );
            let policy = json!({ "PolicyName": iam::POLICY, "PolicyDocument": profile.policy(&self.scope) });
            let mut made = json!({
                "RoleName": name,
                "Description": iam::DESCRIPTION,
                "AssumeRolePolicyDocument": policies::trust(),
                "Policies": [policy],
                "Tags": self.tags(),
            });
            if let Some(boundary) = &self.scope.boundary {
                made["PermissionsBoundary"] = boundary.as_str().into();
            }
            let role = self.add(&format!("{who}Role"), "AWS::IAM::Role", made);
            let carried = json!({ "InstanceProfileName": name, "Roles": [{ "Ref": role }] });
            self.add(&format!("{who}Profile"), "AWS::IAM::InstanceProfile", carried);
        }
    }

    /// Adds the security groups, in the VPC of the configured subnets or in a new one.
    fn network(&mut self) {
        if self.settings.setup.subnets.is_empty() {
            self.vpc();
        }
        for role in Role::ALL {
            let doors = network::doors(self.settings, role);
            let pairs = doors.iter().flat_map(|(port, networks)| networks.iter().map(move |it| (port, it)));
            let door = |(port, network): (&u16, &String)| {
                let key = if network.contains(':') { "CidrIpv6" } else { "CidrIp" };
                json!({ "IpProtocol": "tcp", "FromPort": port, "ToPort": port, key: network })
            };
            let made = json!({
                "GroupName": network::group_name(&self.settings.aws.prefix, role),
                "GroupDescription": network::DESCRIPTION,
                "VpcId": { "Ref": VPC },
                "SecurityGroupIngress": pairs.map(door).collect::<Vec<_>>(),
                "Tags": self.tags(),
            });
            self.add(&format!("{role:?}Group"), "AWS::EC2::SecurityGroup", made);
        }
    }

    /// Adds a VPC with a subnet in each of two zones, from which machines reach AWS with public
    /// addresses.
    fn vpc(&mut self) {
        let tags = self.tags();
        let vpc = json!({ "Ref": VPC });
        let own =
            json!({ "CidrBlock": RANGE, "EnableDnsHostnames": true, "EnableDnsSupport": true, "Tags": tags });
        self.add(VPC, "AWS::EC2::VPC", own);
        self.add("Gateway", "AWS::EC2::InternetGateway", json!({ "Tags": tags }));
        let attached = json!({ "VpcId": vpc, "InternetGatewayId": { "Ref": "Gateway" } });
        self.add("GatewayAttachment", "AWS::EC2::VPCGatewayAttachment", attached);
        self.add("Routes", "AWS::EC2::RouteTable", json!({ "VpcId": vpc, "Tags": tags }));
        let out = json!({
            "RouteTableId": { "Ref": "Routes" },
            "DestinationCidrBlock": WORLD,
            "GatewayId": { "Ref": "Gateway" },
        });
        self.add("RouteOut", "AWS::EC2::Route", out);
        self.after("RouteOut", "GatewayAttachment");
        for (index, range) in ZONES.iter().enumerate() {
            let id = format!("Subnet{}", index + 1);
            let made = json!({
                "VpcId": vpc,
                "CidrBlock": range,
                "AvailabilityZone": { "Fn::Select": [index, { "Fn::GetAZs": "" }] },
                "MapPublicIpOnLaunch": true,
                "Tags": tags,
            });
            self.add(&id, "AWS::EC2::Subnet", made);
            let routed = json!({ "SubnetId": { "Ref": id }, "RouteTableId": { "Ref": "Routes" } });
            self.add(&format!("{id}Routes"), "AWS::EC2::SubnetRouteTableAssociation", routed);
        }
    }

    /// Adds the permissions that setup needs with this stack: it creates no role and no policy.
    fn operator(&mut self) {
        let made = json!({
            "ManagedPolicyName": self.scope.regional("operator"),
            "Description": "For the person who runs eirs setup, update, check and cleanup",
            "PolicyDocument": policies::operator(&self.scope),
        });
        self.add("OperatorPolicy", "AWS::IAM::ManagedPolicy", made);
    }
}

/// Converts a lifecycle rule of S3 to CloudFormation.
fn lifecycle(rule: &LifecycleRule) -> Value {
    let mut written = json!({ "Id": rule.id(), "Status": rule.status().as_str() });
    if let Some(days) = rule.expiration().and_then(|it| it.days()) {
        written["ExpirationInDays"] = days.into();
    }
    if let Some(days) = rule.noncurrent_version_expiration().and_then(|it| it.noncurrent_days()) {
        written["NoncurrentVersionExpiration"] = json!({ "NoncurrentDays": days });
    }
    if let Some(days) = rule.abort_incomplete_multipart_upload().and_then(|it| it.days_after_initiation()) {
        written["AbortIncompleteMultipartUpload"] = json!({ "DaysAfterInitiation": days });
    }
    written
}

/// Returns the resource name of a queue.
fn id(queue: &str) -> String {
    letters(queue) + "Queue"
}

/// Converts a name to a part of a resource name, which has only letters and digits.
fn letters(name: &str) -> String {
    let words = name.split(|character: char| !character.is_ascii_alphanumeric());
    let word = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str())
    };
    words.filter_map(word).collect()
}

/// Wraps each text with pseudo parameters in `Fn::Sub`.
fn substituted(value: Value) -> Value {
    match value {
        Value::String(text) if text.contains("${AWS::") => json!({ "Fn::Sub": text }),
        Value::Array(all) => all.into_iter().map(substituted).collect(),
        Value::Object(all) => all.into_iter().map(|(key, value)| (key, substituted(value))).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(settings: &Settings) -> Map<String, Value> {
        template(settings).unwrap()["Resources"].as_object().unwrap().clone()
    }

    #[test]
    fn the_template_names_no_account_or_region() {
        let text = template(&Settings::default()).unwrap().to_string();
        assert!(
            text.contains("{\"Fn::Sub\":\"arn:${AWS::Partition}:sqs:${AWS::Region}:${AWS::AccountId}:eirs-")
        );
        assert!(!text.contains("arn:aws:"), "{text}");
    }

    #[test]
    fn the_template_has_the_resources_of_setup_and_a_network_if_needed() {
        let count =
            |all: &Map<String, Value>, kind: &str| all.values().filter(|it| it["Type"] == kind).count();
        let settings = Settings::default();
        let own = resources(&settings);
        assert_eq!(count(&own, "AWS::SQS::Queue"), queues::wanted(&settings).len());
        assert_eq!(count(&own, "AWS::SSM::Document"), document::Kind::ALL.len());
        assert_eq!(count(&own, "AWS::IAM::Role"), Profile::all(&settings).len());
        assert_eq!((count(&own, "AWS::EC2::VPC"), count(&own, "AWS::EC2::Subnet")), (1, ZONES.len()));
        let mut settings = settings;
        settings.setup.subnets = vec!["subnet-1".into()];
        let given = resources(&settings);
        assert_eq!((count(&given, "AWS::EC2::VPC"), count(&given, "AWS::EC2::SecurityGroup")), (0, 2));
        assert_eq!(template(&settings).unwrap()["Parameters"][VPC]["Type"], "AWS::EC2::VPC::Id");
    }

    #[test]
    fn models_with_similar_names_have_separate_queues() {
        let mut settings = Settings::default();
        let model = settings.models["default"].clone();
        settings.models = [("a-b".to_owned(), model.clone()), ("a_b".to_owned(), model)].into();
        let all = resources(&settings);
        let names = |id: &str| (all[id]["Properties"]["QueueName"].clone(), all[id]["DependsOn"].clone());
        assert_eq!(names("RequestsABQueue"), ("eirs-requests-a-b".into(), "DeadABQueue".into()));
        assert_eq!(names("RequestsABQueue2"), ("eirs-requests-a_b".into(), "DeadABQueue2".into()));
        let role = |id: &str| all[id]["Properties"]["Roles"][0]["Ref"].clone();
        assert_eq!(
            (role("WorkerABProfile"), role("WorkerABProfile2")),
            ("WorkerABRole".into(), "WorkerABRole2".into())
        );
    }

    #[test]
    fn the_operator_may_not_create_roles_or_write_their_policies() {
        let operator = resources(&Settings::default())["OperatorPolicy"]["Properties"].to_string();
        for action in ["iam:CreateRole", "iam:Put", "iam:Delete", "iam:Attach", "iam:*", "ec2:CreateSecurity"]
        {
            assert!(!operator.contains(action), "{action}: {operator}");
        }
        assert!(operator.contains("iam:PassRole") && operator.contains("iam:GetRole\""), "{operator}");
    }
}
