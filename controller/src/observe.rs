//! What is there: the backlog of each pool, the instances, and what they and the web hosts last
//! reported.
//!
//! An observation is a value. What could not be seen is missing in it and named, never zero.

mod clocks;
pub mod reports;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use eirs_platform::{
    backend::Backend,
    clock::SharedClock,
    error::Result,
    job::{Phase, WorkerReport},
    queue::{Depth, SharedQueue},
};
use futures::future::join_all;
use serde::{Deserialize, Serialize};

pub use self::reports::Reports;
use crate::{
    fleet::{Fleet, Instance, PoolSpec, State},
    operator::Operator,
    policy::Policies,
    refusals::Refused,
};

/// A report that is older says nothing about what is in flight or idle now: three missed ones in a
/// row.
pub const REPORT_EXPIRES: Duration = Duration::from_secs(30);

/// No look at a queue or a fleet takes longer; one that does has failed.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// Everything a decision is made from that is true now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// When it was made.
    pub at: DateTime<Utc>,
    /// What is known of each pool's work, by the pool's name.
    pub pools: BTreeMap<String, PoolView>,
    /// Every instance, or `None` where the fleet could not be listed.
    pub instances: Option<Vec<InstanceView>>,
    /// Whether reports are received at all. While they are not, the silence of an instance says
    /// nothing.
    pub hears: bool,
    /// What could not be seen, in sentences.
    pub missing: Vec<String>,
    /// What an operator ordered.
    #[serde(default)]
    pub operator: Operator,
    /// The instances that lately refused to do as told, by their names.
    #[serde(default)]
    pub refused: BTreeMap<String, Refused>,
    /// The version of each model that a worker loads which is started now, where that is known:
    /// workers that are processes of this machine read the same files as the controller.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub versions: BTreeMap<String, InForce>,
}

/// The version of a model that is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InForce {
    /// The version.
    pub version: String,
    /// Since when, as far as the controller knows. An instance that was started later and has
    /// another one will not get it by a new start.
    pub since: DateTime<Utc>,
}

/// The work of a pool.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PoolView {
    /// What lies in its request queue, or `None` where that could not be read.
    pub depth: Option<Depth>,
    /// When a web host last reported a job.
    pub last_arrival: Option<DateTime<Utc>>,
    /// Jobs that the web hosts have reported since the controller started: exact, up to ten seconds
    /// late, and only ever growing.
    pub arrived: u64,
    /// What has been reported since the last observation, with the times in which it arrived.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub counts: Vec<Count>,
}

/// Jobs that arrived in an interval, as a web host counted them. A report may be late; its interval
/// says when they arrived.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Count {
    /// From when, by the controller's clock.
    pub from: DateTime<Utc>,
    /// Until when.
    pub to: DateTime<Utc>,
    /// How many.
    pub jobs: u64,
}

/// An instance: what the fleet says of it, and what it last said itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceView {
    /// What the fleet says.
    pub instance: Instance,
    /// The last report of this generation, however old.
    pub heard: Option<Heard>,
}

/// What an instance said last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Heard {
    /// When, by the queue's clock.
    pub at: DateTime<Utc>,
    /// What.
    pub report: WorkerReport,
    /// Since when it holds nothing, by the queue's clock too: hosts need not agree on the time.
    pub idle_since: Option<DateTime<Utc>>,
    /// The last service times that were not empty.
    pub service: Option<eirs_platform::job::ServiceTimes>,
    /// Jobs it does each second, lately.
    pub done_per_s: f64,
}

/// How far an instance is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// It does not run.
    Stopped,
    /// It was started and is not ready yet, as far as anybody knows.
    Starting,
    /// It serves.
    Ready,
    /// It finishes what it holds.
    Draining,
    /// It holds nothing any more and is about to leave.
    Drained,
    /// It was told to stop and is not gone yet.
    Stopping,
}

impl Observation {
    /// Seconds from the receipt of a job to its result, on the average of the last reports of a
    /// pool's instances.
    pub fn service_s(&self, pool: &str) -> Option<f64> {
        let own = self.instances.iter().flatten().filter(|view| view.instance.pool == pool);
        let times = own.filter_map(|view| view.heard.as_ref()?.service);
        let (count, sum_ms) = times.fold((0, 0.0), |(count, sum), times| {
            (count + times.count, sum + times.mean_ms * times.count as f64)
        });
        (count > 0).then(|| sum_ms / count as f64 / 1e3)
    }
}

impl InstanceView {
    /// How far it is. The fleet knows what it was told, its report what it does.
    pub fn stage(&self) -> Stage {
        let phase = self.heard.as_ref().map(|heard| heard.report.phase);
        match (self.instance.state, phase) {
            (State::Stopped, _) => Stage::Stopped,
            (State::Stopping, _) => Stage::Stopping,
            (State::Running | State::Draining, Some(Phase::Drained)) => Stage::Drained,
            (State::Draining, _) | (State::Running, Some(Phase::Draining)) => Stage::Draining,
            (State::Running, Some(Phase::Ready)) => Stage::Ready,
            (State::Running, Some(Phase::Starting) | None) => Stage::Starting,
        }
    }

    /// For how long it has certainly held nothing. An expired report says nothing about that.
    pub fn idle_for(&self, now: DateTime<Utc>) -> Option<Duration> {
        let heard = self.heard.as_ref().filter(|heard| age(heard.at, now) <= REPORT_EXPIRES)?;
        heard.idle_since.map(|since| age(since, now))
    }
}

/// How long ago that was; the future was just now.
pub(crate) fn age(then: DateTime<Utc>, now: DateTime<Utc>) -> Duration {
    (now - then).to_std().unwrap_or_default()
}

/// Looks at the queues, the fleet and the reports.
#[derive(Debug)]
pub struct Observer {
    backend: Backend,
    clock: SharedClock,
    reports: Arc<Reports>,
    queues: BTreeMap<String, SharedQueue>,
}

impl Observer {
    /// An observer of these queues.
    pub fn new(backend: Backend, clock: SharedClock, reports: Arc<Reports>) -> Self {
        Self { backend, clock, reports, queues: BTreeMap::new() }
    }

    /// Looks once at everything, at the same time. What fails is missing in the answer. What the
    /// operator ordered, who refused and which versions are in force is not looked at; the caller
    /// knows it.
    pub async fn observe(&mut self, policies: &Policies, fleet: &dyn Fleet) -> Observation {
        let specs: Vec<_> = policies.pools.iter().map(|(name, policy)| PoolSpec::of(name, policy)).collect();
        for spec in &specs {
            if !self.queues.contains_key(&spec.model)
                && let Ok(queue) = self.backend.requests(&spec.model).await
            {
                self.queues.insert(spec.model.clone(), queue);
            }
        }
        let depths = join_all(specs.iter().map(|spec| in_time(self.depth(&spec.model))));
        let (depths, instances) = tokio::join!(depths, in_time(fleet.list(&specs)));

        let now = self.clock.now();
        let mut missing = Vec::new();
        let mut pools = BTreeMap::new();
        for (spec, depth) in specs.iter().zip(depths) {
            let depth = depth
                .inspect_err(|error| missing.push(format!("the backlog of {}: {error}", spec.name)))
                .ok();
            let view = self.reports.arrivals(&spec.model).view(depth);
            pools.insert(spec.name.clone(), view);
        }
        let instances = instances.inspect_err(|error| missing.push(format!("the fleet: {error}"))).ok();
        let instances = instances.map(|instances| self.reports.assign(instances, now));
        Observation {
            at: now,
            pools,
            instances,
            hears: self.reports.are_received(),
            missing,
            operator: Operator::default(),
            refused: BTreeMap::new(),
            versions: BTreeMap::new(),
        }
    }

    async fn depth(&self, model: &str) -> Result<Depth> {
        match self.queues.get(model) {
            Some(queue) => queue.depth().await,
            // It could not be opened just now; the reason is worth telling.
            None => self.backend.requests(model).await?.depth().await,
        }
    }
}

async fn in_time<T>(look: impl Future<Output = Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(LOOK_TIMEOUT, look).await {
        Ok(seen) => seen.map_err(|error| error.to_string()),
        Err(_late) => Err(format!("no response within {}", humantime::format_duration(LOOK_TIMEOUT))),
    }
}

#[cfg(test)]
mod tests;
