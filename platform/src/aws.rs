//! What every client of AWS shares here: how it is set up, and what its errors mean to a caller.
//!
//! Credentials come from the SDK's own chain and from nowhere else. A call is tried three times by
//! the SDK, with jitter; the callers of the seams try again beyond that, where that is right.

mod error;
pub mod tag;

use std::time::Duration;

use aws_config::{AppName, BehaviorVersion, Region, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};

pub(crate) use self::error::sorted;
pub use self::error::{code, error};
use crate::settings::Aws;

/// A connection that is not there after so long is tried again.
const CONNECT: Duration = Duration::from_secs(3);
/// The longest time for one attempt at a call, and for all attempts at it together. A receive has
/// its own.
const ATTEMPT: Duration = Duration::from_secs(10);
const ALL_ATTEMPTS: Duration = Duration::from_secs(30);
/// How often the SDK tries a call.
const ATTEMPTS: u32 = 3;

/// The services of AWS, as the settings say where they are.
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

/// The configuration of all clients. Looks for region and credentials as the SDK's own chain does;
/// no call is made yet, except to the instance's metadata for the region.
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

/// Where a service is asked; `None` is AWS itself, or what the environment says.
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
