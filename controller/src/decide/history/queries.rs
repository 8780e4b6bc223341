//! The queries on the history.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::{Arrivals, Career, GrowthBounds, History, Minutes, Past, Used, keep, rhythm::Onset};
use crate::{
    decide::budget::day_began,
    fleet::Tier,
    observe::age,
    policy::{Policy, Rule},
};

/// Quantile of the recent start delays that counts as the start delay.
const DELAY_QUANTILE: f64 = 0.9;
/// Facts about a pool's jobs and workers: measured, or from the policy if not measured yet.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Arrival rate, in jobs per second.
    pub arrivals_per_s: f64,
    /// Mean time that a worker takes for a job, in seconds.
    pub service_s: f64,
    /// Whether `service_s` was measured; if not, it is the policy's `service_time`.
    #[serde(default)]
    pub is_measured: bool,
    /// Mean of the squared coefficients of variation of arrivals and of service times. 1 is a
    /// Poisson process, 0 deterministic.
    pub variability: f64,
    /// Squared coefficient of variation of the service times.
    #[serde(default)]
    pub service_scv: f64,
    /// Number of jobs that an instance classifies at the same time.
    pub at_once: f64,
    /// Time from the start of an instance to its first job, in seconds: the 90th percentile of the
    /// recent starts.
    pub start_delay_s: f64,
}

impl History {
    /// Time since which the controller has been observing without a gap.
    pub fn since(&self) -> Option<DateTime<Utc>> {
        self.since
    }

    /// Highest backlog of a pool within the last `window`; `None` if not all of it is known.
    pub fn peak_over(&self, pool: &str, window: Duration, now: DateTime<Utc>) -> Option<u64> {
        let past = self.known_for(pool, window, now)?;
        Some(past.backlog.over(window, now))
    }

    /// Largest number of instances that the rules wanted within the last `window`, not counting
    /// those for waiting jobs; `None` if not all of it is known.
    pub fn most_wished(&self, pool: &str, window: Duration, now: DateTime<Utc>) -> Option<u32> {
        let past = self.known_for(pool, window, now)?;
        Some(u32::try_from(past.wished.over(window, now)).unwrap_or(u32::MAX))
    }

    fn known_for(&self, pool: &str, window: Duration, now: DateTime<Utc>) -> Option<&Past> {
        self.pools.get(pool).filter(|past| age(past.known_since, now) >= window)
    }

    /// Arrival rate of a pool in jobs per second, from the reports of the web hosts.
    pub fn arrivals_per_s(&self, pool: &str) -> f64 {
        self.arrivals.get(pool).map_or(0.0, Arrivals::per_second)
    }

    /// Time of the last reported arrival for a pool.
    pub fn last_arrival(&self, pool: &str) -> Option<DateTime<Utc>> {
        self.pools.get(pool)?.last_arrival
    }

    /// Number of instances, at most `most`, that cost less to keep than to start again. `lately` is
    /// the number needed within the policy's window.
    pub(crate) fn worth_keeping(
        &self,
        pool: &str,
        most: u32,
        lately: u32,
        policy: &Policy,
        now: DateTime<Utc>,
    ) -> u32 {
        let start_s = self.start_delay(pool, policy).as_secs_f64();
        let minimum_s = policy.instance.billing_minimum.as_secs_f64();
        let price = keep::Price { start_s, minimum_s, most: policy.scale_in.keep };
        let learnt = self.learnt.pools.get(pool).filter(|_| !policy.scale_in.keep.is_zero());
        learnt.map_or(lately, |learnt| learnt.keep.highest(most, lately, &price, now))
    }

    /// The next onset of a pool's load, if it comes at regular times. They may differ by as long as
    /// a start takes, since a ready instance waits for the onset instead of jobs for an instance.
    pub(crate) fn next_onset(&self, pool: &str, policy: &Policy) -> Option<Onset> {
        let spread = TimeDelta::from_std(self.start_delay(pool, policy)).ok()?;
        // A pool without a latency target need not be fast, and one without `keep` goes by no times
        // that were learnt.
        let is_fast = policy.rules.iter().any(|rule| matches!(rule, Rule::Latency { .. }));
        let learnt = self.learnt.pools.get(pool).filter(|_| is_fast && !policy.scale_in.keep.is_zero());
        learnt?.rhythm.next(spread).filter(|onset| self.last.is_some_and(|now| now <= onset.until))
    }

    /// Median of the recent start delays of a pool's parked instances, or the policy's value.
    pub(crate) fn start_delay(&self, pool: &str, policy: &Policy) -> Duration {
        let learnt = self.start_delay_s(pool, 0.5).and_then(|s| Duration::try_from_secs_f64(s).ok());
        learnt.unwrap_or(policy.pool.start_delay)
    }

    /// Whether a pool's load has ended and returned often enough that its end is expected.
    pub(crate) fn knows_gaps(&self, pool: &str) -> bool {
        self.learnt.pools.get(pool).is_some_and(|learnt| learnt.keep.knows_gaps())
    }

    /// Time since which at least one job of a pool has waited at every observation.
    pub(crate) fn waits_since(&self, pool: &str) -> Option<DateTime<Utc>> {
        self.pools.get(pool)?.waits_since
    }

    /// Time at which the backlog of a pool last showed that its jobs are being worked on.
    pub(crate) fn taken_at(&self, pool: &str) -> Option<DateTime<Utc>> {
        self.pools.get(pool)?.taken_at
    }

    /// Time of the last sudden drop of arrivals, which may be an outage.
    pub fn last_drop(&self, pool: &str) -> Option<DateTime<Utc>> {
        self.arrivals.get(pool)?.last_drop()
    }

    /// Bounds of the arrival rate from the growth of a pool's backlog; `None` before the second
    /// observation, and if jobs come in batches.
    pub(crate) fn growth(&self, pool: &str) -> Option<GrowthBounds> {
        // A batch makes the backlog jump, which is not a rate.
        let is_stream = !self.arrivals.get(pool).is_some_and(Arrivals::comes_in_batches);
        is_stream.then(|| self.pools.get(pool)?.growth.bounds())?
    }

    /// The facts about a pool's jobs and workers.
    pub fn facts(&self, pool: &str, policy: &Policy) -> Facts {
        let learnt = self.learnt.pools.get(pool);
        let service = learnt.and_then(|pool| pool.services.now());
        let arrivals = self.arrivals.get(pool);
        // If jobs come at regular times, none come before the next time. The work of a batch alone
        // says how many instances it fills.
        let is_batch = arrivals.is_some_and(Arrivals::comes_in_batches);
        let has_ended = |onset: Onset| is_batch || self.last.is_some_and(|now| onset.is_after_silence(now));
        let is_over = self.next_onset(pool, policy).is_some_and(has_ended);
        let of_service = service.map_or(1.0, |service| service.variability());
        Facts {
            arrivals_per_s: if is_over { 0.0 } else { self.arrivals_per_s(pool) },
            variability: f64::midpoint(arrivals.map_or(1.0, Arrivals::dispersion), of_service),
            service_scv: of_service,
            service_s: service.map_or(policy.pool.service_time.as_secs_f64(), |service| service.mean_s),
            is_measured: service.is_some(),
            at_once: service.map_or(1.0, |service| service.at_once),
            start_delay_s: self.start_delay_of(pool, policy, Tier::Parked),
        }
    }

    /// Start delay of an instance of this tier in seconds: the 90th percentile of the recent ones,
    /// or the policy's value.
    pub(crate) fn start_delay_of(&self, pool: &str, policy: &Policy, tier: Tier) -> f64 {
        let learnt = match tier {
            Tier::Parked => self.start_delay_s(pool, DELAY_QUANTILE),
            Tier::Launched => self.launch_delay_s(pool, DELAY_QUANTILE),
        };
        learnt.unwrap_or(policy.start_delay(tier).as_secs_f64())
    }

    /// Quantile of the recent start delays of a pool's launched instances, in seconds; `None`
    /// before the first.
    pub fn launch_delay_s(&self, pool: &str, quantile: f64) -> Option<f64> {
        self.learnt.pools.get(pool)?.launches.quantile_s(quantile)
    }

    /// Quantile of the recent start delays of a pool's parked instances, in seconds; `None` before
    /// the first.
    pub fn start_delay_s(&self, pool: &str, quantile: f64) -> Option<f64> {
        self.learnt.pools.get(pool)?.starts.quantile_s(quantile)
    }

    /// Measured mean service time of a pool's jobs, in seconds; `None` before the first.
    pub fn service_s(&self, pool: &str) -> Option<f64> {
        Some(self.learnt.pools.get(pool)?.services.now()?.mean_s)
    }

    /// Number of jobs that arrived for a pool in each minute.
    pub(crate) fn minutes(&self, pool: &str) -> Option<&Minutes> {
        self.learnt.pools.get(pool).map(|pool| &pool.minutes)
    }

    /// Use of a pool since `moment`, to a quarter of an hour.
    pub fn used_since(&self, pool: &str, moment: DateTime<Utc>) -> Used {
        self.learnt.pools.get(pool).map(|pool| pool.usage.since(moment)).unwrap_or_default()
    }

    /// Use of a pool since the last midnight in its budget's time zone.
    pub fn used_today(&self, pool: &str, policy: &Policy, now: DateTime<Utc>) -> Used {
        self.used_since(pool, day_began(policy, now))
    }

    /// Cost of a pool since the last midnight in its budget's time zone, in US dollars: the time
    /// that its instances ran, plus the rest of the billing minimum for shorter runs. Launched
    /// instances cost the price in `[launch]`, if it is set.
    pub fn cost_today_usd(&self, pool: &str, policy: &Policy, now: DateTime<Utc>) -> f64 {
        let usd_per_hour = policy.instance.usd_per_hour;
        let launched = policy.launch.usd_per_hour.unwrap_or(usd_per_hour);
        [(Tier::Parked, usd_per_hour), (Tier::Launched, launched)]
            .map(|(tier, usd_per_hour)| self.billed_today_s(pool, policy, tier, now) / 3600.0 * usd_per_hour)
            .iter()
            .sum()
    }

    /// Time for which the instances of a tier are charged, in seconds.
    fn billed_today_s(&self, pool: &str, policy: &Policy, tier: Tier, now: DateTime<Utc>) -> f64 {
        let minimum_s = policy.instance.billing_minimum.as_secs_f64();
        let begin = day_began(policy, now);
        let used = self.used_today(pool, policy, now);
        let ran_s = match tier {
            Tier::Parked => used.instance_s - used.launched_s,
            Tier::Launched => used.launched_s,
        };
        let ended_s =
            self.learnt.pools.get(pool).map_or(0.0, |pool| pool.usage.short_s(begin, tier, minimum_s));
        let runs = self.learnt.instances.values().filter(|career| career.pool == pool && career.tier == tier);
        let rest_s =
            |career: &Career| Some((minimum_s - age(career.runs_since()?, now).as_secs_f64()).max(0.0));
        ran_s + ended_s + runs.filter_map(rest_s).sum::<f64>()
    }

    /// Measured 95th percentile of a pool's service times, in seconds.
    pub(crate) fn service_p95_s(&self, pool: &str) -> Option<f64> {
        Some(self.learnt.pools.get(pool)?.services.now()?.p95_s)
    }

    /// The past of an instance.
    pub fn career(&self, instance: &str) -> Option<&Career> {
        self.learnt.instances.get(instance)
    }
}
