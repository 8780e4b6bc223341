//! The number of arrivals in each minute of the last two weeks, for the forecast.

use std::collections::VecDeque;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::observe::Count;

/// Number of minutes that are kept: two weeks, which is the longest season twice.
const MINUTES: usize = 2 * 7 * 24 * 60;

/// Number of jobs that arrived in each minute; the last minute is unfinished. Minutes that were not
/// observed are missing, not zero.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Minutes {
    /// Minute of the first count, since 1970.
    first: i64,
    counts: VecDeque<Option<u32>>,
}

impl Minutes {
    /// States that the controller received reports from `since` to `now`: minutes of that time
    /// without a count become zero.
    pub(super) fn listened(&mut self, since: DateTime<Utc>, now: DateTime<Utc>) {
        for minute in minute_of(since.max(now - chrono::TimeDelta::minutes(MINUTES as i64)))..=minute_of(now)
        {
            if let Some(count) = self.minute(minute) {
                count.get_or_insert(0);
            }
        }
    }

    /// Adds a count to the minutes of its interval.
    pub(crate) fn add(&mut self, count: &Count) {
        let (from, to) =
            (count.from.timestamp_millis().min(count.to.timestamp_millis()), count.to.timestamp_millis());
        // The end is exclusive, so that an interval that ends with a minute does not reach into the
        // next one.
        let (first, last) = (from.div_euclid(60_000), (to - 1).max(from).div_euclid(60_000));
        let (length, mut added) = ((to - from).max(1) as f64, 0);
        for minute in first..=last {
            let so_far = ((minute + 1) * 60_000).min(to) - from;
            let jobs =
                if minute == last { count.jobs } else { (count.jobs as f64 * so_far as f64 / length) as u64 };
            if let Some(known) = self.minute(minute) {
                let more = u32::try_from(jobs - added).unwrap_or(u32::MAX);
                *known = Some(known.unwrap_or(0).saturating_add(more));
            }
            added = jobs;
        }
    }

    /// The count of a minute; `None` if it is too long ago.
    fn minute(&mut self, minute: i64) -> Option<&mut Option<u32>> {
        let last = self.first + self.counts.len() as i64 - 1;
        if self.counts.is_empty() || minute > last + MINUTES as i64 || minute < self.first - MINUTES as i64 {
            *self = Self { first: minute, counts: VecDeque::from([None]) };
        }
        while minute < self.first && self.counts.len() < MINUTES {
            self.counts.push_front(None);
            self.first -= 1;
        }
        while minute >= self.first + self.counts.len() as i64 {
            self.counts.push_back(None);
            if self.counts.len() > MINUTES {
                self.counts.pop_front();
                self.first += 1;
            }
        }
        self.counts.get_mut(usize::try_from(minute - self.first).ok()?)
    }

    /// Time of the first known minute.
    pub(crate) fn since(&self) -> Option<DateTime<Utc>> {
        let known = self.counts.iter().position(Option::is_some)?;
        DateTime::from_timestamp((self.first + known as i64) * 60, 0)
    }

    /// Number of jobs in `minutes` minutes, beginning with the one that contains `from`; `None` if
    /// one of them is missing.
    pub(crate) fn sum(&self, from: DateTime<Utc>, minutes: u64) -> Option<f64> {
        let first = usize::try_from(minute_of(from) - self.first).ok()?;
        let end = first.checked_add(usize::try_from(minutes).ok()?)?;
        if end > self.counts.len() {
            return None;
        }
        self.counts.range(first..end).map(|count| count.map(f64::from)).sum()
    }
}

fn minute_of(at: DateTime<Utc>) -> i64 {
    at.timestamp().div_euclid(60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(second)
    }

    fn minutes(counts: &[(i64, i64, u64)], listened: &[(i64, i64)]) -> Minutes {
        let mut minutes = Minutes::default();
        for (from, to) in listened {
            minutes.listened(at(*from), at(*to));
        }
        for (from, to, jobs) in counts {
            minutes.add(&Count { from: at(*from), to: at(*to), jobs: *jobs });
        }
        minutes
    }

    impl Minutes {
        /// The sums of all whole steps of `minutes` minutes before `now`.
        fn steps(&self, minutes: usize, now: DateTime<Utc>) -> Vec<Option<f64>> {
            let over = usize::try_from(minute_of(now) - self.first).unwrap_or(0).min(self.counts.len());
            let start = |step: usize| {
                DateTime::from_timestamp((self.first + (over % minutes + step * minutes) as i64) * 60, 0)
                    .unwrap()
            };
            (0..over / minutes).map(|step| self.sum(start(step), minutes as u64)).collect()
        }
    }

    #[test]
    fn counts_are_added_to_the_minutes_of_their_intervals() {
        let counts = [(0, 10, 1), (50, 60, 1), (60, 70, 5), (195, 205, 7), (245, 250, 3)];
        let minutes = minutes(&counts, &[(0, 250)]);
        let known = |counts: &[f64]| counts.iter().copied().map(Some).collect::<Vec<_>>();
        assert_eq!(minutes.steps(1, at(250)), known(&[2.0, 5.0, 0.0, 7.0]));
        assert_eq!(minutes.steps(2, at(250)), known(&[7.0, 7.0]));
        assert_eq!(minutes.steps(3, at(250)), known(&[12.0]));
    }

    #[test]
    fn an_interval_over_two_minutes_is_divided_and_no_job_is_counted_twice() {
        assert_eq!(minutes(&[(55, 65, 10)], &[]).steps(1, at(120)), [Some(5.0), Some(5.0)]);
        assert_eq!(minutes(&[(58, 61, 10)], &[]).steps(1, at(120)), [Some(6.0), Some(4.0)]);
    }

    #[test]
    fn unobserved_minutes_are_missing_until_late_reports_fill_them() {
        let mut minutes = minutes(&[], &[(0, 119), (300, 359)]);
        assert_eq!(minutes.steps(1, at(360)), [Some(0.0), Some(0.0), None, None, None, Some(0.0)]);
        assert_eq!(minutes.steps(3, at(360)), [None, None]);
        minutes.add(&Count { from: at(230), to: at(240), jobs: 4 });
        assert_eq!(minutes.steps(1, at(360))[3], Some(4.0));
    }

    #[test]
    fn a_clock_that_is_set_back_by_weeks_restarts_the_record() {
        let mut minutes = minutes(&[(0, 10, 3)], &[]);
        let back = -(MINUTES as i64) * 120;
        minutes.add(&Count { from: at(back), to: at(back + 10), jobs: 4 });
        assert_eq!(minutes.steps(1, at(back + 60)), [Some(4.0)]);
    }
}
