//! The scope of the documents: an installation in a partition, an account and a region, and the
//! names of its resources.

use std::path::Path;

use eirs_controller::policy;
use eirs_platform::{aws::tag, settings::Settings};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::conditional;
use crate::aws::{bundle, document::Kind, iam::Profile};

/// CloudFormation's pseudo parameters ("Pseudo parameters reference" of its user guide, read on
/// 2026-11-30).
const STACKS_ACCOUNT: &str = "${AWS::AccountId}";
const STACKS_REGION: &str = "${AWS::Region}";
const STACKS_PARTITION: &str = "${AWS::Partition}";
const STACKS_DOMAIN: &str = "${AWS::URLSuffix}";

/// Maximum length of a region's name.
const LONGEST_REGION: usize = 16;

/// The scope of the documents.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    pub(crate) prefix: String,
    pub(crate) region: String,
    /// Twelve digits, or `*`.
    pub(crate) account: String,
    pub(crate) input_bucket: String,
    pub(crate) output_bucket: String,
    /// The partition in ARNs, such as `aws`.
    pub(crate) partition: &'static str,
    /// The customer key that encrypts disks, if there is one.
    pub(crate) kms_key: Option<String>,
    /// Whether a policy lets the controller launch machines.
    pub(crate) launches: bool,
    /// Whether machines copy their logs to the bucket of the results.
    pub(crate) ship_logs: bool,
    /// Whether the web host has an Elastic IP.
    pub(crate) elastic_ip: bool,
    /// Whether buckets, queues, documents, groups and roles are created by others, and only used.
    pub(crate) is_given: bool,
    /// The permissions boundary of all roles of the installation, if there is one.
    pub(crate) boundary: Option<String>,
}

/// Returns the partition of a region, by the table in botocore 1.44.8 (`data/partitions.json`).
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
    /// Returns the scope of an installation in an account.
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
            launches: launches(settings),
            ship_logs: settings.setup.ship_logs,
            elastic_ip: settings.setup.elastic_ip,
            is_given: false,
            boundary: settings.setup.permissions_boundary.clone(),
        }
    }

    /// Returns the scope of a template, which can be deployed anywhere.
    pub(crate) fn of_template(settings: &Settings) -> Self {
        let scope = Self::of(settings, STACKS_ACCOUNT, STACKS_REGION);
        Self { partition: STACKS_PARTITION, is_given: true, ..scope }
    }

    pub(super) fn arn(&self, service: &str, resource: &str) -> String {
        format!("arn:{}:{service}:{}:{}:{resource}", self.partition, self.region, self.account)
    }

    pub(crate) fn queue(&self, name: &str) -> String {
        self.arn("sqs", &format!("{}-{name}", self.prefix))
    }

    pub(crate) fn bucket(&self, bucket: &str) -> String {
        format!("arn:{}:s3:::{bucket}", self.partition)
    }

    pub(super) fn objects(&self, bucket: &str, keys: &str) -> String {
        format!("{}/{keys}", self.bucket(bucket))
    }

    pub(super) fn document(&self, kind: Kind) -> String {
        self.arn("ssm", &format!("document/{}", kind.name(&self.prefix)))
    }

    /// Returns the URL of a bucket, for clients that sign their own requests, such as `curl`.
    pub(crate) fn bucket_address(&self, bucket: &str) -> String {
        format!("https://{bucket}.s3.{}.{}", self.region, domain(self.partition))
    }

    /// Returns the ARNs of the instances' roles (`role`) or profiles (`instance-profile`): workers
    /// of all models, and web hosts.
    pub(super) fn roles(&self, kind: &str) -> Vec<String> {
        let names = [self.regional("worker-*"), self.profile(&Profile::Web)];
        names.map(|name| format!("arn:{}:iam::{}:{kind}/{name}", self.partition, self.account)).to_vec()
    }

    /// Returns the name of a role and of its profile. Roles are shared by all regions of an
    /// account.
    pub(crate) fn profile(&self, profile: &Profile) -> String {
        match profile {
            Profile::Worker(model) => self.regional(&format!("worker-{}", self.word_of(model))),
            Profile::Web => self.regional("web"),
        }
    }

    /// Returns a model's name as a part of an IAM name, which has at most 64 characters and ignores
    /// case ("IAM and AWS STS quotas" of its user guide, read on 2026-11-30). The region of a
    /// template is unknown.
    fn word_of(&self, model: &str) -> String {
        let most = 64 - self.prefix.len() - LONGEST_REGION - "--worker-".len();
        if model.len() <= most && !model.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return model.to_owned();
        }
        let digest: String = Sha256::digest(model).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        let begin: String = model.chars().take(most - 1 - digest.len()).collect();
        format!("{}-{digest}", begin.to_ascii_lowercase())
    }

    /// Returns the name of a resource that all regions of an account share.
    pub(crate) fn regional(&self, what: &str) -> String {
        format!("{}-{}-{what}", self.prefix, self.region)
    }

    pub(super) fn roles_and_profiles(&self) -> Vec<String> {
        [self.roles("role"), self.roles("instance-profile")].concat()
    }

    /// Returns the parameters with which vendors publish their images.
    pub(super) fn public_parameters(&self) -> Vec<String> {
        let names = ["canonical", "ami-amazon-linux-latest"];
        let arn =
            |name| format!("arn:{}:ssm:{}::parameter/aws/service/{name}/*", self.partition, self.region);
        names.into_iter().map(arn).collect()
    }

    /// Returns the condition that a resource has the installation's tag.
    pub(super) fn ours(&self) -> Value {
        self.tagged("aws:ResourceTag")
    }

    /// Returns the condition that a resource is created with the installation's tag.
    pub(super) fn made_ours(&self) -> Value {
        self.tagged("aws:RequestTag")
    }

    /// Returns the ARN of images or snapshots, which contains no account, because they may be
    /// public.
    pub(super) fn public_arn(&self, kind: &str) -> String {
        format!("arn:{}:ec2:{}::{kind}/*", self.partition, self.region)
    }

    /// Returns the condition for owners of images from which machines may be launched: the
    /// installation's own account, Amazon, and Canonical in each partition ("Find Ubuntu images on
    /// AWS" in Ubuntu's documentation; condition key `ec2:Owner` of the service authorization
    /// reference; both read on 2026-11-30).
    pub(super) fn makers(&self) -> Value {
        let canonical: &[&str] = match self.partition {
            "aws-cn" => &["837727238323"],
            "aws-us-gov" => &["513442679011"],
            STACKS_PARTITION => &["099720109477", "837727238323", "513442679011"],
            _ => &["099720109477"],
        };
        let owners = [&["amazon"][..], canonical].concat();
        json!({ "StringEquals": { "ec2:Owner": owners } })
    }

    pub(super) fn tagged(&self, key: &str) -> Value {
        json!({ "StringEquals": { format!("{key}/{}", tag::INSTALLATION): self.prefix } })
    }

    /// Returns the permissions on the key of a disk for starting or launching its instance, only
    /// through EC2 (EBS user guide, "Requirements for Amazon EBS encryption"). AWS's own key for
    /// disks needs no permission.
    pub(super) fn use_of_the_key(&self) -> Vec<Value> {
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

/// An invalid policy launches nothing; it is reported elsewhere.
fn launches(settings: &Settings) -> bool {
    let policies = bundle::policies(settings).unwrap_or_default();
    let mut parsed = policies.iter().filter_map(|(name, text)| policy::parse(Path::new(name), text).ok());
    parsed.any(|policy| policy.launch.most > 0)
}

/// Returns the DNS suffix of services in a partition, by the same table.
fn domain(partition: &str) -> &'static str {
    match partition {
        "aws-cn" => "amazonaws.com.cn",
        "aws-eusc" => "amazonaws.eu",
        "aws-iso" => "c2s.ic.gov",
        "aws-iso-b" => "sc2s.sgov.gov",
        "aws-iso-e" => "cloud.adc-e.uk",
        "aws-iso-f" => "csp.hci.ic.gov",
        STACKS_PARTITION => STACKS_DOMAIN,
        _ => "amazonaws.com",
    }
}
