//! `[aws]`: the region, and the names of resources in it. Credentials are no setting; they come
//! from the SDK's default chain (instance role, profile, environment).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::units;

/// `[aws]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Aws {
    /// The region; without it, that of the SDK's default chain.
    pub region: Option<String>,
    /// The account that owns the buckets, as twelve digits: S3 then refuses buckets of others.
    pub account: Option<String>,
    /// The prefix of all names in the account: it distinguishes installations.
    pub prefix: String,
    /// The bucket of the images, `images/{id}`.
    pub input_bucket: Option<String>,
    /// The bucket of the results, `results/{model}/{version}/{id}.json`.
    pub output_bucket: Option<String>,
    /// Minimum time that jobs and replies wait for others while a call to SQS is in flight, and
    /// that polls for many messages wait after one has arrived. Saves calls, but delays results.
    #[serde(with = "units::duration")]
    pub linger: Duration,
    /// The same for acks, for which no one waits.
    #[serde(with = "units::duration")]
    pub ack_linger: Duration,
    /// The address of all services, for emulators; without it, AWS.
    pub endpoint: Option<String>,
    /// `[aws.endpoints]`
    pub endpoints: Endpoints,
}

/// `[aws.endpoints]`: the address of a single service.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "each field is named after its service")]
pub struct Endpoints {
    pub sqs: Option<String>,
    pub s3: Option<String>,
    pub ec2: Option<String>,
    pub ssm: Option<String>,
    pub iam: Option<String>,
    pub sts: Option<String>,
}

impl Default for Aws {
    fn default() -> Self {
        Self {
            region: None,
            account: None,
            prefix: "eirs".into(),
            input_bucket: None,
            output_bucket: None,
            linger: Duration::ZERO,
            ack_linger: Duration::from_millis(100),
            endpoint: None,
            endpoints: Endpoints::default(),
        }
    }
}

impl Aws {
    /// Returns errors as `key: what is wrong`; missing settings only if AWS is the backend.
    pub(super) fn complaints(&self, is_backend: bool) -> Vec<String> {
        let named = |name: &Option<String>| !is_backend || name.is_some();
        let is_account = |text: &str| text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit());
        let rules = [
            (
                self.account.as_deref().is_none_or(is_account),
                "aws.account: must be the account's twelve digits, as text: \"123456789012\"",
            ),
            (
                is_prefix(&self.prefix),
                "aws.prefix: must be lower-case letters, digits and dashes, at most 20, beginning \
                with a letter",
            ),
            (
                named(&self.input_bucket),
                "aws.input_bucket: must be set with backend = \"aws\"; `eirs setup` makes one and \
                prints its name",
            ),
            (
                named(&self.output_bucket),
                "aws.output_bucket: must be set with backend = \"aws\"; `eirs setup` makes one and \
                prints its name",
            ),
        ];
        rules.into_iter().filter(|(holds, _)| !holds).map(|(_, complaint)| complaint.to_owned()).collect()
    }
}

/// A prefix becomes part of names of buckets, which allow the fewest characters, and of roles,
/// which are the shortest.
fn is_prefix(text: &str) -> bool {
    (1..=20).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}
