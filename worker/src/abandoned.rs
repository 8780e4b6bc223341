//! Ends an idle worker when no controller is running. In a cloud, a machine costs money until the
//! controller stops it. If the controller is gone, an idle worker drains by itself and exits with a
//! code that makes its systemd unit power off the machine.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::Worker;

/// The exit code of an abandoned worker (`EX_UNAVAILABLE` of sysexits.h).
pub const EXIT_ABANDONED: u8 = 69;
/// Maximum time between two checks by an idle worker.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Cancels `drain` and returns when no controller is running and no job has come for
/// `worker.abandoned_after`, or when EC2 interrupts the spot instance. Otherwise never returns.
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
            // An error says nothing about the controller.
            Err(error) => tracing::warn!(%error, "cannot check whether a controller is running"),
        }
    }
}
