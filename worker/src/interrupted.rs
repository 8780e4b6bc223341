//! Drains when EC2 interrupts a spot instance. The notice appears in the instance's metadata two
//! minutes before (EC2 user guide, "Spot Instance interruption notices", which recommends checking
//! every five seconds; read on 2026-11-30). The worker drains as usual: its jobs are done or given
//! back before the machine stops.

use std::time::Duration;

use aws_config::imds::Client;
use eirs_platform::settings::BackendKind;
use tokio_util::sync::CancellationToken;

use crate::Worker;

const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Cancels `drain` and returns when EC2 interrupts the instance. Never returns on other instances.
pub(crate) async fn watch(worker: &Worker, drain: &CancellationToken) {
    let metadata = Client::builder().max_attempts(3).build();
    let get = async |path: &str| {
        let value = metadata.get(format!("/latest/meta-data/{path}")).await;
        value.ok().map(String::from)
    };
    let tier = format!("tags/instance/{}", eirs_platform::aws::tag::TIER);
    let is_spot = worker.settings.backend == BackendKind::Aws
        && get(&tier).await.as_deref() == Some(eirs_platform::aws::tag::SPOT);
    if !is_spot {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        // The path does not exist until there is a notice.
        if let Some(notice) = get("spot/instance-action").await {
            tracing::warn!(notice, "EC2 takes this spot instance back: draining");
            return drain.cancel();
        }
    }
}
