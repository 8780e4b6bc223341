//! Observes the backlog of each pool, the instances, and the last reports of instances and web
//! hosts.
//!
//! An observation is a value. What could not be read is listed as missing in it, and never counted
//! as zero.

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

/// Maximum age of a report that counts: three missed reports. An older one says nothing about jobs
/// in flight or idle time.
pub const REPORT_EXPIRES: Duration = Duration::from_secs(30);

/// Timeout of reading one queue or the fleet.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// The current state that a decision is based on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// Time of the observation.
    pub at: DateTime<Utc>,
    /// The work of each pool, by pool name.
    pub pools: BTreeMap<String, PoolView>,
    /// All instances; `None` if the fleet could not be listed.
    pub instances: Option<Vec<InstanceView>>,
    /// Whether reports are received. While they are not, the silence of an instance means nothing.
    pub hears: bool,
    /// What could not be read, one sentence each.
    pub missing: Vec<String>,
    /// The operator's orders in force.
    #[serde(default)]
    pub operator: Operator,
    /// Instances that recently refused an order, by id.
    #[serde(default)]
    pub refused: BTreeMap<String, Refused>,
    /// The version of each model that a worker loads if it is started now, as far as known: only
    /// workers that are processes of this machine read the same files as the controller.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub versions: BTreeMap<String, InForce>,
}

/// The version of a model in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InForce {
    /// The version.
    pub version: String,
    /// Time since which it is in force, as far as the controller knows. A restart does not change
    /// the version of an instance that was started later.
    pub since: DateTime<Utc>,
}

/// The work of a pool.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PoolView {
    /// Jobs in the job queue, waiting and in flight; `None` if the read failed.
    pub depth: Option<Depth>,
    /// Time of the last job that a web host reported.
    pub last_arrival: Option<DateTime<Utc>>,
    /// Number of jobs reported by the web hosts since the controller started: exact, and up to ten
    /// seconds late.
    pub arrived: u64,
    /// Counts reported since the last observation, with their intervals.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub counts: Vec<Count>,
}

/// Number of jobs that arrived in an interval, as counted by a web host. A report may be late; its
/// interval says when the jobs arrived.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Count {
    /// Begin of the interval, on the queue's clock corrected to the controller's.
    pub from: DateTime<Utc>,
    /// End of the interval.
    pub to: DateTime<Utc>,
    /// Number of jobs.
    pub jobs: u64,
}

/// An instance: its state in the fleet and its last report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceView {
    /// The state in the fleet.
    pub instance: Instance,
    /// The last report of the current generation, however old.
    pub heard: Option<Heard>,
}

/// The last report of an instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Heard {
    /// Time at which it was sent, on the queue's clock corrected to the controller's.
    pub at: DateTime<Utc>,
    /// The report.
    pub report: WorkerReport,
    /// Time since which the instance has no job in flight, on the same clock as `at`, as the clocks
    /// of hosts may differ.
    pub idle_since: Option<DateTime<Utc>>,
    /// The last service times that were not empty.
    pub service: Option<eirs_platform::job::ServiceTimes>,
    /// Jobs per second that it recently completed.
    pub done_per_s: f64,
}

/// The stage of an instance's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Does not run.
    Stopped,
    /// Was started, and is not known to be ready.
    Starting,
    /// Serves.
    Ready,
    /// Finishes its jobs in flight.
    Draining,
    /// Has no jobs in flight any more and is about to end.
    Drained,
    /// Was ordered to stop and has not ended yet.
    Stopping,
}

impl Observation {
    /// Mean time from the receipt of a job to its result in the last reports of a pool's instances,
    /// in seconds.
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
    /// The stage, from the fleet's state (its orders) and the report (what it does).
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

    /// Time for which it has certainly been idle; `None` if it is busy or the report has expired.
    pub fn idle_for(&self, now: DateTime<Utc>) -> Option<Duration> {
        let heard = self.heard.as_ref().filter(|heard| age(heard.at, now) <= REPORT_EXPIRES)?;
        heard.idle_since.map(|since| age(since, now))
    }
}

/// Time since `then`; zero if that is in the future.
pub(crate) fn age(then: DateTime<Utc>, now: DateTime<Utc>) -> Duration {
    (now - then).to_std().unwrap_or_default()
}

/// Reads the queues, the fleet and the reports.
#[derive(Debug)]
pub struct Observer {
    backend: Backend,
    clock: SharedClock,
    reports: Arc<Reports>,
    queues: BTreeMap<String, SharedQueue>,
}

impl Observer {
    /// Makes an observer of this backend's queues.
    pub fn new(backend: Backend, clock: SharedClock, reports: Arc<Reports>) -> Self {
        Self { backend, clock, reports, queues: BTreeMap::new() }
    }

    /// Reads everything at the same time. What fails is listed as missing. The caller adds the
    /// operator's orders, the refusals and the versions in force.
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
            // Opening it failed just now: try again, to report the reason.
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
