//! What the controller writes of itself, as `/status` and `/events` pass it on.
//!
//! This program hands on bytes that are another's, and does not link the controller to describe
//! them. So its types are written down here a second time, for the description alone;
//! `controller/tests.rs` holds them to what the controller really writes, key by key.

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

/// A fleet of one instance, with everything that there is to say of it.
const EXAMPLE: &str = include_str!("controller/example.json");

/// What the controller wrote, as it wrote it; null where there is none.
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

/// The controller at the moment of its last pass.
#[derive(Debug, Object)]
struct Controller {
    /// The controller's version.
    version: String,
    /// Its process.
    pid: u32,
    /// When it was started.
    started_at: DateTime<Utc>,
    /// When it last looked. Older than a few ticks: it does not run any more.
    at: DateTime<Utc>,
    /// The longest time between two looks, like `5s`.
    tick: String,
    /// How often it was told to reload and did.
    reloads: u64,
    /// When it began to read its policies for the last of these times.
    #[oai(nullable)]
    reloaded_at: Option<DateTime<Utc>>,
    /// Every pool that has a policy or instances, by name.
    pools: Vec<Pool>,
    /// Every complaint about the policy files as they are on disk, a sentence each. Empty when all
    /// are good.
    policy_errors: Vec<String>,
    /// What could not be seen in the last pass, a sentence each. While there is any, nothing is
    /// drained.
    problems: Vec<String>,
    /// The last decisions that changed something, the latest last.
    decisions: Vec<Decision>,
    /// Jobs done each second by all workers together, over about the last ten seconds.
    throughput_per_s: f64,
    /// What an operator ordered, as it is in force.
    operator: Operator,
    /// What is wrong with the file of these orders as it is on disk; the last good ones are in
    /// force.
    #[oai(nullable)]
    operator_error: Option<String>,
    /// The folder of the policy files, from the root.
    policies: String,
    /// The cap on the instances of all pools together; 0 is none.
    instance_limit: u32,
    /// What the fleet makes up, where it does.
    #[oai(nullable)]
    simulated: Option<Simulated>,
}

/// A pool of instances that serve a model.
#[derive(Debug, Object)]
struct Pool {
    /// The name of the token.
    name: String,
    /// The model that it serves; null where it has no policy any more.
    #[oai(nullable)]
    model: Option<String>,
    /// Its policy file.
    policy_file: String,
    /// What is wrong with that file as it is on disk; the last good version is in force.
    #[oai(nullable)]
    policy_error: Option<String>,
    /// The policy's `min`.
    min: u32,
    /// The policy's `max`.
    max: u32,
    /// How many it may launch beside, by its `[launch]`.
    launch: u32,
    /// Jobs that no worker holds; null where the queue could not be read.
    #[oai(nullable)]
    visible: Option<u64>,
    /// Jobs that workers hold; null where the queue could not be read.
    #[oai(nullable)]
    in_flight: Option<u64>,
    /// Jobs that arrive each second, as the web hosts counted them over about the last ten seconds.
    arrivals_per_s: f64,
    /// Jobs done each second by this pool's workers, over about the last ten seconds.
    done_per_s: f64,
    /// How many instances it shall have now.
    desired: u32,
    /// Instances that serve.
    ready: u32,
    /// Instances that were started and do not serve yet.
    starting: u32,
    /// Instances that drain or stop.
    leaving: u32,
    /// The last plan's reason, a sentence.
    reason: String,
    /// What each rule wished in the last plan.
    wishes: Vec<RuleWish>,
    /// What held the last plan back, a sentence each.
    holds: Vec<String>,
    /// Who paused the pool, and since when: it is looked at and decided about, and nothing is done.
    #[oai(nullable)]
    paused: Option<Order>,
    /// What the last plan would have done if the pool were not paused, like `start default-1`.
    would: Vec<String>,
    /// Seconds from the receipt of a job to its result, on the average of the workers' last
    /// reports.
    #[oai(nullable)]
    service_s: Option<f64>,
    /// What was learnt of the pool over time.
    learnt: Learnt,
    /// What the pool did and cost since the midnight of its budget.
    today: Usage,
    /// Every instance, the stopped ones too.
    instances: Vec<Instance>,
}

/// A machine, or a process, that is a worker of a pool.
#[derive(Debug, Object)]
struct Instance {
    /// The name of the token.
    id: String,
    /// How far it is in its life.
    state: Stage,
    /// Since when the fleet has had it so: started, told to drain, stopped.
    since: DateTime<Utc>,
    /// Which start of it this is; null before the first.
    #[oai(nullable)]
    generation: Option<String>,
    /// Its process, where it is one of this machine.
    #[oai(nullable)]
    pid: Option<u32>,
    /// The machine of the cloud that stands in this place, where that was launched.
    #[oai(nullable)]
    machine: Option<String>,
    /// Jobs it holds, as it last said.
    #[oai(nullable)]
    in_flight: Option<u32>,
    /// Jobs it can hold at once.
    #[oai(nullable)]
    slots: Option<u32>,
    /// Jobs done since it was started.
    #[oai(nullable)]
    done: Option<u64>,
    /// Jobs done each second, over about the last ten seconds.
    done_per_s: f64,
    /// What classifies there.
    #[oai(nullable)]
    engine: Option<String>,
    /// The version of the model that it has loaded.
    #[oai(nullable)]
    version: Option<String>,
    /// Why everything fails there, if it does.
    #[oai(nullable)]
    failing: Option<String>,
    /// Mean time from the receipt of a job to its result, in milliseconds, in the last report that
    /// had any.
    #[oai(nullable)]
    service_mean_ms: Option<f64>,
    /// The 95th percentile of the same.
    #[oai(nullable)]
    service_p95_ms: Option<f64>,
    /// Since when it has held nothing.
    #[oai(nullable)]
    idle_since: Option<DateTime<Utc>>,
    /// When it last reported.
    #[oai(nullable)]
    reported_at: Option<DateTime<Utc>>,
    /// When its drain is due; then it is stopped by force.
    #[oai(nullable)]
    drain_until: Option<DateTime<Utc>>,
    /// So often in a row it died before its time.
    crashes: u32,
    /// What it died of the last time.
    #[oai(nullable)]
    last_error: Option<String>,
    /// It is not started again before this moment, because it or its like died at the start.
    #[oai(nullable)]
    not_before: Option<DateTime<Utc>>,
    /// It must not be started, and an operator said so.
    #[oai(nullable)]
    cordoned: Option<Cordon>,
    /// It lately did not do as told.
    #[oai(nullable)]
    refused: Option<Refused>,
}

/// How far an instance is in its life.
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

/// How many instances a rule wanted.
#[derive(Debug, Object)]
struct RuleWish {
    /// The rule's kind.
    rule: String,
    /// How many.
    instances: u32,
    /// Why, in a few words.
    because: String,
}

/// What was learnt of a pool; null is what is not known yet.
#[derive(Debug, Object)]
#[oai(nullable_all)]
struct Learnt {
    /// Seconds from the start of an instance to its report that it is ready, in the middle.
    start_delay_s: Option<f64>,
    /// The same at the 95th percentile.
    start_delay_p95_s: Option<f64>,
    /// The same for an instance that was launched, in the middle.
    launch_delay_s: Option<f64>,
    /// Seconds from the receipt of a job to its result.
    service_s: Option<f64>,
    /// Jobs that an instance works on at once.
    concurrency: Option<f64>,
    /// Jobs each second that are expected when what is started now is ready.
    expected_per_s: Option<f64>,
}

/// What a pool did and cost since midnight in the budget's time zone (UTC without one); null is
/// what is not known.
#[derive(Debug, Object)]
#[oai(nullable_all)]
struct Usage {
    /// Hours that instances ran, all together.
    instance_hours: Option<f64>,
    /// What may be used in a day by the policy's budget.
    budget_hours: Option<f64>,
    /// What they cost by the policy's price, in US dollars.
    cost_usd: Option<f64>,
    /// Images that arrived.
    images: Option<u64>,
    /// What a thousand of them cost, in US dollars.
    cost_usd_per_1000: Option<f64>,
}

/// A decision that changed something.
#[derive(Debug, Object)]
struct Decision {
    /// When.
    at: DateTime<Utc>,
    /// For which pool.
    pool: String,
    /// All jobs, visible and in flight, where the queue could be read.
    #[oai(nullable)]
    backlog: Option<u64>,
    /// How many instances it shall have.
    desired: u32,
    /// How many were ready or starting then.
    running: u32,
    /// What was done, like `start default-1`.
    actions: Vec<String>,
    /// Why, in a sentence.
    reason: String,
    /// Whether it was only decided: the pool was paused.
    paused: bool,
}

/// Everything that an operator ordered.
#[derive(Debug, Object)]
struct Operator {
    /// There while every pool is paused, also those to come.
    all_paused: Option<Order>,
    /// The pools that are paused by name.
    paused: BTreeMap<String, Order>,
    /// The instances that must not be started.
    cordoned: BTreeMap<String, Cordon>,
}

/// Who ordered it, and when.
#[derive(Debug, Object)]
struct Order {
    /// When.
    since: DateTime<Utc>,
    /// The host's user, where that is known.
    by: Option<String>,
}

/// An instance is not started, and is the first to go when there are too many.
#[derive(Debug, Object)]
struct Cordon {
    /// Since when.
    since: DateTime<Utc>,
    /// The host's user, where that is known.
    by: Option<String>,
    /// Whether it is drained now, needed or not.
    drain: bool,
}

/// The last refusal of an instance.
#[derive(Debug, Object)]
struct Refused {
    /// What it should have done.
    verb: Verb,
    /// So often in a row it did not.
    count: u32,
    /// The first time of these.
    since: DateTime<Utc>,
    /// The last time of these.
    at: DateTime<Utc>,
    /// Why, the last time.
    error: String,
    /// Whether there was nothing wrong with it but that the fleet had no capacity to give.
    capacity: bool,
}

/// What an instance can be told to do.
#[derive(Debug, Enum)]
#[oai(rename_all = "snake_case")]
enum Verb {
    Start,
    Drain,
    Stop,
}

/// What the process fleet makes up.
#[derive(Debug, Object)]
struct Simulated {
    /// How long after its start an instance begins to run, like `25s~lognormal:0.3`.
    start_delay: String,
    /// The share of starts that come to nothing.
    boot_failure: f64,
    /// The share of starts that are refused for want of capacity.
    capacity_error: f64,
    /// What chance begins with.
    seed: u64,
}
