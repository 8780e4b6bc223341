//! The status of the controller, for people and other programs: written as JSON to
//! [`Settings::status_file`](eirs_platform::settings::Settings::status_file) after every pass,
//! atomically.

mod recorder;

use std::{fs, path::Path, time::Duration};

use chrono::{DateTime, Utc};
use eirs_platform::settings::{Simulate, units};
use serde::{Deserialize, Serialize};

pub use self::recorder::{Recorder, learnt, today};
use crate::{
    observe::Stage,
    operator::{Cordon, Operator, Order},
    refusals::Refused,
};

/// Reads the status file; `None` if it does not exist or has another version.
pub fn read(file: &Path) -> Option<Status> {
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

/// The state of the controller after its last pass.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the controller.
    pub version: String,
    /// Process id of the controller.
    pub pid: u32,
    /// Time at which the controller started.
    pub started_at: DateTime<Utc>,
    /// Time of the last observation. If it is older than a few ticks, the controller does not run.
    pub at: DateTime<Utc>,
    /// Longest time between two passes.
    #[serde(with = "units::duration")]
    pub tick: Duration,
    /// Number of reloads on request (SIGHUP).
    pub reloads: u64,
    /// Time at which the last of these reloads began. For a client that sent the signal before, the
    /// files that were on disk then are in force, or `policy_errors` says why not.
    #[serde(default)]
    pub reloaded_at: Option<DateTime<Utc>>,
    /// Every pool that has a policy or instances, by name.
    pub pools: Vec<PoolStatus>,
    /// All complaints about the policy files on disk, one sentence each.
    pub policy_errors: Vec<String>,
    /// What could not be read in the last pass, one sentence each. While there is any, nothing is
    /// drained.
    pub problems: Vec<String>,
    /// The last decisions that changed something, oldest first.
    pub decisions: Vec<Decision>,
    /// Jobs per second that all workers together completed, over about the last ten seconds.
    pub throughput_per_s: f64,
    /// The operator's orders in force.
    #[serde(default)]
    pub operator: Operator,
    /// What is wrong with the orders file on disk, if anything; the last valid orders are in force.
    #[serde(default)]
    pub operator_error: Option<String>,
    /// Absolute path of the policy folder.
    #[serde(default)]
    pub policies: String,
    /// Limit on the instances of all pools together; 0 for none.
    #[serde(default)]
    pub instance_limit: u32,
    /// The simulated faults of the fleet, if any.
    #[serde(default)]
    pub simulated: Option<Simulate>,
}

/// One pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PoolStatus {
    /// Name of the pool.
    pub name: String,
    /// Model that it serves; absent if the pool has no policy any more.
    pub model: Option<String>,
    /// Path of its policy file.
    pub policy_file: String,
    /// What is wrong with that file on disk, if anything; the last valid version is in force.
    pub policy_error: Option<String>,
    /// The policy's `min`.
    pub min: u32,
    /// The policy's `max`.
    pub max: u32,
    /// Maximum number of instances that it may launch in addition, from `[launch]`.
    #[serde(default)]
    pub launch: u32,
    /// Number of waiting jobs; absent if the queue could not be read.
    pub visible: Option<u64>,
    /// Number of jobs in flight; absent if the queue could not be read.
    pub in_flight: Option<u64>,
    /// Arrival rate in jobs per second, as reported by the web hosts: over a minute, or less if it
    /// changed.
    pub arrivals_per_s: f64,
    /// Jobs per second that this pool's workers completed, over about the last ten seconds.
    pub done_per_s: f64,
    /// Number of instances that it should have now.
    pub desired: u32,
    /// Number of instances that serve.
    pub ready: u32,
    /// Number of instances that were started and do not serve yet.
    pub starting: u32,
    /// Number of instances that drain or stop.
    pub leaving: u32,
    /// Reason of the last plan, one sentence.
    pub reason: String,
    /// The number of instances that each rule wanted in the last plan.
    #[serde(default)]
    pub wishes: Vec<RuleWish>,
    /// The holds of the last plan, one sentence each.
    #[serde(default)]
    pub holds: Vec<String>,
    /// Who paused the pool, and when; while it is paused, decisions are made and not carried out.
    #[serde(default)]
    pub paused: Option<Order>,
    /// The actions of the last plan that were not carried out because the pool is paused, such as
    /// `start default-1`.
    #[serde(default)]
    pub would: Vec<String>,
    /// Mean time from the receipt of a job to its result in the workers' last reports, in seconds.
    #[serde(default)]
    pub service_s: Option<f64>,
    /// Measured values of the pool.
    #[serde(default)]
    pub learnt: Learnt,
    /// Use and cost of the pool since midnight in the budget's time zone (UTC without one).
    #[serde(default)]
    pub today: Usage,
    /// All instances, including stopped ones.
    pub instances: Vec<InstanceStatus>,
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceStatus {
    /// Name of the instance.
    pub id: String,
    /// Its stage: `stopped`, `starting`, `ready`, `draining`, `drained` or `stopping`.
    pub state: Stage,
    /// Time of the fleet's last change of it: start, drain or stop.
    pub since: DateTime<Utc>,
    /// Generation of the current or last start; absent before the first.
    pub generation: Option<String>,
    /// Process id, if the instance is a process of this machine.
    pub pid: Option<u32>,
    /// Id of the cloud machine, if the instance was launched.
    #[serde(default)]
    pub machine: Option<String>,
    /// Number of jobs in flight, in its last report.
    pub in_flight: Option<u32>,
    /// Maximum number of jobs in flight.
    pub slots: Option<u32>,
    /// Number of jobs completed since it was started.
    pub done: Option<u64>,
    /// Jobs per second that it completed, over about the last ten seconds.
    pub done_per_s: f64,
    /// Name of the engine that classifies.
    pub engine: Option<String>,
    /// Version of the model that it has loaded.
    #[serde(default)]
    pub version: Option<String>,
    /// Reason why all its jobs fail, if they do.
    #[serde(default)]
    pub failing: Option<String>,
    /// Mean time from the receipt of a job to its result, in milliseconds, in the last report that
    /// has one.
    pub service_mean_ms: Option<f64>,
    /// 95th percentile of the same time, in milliseconds.
    pub service_p95_ms: Option<f64>,
    /// Time since which it is idle.
    pub idle_since: Option<DateTime<Utc>>,
    /// Time of its last report.
    pub reported_at: Option<DateTime<Utc>>,
    /// Time at which its drain is due. After it, the instance is stopped by force.
    pub drain_until: Option<DateTime<Utc>>,
    /// Number of failures in a row.
    pub crashes: u32,
    /// Reason of the last failure.
    pub last_error: Option<String>,
    /// Time before which it is not started again, because of failures or refusals.
    pub not_before: Option<DateTime<Utc>>,
    /// The operator's cordon, if any: the instance must not be started.
    #[serde(default)]
    pub cordoned: Option<Cordon>,
    /// Its last refusal of an order, if recent.
    #[serde(default)]
    pub refused: Option<Refused>,
}

/// The number of instances that a rule wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleWish {
    /// Kind of the rule.
    pub rule: String,
    /// Number of instances.
    pub instances: u32,
    /// The reason, in a few words.
    pub because: String,
}

/// Measured values of a pool; absent if not known yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Learnt {
    /// Median time from the start of an instance to its first ready report, in seconds.
    pub start_delay_s: Option<f64>,
    /// 95th percentile of the same time, in seconds.
    pub start_delay_p95_s: Option<f64>,
    /// Median of the same time for launched instances, in seconds.
    pub launch_delay_s: Option<f64>,
    /// Mean time from the receipt of a job to its result, in seconds.
    pub service_s: Option<f64>,
    /// Number of jobs that an instance processes at the same time.
    pub concurrency: Option<f64>,
    /// Arrival rate in jobs per second that decisions assume.
    pub expected_per_s: Option<f64>,
}

/// Use and cost of a pool since midnight in the budget's time zone (UTC without one); absent if not
/// known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Hours that all instances together ran.
    pub instance_hours: Option<f64>,
    /// Hours that the policy's daily budget allows.
    pub budget_hours: Option<f64>,
    /// Cost by the policy's prices, in US dollars. Each start counts for at least the billing
    /// minimum.
    pub cost_usd: Option<f64>,
    /// Number of images that arrived.
    pub images: Option<u64>,
    /// Cost per thousand of them, in US dollars.
    pub cost_usd_per_1000: Option<f64>,
}

/// A decision that changed something.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Time of the decision.
    pub at: DateTime<Utc>,
    /// Name of the pool.
    pub pool: String,
    /// Number of jobs, waiting and in flight; absent if the queue could not be read.
    pub backlog: Option<u64>,
    /// Number of instances that the pool should have.
    pub desired: u32,
    /// Number of instances that were ready or starting.
    pub running: u32,
    /// The actions, such as `start default-1`.
    pub actions: Vec<String>,
    /// The reason, one sentence.
    pub reason: String,
    /// Whether the actions were not carried out because the pool was paused.
    #[serde(default)]
    pub paused: bool,
}
