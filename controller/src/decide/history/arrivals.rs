//! Measures arrivals: how many jobs arrived, and the current rate.

use std::{collections::VecDeque, iter, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::observe::{Count, age};

/// Window over which the arrival rate is averaged.
const LONG: Duration = Duration::from_secs(60);
/// Window that detects a change of the rate: two reports of a web host.
const SHORT: Duration = Duration::from_secs(20);
/// Interval of the web hosts' reports. A host to which nothing arrived sends none.
const REPORT_EVERY: Duration = Duration::from_secs(10);
/// Longest time for which a report may be under way.
const LATE: Duration = Duration::from_secs(2);
/// Number of jobs that a rate is measured by, if that many arrived within `MOST_LONG` times `LONG`.
const ENOUGH: f64 = 8.0;
const MOST_LONG: u32 = 15;
/// Number of seconds that are kept: enough for the windows, for overlapping reports and to detect
/// batches.
const KEPT: i64 = 900;
/// Arrivals count as batches from this ratio of variance to mean on.
const BATCHES: f64 = 4.0;
/// Number of pairs of adjacent counts by which batches are detected.
const PAIRS: usize = 8;
/// Minimum number of pairs.
const FEWEST_PAIRS: usize = 4;
/// Weight of a new count in the smoothed dispersion.
const SMOOTHING: f64 = 0.1;
/// Upper bound of the dispersion.
const MOST_DISPERSED: f64 = 4.0;
/// Number of standard deviations beyond which a deviation is not by chance.
const SURE: f64 = 2.0;
/// A drop below this part of the earlier arrivals is sudden.
const DROP: f64 = 0.25;
/// Minimum number of expected jobs for a drop to count.
const EXPECTED: f64 = 20.0;

/// The arrivals of one pool in the last minutes, by the intervals in which the web hosts counted
/// them. Reports that come late, or all at once after a pause of the controller, count for their
/// own interval and not for the present.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Arrivals {
    /// Second of the first count, since 1970.
    first: i64,
    /// Jobs in each second. A count is spread evenly over its interval.
    seconds: VecDeque<f64>,
    /// Start of the known time: the first interval, or the time at which the controller began to
    /// receive reports.
    from: Option<DateTime<Utc>>,
    /// End of the last interval.
    to: Option<DateTime<Utc>>,
    /// Time up to which the absence of reports means that nothing arrived.
    heard_until: Option<DateTime<Utc>>,
    last_drop: Option<DateTime<Utc>>,
    is_dropped: bool,
    /// Smoothed index of dispersion of the counts; `None` before the first.
    dispersion: Option<f64>,
    comes_in_batches: bool,
    /// The bin at whose end batches were last checked for.
    judged: i64,
}

impl Arrivals {
    /// Adds the reports since the last observation. If `hears` is false no reports are received,
    /// and their absence means nothing.
    pub(super) fn observe(&mut self, now: DateTime<Utc>, counts: &[Count], hears: bool) {
        if self.from.is_some_and(|from| from > now) {
            // The clock was set back.
            *self = Self { dispersion: self.dispersion, ..Self::default() };
        }
        let oldest = now - TimeDelta::seconds(KEPT);
        let mut counts: Vec<_> = counts.iter().filter(|count| count.to > oldest).copied().collect();
        counts.sort_by_key(|count| count.to);
        for count in counts {
            self.disperse(&count);
            self.add(count, oldest);
        }
        if hears {
            self.from = self.from.or(Some(now));
            self.heard_until = Some(now);
        }
        while self.first < oldest.timestamp() && !self.seconds.is_empty() {
            self.seconds.pop_front();
            self.first += 1;
        }
        self.from = self.from.map(|from| from.max(oldest));
        let ends = now.timestamp().div_euclid(SHORT.as_secs() as i64);
        if std::mem::replace(&mut self.judged, ends) != ends {
            self.comes_in_batches = self.are_batches();
        }
        let drops = self.drops();
        if drops && !self.is_dropped {
            self.last_drop = Some(now);
        }
        self.is_dropped = drops;
    }

    fn add(&mut self, Count { from, to, jobs }: Count, oldest: DateTime<Utc>) {
        let from = from.min(to);
        self.from = Some(self.from.map_or(from, |known| known.min(from)).max(oldest));
        self.to = Some(self.to.map_or(to, |known| known.max(to)));
        let (from_s, to_s) = (seconds(from), seconds(to).max(seconds(from) + 1e-3));
        let per_second = jobs as f64 / (to_s - from_s);
        for second in (from_s.floor() as i64).max(oldest.timestamp())..to_s.ceil() as i64 {
            let within = (second as f64 + 1.0).min(to_s) - (second as f64).max(from_s);
            *self.second(second) += per_second * within;
        }
    }

    fn second(&mut self, second: i64) -> &mut f64 {
        if self.seconds.is_empty() {
            self.first = second;
        }
        while second < self.first {
            self.seconds.push_front(0.0);
            self.first -= 1;
        }
        let index = (second - self.first) as usize;
        if index >= self.seconds.len() {
            self.seconds.resize(index + 1, 0.0);
        }
        &mut self.seconds[index]
    }

    /// Arrival rate in jobs per second: the mean over `LONG`, or longer if few arrive, bounded by
    /// what `LONG` and `SHORT` certainly show. A steady load is measured precisely, and a change
    /// shows at once.
    pub(super) fn per_second(&self) -> f64 {
        let (Some(from), Some(end)) = (self.from, self.end()) else { return 0.0 };
        // A single report says little about a rate: the divisor is at least one report interval.
        let span = |window: Duration| age(from, end).clamp(REPORT_EVERY, window);
        let counted = |window| (self.between(end - span(window), end), span(window).as_secs_f64());
        let bounded = |per_second: f64, (jobs, seconds): (f64, f64)| {
            per_second.clamp(lower(jobs) / seconds, upper(jobs) / seconds)
        };
        let (long, short) = (counted(LONG), counted(SHORT));
        if self.comes_in_batches {
            // The last batch says little about the next one. The rate is the mean over several
            // batches, and zero between two of them.
            let all = age(from, end);
            return (short.0 / short.1).min(self.between(from, end) / all.as_secs_f64());
        }
        if long.0 <= 0.0 {
            return 0.0;
        }
        // A few jobs in a minute say little as well.
        let mut longer = iter::once(long).chain((2..MOST_LONG).map(|times| counted(times * LONG)));
        let enough = longer.find(|(jobs, _)| *jobs >= ENOUGH);
        let (jobs, seconds) = enough.unwrap_or_else(|| counted(MOST_LONG * LONG));
        bounded(bounded(jobs / seconds, long), short)
    }

    /// Whether jobs repeatedly arrive many at once, with nothing in between.
    pub(super) fn comes_in_batches(&self) -> bool {
        self.comes_in_batches
    }

    /// Detects batches by the dispersion between adjacent counts, so that a slow change of the rate
    /// does not count, and by its median, so that a single jump does not count. Pairs of empty
    /// counts are left out.
    fn are_batches(&self) -> bool {
        let (Some(from), Some(end)) = (self.from, self.end()) else { return false };
        let bin = SHORT.as_secs() as i64;
        let bins = (from.timestamp().div_euclid(bin) + 1)..end.timestamp().div_euclid(bin);
        let at = |number: i64| DateTime::from_timestamp(number * bin, 0);
        let mut counts = bins.rev().filter_map(|number| Some(self.between(at(number)?, at(number + 1)?)));
        let Some(mut later) = counts.next() else { return false };
        let ratio = |count| {
            let next = std::mem::replace(&mut later, count);
            let (leap, sum) = (next - count, next + count);
            (sum > 0.0).then(|| leap * leap / sum)
        };
        let mut ratios: Vec<_> = counts.filter_map(ratio).take(PAIRS).collect();
        ratios.sort_by(f64::total_cmp);
        ratios.len() >= FEWEST_PAIRS && ratios[(ratios.len() - 1) / 2] >= BATCHES
    }

    /// Index of dispersion of the arrivals: the variance of the counts divided by their mean. 1 is
    /// a Poisson process, 0 a fixed interval.
    pub(super) fn dispersion(&self) -> f64 {
        if self.comes_in_batches { MOST_DISPERSED } else { self.dispersion.unwrap_or(1.0) }
    }

    fn disperse(&mut self, count: &Count) {
        if self.from.is_none_or(|from| age(from, count.to) < REPORT_EVERY) {
            return;
        }
        let expected = self.per_second() * age(count.from, count.to).as_secs_f64();
        if expected >= 1.0 {
            let deviation = count.jobs as f64 - expected;
            // A single jump is a change of the rate, not irregularity.
            let now = (deviation * deviation / expected).min(MOST_DISPERSED);
            self.dispersion = Some(self.dispersion() + SMOOTHING * (now - self.dispersion()));
        }
    }

    /// Whether far less arrives than at any time of the minute before. A single burst does not
    /// count, as its end is expected.
    fn drops(&self) -> bool {
        let counts = [LONG + SHORT, LONG / 2 + SHORT, SHORT].map(|window| self.count(window));
        let [Some(all), Some(half), Some(late)] = counts else { return false };
        let least = (all - half).min(half - late);
        let expected = least / (LONG / 2).as_secs_f64() * SHORT.as_secs_f64();
        expected >= EXPECTED && upper(late) < DROP * expected
    }

    /// Time of the last sudden drop, which may be an outage that a storm of retries follows.
    pub(super) fn last_drop(&self) -> Option<DateTime<Utc>> {
        self.last_drop
    }

    /// Time up to which arrivals are known: the end of the last report, or the last observation if
    /// the next report is overdue.
    fn end(&self) -> Option<DateTime<Utc>> {
        match (self.to, self.heard_until) {
            (Some(to), Some(heard)) if age(to, heard) <= REPORT_EVERY + LATE => Some(to),
            (to, heard) => heard.max(to),
        }
    }

    /// Number of jobs within the last `window`; `None` if not all of it is known.
    fn count(&self, window: Duration) -> Option<f64> {
        let (from, end) = (self.from?, self.end()?);
        (age(from, end) >= window).then(|| self.between(end - window, end))
    }

    fn between(&self, from: DateTime<Utc>, to: DateTime<Utc>) -> f64 {
        let (from_s, to_s) = (seconds(from), seconds(to));
        let place = |at_s: f64| (at_s as i64 - self.first).clamp(0, self.seconds.len() as i64) as usize;
        let (first, end) = (place(from_s.floor()), place(to_s.ceil()));
        let end = end.max(first);
        let part = |index: usize| {
            let second = (self.first + index as i64) as f64;
            self.seconds[index] * ((second + 1.0).min(to_s) - second.max(from_s)).max(0.0)
        };
        // Only the first and the last second may be included in part.
        match end - first {
            0 => 0.0,
            1 => part(first),
            _ => part(first) + self.seconds.range(first + 1..end - 1).sum::<f64>() + part(end - 1),
        }
    }
}

fn seconds(at: DateTime<Utc>) -> f64 {
    at.timestamp_micros() as f64 / 1e6
}

/// Approximate upper confidence bound of the mean of a Poisson count.
pub(super) fn upper(count: f64) -> f64 {
    count + SURE * (count + 1.0).sqrt() + 1.0
}

pub(super) fn lower(count: f64) -> f64 {
    (count - SURE * count.sqrt()).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(second)
    }

    fn count(from: i64, to: i64, jobs: u64) -> Count {
        Count { from: at(from), to: at(to), jobs }
    }

    /// Arrivals as reported every ten seconds, without a report where nothing arrived.
    fn arrivals(counts: &[u64]) -> Arrivals {
        let mut arrivals = Arrivals::default();
        arrivals.observe(at(0), &[], true);
        for (step, jobs) in (1..).zip(counts) {
            let reported = [count(10 * step - 10, 10 * step, *jobs)];
            arrivals.observe(at(10 * step), if *jobs > 0 { &reported } else { &[] }, true);
        }
        arrivals
    }

    #[track_caller]
    fn check(counts: &[u64], least: f64, most: f64) {
        let rate = arrivals(counts).per_second();
        assert!((least - 1e-9..=most + 1e-9).contains(&rate), "{rate}");
    }

    #[test]
    fn a_steady_rate_is_the_mean_of_a_minute_and_known_after_the_first_report() {
        check(&[50, 60, 40, 50, 45, 55], 5.0, 5.0);
        for reports in 1..6 {
            check(&[50; 6][..reports], 5.0, 5.0);
        }
    }

    #[test]
    fn a_rise_or_fall_counts_as_far_as_it_is_certain() {
        check(&[0, 0, 0, 0, 0, 0, 50, 50], 3.9, 4.1);
        check(&[50, 50, 50, 50, 50, 50, 0, 0], 0.1, 0.3);
        check(&[50, 50, 50, 50, 50, 50, 0, 0, 0, 0, 0, 0], 0.0, 0.0);
    }

    #[test]
    fn rare_jobs_keep_a_rate_above_zero_between_two_of_them() {
        check(&[1, 0, 0, 0, 1, 0], 0.03, 0.05);
    }

    #[test]
    fn a_rate_of_few_jobs_is_measured_over_more_than_a_minute() {
        // One job every two minutes: just after one, a minute alone would say 0.017 per second.
        let mut counts = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].repeat(6);
        counts.push(1);
        check(&counts, 0.008, 0.012);
        // A stream that begins counts as far as it is certain, as before.
        counts.extend([50, 50]);
        check(&counts, 3.9, 4.1);
    }

    #[test]
    fn late_reports_that_come_all_at_once_give_the_same_rate_as_timely_ones() {
        for away in [30, 120, 600] {
            let queued: Vec<_> = (0..away / 10).map(|step| count(10 * step, 10 * step + 10, 50)).collect();
            let mut new = Arrivals::default();
            new.observe(at(away), &queued, true);
            assert!((new.per_second() - 5.0).abs() < 0.01, "{away} s away: {}", new.per_second());
            // A controller that slept also has the counts from before.
            let mut slept = arrivals(&[50; 6]);
            let queued: Vec<_> =
                queued.iter().map(|c| count(60 + c.from.timestamp(), 60 + c.to.timestamp(), 50)).collect();
            let (first, rest) = queued.split_at(1);
            slept.observe(at(60 + away), rest, true);
            slept.observe(at(60 + away), first, true);
            assert!((slept.per_second() - 5.0).abs() < 0.01, "{away} s asleep: {}", slept.per_second());
            assert!(slept.last_drop().is_none());
        }
    }

    #[test]
    fn without_reports_the_last_known_rate_stays() {
        let mut deaf = arrivals(&[50; 6]);
        deaf.observe(at(100), &[], false);
        assert!((deaf.per_second() - 5.0).abs() < 1e-9, "{}", deaf.per_second());
        deaf.observe(at(100), &[], true);
        assert!(deaf.per_second() < 2.0);
    }

    #[test]
    fn a_fixed_interval_is_distinguished_from_random_arrivals() {
        let counts = |count: fn(usize) -> u64| (0..100).map(count).collect::<Vec<_>>();
        assert_eq!(arrivals(&[]).dispersion(), 1.0);
        assert!(arrivals(&counts(|_| 10)).dispersion() < 0.01);
        assert!(arrivals(&counts(|at| if at % 5 == 0 { 50 } else { 0 })).dispersion() > 2.0);
    }

    #[test]
    fn the_rate_of_batches_is_their_mean() {
        for (jobs, every) in [(30, 12), (100, 30)] {
            let counts: Vec<_> = (0..88).map(|at| if at % every == 0 { jobs } else { 0 }).collect();
            let mut known = arrivals(&counts);
            assert!(known.comes_in_batches(), "{jobs} per {every}");
            assert_eq!(known.per_second(), 0.0, "the rate is zero between two batches");
            known.observe(at(890), &[count(880, 890, jobs)], true);
            let mean = jobs as f64 / (10 * every) as f64;
            let rate = known.per_second();
            assert!((0.7 * mean..1.5 * mean).contains(&rate), "{jobs} per {every}: {rate}");
            // A steady stream that follows is recognized within two minutes.
            for step in 89..101 {
                known.observe(at(10 * step + 10), &[count(10 * step, 10 * step + 10, 40)], true);
            }
            assert!(!known.comes_in_batches() && known.per_second() > 3.5, "{}", known.per_second());
        }
    }

    #[test]
    fn a_stream_that_begins_and_ends_repeatedly_is_not_batches() {
        let on_and_off: Vec<_> =
            (0..90).map(|at| if at / 15 % 2 == 0 { 40 + at as u64 % 3 } else { 0 }).collect();
        for counts in [&on_and_off[..], &[1, 0, 0, 0, 0, 0].repeat(10), &[0, 0, 0, 0, 0, 0, 50, 50]] {
            assert!(!arrivals(counts).comes_in_batches(), "{counts:?}");
        }
    }

    #[test]
    fn without_any_report_the_rate_is_zero() {
        assert_eq!(Arrivals::default().per_second(), 0.0);
        check(&[], 0.0, 0.0);
    }

    #[test]
    fn a_sudden_drop_is_detected_and_a_slow_or_small_one_is_not() {
        let dropped = |counts: &[u64]| arrivals(counts).last_drop().is_some();
        assert!(dropped(&[50, 50, 50, 50, 50, 50, 50, 2, 1]));
        assert!(!dropped(&[50, 50, 50, 50, 50, 50, 30, 30, 20, 20, 10, 10]));
        assert!(!dropped(&[1, 2, 1, 1, 2, 1, 0, 0]));
        assert!(!dropped(&[0, 300, 0, 0, 0, 0, 0, 0]));
    }

    #[test]
    fn a_clock_that_is_set_back_restarts_the_measurement() {
        let mut arrivals = arrivals(&[50; 6]);
        arrivals.observe(at(-1000), &[count(-1010, -1000, 20)], true);
        assert!((arrivals.per_second() - 2.0).abs() < 1e-9, "{}", arrivals.per_second());
    }
}
