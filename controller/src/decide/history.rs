//! What a decision needs of the past, as a value. It grows purely: [`observe`](History::observe) with each observation, and
//! [`remember`](History::remember) with each plan.
//!
//! It begins empty when the controller starts, or with what an earlier one had [learnt](Learnt), and what it does not know it
//! does not claim: a fresh one only makes the controller slower to scale in.

mod arrivals;
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
    arrivals::Arrivals, growth::Growth, keep::Keep, peaks::Peaks, service::Services, starts::Starts,
    usage::Usage,
};
pub use self::{career::Career, usage::Used};
pub(crate) use self::{growth::GrowthBounds, minutes::Minutes};
use super::{
    budget::day_began,
    plan::{Action, Cause, Plan},
};
use crate::{
    fleet::{Instance, State, Tier},
    observe::{Observation, age},
    policy::Policy,
};

/// Of the last start delays the one that this part of them does not exceed counts.
const DELAY_QUANTILE: f64 = 0.9;
/// After a restart or a gap of no more than this, who runs has run all the time and is charged for it. After a longer one the
/// clock may as well be wrong.
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
    alive: Option<BTreeMap<String, usize>>,
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

/// What is known of a pool's work and workers: measured where it was measured, and guessed by the policy where not.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Jobs that arrive each second.
    pub arrivals_per_s: f64,
    /// How long a worker needs for a job, in seconds.
    pub service_s: f64,
    /// Whether that was measured; if not, it is the policy's guess.
    #[serde(default)]
    pub is_measured: bool,
    /// How irregular arrivals and service times are: the mean of their squared coefficients of variation. One is chance without
    /// memory, zero clockwork.
    pub variability: f64,
    /// That of the service times alone.
    #[serde(default)]
    pub service_scv: f64,
    /// Jobs that an instance classifies at the same time.
    pub at_once: f64,
    /// How long an instance takes from its start to its first job, in seconds: the 90th percentile of the last starts.
    pub start_delay_s: f64,
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
    /// Nothing is known yet. After a longer gap than this between two observations nothing of the last minutes is known again.
    pub fn new(longest_gap: Duration) -> Self {
        let (pools, arrivals, alive, learnt) = Default::default();
        Self { longest_gap, since: None, last: None, pools, arrivals, alive, learnt }
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
        for Instance { pool, state, since, .. } in seen.instances.iter().flatten().map(|view| &view.instance)
        {
            let from = match state {
                State::Stopped => continue,
                State::Running => then.max(*since),
                // Since when it drains says nothing about since when it runs.
                State::Draining | State::Stopping if is_first => continue,
                State::Draining | State::Stopping => then,
            };
            let pool = self.learnt.pools.entry(pool.clone()).or_default();
            pool.usage.add(from, seen.at, 1, 0, 0);
        }
    }

    fn observe_instances(
        &mut self,
        before: DateTime<Utc>,
        seen: &Observation,
        arrived: &BTreeMap<&str, u64>,
    ) {
        // Names are looked up before they are copied: this goes over every instance in every pass.
        let mut counted: Vec<(&str, usize, u32)> = Vec::new();
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
                counted.push((view.instance.pool.as_str(), 0, 0));
            }
            if let Some((_, lives, new)) = counted.last_mut() {
                *lives += usize::from(view.instance.is_alive());
                *new += u32::from(started);
            }
            if let Some(run_s) = career.take_ended_run_s() {
                ended.push((view.instance.pool.as_str(), run_s));
            }
            if let Some(report) = measured {
                let pool = self.learnt.pools.entry(view.instance.pool.clone()).or_default();
                let in_force =
                    seen.versions.get(&view.instance.model).map(|in_force| in_force.version.as_str());
                pool.services.measured(report, in_force);
            }
        }
        let (mut alive, mut starts) = (BTreeMap::<String, usize>::new(), BTreeMap::<&str, u32>::new());
        for (pool, lives, new) in counted {
            *alive.entry(pool.to_owned()).or_default() += lives;
            *starts.entry(pool).or_default() += new;
        }
        for (name, tier, delay_s) in newly_ready {
            let pool = self.learnt.pools.entry(name.to_owned()).or_default();
            match tier {
                Tier::Parked => pool.starts.add(delay_s),
                Tier::Launched => pool.launches.add(delay_s),
            }
        }
        for (name, run_s) in ended {
            self.learnt.pools.entry(name.to_owned()).or_default().usage.end_run(seen.at, run_s);
        }
        // Whoever went since the last look may have done so just now; and while they cannot be listed, all run on.
        let mut charged = self.alive.clone().unwrap_or_default();
        if self.alive.is_some() {
            for (name, now) in &alive {
                let then = charged.entry(name.clone()).or_default();
                *then = (*then).max(*now);
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

    /// Since when the controller has been looking without a gap.
    pub fn since(&self) -> Option<DateTime<Utc>> {
        self.since
    }

    /// The highest backlog of a pool for all of this time up to now; `None` where not all of it is known.
    pub fn peak_over(&self, pool: &str, window: Duration, now: DateTime<Utc>) -> Option<u64> {
        let past = self.known_for(pool, window, now)?;
        Some(past.backlog.over(window, now))
    }

    /// The most instances that the rules wished for in all of this time, not counting those for what waited; `None` where not all of it is known.
    pub fn most_wished(&self, pool: &str, window: Duration, now: DateTime<Utc>) -> Option<u32> {
        let past = self.known_for(pool, window, now)?;
        Some(u32::try_from(past.wished.over(window, now)).unwrap_or(u32::MAX))
    }

    fn known_for(&self, pool: &str, window: Duration, now: DateTime<Utc>) -> Option<&Past> {
        self.pools.get(pool).filter(|past| age(past.known_since, now) >= window)
    }

    /// Jobs that arrive for a pool each second, as the web hosts reported them.
    pub fn arrivals_per_s(&self, pool: &str) -> f64 {
        self.arrivals.get(pool).map_or(0.0, Arrivals::per_second)
    }

    /// When the last job was reported to arrive for a pool.
    pub fn last_arrival(&self, pool: &str) -> Option<DateTime<Utc>> {
        self.pools.get(pool)?.last_arrival
    }

    /// How many of `most` instances are cheaper kept than started again, where `lately` were needed within the policy's window.
    pub(crate) fn worth_keeping(
        &self,
        pool: &str,
        most: u32,
        lately: u32,
        policy: &Policy,
        now: DateTime<Utc>,
    ) -> u32 {
        let start_s = self.start_delay_s(pool, 0.5).unwrap_or(policy.pool.start_delay.as_secs_f64());
        let minimum_s = policy.instance.billing_minimum.as_secs_f64();
        let price = keep::Price { start_s, minimum_s, most: policy.scale_in.keep };
        let learnt = self.learnt.pools.get(pool).filter(|_| !policy.scale_in.keep.is_zero());
        learnt.map_or(lately, |learnt| learnt.keep.highest(most, lately, &price, now))
    }

    /// Whether a pool's load has ended and begun again often enough that its end is no surprise.
    pub(crate) fn knows_gaps(&self, pool: &str) -> bool {
        self.learnt.pools.get(pool).is_some_and(|learnt| learnt.keep.knows_gaps())
    }

    /// Since when jobs of a pool have waited without a break.
    pub(crate) fn waits_since(&self, pool: &str) -> Option<DateTime<Utc>> {
        self.pools.get(pool)?.waits_since
    }

    /// When somebody last worked on the jobs of a pool, as far as its backlog shows.
    pub(crate) fn taken_at(&self, pool: &str) -> Option<DateTime<Utc>> {
        self.pools.get(pool)?.taken_at
    }

    /// When so much less arrived than just before that it may be an outage.
    pub fn last_drop(&self, pool: &str) -> Option<DateTime<Utc>> {
        self.arrivals.get(pool)?.last_drop()
    }

    /// How fast a pool's backlog grows; `None` before the second look, and where jobs come in batches.
    pub(crate) fn growth(&self, pool: &str) -> Option<GrowthBounds> {
        // A batch makes the backlog leap, and is no stream.
        let is_stream = !self.arrivals.get(pool).is_some_and(Arrivals::comes_in_batches);
        is_stream.then(|| self.pools.get(pool)?.growth.bounds())?
    }

    /// What is known of a pool's work and workers.
    pub fn facts(&self, pool: &str, policy: &Policy) -> Facts {
        let learnt = self.learnt.pools.get(pool);
        let service = learnt.and_then(|pool| pool.services.now());
        let arrivals = self.arrivals.get(pool);
        let of_service = service.map_or(1.0, |service| service.variability());
        Facts {
            arrivals_per_s: self.arrivals_per_s(pool),
            variability: f64::midpoint(arrivals.map_or(1.0, Arrivals::dispersion), of_service),
            service_scv: of_service,
            service_s: service.map_or(policy.pool.service_time.as_secs_f64(), |service| service.mean_s),
            is_measured: service.is_some(),
            at_once: service.map_or(1.0, |service| service.at_once),
            start_delay_s: self.start_delay_of(pool, policy, Tier::Parked),
        }
    }

    /// How long an instance of this tier will take to start, in seconds: the 90th percentile of the last ones, or the policy's guess.
    pub(crate) fn start_delay_of(&self, pool: &str, policy: &Policy, tier: Tier) -> f64 {
        let learnt = self.learnt.pools.get(pool).map(|pool| match tier {
            Tier::Parked => &pool.starts,
            Tier::Launched => &pool.launches,
        });
        let learnt = learnt.and_then(|starts| starts.quantile_s(DELAY_QUANTILE));
        learnt.unwrap_or(policy.start_delay(tier).as_secs_f64())
    }

    /// The same for those that were launched.
    pub fn launch_delay_s(&self, pool: &str, quantile: f64) -> Option<f64> {
        self.learnt.pools.get(pool)?.launches.quantile_s(quantile)
    }

    /// Of the last start delays of a pool's instances the one that this part of them does not exceed, in seconds; `None`
    /// before the first start.
    pub fn start_delay_s(&self, pool: &str, quantile: f64) -> Option<f64> {
        self.learnt.pools.get(pool)?.starts.quantile_s(quantile)
    }

    /// How long a worker of a pool needs for a job, in seconds, as measured; `None` before the first.
    pub fn service_s(&self, pool: &str) -> Option<f64> {
        Some(self.learnt.pools.get(pool)?.services.now()?.mean_s)
    }

    /// What arrived for a pool in each minute.
    pub(crate) fn minutes(&self, pool: &str) -> Option<&Minutes> {
        self.learnt.pools.get(pool).map(|pool| &pool.minutes)
    }

    /// What a pool used since a moment, to the quarter of an hour.
    pub fn used_since(&self, pool: &str, moment: DateTime<Utc>) -> Used {
        self.learnt.pools.get(pool).map(|pool| pool.usage.since(moment)).unwrap_or_default()
    }

    /// What a pool used since the last midnight of its budget's time zone.
    pub fn used_today(&self, pool: &str, policy: &Policy, now: DateTime<Utc>) -> Used {
        self.used_since(pool, day_began(policy, now))
    }

    /// What a pool is charged for since the last midnight of its budget's time zone, in seconds of an instance: the time that they
    /// ran, and for starts that were shorter than the billing minimum, the rest of that.
    pub fn billed_today_s(&self, pool: &str, policy: &Policy, now: DateTime<Utc>) -> f64 {
        let minimum_s = policy.instance.billing_minimum.as_secs_f64();
        let begin = day_began(policy, now);
        let ended_s = self.learnt.pools.get(pool).map_or(0.0, |pool| pool.usage.short_s(begin, minimum_s));
        let runs = self.learnt.instances.values().filter(|career| career.pool == pool);
        let rest_s =
            |career: &Career| Some((minimum_s - age(career.runs_since()?, now).as_secs_f64()).max(0.0));
        self.used_today(pool, policy, now).instance_s + ended_s + runs.filter_map(rest_s).sum::<f64>()
    }

    /// The 95th percentile of a pool's service times in seconds, as measured.
    pub(crate) fn service_p95_s(&self, pool: &str) -> Option<f64> {
        Some(self.learnt.pools.get(pool)?.services.now()?.p95_s)
    }

    /// What is known of an instance.
    pub fn career(&self, instance: &str) -> Option<&Career> {
        self.learnt.instances.get(instance)
    }
}

impl Learnt {
    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.pools.is_empty()
    }

    /// What an earlier controller charged is lost: instances that run are charged since their launch.
    pub fn recall_launches(&mut self) {
        self.recalls_launches = true;
    }

    /// Takes note of what a recording says of a pool's use: so many instances ran from one line to the next. It is of use where
    /// everything else was lost, so that a day's budget is not spent twice.
    pub fn recall_use(
        &mut self,
        pool: &str,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
        instances: usize,
        jobs: u64,
    ) {
        self.pools.entry(pool.to_owned()).or_default().usage.add(from, to, instances, 0, jobs);
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
