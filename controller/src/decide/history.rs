//! What a decision needs of the past, as a value. It grows purely, one observation after the other.
//!
//! It begins empty when the controller starts, and what it does not know it does not claim: a fresh one only makes the
//! controller slower to scale in.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    observe::{Observation, age},
    policy::load::LONGEST_WINDOW,
};

/// The past of every pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct History {
    longest_gap: Duration,
    since: Option<DateTime<Utc>>,
    last: Option<DateTime<Utc>>,
    pools: BTreeMap<String, Past>,
}

/// The past of one pool, without a gap since `known_since`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Past {
    known_since: DateTime<Utc>,
    backlog: u64,
    /// The end of each stretch of time and the highest backlog in it, where no later one is as high: the highest backlog
    /// since any moment is that of the first stretch that ends after it.
    peaks: VecDeque<(DateTime<Utc>, u64)>,
    last_arrival: Option<DateTime<Utc>>,
}

impl History {
    /// Nothing is known yet. After a longer gap than this between two observations nothing is known again.
    pub fn new(longest_gap: Duration) -> Self {
        Self { longest_gap, since: None, last: None, pools: BTreeMap::new() }
    }

    /// The same history and this observation.
    #[must_use]
    pub fn observe(mut self, seen: &Observation) -> Self {
        let is_gap = |last: DateTime<Utc>| last > seen.at || age(last, seen.at) > self.longest_gap;
        if self.last.is_some_and(is_gap) {
            // The controller or the machine slept, or the clock was set.
            self.pools.clear();
            self.since = None;
        }
        self.last = Some(seen.at);
        self.since = self.since.or(Some(seen.at));
        // A pool whose backlog could not be read is forgotten: what was there meanwhile nobody knows.
        self.pools.retain(|name, _| seen.pools.get(name).is_some_and(|pool| pool.depth.is_some()));
        for (name, pool) in &seen.pools {
            let Some(depth) = pool.depth else { continue };
            let past = self.pools.entry(name.clone()).or_insert_with(|| Past::new(seen.at));
            past.observe(seen.at, depth.backlog());
            past.last_arrival = past.last_arrival.max(pool.last_arrival);
        }
        self
    }

    /// Since when the controller has been looking without a gap.
    pub fn since(&self) -> Option<DateTime<Utc>> {
        self.since
    }

    /// The highest backlog of a pool for all of this time up to now; `None` where not all of it is known.
    pub fn peak_over(&self, pool: &str, window: Duration, now: DateTime<Utc>) -> Option<u64> {
        let past = self.pools.get(pool)?;
        if age(past.known_since, now) < window {
            return None;
        }
        let within = past.peaks.iter().find(|(end, _)| age(*end, now) < window);
        // A window of no time holds what is there now and nothing else.
        Some(within.map_or(past.backlog, |(_, peak)| *peak))
    }

    /// When the last job was reported to arrive for a pool.
    pub fn last_arrival(&self, pool: &str) -> Option<DateTime<Utc>> {
        self.pools.get(pool)?.last_arrival
    }
}

impl Past {
    fn new(known_since: DateTime<Utc>) -> Self {
        Self { known_since, backlog: 0, peaks: VecDeque::new(), last_arrival: None }
    }

    fn observe(&mut self, now: DateTime<Utc>, backlog: u64) {
        // Between two looks it was as high as the higher of them, as far as anybody knows.
        let peak = backlog.max(self.backlog);
        while self.peaks.back().is_some_and(|(_, lower)| *lower <= peak) {
            self.peaks.pop_back();
        }
        self.peaks.push_back((now, peak));
        self.backlog = backlog;
        while self.peaks.front().is_some_and(|(end, _)| age(*end, now) > LONGEST_WINDOW) {
            self.peaks.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use eirs_platform::queue::Depth;
    use proptest::prelude::*;

    use super::*;
    use crate::observe::PoolView;

    const GAP: Duration = Duration::from_secs(60);

    fn at(second: u64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    fn seen(second: u64, backlog: Option<u64>) -> Observation {
        let depth = backlog.map(|visible| Depth { visible, in_flight: 0 });
        let pool = PoolView { depth, ..PoolView::default() };
        Observation {
            at: at(second),
            pools: BTreeMap::from([("p".to_owned(), pool)]),
            instances: None,
            can_undrain: false,
            hears: true,
            missing: Vec::new(),
            operator: Default::default(),
            refused: BTreeMap::new(),
        }
    }

    fn history(looks: &[(u64, Option<u64>)]) -> History {
        looks
            .iter()
            .fold(History::new(GAP), |history, (second, backlog)| history.observe(&seen(*second, *backlog)))
    }

    #[track_caller]
    fn check(looks: &[(u64, Option<u64>)], window: u64, expected: Option<u64>) {
        let (now, _) = looks[looks.len() - 1];
        assert_eq!(history(looks).peak_over("p", Duration::from_secs(window), at(now)), expected);
    }

    #[test]
    fn a_fresh_history_claims_nothing_about_a_window() {
        check(&[(100, Some(3))], 1, None);
        check(&[(100, Some(3)), (110, Some(0))], 11, None);
        check(&[(100, Some(3)), (110, Some(0))], 10, Some(3));
    }

    #[test]
    fn a_backlog_lasts_until_the_next_look() {
        check(&[(0, Some(9)), (10, Some(1)), (20, Some(0))], 10, Some(1));
        check(&[(0, Some(9)), (10, Some(1)), (20, Some(0))], 11, Some(9));
    }

    #[test]
    fn a_backlog_that_could_not_be_read_a_long_gap_and_a_clock_set_back_begin_a_new_history() {
        check(&[(0, Some(0)), (10, None), (20, Some(0)), (30, Some(0))], 20, None);
        check(&[(0, Some(0)), (61, Some(0)), (70, Some(0))], 20, None);
        check(&[(100, Some(0)), (50, Some(0)), (60, Some(0))], 20, None);
        check(&[(0, Some(0)), (60, Some(0))], 20, Some(0));
    }

    proptest! {
        #[test]
        fn the_peak_is_the_highest_of_all_looks_that_reach_into_the_window(
            steps in prop::collection::vec((1u64..50, 0u64..20), 2..40), window in 0u64..200,
        ) {
            let mut now = 0;
            let looks: Vec<_> = steps.iter().map(|(step, backlog)| { now += step; (now, Some(*backlog)) }).collect();
            let start = looks[0].0;
            let peak = history(&looks).peak_over("p", Duration::from_secs(window), at(now));
            if now - start < window {
                prop_assert_eq!(peak, None);
            } else {
                // Each look lasts to the next one, the last one to now.
                let ends = looks.iter().skip(1).map(|look| look.0).chain([now + 1]);
                let reach = looks.iter().zip(ends).filter(|(_, end)| *end > now - window.min(now));
                prop_assert_eq!(peak, reach.map(|(look, _)| look.1.unwrap()).max());
            }
        }
    }
}
