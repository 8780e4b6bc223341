//! The part of the past that a decision needs, as a value. Pure: [`observe`](History::observe) adds
//! an observation, [`remember`](History::remember) a plan.
//!
//! It begins empty when the controller starts, or with what an earlier controller [learnt](Learnt).
//! Missing history only makes the controller slower to scale in.

mod arrivals;
mod career;
mod growth;
mod keep;
mod minutes;
mod peaks;
mod queries;
mod rhythm;
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
    rhythm::Rhythm,
    service::Services,
    starts::Starts,
    usage::{Alive, Usage},
};
pub use self::{career::Career, queries::Facts, usage::Used};
pub(crate) use self::{growth::GrowthBounds, minutes::Minutes};
use super::plan::{Action, Cause, Plan};
use crate::{
    fleet::{Instance, State, Tier},
    observe::{Observation, age},
};

/// Longest gap, at a restart for example, over which running instances are charged as if they ran
/// all the time. After a longer gap the clock may be wrong.
const LONGEST_UNSEEN: Duration = Duration::from_secs(3600);

/// The past of every pool and every instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct History {
    longest_gap: Duration,
    since: Option<DateTime<Utc>>,
    last: Option<DateTime<Utc>>,
    pools: BTreeMap<String, Past>,
    /// Arrivals by pool. Reports contain their own times, so a gap in observing does not matter.
    arrivals: BTreeMap<String, Arrivals>,
    /// Number of live instances by pool in the last list; `None` before the first list.
    alive: Option<BTreeMap<String, Alive>>,
    /// The part that stays valid after a gap.
    learnt: Learnt,
}

/// The part of the history that is stored when the controller ends. Losing it does no harm.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Learnt {
    /// By pool name.
    pools: BTreeMap<String, Pool>,
    /// By instance id.
    instances: BTreeMap<String, Career>,
    /// Time up to which instances were charged.
    #[serde(default)]
    charged_at: Option<DateTime<Utc>>,
    /// Whether instances are charged from their launch if no earlier charges are known.
    #[serde(skip)]
    recalls_launches: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Pool {
    #[serde(default)]
    services: Services,
    #[serde(default)]
    starts: Starts,
    /// Start delays of launched instances.
    #[serde(default)]
    launches: Starts,
    #[serde(default)]
    keep: Keep,
    #[serde(default)]
    rhythm: Rhythm,
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
    /// Start of the time in which some job waited at every observation.
    waits_since: Option<DateTime<Utc>>,
    /// The backlog at the last observation.
    depth: Depth,
    /// Last observation at which a job was in flight, or the backlog had shrunk.
    taken_at: Option<DateTime<Utc>>,
}

impl History {
    /// An empty history. After a gap longer than `longest_gap` between two observations, the recent
    /// past counts as unknown.
    pub fn new(longest_gap: Duration) -> Self {
        let (pools, arrivals, alive, learnt) = Default::default();
        Self { longest_gap, since: None, last: None, pools, arrivals, alive, learnt }
    }

    /// The history of a controller that starts now and observes every `tick`. It tolerates late
    /// passes, but not several missed ones, as on a machine that slept.
    pub fn first(tick: Duration) -> Self {
        Self::new(3 * tick + Duration::from_secs(60))
    }

    /// Adds what an earlier controller learnt.
    #[must_use]
    pub fn with_learnt(mut self, learnt: Learnt) -> Self {
        self.learnt = learnt;
        self.learnt.pools.values_mut().for_each(|pool| pool.keep.pause());
        self
    }

    /// The part that is worth storing.
    pub fn learnt(&self) -> &Learnt {
        &self.learnt
    }

    /// Adds an observation.
    #[must_use]
    pub fn observe(mut self, seen: &Observation) -> Self {
        let is_gap = |last: DateTime<Utc>| last > seen.at || age(last, seen.at) > self.longest_gap;
        if self.last.is_some_and(is_gap) {
            // The controller or the machine slept, or the clock was changed.
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
            let Some(Pool { minutes, rhythm, .. }) = self.learnt.pools.get_mut(name) else { continue };
            if seen.hears {
                minutes.listened(before, seen.at);
            }
            pool.counts.iter().for_each(|count| minutes.add(count));
            let mut counts: Vec<_> = pool.counts.iter().collect();
            counts.sort_by_key(|count| count.to);
            counts.into_iter().for_each(|count| rhythm.observe(count));
            arrived.insert(name.as_str(), pool.counts.iter().map(|count| count.jobs).sum());
        }
        // While a backlog cannot be read, what waited meanwhile is unknown.
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

    /// Charges running instances for the time since an earlier controller charged them.
    fn charge_unseen(&mut self, seen: &Observation) {
        let (then, is_first) = match self.learnt.charged_at {
            Some(then) if age(then, seen.at) <= LONGEST_UNSEEN => (then, false),
            // The charges of the earlier controller are lost: charge from the launch.
            None if self.learnt.recalls_launches => (DateTime::UNIX_EPOCH, true),
            _ => return,
        };
        for Instance { pool, state, since, tier, .. } in
            seen.instances.iter().flatten().map(|view| &view.instance)
        {
            let from = match state {
                State::Stopped => continue,
                State::Running => then.max(*since),
                // `since` is the begin of the drain here, not of the run.
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
        // Look up a name before copying it: this runs for every instance in every pass.
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
            // Instances of one pool are adjacent in the list.
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
        // An instance that ended since the last observation may have ended just now, so it is
        // charged until now. While instances cannot be listed, all count as running.
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

    /// Adds a plan.
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
                    career.order_to_stop();
                }
                Action::Drain { .. } | Action::Stop { .. } => career.order_to_stop(),
                Action::Start { .. } => {}
            }
        }
        self
    }
}

impl Learnt {
    /// Whether no pool is known.
    pub fn is_empty(&self) -> bool {
        self.pools.is_empty()
    }

    /// Time up to which instances were charged.
    pub fn charged_at(&self) -> Option<DateTime<Utc>> {
        self.charged_at
    }

    /// States that the charges of an earlier controller are lost: running instances are charged
    /// from their launch.
    pub fn recall_launches(&mut self) {
        self.recalls_launches = true;
    }

    /// Adds the use of a pool that another file shows: `instances` ran from `from` to `to`. If all
    /// else was lost, this keeps a daily budget from being spent twice.
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
