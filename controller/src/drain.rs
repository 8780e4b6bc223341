//! Drains all workers: when the controller stops with `on_exit = "drain"`, and to clean up after a
//! controller that has ended.

use std::time::Duration;

use eirs_platform::{clock::SharedClock, error::Result, lifecycle::Lifecycle};
use tokio::{sync::Notify, time::Instant};

use crate::{
    fleet::{Fleet, Instance, PoolSpec},
    observe::age,
    policy::Policies,
};

/// Time that a worker has to end after it was killed.
pub const KILLED_BY: Duration = Duration::from_secs(5);
/// Additional waiting time, as timers and dates come from different clocks.
const LATE: Duration = Duration::from_millis(50);
/// Interval at which fleets are polled that do not report the end of an instance.
const POLL_EVERY: Duration = Duration::from_secs(5);

/// Drains every worker, waits for them as long as their policies allow, and kills the rest. A
/// notification of `poke` starts a pass at once.
pub async fn all(
    policies: &Policies,
    fleet: &dyn Fleet,
    clock: &SharedClock,
    poke: &Notify,
    lifecycle: &Lifecycle,
) -> Result<()> {
    let drain = Drain { policies, fleet, poke, lifecycle };
    for instance in drain.alive().await? {
        let policy = policies.pools.get(&instance.pool);
        let scale_in = policy.map(|policy| policy.scale_in.clone()).unwrap_or_default();
        log_failure(&instance.id, fleet.drain(&instance.id, scale_in.drain_deadline).await);
    }
    // Some instances may already have been draining.
    let due = drain.alive().await?.iter().filter_map(|instance| instance.drain_until).max();
    let longest = due.map_or(Duration::ZERO, |due| age(clock.now(), due) + LATE);
    if drain.wait_for_all(longest).await? {
        return Ok(());
    }
    for instance in drain.alive().await? {
        tracing::warn!(instance = instance.id, "{} is not drained in time; stopping it", instance.id);
        log_failure(&instance.id, fleet.stop(&instance.id).await);
    }
    drain.wait_for_all(KILLED_BY).await?;
    Ok(())
}

struct Drain<'a> {
    policies: &'a Policies,
    fleet: &'a dyn Fleet,
    poke: &'a Notify,
    lifecycle: &'a Lifecycle,
}

impl Drain<'_> {
    /// Waits until no instance is alive. Returns false if `limit` was reached before.
    async fn wait_for_all(&self, limit: Duration) -> Result<bool> {
        let deadline = Instant::now() + limit;
        let tick = self.lifecycle.watchdog().unwrap_or(Duration::MAX).min(POLL_EVERY);
        loop {
            self.lifecycle.goes_on();
            let alive = self.alive().await?.len();
            if alive == 0 {
                return Ok(true);
            }
            let now = Instant::now();
            if now >= deadline {
                return Ok(false);
            }
            self.lifecycle.status(&format!("draining: {alive} workers left"));
            self.lifecycle.takes(deadline - now + KILLED_BY + POLL_EVERY);
            // The end of a process notifies `poke`. The tick is for fleets that cannot notify.
            let _changed = tokio::time::timeout_at(deadline.min(now + tick), self.poke.notified()).await;
        }
    }

    async fn alive(&self) -> Result<Vec<Instance>> {
        let specs: Vec<_> =
            self.policies.pools.iter().map(|(name, policy)| PoolSpec::of(name, policy)).collect();
        let mut instances = self.fleet.list(&specs).await?;
        instances.retain(Instance::is_alive);
        Ok(instances)
    }
}

fn log_failure(instance: &str, done: Result<()>) {
    if let Err(error) = done {
        tracing::warn!(instance, %error, "{instance}: {error}");
    }
}
