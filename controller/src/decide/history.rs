//! What a decision needs of the past, as a value. It grows purely: [`observe`](History::observe)
//! with each observation, and [`remember`](History::remember) with each plan.
//!
//! It begins empty when the controller starts, or with what an earlier one had [learnt](Learnt),
//! and what it does not know it does not claim: a fresh one only makes the controller slower to
//! scale in.

mod arrivals;
mod asked;
mod career;
mod growth;
mod keep;
mod minutes;
mod peaks;
mod service;
mod starts;
mod usage;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use chrono::{DateTime, Utc};
use eirs_platform::queue::Depth;
use serde::{Deserialize, Serialize};

use self::{
    arrivals::Arrivals,
    growth::Growth,
    keep::Keep,
    peaks::Peaks,
    service::Services,
    starts::Starts,
    usage::{Alive, Usage},
};
pub use self::{asked::Facts, career::Career, usage::Used};
pub(crate) use self::{growth::GrowthBounds, minutes::Minutes};
use super::plan::{Action, Cause, Plan};
use crate::{
    fleet::{Instance, State, Tier},
    observe::{Observation, age},
};

/// After a restart or a gap of no more than this, who runs has run all the time and is charged for
/// it. After a longer one the clock may as well be wrong.
const LONGEST_UNSEEN: Duration = Duration::from_secs(3600);

/// The past of every pool and every instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct History {
    longest_gap: Duration,
    since: Option<DateTime<Utc>>,
    last: Option<DateTime<Utc>>,
    pools: BTreeMap<String, Past>,
    /// What arrived for each pool. Reports say when it arrived, so that a gap makes no difference.
    arrivals: BTreeMap<String, Arrivals>,
    /// How many instances each pool had when they were listed last, if they have been listed.
    alive: Option<BTreeMap<String, Alive>>,
    /// What is of use even after a gap.
    learnt: Learnt,
}

/// What is worth keeping when the controller ends. It may be lost without harm.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Learnt {
    /// By pool.
    pools: BTreeMap<String, Pool>,
    /// By instance.
    instances: BTreeMap<String, Career>,
    /// When the instances were last charged.
    #[serde(default)]
    charged_at: Option<DateTime<Utc>>,
    /// Whether instances are charged since their launch where nothing is known of earlier charges.
    #[serde(skip)]
    recalls_launches: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Pool {
    #[serde(default)]
    services: Services,
    #[serde(default)]
    starts: Starts,
    /// Of those that were launched.
    #[serde(default)]
    launches: Starts,
    #[serde(default)]
    keep: Keep,
    usage: Usage,
    minutes: Minutes,
}

/// The past of one pool, without a gap since `known_since`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Past {
    known_since: DateTime<Utc>,
    backlog: Peaks,
    growth: Growth,
    wished: Peaks,
    last_arrival: Option<DateTime<Utc>>,
    /// Since when some job has waited at each look.
    waits_since: Option<DateTime<Utc>>,
    /// The last look, and the last one at which a job was in flight or fewer were left than before.
    depth: Depth,
    taken_at: Option<DateTime<Utc>>,
}

impl History {
    /// Nothing is known yet. After a longer gap than this between two observations nothing of the
    /// last minutes is known again.
    pub fn new(longest_gap: Duration) -> Self {
        let (pools, arrivals, alive, learnt) = Default::default();
        Self { longest_gap, since: None, last: None, pools, arrivals, alive, learnt }
    }

    /// What a controller that starts now knows of the past. With passes of this distance one may
    /// be late; a machine that slept has missed several.
    pub fn first(tick: Duration) -> Self {
        Self::new(3 * tick + Duration::from_secs(60))
    }

    /// The same, knowing what was learnt before.
    #[must_use]
    pub fn with_learnt(mut self, learnt: Learnt) -> Self {
        self.learnt = learnt;
        self.learnt.pools.values_mut().for_each(|pool| pool.keep.pause());
        self
    }

    /// What is worth keeping.
    pub fn learnt(&self) -> &Learnt {
        &self.learnt
    }

    /// The same history and this observation.
    #[must_use]
    pub fn observe(mut self, seen: &Observation) -> Self {
        let is_gap = |last: DateTime<Utc>| last > seen.at || age(last, seen.at) > self.longest_gap;
        if self.last.is_some_and(is_gap) {
            // The controller or the machine slept, or the clock was set.
            self.pools.clear();
            self.learnt.pools.values_mut().for_each(|pool| pool.keep.pause());
            self.since = None;
            self.last = None;
            self.alive = None;
        }
        let before = self.last.replace(seen.at).unwrap_or(seen.at);
        self.since = self.since.or(Some(seen.at));
        let mut arrived = BTreeMap::new();
        self.arrivals.retain(|name, _| seen.pools.contains_key(name));
        for (name, pool) in &seen.pools {
            if !self.arrivals.contains_key(name) {
                self.arrivals.insert(name.clone(), Arrivals::default());
            }
            let arrivals = self.arrivals.get_mut(name);
            arrivals.into_iter().for_each(|arrivals| arrivals.observe(seen.at, &pool.counts, seen.hears));
            if !self.learnt.pools.contains_key(name) {
                self.learnt.pools.insert(name.clone(), Pool::default());
            }
            let Some(Pool { minutes, .. }) = self.learnt.pools.get_mut(name) else { continue };
            if seen.hears {
                minutes.listened(before, seen.at);
            }
            pool.counts.iter().for_each(|count| minutes.add(count));
            arrived.insert(name.as_str(), pool.counts.iter().map(|count| count.jobs).sum());
        }
        // Of a pool whose backlog could not be read nobody knows what waited meanwhile.
        self.pools.retain(|name, _| seen.pools.get(name).is_some_and(|pool| pool.depth.is_some()));
        for (name, pool) in &seen.pools {
            let Some(depth) = pool.depth else { continue };
            let past = self.pools.entry(name.clone()).or_insert_with(|| Past::new(seen.at));
            past.backlog.observe(seen.at, depth.backlog());
            past.growth.observe(seen.at, depth.backlog());
            past.last_arrival = past.last_arrival.max(pool.last_arrival);
            if depth.in_flight > 0 || depth.backlog() < past.depth.backlog() {
                past.taken_at = Some(seen.at);
            }
            past.depth = depth;
            past.waits_since = (depth.visible > 0).then(|| past.waits_since.unwrap_or(seen.at));
        }
        if self.alive.is_none() {
            self.charge_unseen(seen);
        }
        self.observe_instances(before, seen, &arrived);
        self
    }

    /// Charges those that run now for the time since an earlier controller charged them.
    fn charge_unseen(&mut self, seen: &Observation) {
        let (then, is_first) = match self.learnt.charged_at {
            Some(then) if age(then, seen.at) <= LONGEST_UNSEEN => (then, false),
            // What an earlier controller charged is lost: who runs is charged since its launch.
            None if self.learnt.recalls_launches => (DateTime::UNIX_EPOCH, true),
            _ => return,
        };
        for Instance { pool, state, since, tier, .. } in
            seen.instances.iter().flatten().map(|view| &view.instance)
        {
            let from = match state {
                State::Stopped => continue,
                State::Running => then.max(*since),
                // Since when it drains says nothing about since when it runs.
                State::Draining | State::Stopping if is_first => continue,
                State::Draining | State::Stopping => then,
            };
            let pool = self.learnt.pools.entry(pool.clone()).or_default();
            pool.usage.add(from, seen.at, Alive::one(*tier), 0, 0);
        }
    }

    fn observe_instances(
        &mut self,
        before: DateTime<Utc>,
        seen: &Observation,
        arrived: &BTreeMap<&str, u64>,
    ) {
        // Names are looked up before they are copied: this goes over every instance in every pass.
        let mut counted: Vec<(&str, Alive, u32)> = Vec::new();
        let (mut newly_ready, mut ended) = (Vec::new(), Vec::new());
        for view in seen.instances.iter().flatten() {
            let career = match self.learnt.instances.get_mut(&view.instance.id) {
                Some(career) => career,
                None => self.learnt.instances.entry(view.instance.id.clone()).or_default(),
            };
            let (started, measured) = career.observe(view, seen.at);
            if let Some(delay_s) = career.take_new_delay_s() {
                newly_ready.push((view.instance.pool.as_str(), view.instance.tier, delay_s));
            }
            // Those of a pool are listed together.
            if counted.last().is_none_or(|(pool, ..)| *pool != view.instance.pool) {
                counted.push((view.instance.pool.as_str(), Alive::default(), 0));
            }
            if let Some((_, lives, new)) = counted.last_mut() {
                *lives.of(view.instance.tier) += usize::from(view.instance.is_alive());
                *new += u32::from(started);
            }
            if let Some(run_s) = career.take_ended_run_s() {
                ended.push((view.instance.pool.as_str(), view.instance.tier, run_s));
            }
            if let Some(report) = measured {
                let pool = self.learnt.pools.entry(view.instance.pool.clone()).or_default();
                let in_force =
                    seen.versions.get(&view.instance.model).map(|in_force| in_force.version.as_str());
                pool.services.measured(report, in_force);
            }
        }
        let (mut alive, mut starts) = (BTreeMap::<String, Alive>::new(), BTreeMap::<&str, u32>::new());
        for (pool, lives, new) in counted {
            let sum = alive.entry(pool.to_owned()).or_default();
            (sum.parked, sum.launched) = (sum.parked + lives.parked, sum.launched + lives.launched);
            *starts.entry(pool).or_default() += new;
        }
        for (name, tier, delay_s) in newly_ready {
            let pool = self.learnt.pools.entry(name.to_owned()).or_default();
            match tier {
                Tier::Parked => pool.starts.add(delay_s),
                Tier::Launched => pool.launches.add(delay_s),
            }
        }
        for (name, tier, run_s) in ended {
            self.learnt.pools.entry(name.to_owned()).or_default().usage.end_run(seen.at, tier, run_s);
        }
        // An instance that went since the last look may have done so just now; and while they
        // cannot be listed, all run on.
        let mut charged = self.alive.clone().unwrap_or_default();
        if self.alive.is_some() {
            for (name, now) in &alive {
                let then = charged.entry(name.clone()).or_default();
                *then = then.or_more(*now);
            }
        }
        if seen.instances.is_some() {
            self.alive = Some(alive);
        }
        if self.alive.is_some() {
            self.learnt.charged_at = Some(seen.at);
        }
        let names = starts.keys().copied().chain(charged.keys().map(String::as_str));
        let names: BTreeSet<_> = names.chain(arrived.keys().copied()).collect();
        for name in names {
            let alive = charged.get(name).copied().unwrap_or_default();
            let starts = starts.get(name).copied().unwrap_or_default();
            let jobs = arrived.get(name).copied().unwrap_or_default();
            let pool = self.learnt.pools.entry(name.to_owned()).or_default();
            pool.usage.add(before, seen.at, alive, starts, jobs);
        }
        if let Some(instances) = &seen.instances
            && instances.len() != self.learnt.instances.len()
        {
            let known: BTreeSet<_> = instances.iter().map(|view| &view.instance.id).collect();
            self.learnt.instances.retain(|id, _| known.contains(id));
        }
    }

    /// The same history and what was decided.
    #[must_use]
    pub fn remember(mut self, plan: &Plan) -> Self {
        for (name, pool) in &plan.pools {
            if let Some(past) = self.pools.get_mut(name) {
                let steady = pool.wishes.iter().map(|wish| wish.steady).max().unwrap_or(0);
                past.wished.observe(plan.at, u64::from(steady));
                if let (Some(depth), Some(learnt)) = (pool.depth, self.learnt.pools.get_mut(name)) {
                    learnt.keep.observe(plan.at, steady.max(u32::from(depth.backlog() > 0)));
                }
            }
        }
        for action in plan.actions() {
            let career = self.learnt.instances.entry(action.id().to_owned()).or_default();
            match action {
                Action::Drain {
                    cause: cause @ (Cause::NeverReady | Cause::Silent | Cause::Hung), ..
                } => {
                    career.fail(&cause.to_string(), plan.at);
                    career.told_to_go();
                }
                Action::Drain { .. } | Action::Stop { .. } => career.told_to_go(),
                Action::Start { .. } => {}
            }
        }
        self
    }
}

impl Learnt {
    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.pools.is_empty()
    }

    /// What an earlier controller charged is lost: instances that run are charged since their
    /// launch.
    pub fn recall_launches(&mut self) {
        self.recalls_launches = true;
    }

    /// Takes note of what a recording says of a pool's use: `instances` ran from one line to
    /// the next. It is of use where everything else was lost, so that a day's budget is not spent
    /// twice.
    pub fn recall_use(
        &mut self,
        pool: &str,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
        instances: usize,
        jobs: u64,
    ) {
        let alive = Alive { parked: instances, launched: 0 };
        self.pools.entry(pool.to_owned()).or_default().usage.add(from, to, alive, 0, jobs);
        self.charged_at = self.charged_at.max(Some(to));
    }
}

impl Past {
    fn new(known_since: DateTime<Utc>) -> Self {
        let (backlog, growth, wished) = Default::default();
        let (last_arrival, waits_since, taken_at, depth) = Default::default();
        Self { known_since, backlog, growth, wished, last_arrival, waits_since, depth, taken_at }
    }
}

#[cfg(test)]
mod tests;
