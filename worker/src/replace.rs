//! Ends a worker that should be replaced by a new process: one on which every job has failed for a
//! while, or whose engine hangs.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::Worker;

/// The exit code of a worker that must be replaced (`EX_SOFTWARE` of sysexits.h).
pub const EXIT_REPLACE: u8 = 70;
/// The interval between two checks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Cancels `drain` and returns when this worker must be replaced.
pub async fn watch(worker: Arc<Worker>, drain: CancellationToken) {
    let limit = worker.settings.worker.replace_after;
    let fails_for_too_long = async {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let failing = worker.health.failing_for().filter(|lasted| !limit.is_zero() && *lasted >= limit);
            if let Some((lasted, why)) = failing.zip(worker.health.failing()) {
                let lasted = humantime::format_duration(Duration::from_secs(lasted.as_secs()));
                tracing::error!(
                    "ending, to be replaced: every job has failed here for {lasted}; the last: \
                    {why}"
                );
                return;
            }
        }
    };
    tokio::select! {
        () = fails_for_too_long => {}
        () = worker.pool.stuck() => tracing::error!("ending, to be replaced: a thread hangs on an \
            image"),
    }
    drain.cancel();
}
