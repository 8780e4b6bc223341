//! Starts a second emulator of SQS and S3 (`testing/fauxqs`), because a single one may be wrong.

use std::{path::Path, process::Command};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_sqs::config::Credentials;

use super::{emulator::REGION, served::Served};
use crate::{settings::Aws, testing};

/// The running emulator. It ends with this value.
#[derive(Debug)]
pub struct Fauxqs(Served);

impl Fauxqs {
    /// Starts it; `None` if it is not available, which was reported.
    pub fn start() -> Option<Self> {
        let modules = testing::cache().map(|cache| cache.join("fauxqs/node_modules"));
        let Some(modules) = modules.filter(|modules| modules.join("fauxqs").is_dir()) else {
            testing::not_run("there is no fauxqs, a package of npm", "make test, where npm is installed");
            return None;
        };
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testing/fauxqs/serve.mjs");
        Some(Self(Served::start(|file| {
            let mut command = Command::new(modules.join(".bin/node"));
            command.arg("--no-warnings").arg(script).arg(&modules).arg(file);
            command
        })))
    }

    /// Returns settings for this emulator.
    pub fn settings(&self) -> Aws {
        let endpoint = Some(format!("http://{}", self.0.address));
        Aws { endpoint, region: Some(REGION.to_owned()), ..Aws::default() }
    }

    /// Returns an SDK configuration for this emulator, which accepts any credentials.
    pub async fn config(&self) -> SdkConfig {
        let loader = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .endpoint_url(format!("http://{}", self.0.address))
            .credentials_provider(Credentials::new("test", "test", None, None, "test"));
        loader.load().await
    }
}
