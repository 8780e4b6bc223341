//! How much of the time a pool is slower than its policy promises.

use std::{collections::VecDeque, time::Duration};

use chrono::{DateTime, Utc};

use crate::observe::age;

/// A `p95` allows a twentieth. It burns where six times that is late, in the last half hour and in
/// the last five minutes: one cold start is not enough, and it ends soon after its cause.
const TOO_MUCH: f64 = 6.0 * 0.05;
const WINDOWS: [i64; 2] = [30, 5];
/// A longer time between two looks is not known.
const LONGEST_GAP: Duration = Duration::from_secs(60);

/// For how long jobs were late in each of the last minutes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Burn {
    /// Minutes since 1970 in which something was late, and for how many seconds.
    minutes: VecDeque<(i64, f64)>,
    last: Option<DateTime<Utc>>,
}

/// What a pool's next job has before it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Queue {
    /// Jobs that nobody has.
    pub(crate) waiting: u64,
    /// For how long some job has waited at each look.
    pub(crate) waits: Duration,
    /// Jobs that are done each second.
    pub(crate) done_per_s: f64,
    /// Seconds that a job takes.
    pub(crate) service_s: f64,
}

impl Queue {
    /// How long a job takes from its arrival to its result, in seconds: those before it at the pace
    /// of now, but never longer than there has been a queue.
    pub(crate) fn sojourn_s(&self) -> f64 {
        let paced_s = if self.done_per_s > 0.0 { self.waiting as f64 / self.done_per_s } else { f64::MAX };
        let waits_s = if self.waiting == 0 { 0.0 } else { paced_s.min(self.waits.as_secs_f64()) };
        waits_s + self.service_s
    }
}

impl Burn {
    /// Since the last look jobs were late, or not.
    pub(crate) fn note(&mut self, is_late: bool, now: DateTime<Utc>) {
        let before = self.last.replace(now);
        let passed = before.map_or(Duration::ZERO, |before| age(before, now)).min(LONGEST_GAP);
        let minute = minute(now);
        // A clock that was set back begins again.
        self.minutes.retain(|(then, _)| (minute - WINDOWS[0] + 1..=minute).contains(then));
        if is_late {
            match self.minutes.back_mut() {
                Some((last, late_s)) if *last == minute => *late_s += passed.as_secs_f64(),
                _ => self.minutes.push_back((minute, passed.as_secs_f64())),
            }
        }
    }

    /// Whether too much of each window was late.
    pub(crate) fn is_high(&self, now: DateTime<Utc>) -> bool {
        let late_s = |minutes: i64| {
            let since = minute(now) - minutes;
            self.minutes.iter().filter(|(then, _)| *then > since).map(|(_, late_s)| late_s).sum::<f64>()
        };
        WINDOWS.iter().all(|minutes| late_s(*minutes) > TOO_MUCH * 60.0 * *minutes as f64)
    }
}

fn minute(at: DateTime<Utc>) -> i64 {
    at.timestamp().div_euclid(60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(second)
    }

    /// Whether it burns at the end of each of these minutes, some of which are late.
    fn burns(late: impl Fn(i64) -> bool, minutes: i64) -> Vec<i64> {
        let mut burn = Burn::default();
        let mut high = Vec::new();
        for second in (0..minutes * 60).step_by(5) {
            burn.note(late(second / 60), at(second));
            if burn.is_high(at(second)) && high.last() != Some(&(second / 60)) {
                high.push(second / 60);
            }
        }
        high
    }

    #[test]
    fn one_slow_start_wakes_nobody_and_an_outage_does_until_soon_after_its_end() {
        assert_eq!(burns(|minute| minute % 20 < 2, 240), Vec::<i64>::new());
        let outage = burns(|minute| (10..30).contains(&minute), 60);
        assert_eq!((outage.first(), outage.last()), (Some(&19), Some(&32)));
    }

    #[test]
    fn a_gap_is_not_late_and_a_clock_that_is_set_back_begins_again() {
        let mut burn = Burn::default();
        burn.note(true, at(0));
        burn.note(true, at(3600));
        assert!(!burn.is_high(at(3600)), "of an hour without a look nothing is known");
        for second in (3600..6000).step_by(5) {
            burn.note(true, at(second));
        }
        assert!(burn.is_high(at(6000)));
        burn.note(true, at(0));
        assert!(!burn.is_high(at(0)));
    }

    #[test]
    fn a_queue_is_as_slow_as_it_is_long_at_its_pace_and_no_slower_than_it_is_old() {
        let queue = Queue { waiting: 30, waits: Duration::from_secs(100), done_per_s: 2.0, service_s: 0.5 };
        assert_eq!(queue.sojourn_s(), 15.5);
        assert_eq!(Queue { done_per_s: 0.0, ..queue }.sojourn_s(), 100.5, "nobody works");
        assert_eq!(Queue { waits: Duration::from_secs(3), ..queue }.sojourn_s(), 3.5, "it has just come");
        assert_eq!(Queue { waiting: 0, ..queue }.sojourn_s(), 0.5);
    }
}
