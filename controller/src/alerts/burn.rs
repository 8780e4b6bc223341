//! Measures how much of the time a pool is slower than its policy's `p95`.

use std::{collections::VecDeque, time::Duration};

use chrono::{DateTime, Utc};

use crate::observe::age;

/// Part of the time that may be late: six times the twentieth that a `p95` allows, in the last half
/// hour and in the last five minutes. One cold start is not enough, and the alert ends soon after
/// its cause.
const TOO_MUCH: f64 = 6.0 * 0.05;
const WINDOWS: [i64; 2] = [30, 5];
/// Longest time between two observations that counts.
const LONGEST_GAP: Duration = Duration::from_secs(60);

/// The time for which jobs were late in each of the last minutes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Burn {
    /// Minutes since 1970 in which jobs were late, each with the seconds.
    minutes: VecDeque<(i64, f64)>,
    last: Option<DateTime<Utc>>,
}

/// The queue in front of a pool's next job.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Queue {
    /// Number of waiting jobs.
    pub(crate) waiting: u64,
    /// Time since which some job has waited at every observation.
    pub(crate) waits: Duration,
    /// Jobs per second that are completed.
    pub(crate) done_per_s: f64,
    /// Mean service time of a job, in seconds.
    pub(crate) service_s: f64,
}

impl Queue {
    /// Expected time from the arrival of a job to its result, in seconds: the waiting jobs at the
    /// current rate, but at most the age of the queue, plus the service time.
    pub(crate) fn sojourn_s(&self) -> f64 {
        let paced_s = if self.done_per_s > 0.0 { self.waiting as f64 / self.done_per_s } else { f64::MAX };
        let waits_s = if self.waiting == 0 { 0.0 } else { paced_s.min(self.waits.as_secs_f64()) };
        waits_s + self.service_s
    }
}

impl Burn {
    /// Records whether jobs were late since the last observation.
    pub(crate) fn note(&mut self, is_late: bool, now: DateTime<Utc>) {
        let before = self.last.replace(now);
        let passed = before.map_or(Duration::ZERO, |before| age(before, now)).min(LONGEST_GAP);
        let minute = minute(now);
        // Also drops the future, after a clock was set back.
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

    /// The minutes at which the alert holds, if the given minutes are late.
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
    fn one_slow_start_is_no_alert_and_an_outage_is_until_soon_after_its_end() {
        assert_eq!(burns(|minute| minute % 20 < 2, 240), Vec::<i64>::new());
        let outage = burns(|minute| (10..30).contains(&minute), 60);
        assert_eq!((outage.first(), outage.last()), (Some(&19), Some(&32)));
    }

    #[test]
    fn a_gap_does_not_count_as_late_and_a_clock_set_back_restarts_the_measurement() {
        let mut burn = Burn::default();
        burn.note(true, at(0));
        burn.note(true, at(3600));
        assert!(!burn.is_high(at(3600)), "an hour without an observation does not count");
        for second in (3600..6000).step_by(5) {
            burn.note(true, at(second));
        }
        assert!(burn.is_high(at(6000)));
        burn.note(true, at(0));
        assert!(!burn.is_high(at(0)));
    }

    #[test]
    fn the_waiting_time_is_the_length_at_the_current_rate_and_at_most_the_age_of_the_queue() {
        let queue = Queue { waiting: 30, waits: Duration::from_secs(100), done_per_s: 2.0, service_s: 0.5 };
        assert_eq!(queue.sojourn_s(), 15.5);
        assert_eq!(Queue { done_per_s: 0.0, ..queue }.sojourn_s(), 100.5, "no job is completed");
        assert_eq!(Queue { waits: Duration::from_secs(3), ..queue }.sojourn_s(), 3.5, "the queue is new");
        assert_eq!(Queue { waiting: 0, ..queue }.sojourn_s(), 0.5);
    }
}
