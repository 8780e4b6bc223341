//! Checks that credentials last for a step. A presigned URL expires with the credentials that
//! signed it, whatever its own expiry (S3 user guide, "Sharing objects with presigned URLs": "the
//! URL expires when the credential expires", read on 2026-11-30), and a machine that cannot load
//! its files cannot report that.

use std::time::{Duration, SystemTime};

use anyhow::Context;
use aws_config::SdkConfig;
use aws_sdk_s3::config::ProvideCredentials;

/// Fails if the credentials may expire before this step ends. Some have no known expiry.
pub(crate) async fn outlast(config: &SdkConfig, step: Duration, what: &str) -> anyhow::Result<()> {
    let Some(provider) = config.credentials_provider() else { return Ok(()) };
    let credentials = provider.provide_credentials().await.context("asking for credentials")?;
    let Some(end) = credentials.expiry() else { return Ok(()) };
    let left = end.duration_since(SystemTime::now()).unwrap_or_default();
    let shown = |time: Duration| humantime::format_duration(Duration::from_secs(time.as_secs()));
    anyhow::ensure!(
        left >= step,
        "these credentials end in {}, and {what} may take {}: renew them (`aws sso login`, a new session) \
         and run it again",
        shown(left),
        shown(step)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::config::{Credentials, SharedCredentialsProvider};

    use super::*;

    fn config(left: Option<Duration>) -> SdkConfig {
        let end = left.map(|left| SystemTime::now() + left);
        let credentials = Credentials::new("key", "secret", Some("token".into()), end, "test");
        SdkConfig::builder().credentials_provider(SharedCredentialsProvider::new(credentials)).build()
    }

    #[tokio::test]
    async fn a_step_needs_credentials_that_outlast_it_if_their_expiry_is_known() {
        let step = Duration::from_secs(1200);
        for enough in [None, Some(Duration::from_secs(1300))] {
            outlast(&config(enough), step, "baking").await.unwrap();
        }
        let refused = outlast(&config(Some(Duration::from_secs(600))), step, "baking").await.unwrap_err();
        let said = refused.to_string();
        assert!(
            said.starts_with("these credentials end in 9m") && said.contains("baking may take 20m"),
            "{said}"
        );
    }
}
