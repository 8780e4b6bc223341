//! Composes the status after every pass and writes it to its file.

use std::{
    collections::VecDeque,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use eirs_platform::settings::Settings;
use serde::Deserialize;

use super::{Decision, InstanceStatus, Learnt, PoolStatus, RuleWish, Status, Usage};
use crate::{
    decide::{History, Plan, PoolPlan, Wish, left_alone_until},
    observe::{InstanceView, Observation},
    operator::{Operator, Orders},
    policy::{Policy, Store},
    state_file,
};

/// Number of decisions that are kept.
const DECISIONS: usize = 20;

/// Composes and writes the status.
#[derive(Debug)]
pub struct Recorder {
    file: PathBuf,
    started_at: DateTime<Utc>,
    settings: Arc<Settings>,
    decisions: VecDeque<Decision>,
    reloads: u64,
    reloaded_at: Option<DateTime<Utc>>,
}

impl Recorder {
    /// Makes a recorder for the status file of these settings.
    pub fn new(settings: Arc<Settings>, started_at: DateTime<Utc>) -> Self {
        let file = settings.status_file();
        Self { file, started_at, settings, decisions: VecDeque::new(), reloads: 0, reloaded_at: None }
    }

    /// The orders that the previous controller had in force, according to its status file.
    pub fn last_operator(&self) -> Operator {
        #[derive(Deserialize)]
        struct Part {
            #[serde(default)]
            operator: Operator,
        }
        let read = fs::read(&self.file).ok().and_then(|text| serde_json::from_slice::<Part>(&text).ok());
        read.map(|part| part.operator).unwrap_or_default()
    }

    /// Records that a requested reload begins.
    pub fn reloads(&mut self, at: DateTime<Utc>) {
        self.reloads += 1;
        self.reloaded_at = Some(at);
    }

    /// Records a decision.
    pub fn decided(&mut self, decision: Decision) {
        self.decisions.push_back(decision);
        while self.decisions.len() > DECISIONS {
            self.decisions.pop_front();
        }
    }

    /// Writes the status.
    pub fn write(
        &self,
        store: &Store,
        orders: &Orders,
        seen: &Observation,
        history: &History,
        plan: &Plan,
    ) -> io::Result<()> {
        state_file::write(&self.file, &self.status(store, orders, seen, history, plan))
    }

    fn status(
        &self,
        store: &Store,
        orders: &Orders,
        seen: &Observation,
        history: &History,
        plan: &Plan,
    ) -> Status {
        let pools: Vec<_> =
            plan.pools.iter().map(|(name, plan)| pool(name, plan, store, seen, history)).collect();
        let simulate = &self.settings.controller.simulate;
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_at: self.started_at,
            at: seen.at,
            tick: self.settings.controller.tick,
            reloads: self.reloads,
            reloaded_at: self.reloaded_at,
            throughput_per_s: total(pools.iter().map(|pool| pool.done_per_s)),
            pools,
            policy_errors: store.complaints().iter().map(ToString::to_string).collect(),
            problems: seen.missing.clone(),
            decisions: self.decisions.iter().cloned().collect(),
            policies: absolute(store.folder()).display().to_string(),
            instance_limit: self.settings.controller.instance_limit,
            operator: seen.operator.clone(),
            operator_error: orders.complaint().map(str::to_owned),
            simulated: simulate.is_on().then(|| simulate.clone()),
        }
    }
}

/// Makes a path absolute, as readers may run in another folder.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The measured values of a pool.
pub fn learnt(history: &History, pool: &str, policy: Option<&Policy>) -> Learnt {
    let facts = policy.map(|policy| history.facts(pool, policy));
    let service_s = history.service_s(pool);
    Learnt {
        start_delay_s: history.start_delay_s(pool, 0.5),
        start_delay_p95_s: history.start_delay_s(pool, 0.95),
        launch_delay_s: history.launch_delay_s(pool, 0.5),
        service_s,
        concurrency: facts.filter(|_| service_s.is_some()).map(|facts| facts.at_once),
        expected_per_s: facts.map(|facts| facts.arrivals_per_s),
    }
}

/// Use and cost of a pool since midnight.
pub fn today(history: &History, pool: &str, policy: &Policy, now: DateTime<Utc>) -> Usage {
    let used = history.used_today(pool, policy, now);
    let hours = used.instance_s / 3600.0;
    let cost_usd = history.cost_today_usd(pool, policy, now);
    Usage {
        instance_hours: Some(hours),
        budget_hours: policy.budget.instance_hours_per_day,
        cost_usd: Some(cost_usd),
        images: Some(used.jobs),
        cost_usd_per_1000: (used.jobs > 0).then(|| cost_usd / used.jobs as f64 * 1000.0),
    }
}

impl Decision {
    /// The decision of a plan for one pool.
    pub fn of(at: DateTime<Utc>, pool: &str, plan: &PoolPlan, paused: bool) -> Self {
        Self {
            paused,
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

fn pool(name: &str, plan: &PoolPlan, store: &Store, seen: &Observation, history: &History) -> PoolStatus {
    let whole = store.policies().pools.get(name);
    let policy = whole.map(|policy| &policy.pool);
    let file = store.file(name);
    let errors: Vec<_> = store
        .complaints()
        .iter()
        .filter(|complaint| complaint.file == file)
        .map(ToString::to_string)
        .collect();
    let mut instances: Vec<_> = seen
        .instances
        .iter()
        .flatten()
        .filter(|view| view.instance.pool == name)
        .map(|view| instance(view, seen, history))
        .collect();
    instances.sort_by(|a, b| (a.id.len(), &a.id).cmp(&(b.id.len(), &b.id)));
    let paused = seen.operator.paused(name).cloned();
    PoolStatus {
        name: name.to_owned(),
        model: policy.map(|policy| policy.model.clone()),
        policy_file: file.display().to_string(),
        policy_error: (!errors.is_empty()).then(|| errors.join("; ")),
        min: policy.map_or(0, |policy| policy.min),
        max: policy.map_or(0, |policy| policy.max),
        launch: whole.map_or(0, |policy| policy.most() - policy.pool.max),
        visible: plan.depth.map(|depth| depth.visible),
        in_flight: plan.depth.map(|depth| depth.in_flight),
        arrivals_per_s: history.arrivals_per_s(name),
        done_per_s: total(instances.iter().map(|instance| instance.done_per_s)),
        desired: plan.desired,
        ready: plan.ready,
        starting: plan.starting,
        leaving: plan.leaving,
        reason: plan.reason(),
        wishes: plan.wishes.iter().map(wish).collect(),
        holds: plan.holds.iter().map(ToString::to_string).collect(),
        would: if paused.is_some() {
            plan.actions.iter().map(ToString::to_string).collect()
        } else {
            Vec::new()
        },
        paused,
        service_s: seen.service_s(name),
        learnt: learnt(history, name, whole),
        today: whole.map(|policy| today(history, name, policy, seen.at)).unwrap_or_default(),
        instances,
    }
}

fn wish(wish: &Wish) -> RuleWish {
    RuleWish { rule: wish.rule.to_owned(), instances: wish.instances, because: wish.because.to_string() }
}

/// Sums rates. The standard sum of no floats is -0, which would be printed.
fn total(rates: impl Iterator<Item = f64>) -> f64 {
    rates.fold(0.0, std::ops::Add::add)
}

fn instance(view: &InstanceView, seen: &Observation, history: &History) -> InstanceStatus {
    let heard = view.heard.as_ref();
    let instance = view.instance.clone();
    let career = history.career(&instance.id);
    InstanceStatus {
        cordoned: seen.operator.cordoned.get(&instance.id).cloned(),
        refused: seen.refused.get(&instance.id).cloned(),
        id: instance.id,
        state: view.stage(),
        since: instance.since,
        generation: instance.generation,
        pid: instance.pid,
        machine: instance.machine,
        in_flight: heard.map(|heard| heard.report.in_flight),
        slots: heard.map(|heard| heard.report.slots),
        done: heard.map(|heard| heard.report.done),
        done_per_s: heard.map_or(0.0, |heard| heard.done_per_s),
        engine: heard.map(|heard| heard.report.engine.clone()),
        version: heard.map(|heard| heard.report.version.clone()).filter(|version| !version.is_empty()),
        failing: heard.and_then(|heard| heard.report.failing.clone()),
        service_mean_ms: heard.and_then(|heard| Some(heard.service?.mean_ms)),
        service_p95_ms: heard.and_then(|heard| Some(heard.service?.p95_ms)),
        idle_since: heard.and_then(|heard| heard.idle_since),
        reported_at: heard.map(|heard| heard.at),
        drain_until: instance.drain_until,
        crashes: career.map_or(0, |career| career.failures).max(instance.crashes),
        last_error: instance.last_error.or_else(|| career?.failure.clone()),
        not_before: left_alone_until(view, seen, history),
    }
}
