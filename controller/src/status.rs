//! What the controller sees and does, for people and for the other programs: written as JSON to
//! [`Settings::status_file`](eirs_platform::settings::Settings::status_file) after every pass, whole or not at all.

use std::{collections::VecDeque, io, path::PathBuf, time::Duration};

use chrono::{DateTime, Utc};
use eirs_platform::settings::units;
use serde::{Deserialize, Serialize};

use crate::{
    decide::{Plan, PoolPlan},
    observe::{InstanceView, Observation, Stage},
    policy::Store,
    state_file,
};

/// So many decisions are kept.
const DECISIONS: usize = 20;

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
    /// How often it was told to reload (SIGHUP) and did: whoever sends the signal can wait for this to rise.
    pub reloads: u64,
    /// Every pool that has a policy or instances, by name.
    pub pools: Vec<PoolStatus>,
    /// Every complaint about the policy files as they are on disk, a sentence each. Empty when all are good.
    pub policy_errors: Vec<String>,
    /// What could not be seen in the last pass, a sentence each. While there is any, nothing is drained.
    pub problems: Vec<String>,
    /// The last decisions that changed something, the latest last.
    pub decisions: Vec<Decision>,
    /// Jobs done each second by all workers together, over about the last ten seconds.
    pub throughput_per_s: f64,
}

/// One pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PoolStatus {
    /// Its name.
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
    /// Jobs that no worker holds; absent where the queue could not be read.
    pub visible: Option<u64>,
    /// Jobs that workers hold; absent where the queue could not be read.
    pub in_flight: Option<u64>,
    /// Jobs that arrive each second, as the web hosts counted them over about the last ten seconds.
    pub arrivals_per_s: f64,
    /// Jobs done each second by this pool's workers, over about the last ten seconds.
    pub done_per_s: f64,
    /// How many instances it shall have now.
    pub desired: u32,
    /// Instances that serve.
    pub ready: u32,
    /// Instances that were started and do not serve yet.
    pub starting: u32,
    /// Instances that drain or stop.
    pub leaving: u32,
    /// The last plan's reason, a sentence.
    pub reason: String,
    /// Every instance, the stopped ones too.
    pub instances: Vec<InstanceStatus>,
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceStatus {
    /// Its name.
    pub id: String,
    /// How far it is in its life: `stopped`, `starting`, `ready`, `draining`, `drained` or `stopping`.
    pub state: Stage,
    /// Since when the fleet has had it so: started, told to drain, stopped.
    pub since: DateTime<Utc>,
    /// Which start of it this is; absent before the first.
    pub generation: Option<String>,
    /// Its process, where it is one of this machine.
    pub pid: Option<u32>,
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
    /// Mean time from the receipt of a job to its result, in milliseconds, in the last report that had any.
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
    /// How many instances it shall have.
    pub desired: u32,
    /// How many were ready or starting then.
    pub running: u32,
    /// What was done, e.g. `start default-1`.
    pub actions: Vec<String>,
    /// Why, in a sentence.
    pub reason: String,
}

/// Keeps the status file.
#[derive(Debug)]
pub struct Recorder {
    file: PathBuf,
    started_at: DateTime<Utc>,
    tick: Duration,
    decisions: VecDeque<Decision>,
    /// How often the controller was told to reload and did.
    pub reloads: u64,
}

impl Recorder {
    /// Writes to this file.
    pub fn new(file: PathBuf, tick: Duration, started_at: DateTime<Utc>) -> Self {
        Self { file, started_at, tick, decisions: VecDeque::new(), reloads: 0 }
    }

    /// Keeps a decision.
    pub fn decided(&mut self, decision: Decision) {
        self.decisions.push_back(decision);
        while self.decisions.len() > DECISIONS {
            self.decisions.pop_front();
        }
    }

    /// Writes what is true now.
    pub fn write(&self, store: &Store, seen: &Observation, plan: &Plan) -> io::Result<()> {
        state_file::write(&self.file, &self.status(store, seen, plan))
    }

    fn status(&self, store: &Store, seen: &Observation, plan: &Plan) -> Status {
        let pools: Vec<_> = plan.pools.iter().map(|(name, plan)| pool(name, plan, store, seen)).collect();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_at: self.started_at,
            at: seen.at,
            tick: self.tick,
            reloads: self.reloads,
            throughput_per_s: total(pools.iter().map(|pool| pool.done_per_s)),
            pools,
            policy_errors: store.complaints().iter().map(ToString::to_string).collect(),
            problems: seen.missing.clone(),
            decisions: self.decisions.iter().cloned().collect(),
        }
    }
}

impl Decision {
    /// The decision of a plan for one of its pools.
    pub fn of(at: DateTime<Utc>, pool: &str, plan: &PoolPlan) -> Self {
        Self {
            at,
            pool: pool.to_owned(),
            backlog: plan.depth.map(|depth| depth.backlog()),
            desired: plan.desired,
            running: plan.running(),
            actions: plan.actions.iter().map(ToString::to_string).collect(),
            reason: plan.reason(),
        }
    }
}

fn pool(name: &str, plan: &PoolPlan, store: &Store, seen: &Observation) -> PoolStatus {
    let policy = store.policies().pools.get(name).map(|policy| &policy.pool);
    let file = store.file(name);
    let errors: Vec<_> = store
        .complaints()
        .iter()
        .filter(|complaint| complaint.file == file)
        .map(ToString::to_string)
        .collect();
    let mut instances: Vec<_> =
        seen.instances.iter().flatten().filter(|view| view.instance.pool == name).map(instance).collect();
    instances.sort_by(|a, b| (a.id.len(), &a.id).cmp(&(b.id.len(), &b.id)));
    PoolStatus {
        name: name.to_owned(),
        model: policy.map(|policy| policy.model.clone()),
        policy_file: file.display().to_string(),
        policy_error: (!errors.is_empty()).then(|| errors.join("; ")),
        min: policy.map_or(0, |policy| policy.min),
        max: policy.map_or(0, |policy| policy.max),
        visible: plan.depth.map(|depth| depth.visible),
        in_flight: plan.depth.map(|depth| depth.in_flight),
        arrivals_per_s: seen.pools.get(name).map_or(0.0, |pool| pool.arrivals_per_s),
        done_per_s: total(instances.iter().map(|instance| instance.done_per_s)),
        desired: plan.desired,
        ready: plan.ready,
        starting: plan.starting,
        leaving: plan.leaving,
        reason: plan.reason(),
        instances,
    }
}

/// The standard sum of no rates is -0.
fn total(rates: impl Iterator<Item = f64>) -> f64 {
    rates.fold(0.0, std::ops::Add::add)
}

fn instance(view: &InstanceView) -> InstanceStatus {
    let heard = view.heard.as_ref();
    let instance = view.instance.clone();
    InstanceStatus {
        id: instance.id,
        state: view.stage(),
        since: instance.since,
        generation: instance.generation,
        pid: instance.pid,
        in_flight: heard.map(|heard| heard.report.in_flight),
        slots: heard.map(|heard| heard.report.slots),
        done: heard.map(|heard| heard.report.done),
        done_per_s: heard.map_or(0.0, |heard| heard.done_per_s),
        engine: heard.map(|heard| heard.report.engine.clone()),
        service_mean_ms: heard.and_then(|heard| Some(heard.service?.mean_ms)),
        service_p95_ms: heard.and_then(|heard| Some(heard.service?.p95_ms)),
        idle_since: heard.and_then(|heard| heard.idle_since),
        reported_at: heard.map(|heard| heard.at),
        drain_until: instance.drain_until,
        crashes: instance.crashes,
        last_error: instance.last_error,
        not_before: instance.not_before,
    }
}
