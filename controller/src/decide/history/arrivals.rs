//! What arrived, and how fast it arrives now.

use std::{collections::VecDeque, time::Duration};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::observe::age;

/// The rate is that of this time, ...
const LONG: Duration = Duration::from_secs(60);
/// ... unless this time says otherwise: two reports of a web host.
const SHORT: Duration = Duration::from_secs(20);
/// How often web hosts report what arrived; where nothing did they do not.
const REPORT_EVERY: Duration = Duration::from_secs(10);
/// A report may be under way for so long.
const LATE: Duration = Duration::from_secs(2);
/// What one more count adds to the mean of the dispersion, ...
const SMOOTHING: f64 = 0.1;
/// ... and the most that it can be.
const MOST_DISPERSED: f64 = 4.0;
/// How many standard deviations of a count are no chance any more.
const SURE: f64 = 2.0;
/// A drop to less than this part of what arrived before is sudden ...
const DROP: f64 = 0.25;
/// ... where at least so many jobs should have come.
const EXPECTED: f64 = 20.0;
/// Two weeks: the longest season, twice.
const MINUTES: usize = 2 * 7 * 24 * 60;

/// The arrivals of one pool.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Arrivals {
    /// All that had arrived at the moments of the last reports.
    totals: VecDeque<(DateTime<Utc>, u64)>,
    last_drop: Option<DateTime<Utc>>,
    is_dropped: bool,
    /// The index of dispersion of the counts, smoothed; `None` before the first.
    dispersion: Option<f64>,
}

/// How many arrived in each minute, the last one unfinished.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Minutes {
    /// The minute of the first count, since 1970.
    first: i64,
    counts: VecDeque<u32>,
}

impl Arrivals {
    /// Takes note of all that has arrived, as it was last reported; answers how much of it is new.
    pub(super) fn observe(&mut self, now: DateTime<Utc>, total: u64, reported: Option<DateTime<Utc>>) -> u64 {
        let reported = reported.unwrap_or(now).min(now);
        let last = self.totals.back().copied();
        let new = last.map_or(0, |(_, before)| total.saturating_sub(before));
        match last {
            Some((at, before)) if total > before && reported > at => {
                // No report is one of nothing.
                if age(at, reported) > REPORT_EVERY {
                    self.totals.push_back((reported - REPORT_EVERY, before));
                }
                self.disperse(reported, total);
                self.totals.push_back((reported, total));
            }
            Some((at, before)) if total > before => self.totals.push_back((at, total)),
            Some((_, before)) if total == before => {}
            // It begins, or begins anew.
            _ => self.totals = VecDeque::from([(now, total)]),
        }
        let kept = LONG + SHORT + 2 * REPORT_EVERY;
        while self.totals.get(1).is_some_and(|(second, _)| age(*second, now) >= kept) {
            self.totals.pop_front();
        }
        let drops = self.drops(now);
        if drops && !self.is_dropped {
            self.last_drop = Some(now);
        }
        self.is_dropped = drops;
        new
    }

    /// Jobs that arrive each second: the mean of the last minute, unless the last twenty seconds are certainly above or
    /// below it. So a steady load is known well, and a change at once.
    pub(super) fn per_second(&self, now: DateTime<Utc>) -> f64 {
        let rate = |window: Duration| {
            let (end, total) = self.end(now)?;
            let (from, before) = self.before(window, now)?;
            // A first report after a long time says when it was, not since when.
            let span = age(from, end).clamp(REPORT_EVERY, window + REPORT_EVERY);
            Some(((total - before) as f64, span))
        };
        let (Some((long, span)), Some((short, short_s))) = (rate(LONG), rate(SHORT)) else { return 0.0 };
        // Whoever has just begun to look has seen one job in a moment, and not a job each moment.
        let (long_s, short_s) = (span.max(LONG).as_secs_f64(), short_s.as_secs_f64());
        (long / long_s).clamp(lower(short) / short_s, upper(short) / short_s)
    }

    /// How irregular arrivals are: the variance of their counts by the mean. One is chance without memory, zero a clock.
    pub(super) fn dispersion(&self) -> f64 {
        self.dispersion.unwrap_or(1.0)
    }

    fn disperse(&mut self, reported: DateTime<Utc>, total: u64) {
        let Some((at, before)) = self.totals.back().copied() else { return };
        let expected = self.per_second(reported) * age(at, reported).as_secs_f64();
        if expected >= 1.0 {
            let deviation = (total - before) as f64 - expected;
            // A single leap is a change of the rate and no irregularity.
            let now = (deviation * deviation / expected).min(MOST_DISPERSED);
            self.dispersion = Some(self.dispersion() + SMOOTHING * (now - self.dispersion()));
        }
    }

    /// Whether far less arrives than did for all of the minute before. What came all at once is expected to end.
    fn drops(&self, now: DateTime<Utc>) -> bool {
        let counts = [LONG + SHORT, LONG / 2 + SHORT, SHORT].map(|window| self.count(window, now));
        let [Some(all), Some(half), Some(late)] = counts else { return false };
        let least = (all - half).min(half - late) as f64;
        let expected = least / (LONG / 2).as_secs_f64() * SHORT.as_secs_f64();
        expected >= EXPECTED && upper(late as f64) < DROP * expected
    }

    /// When so much less arrived than before that it may be an outage, which a storm of retries follows.
    pub(super) fn last_drop(&self) -> Option<DateTime<Utc>> {
        self.last_drop
    }

    /// Up to when everything is known: the last report, or now where the next one is overdue and so is one of nothing.
    fn end(&self, now: DateTime<Utc>) -> Option<(DateTime<Utc>, u64)> {
        let (at, total) = *self.totals.back()?;
        Some((if age(at, now) > REPORT_EVERY + LATE { now } else { at }, total))
    }

    /// The last total that is at least as old as the window; where none is, the first.
    fn before(&self, window: Duration, now: DateTime<Utc>) -> Option<(DateTime<Utc>, u64)> {
        let (end, _) = self.end(now)?;
        let old = self.totals.iter().rev().find(|(at, _)| age(*at, end) >= window);
        old.or_else(|| self.totals.front()).copied()
    }

    /// What arrived within a window that is wholly known.
    fn count(&self, window: Duration, now: DateTime<Utc>) -> Option<u64> {
        let (end, total) = self.end(now)?;
        let (at, before) = self.before(window, now)?;
        (age(at, end) >= window).then(|| total - before)
    }
}

/// The mean of which a count this small is hardly a chance: that of a Poisson distribution, roughly.
fn upper(count: f64) -> f64 {
    count + SURE * (count + 1.0).sqrt() + 1.0
}

fn lower(count: f64) -> f64 {
    (count - SURE * count.sqrt()).max(0.0)
}

impl Minutes {
    pub(crate) fn add(&mut self, now: DateTime<Utc>, count: u64) {
        let minute = now.timestamp().div_euclid(60);
        let behind = minute - (self.first + self.counts.len() as i64 - 1);
        if self.counts.is_empty() || behind < 0 || behind > MINUTES as i64 {
            *self = Self { first: minute, counts: VecDeque::from([0]) };
        } else {
            self.counts.extend(std::iter::repeat_n(0, behind as usize));
        }
        while self.counts.len() > MINUTES {
            self.counts.pop_front();
            self.first += 1;
        }
        if let Some(last) = self.counts.back_mut() {
            *last = last.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        }
    }

    /// The counts of whole steps of so many minutes that are over, the latest last.
    pub(crate) fn steps(&self, minutes: usize, now: DateTime<Utc>) -> Vec<f64> {
        let over =
            usize::try_from(now.timestamp().div_euclid(60) - self.first).unwrap_or(0).min(self.counts.len());
        let skipped = over % minutes;
        let counts: Vec<u32> = self.counts.range(skipped..over).copied().collect();
        counts.chunks_exact(minutes).map(|step| step.iter().map(|count| f64::from(*count)).sum()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(second)
    }

    /// Reports of so many arrivals every ten seconds.
    fn arrivals(counts: &[u64]) -> (Arrivals, DateTime<Utc>) {
        let mut arrivals = Arrivals::default();
        let (mut now, mut total) = (at(0), 0);
        arrivals.observe(now, 0, None);
        for count in counts {
            (now, total) = (now + Duration::from_secs(10), total + count);
            arrivals.observe(now, total, None);
        }
        (arrivals, now)
    }

    #[track_caller]
    fn check(counts: &[u64], least: f64, most: f64) {
        let (arrivals, now) = arrivals(counts);
        let rate = arrivals.per_second(now);
        assert!((least..=most).contains(&rate), "{rate}");
    }

    #[test]
    fn a_steady_rate_is_the_mean_of_a_minute() {
        check(&[50, 60, 40, 50, 45, 55], 5.0, 5.0);
    }

    #[test]
    fn a_rise_and_a_fall_are_believed_as_far_as_they_are_certain() {
        check(&[0, 0, 0, 0, 0, 0, 50, 50], 3.9, 4.1);
        check(&[50, 50, 50, 50, 50, 50, 0, 0], 0.1, 0.2);
        check(&[50, 50, 50, 50, 50, 50, 0, 0, 0, 0, 0, 0], 0.0, 0.0);
    }

    #[test]
    fn rare_jobs_are_not_forgotten_between_two_of_them() {
        check(&[1, 0, 0, 0, 1, 0], 0.03, 0.04);
    }

    #[test]
    fn a_clock_is_told_from_chance() {
        let counts = |count: fn(usize) -> u64| (0..100).map(count).collect::<Vec<_>>();
        assert_eq!(arrivals(&[]).0.dispersion(), 1.0);
        assert!(arrivals(&counts(|_| 10)).0.dispersion() < 0.01);
        assert!(arrivals(&counts(|at| if at % 5 == 0 { 50 } else { 0 })).0.dispersion() > 2.0);
    }

    #[test]
    fn nothing_known_is_nothing_arriving() {
        assert_eq!(Arrivals::default().per_second(at(5)), 0.0);
        check(&[], 0.0, 0.0);
    }

    #[test]
    fn a_sudden_drop_is_noticed_and_a_slow_one_or_a_small_one_is_not() {
        let dropped = |counts: &[u64]| arrivals(counts).0.last_drop().is_some();
        assert!(dropped(&[50, 50, 50, 50, 50, 50, 2, 1]));
        assert!(!dropped(&[50, 50, 50, 50, 50, 50, 30, 30, 20, 20, 10, 10]));
        assert!(!dropped(&[1, 2, 1, 1, 2, 1, 0, 0]));
        assert!(!dropped(&[0, 300, 0, 0, 0, 0, 0, 0]));
    }

    #[test]
    fn a_count_that_begins_anew_is_no_arrival() {
        let mut arrivals = Arrivals::default();
        arrivals.observe(at(0), 500, None);
        arrivals.observe(at(30), 0, None);
        arrivals.observe(at(60), 30, None);
        // 30 in 30 s: a minute's mean would be a half, and certainly there are more.
        assert!((0.6..0.7).contains(&arrivals.per_second(at(60))));
    }

    #[test]
    fn minutes_become_whole_steps() {
        let mut minutes = Minutes::default();
        for (second, count) in [(0, 1), (59, 1), (60, 5), (200, 7), (250, 3)] {
            minutes.add(at(second), count);
        }
        assert_eq!(minutes.steps(1, at(250)), [2.0, 5.0, 0.0, 7.0]);
        assert_eq!(minutes.steps(2, at(250)), [7.0, 7.0]);
        assert_eq!(minutes.steps(3, at(250)), [12.0]);
        // A clock that was set back, or a week's sleep too much, begins anew.
        minutes.add(at(10), 4);
        assert_eq!(minutes.steps(1, at(70)), [4.0]);
    }
}
