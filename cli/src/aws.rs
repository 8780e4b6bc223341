//! An installation in an AWS account, from the operator's side: its resources, their names, and how
//! to reach them.
//!
//! Each kind of resource has a file that finds it, creates or updates it, and deletes it.
//! [`setup`](crate::commands::setup) processes them in one order, `cleanup` in the reverse one.
//! Resources of the installation have the tag `eirs:installation`; nothing without it is changed or
//! deleted.

pub(crate) mod address;
pub(crate) mod alarm;
pub(crate) mod base_image;
pub(crate) mod buckets;
pub(crate) mod bundle;
pub(crate) mod cloudformation;
pub(crate) mod cost;
pub(crate) mod credentials;
pub(crate) mod document;
pub(crate) mod iam;
pub(crate) mod image;
pub(crate) mod instances;
pub(crate) mod key_pair;
pub(crate) mod launch;
pub(crate) mod network;
pub(crate) mod pool;
pub(crate) mod queues;
pub(crate) mod scripts;
pub(crate) mod stack;
pub(crate) mod update;
pub(crate) mod upgrade;
pub(crate) mod upload;
pub(crate) mod web_host;

use std::time::Duration;

use anyhow::Context;
use aws_config::SdkConfig;
use aws_config::timeout::TimeoutConfig;
use eirs_controller::fleet::{ec2, ssm};
use eirs_platform::{
    aws::{self, Service},
    blobs::s3,
    queue::sqs::SqsQueues,
    settings::Settings,
};

/// An account, with the installation that the settings describe.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    /// The settings, including the names of the buckets, configured or derived from the account.
    pub(crate) settings: Settings,
    /// The account id of twelve digits.
    pub(crate) id: String,
    /// The region, such as `eu-central-1`.
    pub(crate) region: String,
    pub(crate) config: SdkConfig,
    pub(crate) ec2: aws_sdk_ec2::Client,
    pub(crate) iam: aws_sdk_iam::Client,
    pub(crate) s3: aws_sdk_s3::Client,
    pub(crate) sqs: SqsQueues,
    pub(crate) ssm: aws_sdk_ssm::Client,
}

impl Account {
    /// Finds out the account of the credentials. Changes nothing.
    pub(crate) async fn open(settings: Settings) -> anyhow::Result<Self> {
        let config = aws::sdk_config(&settings.aws).await;
        Self::of(settings, config).await
    }

    /// Creates the account for these clients.
    pub(crate) async fn of(mut settings: Settings, config: SdkConfig) -> anyhow::Result<Self> {
        let region = config.region().map(ToString::to_string);
        let region = region.context(
            "no region is set; set aws.region, $AWS_REGION, or the region of the \
                profile",
        )?;
        let id = account_id(&config, &settings).await?;
        if let Some(set) = settings.aws.account.as_ref().filter(|set| **set != id) {
            anyhow::bail!("these credentials belong to the account {id}, but aws.account is {set}");
        }
        settings.aws.account.get_or_insert_with(|| id.clone());
        let prefix = settings.aws.prefix.clone();
        let bucket = |what: &str| format!("{prefix}-{id}-{region}-{what}");
        settings.aws.input_bucket.get_or_insert_with(|| bucket("input"));
        settings.aws.output_bucket.get_or_insert_with(|| bucket("output"));
        settings.aws.region.get_or_insert_with(|| region.clone());
        Ok(Self {
            ec2: ec2_client(&config, &settings),
            iam: iam_client(&config, &settings),
            s3: s3::client(&config, &settings.aws),
            sqs: SqsQueues::of_settings(&config, &settings.aws),
            ssm: ssm::client(&config, &settings.aws),
            settings,
            id,
            region,
            config,
        })
    }

    /// Returns the prefix of all names.
    pub(crate) fn prefix(&self) -> &str {
        &self.settings.aws.prefix
    }

    /// Returns the partition for ARNs.
    pub(crate) fn partition(&self) -> &'static str {
        iam::policies::Scope::of(&self.settings, &self.id, &self.region).partition
    }

    /// Returns the bucket of the images.
    pub(crate) fn input_bucket(&self) -> &str {
        self.settings.aws.input_bucket.as_deref().unwrap_or_default()
    }

    /// Returns the bucket of the results.
    pub(crate) fn output_bucket(&self) -> &str {
        self.settings.aws.output_bucket.as_deref().unwrap_or_default()
    }
}

async fn account_id(config: &SdkConfig, settings: &Settings) -> anyhow::Result<String> {
    let mut builder = aws_sdk_sts::config::Builder::from(config);
    if let Some(endpoint) = aws::endpoint(&settings.aws, Service::Sts) {
        builder = builder.endpoint_url(endpoint);
    }
    let client = aws_sdk_sts::Client::from_conf(builder.build());
    let caller = client.get_caller_identity().send().await;
    let caller = caller.map_err(|error| aws::error("asking for the account of the credentials", &error))?;
    caller.account.context("AWS does not say which account these credentials belong to")
}

/// Creates a client with longer timeouts than a controller's: if CreateImage is retried while the
/// first call is still in progress, it fails because the name is taken.
fn ec2_client(config: &SdkConfig, settings: &Settings) -> aws_sdk_ec2::Client {
    let patience = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(3))
        .operation_attempt_timeout(Duration::from_secs(60))
        .operation_timeout(Duration::from_secs(180))
        .build();
    ec2::patient_client(config, &settings.aws, patience)
}

fn iam_client(config: &SdkConfig, settings: &Settings) -> aws_sdk_iam::Client {
    let mut builder = aws_sdk_iam::config::Builder::from(config);
    if let Some(endpoint) = aws::endpoint(&settings.aws, Service::Iam) {
        builder = builder.endpoint_url(endpoint);
    }
    aws_sdk_iam::Client::from_conf(builder.build())
}

/// The longest interval of polling while resources are created or deleted.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The waits between two looks at a resource: they double up to [`LOOK_EVERY`], so that what is
/// ready soon is seen soon.
#[derive(Debug)]
pub(crate) struct Poll(Duration);

impl Poll {
    pub(crate) fn new() -> Self {
        Self(LOOK_EVERY / 8)
    }

    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.next()).await;
    }

    fn next(&mut self) -> Duration {
        let next = (self.0 * 2).min(LOOK_EVERY);
        std::mem::replace(&mut self.0, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_waits_of_polling_double_up_to_two_seconds() {
        let mut poll = Poll::new();
        let waits = [(); 5].map(|()| poll.next().as_millis());
        assert_eq!(waits, [250, 500, 1000, 2000, 2000]);
    }
}
