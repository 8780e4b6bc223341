//! What the controller sees and does, for people and for the other programs: written as JSON to
//! [`Settings::status_file`](eirs_platform::settings::Settings::status_file) after every pass,
//! whole or not at all.

mod recorder;

use std::time::Duration;

use chrono::{DateTime, Utc};
use eirs_platform::settings::{Simulate, units};
use serde::{Deserialize, Serialize};

pub use self::recorder::{Recorder, learnt, today};
use crate::{
    observe::Stage,
    operator::{Cordon, Operator, Order},
    refusals::Refused,
};

/// The controller at the moment of its last pass.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The controller's version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// When it was started.
    pub started_at: DateTime<Utc>,
    /// When it last looked. Older than a few ticks: it does not run any more.
    pub at: DateTime<Utc>,
    /// The longest time between two looks.
    #[serde(with = "units::duration")]
    pub tick: Duration,
    /// How often it was told to reload (SIGHUP) and did.
    pub reloads: u64,
    /// When it began to read its policies for the last of these times: who sent the signal before
    /// knows that what was on disk then is in force, or that `policy_errors` says why not.
    #[serde(default)]
    pub reloaded_at: Option<DateTime<Utc>>,
    /// Every pool that has a policy or instances, by name.
    pub pools: Vec<PoolStatus>,
    /// Every complaint about the policy files as they are on disk, a sentence each. Empty when all
    /// are good.
    pub policy_errors: Vec<String>,
    /// What could not be seen in the last pass, a sentence each. While there is any, nothing is
    /// drained.
    pub problems: Vec<String>,
    /// The last decisions that changed something, the latest last.
    pub decisions: Vec<Decision>,
    /// Jobs done each second by all workers together, over about the last ten seconds.
    pub throughput_per_s: f64,
    /// What an operator ordered, as it is in force.
    #[serde(default)]
    pub operator: Operator,
    /// What is wrong with the file of these orders as it is on disk; the last good ones are in
    /// force.
    #[serde(default)]
    pub operator_error: Option<String>,
    /// The folder of the policy files, from the root.
    #[serde(default)]
    pub policies: String,
    /// The cap on the instances of all pools together; 0 is none.
    #[serde(default)]
    pub instance_limit: u32,
    /// What the fleet makes up, where it does.
    #[serde(default)]
    pub simulated: Option<Simulate>,
}

/// One pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PoolStatus {
    /// The name of the token.
    pub name: String,
    /// The model that it serves; absent where it has no policy any more.
    pub model: Option<String>,
    /// Its policy file.
    pub policy_file: String,
    /// What is wrong with that file as it is on disk; the last good version is in force.
    pub policy_error: Option<String>,
    /// The policy's `min`.
    pub min: u32,
    /// The policy's `max`.
    pub max: u32,
    /// How many it may launch beside, by its `[launch]`.
    #[serde(default)]
    pub launch: u32,
    /// Jobs that no worker holds; absent where the queue could not be read.
    pub visible: Option<u64>,
    /// Jobs that workers hold; absent where the queue could not be read.
    pub in_flight: Option<u64>,
    /// Jobs that arrive each second, as the web hosts reported them: over a minute, or less where
    /// that changed.
    pub arrivals_per_s: f64,
    /// Jobs done each second by this pool's workers, over about the last ten seconds.
    pub done_per_s: f64,
    /// How many instances it must have now.
    pub desired: u32,
    /// Instances that serve.
    pub ready: u32,
    /// Instances that were started and do not serve yet.
    pub starting: u32,
    /// Instances that drain or stop.
    pub leaving: u32,
    /// The last plan's reason, a sentence.
    pub reason: String,
    /// What each rule wished in the last plan.
    #[serde(default)]
    pub wishes: Vec<RuleWish>,
    /// What held the last plan back, a sentence each.
    #[serde(default)]
    pub holds: Vec<String>,
    /// Who paused the pool, and since when: it is looked at and decided about, and nothing is done.
    #[serde(default)]
    pub paused: Option<Order>,
    /// What the last plan would have done if the pool were not paused, e.g. `start default-1`.
    #[serde(default)]
    pub would: Vec<String>,
    /// Seconds from the receipt of a job to its result, on the average of the workers' last
    /// reports.
    #[serde(default)]
    pub service_s: Option<f64>,
    /// What was learnt of the pool over time.
    #[serde(default)]
    pub learnt: Learnt,
    /// What the pool did and cost since midnight, UTC.
    #[serde(default)]
    pub today: Usage,
    /// Every instance, the stopped ones too.
    pub instances: Vec<InstanceStatus>,
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceStatus {
    /// The name of the token.
    pub id: String,
    /// How far it is in its life: `stopped`, `starting`, `ready`, `draining`, `drained` or
    /// `stopping`.
    pub state: Stage,
    /// Since when the fleet has had it so: started, told to drain, stopped.
    pub since: DateTime<Utc>,
    /// Which start of it this is; absent before the first.
    pub generation: Option<String>,
    /// Its process, where it is one of this machine.
    pub pid: Option<u32>,
    /// The machine of the cloud that stands in this place, where that was launched.
    #[serde(default)]
    pub machine: Option<String>,
    /// Jobs it holds, as it last said.
    pub in_flight: Option<u32>,
    /// Jobs it can hold at once.
    pub slots: Option<u32>,
    /// Jobs done since it was started.
    pub done: Option<u64>,
    /// Jobs done each second, over about the last ten seconds.
    pub done_per_s: f64,
    /// What classifies there.
    pub engine: Option<String>,
    /// The version of the model that it has loaded.
    #[serde(default)]
    pub version: Option<String>,
    /// Why everything fails there, if it does.
    #[serde(default)]
    pub failing: Option<String>,
    /// Mean time from the receipt of a job to its result, in milliseconds, in the last report that
    /// had any.
    pub service_mean_ms: Option<f64>,
    /// The 95th percentile of the same.
    pub service_p95_ms: Option<f64>,
    /// Since when it has held nothing.
    pub idle_since: Option<DateTime<Utc>>,
    /// When it last reported.
    pub reported_at: Option<DateTime<Utc>>,
    /// When its drain is due; then it is stopped by force.
    pub drain_until: Option<DateTime<Utc>>,
    /// So often in a row it died before its time, ...
    pub crashes: u32,
    /// ... and what it died of the last time.
    pub last_error: Option<String>,
    /// It is not started again before this moment, because it or its like died at the start.
    pub not_before: Option<DateTime<Utc>>,
    /// It must not be started, and an operator said so.
    #[serde(default)]
    pub cordoned: Option<Cordon>,
    /// It lately did not do as told.
    #[serde(default)]
    pub refused: Option<Refused>,
}

/// How many instances a rule wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleWish {
    /// The rule's kind.
    pub rule: String,
    /// How many.
    pub instances: u32,
    /// Why, in a few words.
    pub because: String,
}

/// What was learnt of a pool; absent is what is not known yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Learnt {
    /// Seconds from the start of an instance to its report that it is ready, in the middle ...
    pub start_delay_s: Option<f64>,
    /// ... and at the 95th percentile.
    pub start_delay_p95_s: Option<f64>,
    /// The same for an instance that was launched, in the middle.
    pub launch_delay_s: Option<f64>,
    /// Seconds from the receipt of a job to its result.
    pub service_s: Option<f64>,
    /// Jobs that an instance works on at once.
    pub concurrency: Option<f64>,
    /// Jobs each second that are expected when what is started now is ready.
    pub expected_per_s: Option<f64>,
}

/// What a pool did and cost since midnight in the budget's time zone (UTC without one); absent is
/// what is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Hours that instances ran, all together.
    pub instance_hours: Option<f64>,
    /// What may be used in a day by the policy's budget.
    pub budget_hours: Option<f64>,
    /// What they cost by the policy's prices, in US dollars. Each start counts for the billing
    /// minimum at least.
    pub cost_usd: Option<f64>,
    /// Images that arrived.
    pub images: Option<u64>,
    /// What a thousand of them cost, in US dollars.
    pub cost_usd_per_1000: Option<f64>,
}

/// A decision that changed something.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// When.
    pub at: DateTime<Utc>,
    /// For which pool.
    pub pool: String,
    /// All jobs, visible and in flight, where the queue could be read.
    pub backlog: Option<u64>,
    /// How many instances it must have.
    pub desired: u32,
    /// How many were ready or starting then.
    pub running: u32,
    /// What was done, e.g. `start default-1`.
    pub actions: Vec<String>,
    /// Why, in a sentence.
    pub reason: String,
    /// Whether it was only decided: the pool was paused.
    #[serde(default)]
    pub paused: bool,
}
