//! The configuration that all AWS clients share, and the meaning of their errors to a caller.
//!
//! Credentials come only from the SDK's default chain. The SDK attempts each call up to three
//! times, with jitter; the callers of queues and stores retry beyond that where it is safe.

mod error;
pub mod tag;

use std::time::Duration;

use aws_config::{AppName, BehaviorVersion, Region, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};

pub(crate) use self::error::sorted;
pub use self::error::{code, error};
use crate::settings::Aws;

/// A connection that is not established within this time is tried again.
const CONNECT: Duration = Duration::from_secs(3);
/// The time limits for one attempt at a call and for all its attempts together. A receive has its
/// own.
const ATTEMPT: Duration = Duration::from_secs(10);
const ALL_ATTEMPTS: Duration = Duration::from_secs(30);
/// Maximum number of attempts that the SDK makes at a call.
const ATTEMPTS: u32 = 3;

/// The services of AWS, whose endpoints are settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is named after its service")]
pub enum Service {
    Sqs,
    S3,
    Ec2,
    Ssm,
    Iam,
    Sts,
}

/// Returns the configuration of all clients. Finds the region and the credentials as the SDK's
/// default chain does. Makes no calls yet, except to the instance metadata service for the region.
pub async fn sdk_config(settings: &Aws) -> SdkConfig {
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(CONNECT)
                .operation_attempt_timeout(ATTEMPT)
                .operation_timeout(ALL_ATTEMPTS)
                .build(),
        )
        .app_name(AppName::new("eirs").expect("letters are an application's name"));
    if let Some(region) = &settings.region {
        loader = loader.region(Region::new(region.clone()));
    }
    loader.load().await
}

/// Returns the endpoint of a service from the settings, or `None` for the SDK's default, which is
/// AWS or what the environment sets.
pub fn endpoint(settings: &Aws, service: Service) -> Option<&str> {
    let own = match service {
        Service::Sqs => &settings.endpoints.sqs,
        Service::S3 => &settings.endpoints.s3,
        Service::Ec2 => &settings.endpoints.ec2,
        Service::Ssm => &settings.endpoints.ssm,
        Service::Iam => &settings.endpoints.iam,
        Service::Sts => &settings.endpoints.sts,
    };
    own.as_deref().or(settings.endpoint.as_deref())
}
