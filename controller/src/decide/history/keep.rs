//! Computes how long an instance that is not needed is worth keeping, from the past times (gaps)
//! until that many instances were needed again.
//!
//! An idle instance costs its time, and one that was stopped costs a start when it is needed again.
//! If the gaps are known, the best waiting time is the one with the lowest expected cost; the gaps
//! are kept in an ageing histogram for each number of instances (Shahrad et al., Serverless in the
//! Wild, USENIX ATC 2020). If they are not, an instance waits as long as a start costs, which is at
//! most twice the cost of an optimal decision (the ski-rental problem; Karlin et al., 1988).

use std::{sync::LazyLock, time::Duration};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::observe::age;

/// Ratio of the ends of two adjacent bins of the histogram. The first bin begins at one second.
const RATIO: f64 = 1.25;
/// Number of bins. The last one ends after two hours and also holds longer gaps.
const BINS: usize = 40;
/// The begin of each bin, and the end of the last one, in seconds.
static ENDS: LazyLock<[f64; BINS + 1]> = LazyLock::new(|| std::array::from_fn(|bin| RATIO.powi(bin as i32)));
/// Factor by which a new gap reduces the weight of all earlier ones: about thirty count.
const AGEING: f32 = 0.97;
/// Minimum weight for the gaps to count as known: two gaps.
const FEWEST: f32 = 1.9;
/// Weight of the last time for which instances were needed in the smoothed value.
const SMOOTHING: f64 = 0.2;
/// Up to this number, each number of instances has its own gaps. Above it, numbers within `GROUP`
/// of each other share them.
const EXACT: u32 = 16;
const GROUP: f64 = 1.15;
/// Factor by which a start is worth more than it costs, as it also makes jobs wait.
const WORTH: f64 = 1.25;

/// The gaps in the demand of one pool, for each number of instances.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Keep {
    levels: Vec<Level>,
}

/// When a certain number of instances was needed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Level {
    /// Time since which they are needed; `None` if they are not.
    since: Option<DateTime<Utc>>,
    /// Time at which they were last needed, without a gap in observing since.
    last: Option<DateTime<Utc>>,
    /// Smoothed time for which they are needed, in seconds.
    needed_s: Option<f64>,
    /// Weight of the gaps in each bin.
    gaps: Vec<f32>,
}

impl Keep {
    /// Records that `needed` instances were needed at `now`.
    pub(super) fn observe(&mut self, now: DateTime<Utc>, needed: u32) {
        let top = index(needed).map_or(0, |index| index + 1);
        if self.levels.len() < top {
            self.levels.resize(top, Level::default());
        }
        for (index, level) in self.levels.iter_mut().enumerate() {
            level.observe(now, index < top);
        }
    }

    /// Records a break in observing: gaps that were not observed as a whole do not count.
    pub(super) fn pause(&mut self) {
        self.levels.iter_mut().for_each(|level| (level.since, level.last) = (None, None));
    }

    /// Whether it is known after which gaps an instance is needed again.
    pub(super) fn knows_gaps(&self) -> bool {
        self.levels.first().is_some_and(|level| level.gaps.iter().sum::<f32>() >= FEWEST)
    }

    /// Number of instances, at most `most`, that are worth keeping. `lately` is the number needed
    /// within the policy's window; it counts only for numbers whose gaps are not known.
    pub(super) fn highest(&self, most: u32, lately: u32, price: &Price, now: DateTime<Utc>) -> u32 {
        let Some(top) = index(most) else { return 0 };
        for index in (0..=top).rev() {
            let instances = most_of(index).min(most);
            let keeps = match self.levels.get(index) {
                Some(level) if level.since.is_none() => match level.is_worth(price, now) {
                    (true, _) => true,
                    (false, is_known) => !is_known && instances <= lately,
                },
                _needed_or_never => instances <= lately,
            };
            if keeps {
                return instances;
            }
        }
        0
    }
}

/// The cost of a start, and the longest time for which an instance is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Price {
    /// Start delay, in seconds of an instance.
    pub(crate) start_s: f64,
    /// Billing minimum of a start, in seconds.
    pub(crate) minimum_s: f64,
    pub(crate) most: Duration,
}

impl Level {
    fn observe(&mut self, now: DateTime<Utc>, is_needed: bool) {
        match (self.since, is_needed) {
            (None, true) => {
                if let Some(last) = self.last {
                    self.note_gap(age(last, now).as_secs_f64());
                }
                (self.since, self.last) = (Some(now), Some(now));
            }
            (Some(_), true) => self.last = Some(now),
            (Some(since), false) => {
                let needed_s = age(since, now).as_secs_f64();
                let before = self.needed_s.unwrap_or(needed_s);
                self.needed_s = Some(before + SMOOTHING * (needed_s - before));
                (self.since, self.last) = (None, Some(now));
            }
            (None, false) => {}
        }
    }

    fn note_gap(&mut self, gap_s: f64) {
        self.gaps.resize(BINS, 0.0);
        self.gaps.iter_mut().for_each(|weight| *weight *= AGEING);
        let bin = (gap_s.max(1.0).ln() / RATIO.ln()) as usize;
        self.gaps[bin.min(BINS - 1)] += 1.0;
    }

    /// Whether it is worth waiting longer, and whether that is known from gaps.
    fn is_worth(&self, price: &Price, now: DateTime<Utc>) -> (bool, bool) {
        let is_known = self.gaps.iter().sum::<f32>() >= FEWEST;
        let Some(last) = self.last else { return (false, false) };
        let waited = age(last, now);
        let is_worth =
            waited < price.most && waited.as_secs_f64() < self.worth_s(price.start_s, price.minimum_s);
        (is_worth, is_known)
    }

    /// Time for which it is worth waiting, in seconds.
    fn worth_s(&self, start_s: f64, minimum_s: f64) -> f64 {
        // Cost of a start beyond the time for which the instance is needed: the start delay, or the
        // rest of the billing minimum.
        let again_s = start_s.max(minimum_s - self.needed_s.unwrap_or(minimum_s)) * WORTH;
        let weight: f32 = self.gaps.iter().sum();
        if weight < FEWEST {
            return again_s;
        }
        // For waiting until the end of a bin: gaps up to there cost their own length, longer ones
        // cost the whole wait and a start.
        let ends = &*ENDS;
        let (mut best, mut least) = (0.0, f64::from(weight) * again_s);
        let (mut waited, mut left) = (0.0, f64::from(weight));
        for (bin, weight) in self.gaps.iter().enumerate().map(|(bin, weight)| (bin, f64::from(*weight))) {
            waited += weight * f64::midpoint(ends[bin], ends[bin + 1]);
            left -= weight;
            let cost = waited + left * (ends[bin + 1] + again_s);
            if cost < least {
                (best, least) = (ends[bin + 1], cost);
            }
        }
        best
    }
}

/// Largest number of instances that belongs to a level.
fn most_of(index: usize) -> u32 {
    let Some(group) = (index + 1).checked_sub(EXACT as usize + 1) else { return index as u32 + 1 };
    (f64::from(EXACT) * GROUP.powi(group as i32 + 1)).ceil() as u32 - 1
}

/// Index of the level of a number of instances; `None` for 0.
fn index(instances: u32) -> Option<usize> {
    let over = f64::from(instances) / f64::from(EXACT);
    match instances {
        0 => None,
        1..=EXACT => Some(instances as usize - 1),
        _ => Some(EXACT as usize + (over.ln() / GROUP.ln()) as usize),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PRICE: Price = Price { start_s: 25.0, minimum_s: 60.0, most: Duration::from_secs(3600) };

    fn at(second: u64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    /// One instance is needed for `on` seconds and then not for `off` seconds, repeatedly. Returns
    /// the state at the end of the last need, and its time.
    fn needed(times: &[(u64, u64)]) -> (Keep, u64) {
        let (mut keep, mut now) = (Keep::default(), 0);
        for (number, (on, off)) in times.iter().enumerate() {
            keep.observe(at(now), 1);
            now += on;
            keep.observe(at(now), 0);
            if number + 1 < times.len() {
                now += off;
            }
        }
        (keep, now)
    }

    #[track_caller]
    fn check(times: &[(u64, u64)], after: u64, expected: bool) {
        let (keep, end) = needed(times);
        assert_eq!(keep.highest(1, 0, &PRICE, at(end + after)) == 1, expected, "{times:?} {after}");
    }

    #[test]
    fn one_job_per_minute_keeps_its_instance_as_each_start_is_charged_for_a_minute() {
        check(&[(2, 58); 10], 57, true);
        check(&[(2, 58); 10], 100, false);
    }

    #[test]
    fn an_instance_does_not_wait_through_gaps_that_cost_more_than_a_start() {
        check(&[(60, 540); 10], 1, false);
        check(&[(2, 540); 10], 1, false);
    }

    #[test]
    fn an_instance_waits_as_long_as_the_short_gaps_and_then_gives_up() {
        let mut times = vec![(30, 10); 20];
        times.extend([(30, 900), (30, 900), (30, 10)]);
        check(&times, 9, true);
        check(&times, 20, false);
    }

    #[test]
    fn without_known_gaps_an_instance_stays_as_long_as_a_start_costs() {
        check(&[(40, 0)], 30, true);
        check(&[(40, 0)], 32, false);
        // A start is charged for 60 s, of which 58 s are left.
        check(&[(2, 0)], 70, true);
        check(&[(2, 0)], 75, false);
    }

    #[test]
    fn the_window_counts_only_if_no_gaps_are_known() {
        let (keep, end) = needed(&[(60, 540); 10]);
        assert_eq!(keep.highest(3, 3, &PRICE, at(end + 5)), 3, "the gaps of three are not known");
        assert_eq!(keep.highest(1, 1, &PRICE, at(end + 5)), 0);
    }

    #[test]
    fn old_gaps_are_forgotten() {
        let mut times = vec![(2, 58); 50];
        times.extend([(60, 900); 40]);
        check(&times, 30, false);
    }

    #[test]
    fn a_pause_of_the_controller_is_not_a_gap() {
        let (mut keep, end) = needed(&[(2, 58); 10]);
        keep.pause();
        assert_eq!(keep.highest(1, 0, &PRICE, at(end + 5)), 0);
        keep.observe(at(end + 4000), 1);
        keep.observe(at(end + 4002), 0);
        assert_eq!(keep.highest(1, 0, &PRICE, at(end + 4050)), 1, "the hour of the pause is not a gap");
    }

    proptest! {
        #[test]
        fn the_chosen_waiting_time_costs_no_more_than_any_other(
            gaps in prop::collection::vec(1.0f64..7000.0, 4..60), start_s in 1.0f64..300.0,
        ) {
            let mut level = Level { needed_s: Some(500.0), ..Level::default() };
            gaps.iter().for_each(|gap| level.note_gap(*gap));
            let cost = |wait: f64| -> f64 {
                let again = start_s * WORTH;
                level.gaps.iter().enumerate().map(|(bin, weight)| {
                    let (low, high) = (RATIO.powi(bin as i32), RATIO.powi(bin as i32 + 1));
                    let cost = if high <= wait + 1e-9 { f64::midpoint(low, high) } else { wait + again };
                    f64::from(*weight) * cost
                }).sum()
            };
            let best = cost(level.worth_s(start_s, 60.0));
            for other in (0..=BINS).map(|bin| if bin == 0 { 0.0 } else { RATIO.powi(bin as i32) }) {
                prop_assert!(best <= cost(other) * (1.0 + 1e-4) + 1e-3, "{} {}", best, cost(other));
            }
        }

        #[test]
        fn levels_increase_with_the_number_of_instances(one in 1u32..10_000, other in 1u32..10_000) {
            let (low, high) = (one.min(other), one.max(other));
            prop_assert!(index(low) <= index(high) && index(high) < Some(80));
            let own = index(low).unwrap();
            prop_assert!(most_of(own) >= low && index(most_of(own)) == Some(own)
                && index(most_of(own) + 1) == Some(own + 1));
        }
    }
}
