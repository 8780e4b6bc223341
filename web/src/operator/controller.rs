//! The controller's status as `/status` and `/events` pass it on.
//!
//! This program passes on the controller's bytes without linking the controller. So its types are
//! repeated here, only for the API description; `controller/tests.rs` compares them with what the
//! controller writes, key by key.

use std::{borrow::Cow, collections::BTreeMap};

use chrono::{DateTime, Utc};
use poem_openapi::{
    Enum, Object,
    registry::{MetaSchemaRef, Registry},
    types::{ToJSON, Type},
};
use serde::Serialize;
use serde_json::Value;

#[cfg(test)]
mod tests;

/// The status of a fleet of one instance, with every field set.
const EXAMPLE: &str = include_str!("controller/example.json");

/// The controller's status as it wrote it; null if there is none.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub(crate) struct Written(pub(crate) Value);

impl Written {
    pub(crate) fn example() -> Self {
        Self(serde_json::from_str(EXAMPLE).expect("the example is JSON"))
    }
}

impl Type for Written {
    const IS_REQUIRED: bool = true;
    type RawValueType = Value;
    type RawElementValueType = Value;

    fn name() -> Cow<'static, str> {
        Controller::name()
    }

    fn schema_ref() -> MetaSchemaRef {
        Controller::schema_ref()
    }

    fn register(registry: &mut Registry) {
        Controller::register(registry);
    }

    fn as_raw_value(&self) -> Option<&Value> {
        Some(&self.0)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Value> + 'a> {
        Box::new(std::iter::once(&self.0))
    }
}

impl ToJSON for Written {
    fn to_json(&self) -> Option<Value> {
        Some(self.0.clone())
    }
}

/// The controller at the time of its last pass.
#[derive(Debug, Object)]
struct Controller {
    /// The controller's version.
    version: String,
    /// Its process.
    pid: u32,
    /// When it was started.
    started_at: DateTime<Utc>,
    /// When its last pass was. Older than a few ticks: it does not run.
    at: DateTime<Utc>,
    /// The longest time between two passes, like `5s`.
    tick: String,
    /// How often it was asked to reload its policies, and did.
    reloads: u64,
    /// When it last began to reload its policies.
    #[oai(nullable)]
    reloaded_at: Option<DateTime<Utc>>,
    /// Every pool that has a policy or instances, by name.
    pools: Vec<Pool>,
    /// Every error in the policy files on disk, a sentence each. Empty if all are valid.
    policy_errors: Vec<String>,
    /// Every failed observation of the last pass, a sentence each. While there is one, nothing is
    /// drained.
    problems: Vec<String>,
    /// The latest decisions that changed something, newest last.
    decisions: Vec<Decision>,
    /// Jobs per second done by all workers together, over about the last ten seconds.
    throughput_per_s: f64,
    /// The orders of operators that are in force.
    operator: Operator,
    /// The error in the file of these orders on disk; the last valid orders are in force.
    #[oai(nullable)]
    operator_error: Option<String>,
    /// The absolute path of the folder with the policy files.
    policies: String,
    /// The limit on the instances of all pools together; 0 for none.
    instance_limit: u32,
    /// The simulated behaviour of the fleet, if it simulates any.
    #[oai(nullable)]
    simulated: Option<Simulated>,
}

/// A pool of instances that serve a model.
#[derive(Debug, Object)]
struct Pool {
    /// The name of the pool.
    name: String,
    /// The model that it serves; null if it has no policy any more.
    #[oai(nullable)]
    model: Option<String>,
    /// Its policy file.
    policy_file: String,
    /// The error in that file on disk; the last valid version is in force.
    #[oai(nullable)]
    policy_error: Option<String>,
    /// The policy's `min`.
    min: u32,
    /// The policy's `max`.
    max: u32,
    /// How many more instances it may launch, from the policy's `[launch]`.
    launch: u32,
    /// Jobs that are waiting; null if the queue could not be read.
    #[oai(nullable)]
    visible: Option<u64>,
    /// Jobs that workers hold; null if the queue could not be read.
    #[oai(nullable)]
    in_flight: Option<u64>,
    /// Jobs arriving per second, as counted by the web hosts over about the last ten seconds.
    arrivals_per_s: f64,
    /// Jobs per second done by this pool's workers, over about the last ten seconds.
    done_per_s: f64,
    /// The number of instances that the last plan wants.
    desired: u32,
    /// Instances that are ready.
    ready: u32,
    /// Instances that were started and are not ready yet.
    starting: u32,
    /// Instances that drain or stop.
    leaving: u32,
    /// The reason for the last plan, a sentence.
    reason: String,
    /// The number that each rule wanted in the last plan.
    wishes: Vec<RuleWish>,
    /// What limited the last plan, a sentence each.
    holds: Vec<String>,
    /// Who paused the pool, and since when: it is observed and planned, but nothing is done.
    #[oai(nullable)]
    paused: Option<Order>,
    /// What the last plan would have done if the pool were not paused, like `start default-1`.
    would: Vec<String>,
    /// Mean seconds from the receipt of a job to its result, from the workers' last reports.
    #[oai(nullable)]
    service_s: Option<f64>,
    /// What the controller has learnt about the pool.
    learnt: Learnt,
    /// What the pool has done and cost since the budget's midnight.
    today: Usage,
    /// Every instance, including stopped ones.
    instances: Vec<Instance>,
}

/// A worker of a pool: a machine or a process.
#[derive(Debug, Object)]
struct Instance {
    /// The id of the instance.
    id: String,
    /// The stage of its life.
    state: Stage,
    /// When it was last started, drained or stopped.
    since: DateTime<Utc>,
    /// The generation: identifies one start; null before the first.
    #[oai(nullable)]
    generation: Option<String>,
    /// Its process id, if it is a process of this machine.
    #[oai(nullable)]
    pid: Option<u32>,
    /// The cloud's machine for this instance, if it was launched.
    #[oai(nullable)]
    machine: Option<String>,
    /// Jobs that it holds, from its last report.
    #[oai(nullable)]
    in_flight: Option<u32>,
    /// Jobs that it can hold at once.
    #[oai(nullable)]
    slots: Option<u32>,
    /// Jobs done since it was started.
    #[oai(nullable)]
    done: Option<u64>,
    /// Jobs done per second, over about the last ten seconds.
    done_per_s: f64,
    /// The engine that classifies.
    #[oai(nullable)]
    engine: Option<String>,
    /// The version of the model that it has loaded.
    #[oai(nullable)]
    version: Option<String>,
    /// Why every job fails there, if that is so.
    #[oai(nullable)]
    failing: Option<String>,
    /// Mean time from the receipt of a job to its result, in milliseconds, from the last report
    /// that had any jobs.
    #[oai(nullable)]
    service_mean_ms: Option<f64>,
    /// The 95th percentile of that time, in milliseconds.
    #[oai(nullable)]
    service_p95_ms: Option<f64>,
    /// Since when it has held no job.
    #[oai(nullable)]
    idle_since: Option<DateTime<Utc>>,
    /// When it last reported.
    #[oai(nullable)]
    reported_at: Option<DateTime<Utc>>,
    /// The deadline of its drain; then it is stopped by force.
    #[oai(nullable)]
    drain_until: Option<DateTime<Utc>>,
    /// How often in a row it has crashed.
    crashes: u32,
    /// The error of its last crash.
    #[oai(nullable)]
    last_error: Option<String>,
    /// It is not started before this time, because starts have failed.
    #[oai(nullable)]
    not_before: Option<DateTime<Utc>>,
    /// An operator's order not to start it.
    #[oai(nullable)]
    cordoned: Option<Cordon>,
    /// Its last refusals to start, drain or stop.
    #[oai(nullable)]
    refused: Option<Refused>,
}

/// The stage of an instance's life.
#[derive(Debug, Enum)]
#[oai(rename_all = "snake_case")]
enum Stage {
    Stopped,
    Starting,
    Ready,
    Draining,
    Drained,
    Stopping,
}

/// The number of instances that a rule wanted.
#[derive(Debug, Object)]
struct RuleWish {
    /// The rule's kind.
    rule: String,
    /// The number of instances.
    instances: u32,
    /// The reason, in a few words.
    because: String,
}

/// What the controller has learnt about a pool; null if not known yet.
#[derive(Debug, Object)]
#[oai(nullable_all)]
struct Learnt {
    /// Median seconds from the start of an instance to its report that it is ready.
    start_delay_s: Option<f64>,
    /// The 95th percentile of that time, in seconds.
    start_delay_p95_s: Option<f64>,
    /// The median for a launched instance, in seconds.
    launch_delay_s: Option<f64>,
    /// Seconds from the receipt of a job to its result.
    service_s: Option<f64>,
    /// Jobs that an instance classifies at once.
    concurrency: Option<f64>,
    /// Jobs per second expected when an instance that starts now is ready.
    expected_per_s: Option<f64>,
}

/// What a pool has done and cost since midnight in the budget's time zone (UTC without one); null
/// if not known.
#[derive(Debug, Object)]
#[oai(nullable_all)]
struct Usage {
    /// Hours that instances ran, in total.
    instance_hours: Option<f64>,
    /// Hours per day that the policy's budget allows.
    budget_hours: Option<f64>,
    /// Their cost at the policy's price, in US dollars.
    cost_usd: Option<f64>,
    /// Images that arrived.
    images: Option<u64>,
    /// The cost of a thousand of them, in US dollars.
    cost_usd_per_1000: Option<f64>,
}

/// A decision that changed something.
#[derive(Debug, Object)]
struct Decision {
    /// When it was made.
    at: DateTime<Utc>,
    /// The pool it concerns.
    pool: String,
    /// All jobs, waiting and in flight; null if the queue could not be read.
    #[oai(nullable)]
    backlog: Option<u64>,
    /// The number of instances wanted.
    desired: u32,
    /// The number of instances that were ready or starting.
    running: u32,
    /// What was done, like `start default-1`.
    actions: Vec<String>,
    /// The reason, a sentence.
    reason: String,
    /// Whether the pool was paused, so that nothing was done.
    paused: bool,
}

/// Every order of operators.
#[derive(Debug, Object)]
struct Operator {
    /// Present while every pool is paused, including later ones.
    all_paused: Option<Order>,
    /// The pools that are paused by name.
    paused: BTreeMap<String, Order>,
    /// The instances that must not be started.
    cordoned: BTreeMap<String, Cordon>,
}

/// The author and time of an order.
#[derive(Debug, Object)]
struct Order {
    /// When it was given.
    since: DateTime<Utc>,
    /// The host's user, if known.
    by: Option<String>,
}

/// An instance that is not started, and is the first to be drained if there are too many.
#[derive(Debug, Object)]
struct Cordon {
    /// When it was cordoned.
    since: DateTime<Utc>,
    /// The host's user, if known.
    by: Option<String>,
    /// Whether it is also drained now, even if needed.
    drain: bool,
}

/// The last refusals of an instance.
#[derive(Debug, Object)]
struct Refused {
    /// What it refused to do.
    verb: Verb,
    /// How often in a row.
    count: u32,
    /// The first refusal in that row.
    since: DateTime<Utc>,
    /// The last refusal.
    at: DateTime<Utc>,
    /// The reason of the last refusal.
    error: String,
    /// Whether the only reason was a lack of capacity.
    capacity: bool,
}

/// What an instance can be asked to do.
#[derive(Debug, Enum)]
#[oai(rename_all = "snake_case")]
enum Verb {
    Start,
    Drain,
    Stop,
}

/// The behaviour that the process fleet simulates.
#[derive(Debug, Object)]
struct Simulated {
    /// The time after which a started instance begins to run, like `25s~lognormal:0.3`.
    start_delay: String,
    /// The fraction of starts that fail.
    boot_failure: f64,
    /// The fraction of starts that are refused for lack of capacity.
    capacity_error: f64,
    /// The seed of the random numbers.
    seed: u64,
}
