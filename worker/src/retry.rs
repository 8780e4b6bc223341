//! Calls to a store or a queue that are made again where the error may pass.

use std::time::Duration;

use eirs_platform::{Result, backoff::Backoff};

/// How often a store or a queue is asked before the job is given back.
const ATTEMPTS: u32 = 4;

/// Asks again, a little later each time, while the error may pass.
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
