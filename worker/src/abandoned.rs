//! A worker in a cloud costs as long as its machine runs, and it is the controller that sends it
//! home. Where that is gone, with its machine perhaps, an idle worker goes by itself: drained as
//! ever, and with an exit code by which its unit powers the machine off.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::Worker;

/// What the process exits with then (`EX_UNAVAILABLE` of sysexits.h).
pub const EXIT_ABANDONED: u8 = 69;
/// How often an idle worker looks for the controller, at most.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Ends, having cancelled `drain`, when nobody needs this worker and nobody would say so, or when
/// its machine is taken back. Never ends where that is not to be asked.
pub async fn watch(worker: Arc<Worker>, drain: CancellationToken) {
    #[cfg(feature = "aws")]
    tokio::select! {
        () = without_controller(&worker, &drain) => {}
        () = crate::interrupted::watch(&worker, &drain) => {}
    }
    #[cfg(not(feature = "aws"))]
    without_controller(&worker, &drain).await;
}

async fn without_controller(worker: &Worker, drain: &CancellationToken) {
    let limit = worker.settings.worker.abandoned_after;
    if limit.is_zero() || worker.settings.backend == eirs_platform::settings::BackendKind::Local {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(limit.min(LOOK_EVERY)).await;
        let now = worker.clock.now();
        let Some(idle) = worker.activity.idle_for(now).filter(|idle| *idle >= limit) else { continue };
        match worker.backend.controller(now).await {
            Ok(Some(_)) => {}
            Ok(None) => {
                let idle = humantime::format_duration(Duration::from_secs(idle.as_secs()));
                tracing::warn!("no controller is running, and no job came for {idle}: ending");
                return drain.cancel();
            }
            // Without a reply nothing is known.
            Err(error) => tracing::warn!(%error, "whether a controller is running is unknown"),
        }
    }
}
