//! Retries calls to a store or a queue after transient errors.

use std::time::Duration;

use eirs_platform::{Result, backoff::Backoff};

/// Maximum number of calls before the error is returned.
const ATTEMPTS: u32 = 4;

/// Calls again after a growing wait, as long as the error is transient.
pub(crate) async fn retry<T, F: Future<Output = Result<T>>>(call: impl Fn() -> F) -> Result<T> {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    for _ in 1..ATTEMPTS {
        match call().await {
            Err(error) if error.is_transient() => backoff.wait().await,
            ended => return ended,
        }
    }
    call().await
}
