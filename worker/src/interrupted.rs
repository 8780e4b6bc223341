//! EC2 takes a spot instance back with two minutes' notice, which is in the instance's metadata
//! (EC2 user guide, "Spot Instance interruption notices", which advises to look every five seconds;
//! read on 2026-11-30). The worker drains as ever then, and what it holds is done or given back
//! before the machine is gone.

use std::time::Duration;

use aws_config::imds::Client;
use eirs_platform::settings::BackendKind;
use tokio_util::sync::CancellationToken;

use crate::Worker;

const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Ends, having cancelled `drain`, when the instance is taken back. Never ends where it is no spot
/// instance.
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
        // There is none until there is a notice.
        if let Some(notice) = get("spot/instance-action").await {
            tracing::warn!(notice, "EC2 takes this spot instance back: draining");
            return drain.cancel();
        }
    }
}
