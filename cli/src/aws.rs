//! An installation in an AWS account, from the operator's side: what there is to be, what it is
//! called, and how to reach it.
//!
//! Each kind of thing has a file that finds it, makes it as it should be and takes it away again.
//! [`setup`](crate::commands::setup) goes through them in one order, `cleanup` in the other. What
//! is ours is known by its tag (`eirs:installation`); nothing without it is ever changed or
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

/// An account, and the installation in it that the settings describe.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    /// With the names of the buckets, whether they were set or follow from the account.
    pub(crate) settings: Settings,
    /// Twelve digits.
    pub(crate) id: String,
    /// Such as `eu-central-1`.
    pub(crate) region: String,
    pub(crate) config: SdkConfig,
    pub(crate) ec2: aws_sdk_ec2::Client,
    pub(crate) iam: aws_sdk_iam::Client,
    pub(crate) s3: aws_sdk_s3::Client,
    pub(crate) sqs: SqsQueues,
    pub(crate) ssm: aws_sdk_ssm::Client,
}

impl Account {
    /// Finds out whose credentials these are. Nothing is changed.
    pub(crate) async fn open(settings: Settings) -> anyhow::Result<Self> {
        let config = aws::sdk_config(&settings.aws).await;
        Self::of(settings, config).await
    }

    /// The account of these clients.
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

    /// What the names of everything here begin with.
    pub(crate) fn prefix(&self) -> &str {
        &self.settings.aws.prefix
    }

    /// The first word of ARNs here.
    pub(crate) fn partition(&self) -> &'static str {
        iam::policies::Scope::of(&self.settings, &self.id, &self.region).partition
    }

    /// The bucket of the images.
    pub(crate) fn input_bucket(&self) -> &str {
        self.settings.aws.input_bucket.as_deref().unwrap_or_default()
    }

    /// The bucket of the results.
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

/// With more patience than a controller's: CreateImage that is tried again while the first call
/// goes on fails, because its name is taken.
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

/// How often the state of what is being made or deleted is looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(2);
