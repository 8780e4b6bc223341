//! What a decision asks of the past.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Arrivals, Career, GrowthBounds, History, Minutes, Past, Used, keep};
use crate::{decide::budget::day_began, fleet::Tier, observe::age, policy::Policy};

/// Of the last start delays the one that this part of them does not exceed counts.
const DELAY_QUANTILE: f64 = 0.9;
/// What is known of a pool's work and workers: measured where it was measured, and guessed by the
/// policy where not.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Jobs that arrive each second.
    pub arrivals_per_s: f64,
    /// How long a worker needs for a job, in seconds.
    pub service_s: f64,
    /// Whether that was measured; if not, it is the policy's guess.
    #[serde(default)]
    pub is_measured: bool,
    /// How irregular arrivals and service times are: the mean of their squared coefficients of
    /// variation. One is chance without memory, zero clockwork.
    pub variability: f64,
    /// That of the service times alone.
    #[serde(default)]
    pub service_scv: f64,
    /// Jobs that an instance classifies at the same time.
    pub at_once: f64,
    /// How long an instance takes from its start to its first job, in seconds: the 90th percentile
    /// of the last starts.
    pub start_delay_s: f64,
}

impl History {
    /// Since when the controller has been looking without a gap.
    pub fn since(&self) -> Option<DateTime<Utc>> {
        self.since
    }

    /// The highest backlog of a pool for all of this time up to now; `None` where not all of it is
    /// known.
    pub fn peak_over(&self, pool: &str, window: Duration, now: DateTime<Utc>) -> Option<u64> {
        let past = self.known_for(pool, window, now)?;
        Some(past.backlog.over(window, now))
    }

    /// The most instances that the rules wished for in all of this time, not counting those for
    /// what waited; `None` where not all of it is known.
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

    /// How many of `most` instances are cheaper kept than started again, where `lately` were needed
    /// within the policy's window.
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

    /// How fast a pool's backlog grows; `None` before the second look, and where jobs come in
    /// batches.
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

    /// How long an instance of this tier will take to start, in seconds: the 90th percentile of the
    /// last ones, or the policy's guess.
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

    /// Of the last start delays of a pool's instances the one that this part of them does not
    /// exceed, in seconds; `None` before the first start.
    pub fn start_delay_s(&self, pool: &str, quantile: f64) -> Option<f64> {
        self.learnt.pools.get(pool)?.starts.quantile_s(quantile)
    }

    /// How long a worker of a pool needs for a job, in seconds, as measured; `None` before the
    /// first.
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

    /// What a pool cost since the last midnight of its budget's time zone, in US dollars: the time
    /// that its instances ran, and for starts that were shorter than the billing minimum, the rest
    /// of that. What was launched has the price of `[launch]`, if that says one.
    pub fn cost_today_usd(&self, pool: &str, policy: &Policy, now: DateTime<Utc>) -> f64 {
        let usd_per_hour = policy.instance.usd_per_hour;
        let launched = policy.launch.usd_per_hour.unwrap_or(usd_per_hour);
        [(Tier::Parked, usd_per_hour), (Tier::Launched, launched)]
            .map(|(tier, usd_per_hour)| self.billed_today_s(pool, policy, tier, now) / 3600.0 * usd_per_hour)
            .iter()
            .sum()
    }

    /// What the instances of a tier are charged for, in seconds.
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
        let runs = self.learnt.instances.values().filter(|it| it.pool == pool && it.tier == tier);
        let rest_s =
            |career: &Career| Some((minimum_s - age(career.runs_since()?, now).as_secs_f64()).max(0.0));
        ran_s + ended_s + runs.filter_map(rest_s).sum::<f64>()
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
