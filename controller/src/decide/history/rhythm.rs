//! Learns when jobs come at regular times: batches on a clock, loads that go on and off.
//!
//! An onset is an arrival after a silence. If the times between the last onsets are alike, the next
//! one can be expected, and instances be started just before it.

use std::{collections::VecDeque, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::observe::{Count, age};

/// Shortest time without arrivals after which the next one is an onset.
const SILENCE: Duration = Duration::from_secs(20);
/// Time after an onset whose jobs count as its batch: what comes later finds instances that were
/// started at the onset.
const FIRST: Duration = Duration::from_secs(30);
/// Number of onsets that are remembered.
const KEPT: usize = 9;
/// Minimum number of times between two onsets.
const FEWEST: usize = 3;
/// Part of the times that must be alike. The others may be pauses, or single jobs between batches.
const ALIKE: f64 = 0.75;
/// Longest time until an arrival is reported.
const REPORTED: TimeDelta = TimeDelta::seconds(10);

/// The onsets of a pool's load.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Rhythm {
    /// The last onsets with the number of jobs that began with each, oldest first.
    onsets: VecDeque<(DateTime<Utc>, u64)>,
    /// End of the last count with jobs.
    last: Option<DateTime<Utc>>,
}

/// The next expected onset.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Onset {
    /// The soonest time at which it is expected.
    pub(crate) from: DateTime<Utc>,
    /// The time from which on it is not expected any more.
    pub(crate) until: DateTime<Utc>,
    /// Time of the last arrival.
    last: DateTime<Utc>,
    /// Number of jobs that come at once or soon after it.
    pub(crate) jobs: u64,
}

impl Onset {
    /// Whether the jobs of the last onset have ended.
    pub(crate) fn is_after_silence(&self, now: DateTime<Utc>) -> bool {
        age(self.last, now) >= SILENCE
    }
}

impl Rhythm {
    /// Adds a count. Counts must be in the order of their ends, as far as they are known.
    pub(super) fn observe(&mut self, count: &Count) {
        if count.jobs == 0 {
            return;
        }
        if self.last.is_none_or(|last| last <= count.to && age(last, count.to) >= SILENCE) {
            self.onsets.push_back((count.to, 0));
            if self.onsets.len() > KEPT {
                self.onsets.pop_front();
            }
        }
        self.last = self.last.max(Some(count.to));
        if let Some((onset, jobs)) = self.onsets.back_mut()
            && age(*onset, count.to) <= FIRST
        {
            *jobs += count.jobs;
        }
    }

    /// The next onset, if the times between the last ones are alike within `spread`.
    pub(super) fn next(&self, spread: TimeDelta) -> Option<Onset> {
        let (last, _) = self.onsets.back()?;
        let onsets = self.onsets.iter().zip(self.onsets.iter().skip(1));
        let mut gaps: Vec<_> = onsets.map(|((one, _), (next, _))| *next - *one).collect();
        if gaps.len() < FEWEST {
            return None;
        }
        gaps.sort();
        let alike = (gaps.len() as f64 * ALIKE).ceil() as usize;
        let ends = gaps.windows(alike).map(|alike| (alike[0], alike[alike.len() - 1]));
        let (soonest, latest) = ends.min_by_key(|(soonest, latest)| *latest - *soonest)?;
        let mut jobs: Vec<_> = self.onsets.iter().map(|(_, jobs)| *jobs).collect();
        jobs.sort_unstable();
        let jobs = jobs[jobs.len() / 2];
        let (from, until) = (*last + soonest, *last + latest + REPORTED);
        let onset = Onset { from, until, last: self.last?, jobs };
        (latest - soonest <= spread).then_some(onset)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(second)
    }

    /// Batches of `jobs` at these times.
    fn batches(seconds: &[i64], jobs: u64) -> Rhythm {
        let mut rhythm = Rhythm::default();
        for second in seconds {
            // A doorbell, and the rest in the next report.
            rhythm.observe(&Count { from: at(second - 10), to: at(*second), jobs: 1 });
            rhythm.observe(&Count { from: at(*second), to: at(second + 10), jobs: jobs - 1 });
        }
        rhythm
    }

    #[track_caller]
    fn check(seconds: &[i64], expected: Option<(i64, i64)>) {
        let next = batches(seconds, 30).next(TimeDelta::seconds(25));
        let found = next.map(|onset| (onset.from.timestamp(), (onset.until - REPORTED).timestamp()));
        assert_eq!(found, expected, "{seconds:?}");
    }

    #[test]
    fn batches_at_regular_times_are_expected_after_the_third_gap() {
        check(&[0, 120, 240], None);
        check(&[0, 120, 240, 360], Some((480, 480)));
        check(&[0, 110, 235, 350], Some((350 + 110, 350 + 125)));
    }

    #[test]
    fn a_missing_or_an_additional_batch_does_not_hide_the_rhythm() {
        check(&[0, 120, 240, 360, 600, 720], Some((840, 840)));
        check(&[0, 120, 240, 360, 480, 530, 600], None);
        check(&[0, 120, 240, 360, 480, 600, 720, 770, 840], Some((960, 960)));
    }

    #[test]
    fn batches_at_irregular_times_are_not_expected() {
        check(&[0, 60, 300, 350, 700, 780, 1200], None);
        check(&[0, 100, 240, 340, 480, 580], None);
    }

    #[test]
    fn a_stream_has_no_onsets_but_its_first() {
        let mut rhythm = Rhythm::default();
        for step in 0..100 {
            rhythm.observe(&Count { from: at(10 * step), to: at(10 * step + 10), jobs: 5 });
        }
        assert_eq!((rhythm.onsets.len(), rhythm.next(TimeDelta::seconds(25))), (1, None));
    }

    #[test]
    fn as_many_jobs_are_expected_as_a_batch_has_as_a_rule() {
        let mut rhythm = batches(&[0, 120, 240, 360], 30);
        rhythm.observe(&Count { from: at(470), to: at(480), jobs: 500 });
        // What comes half a minute after the onset finds instances that were started then.
        rhythm.observe(&Count { from: at(490), to: at(498), jobs: 0 });
        rhythm.observe(&Count { from: at(480), to: at(499), jobs: 1 });
        rhythm.observe(&Count { from: at(499), to: at(515), jobs: 500 });
        let onset = rhythm.next(TimeDelta::seconds(25)).unwrap();
        assert_eq!((onset.jobs, onset.from), (30, at(600)));
        assert!(!onset.is_after_silence(at(534)) && onset.is_after_silence(at(535)));
    }

    proptest! {
        #[test]
        fn the_next_onset_is_never_in_a_wider_window_than_may_be_waited(
            gaps in prop::collection::vec(1i64..2000, 1..30), spread in 1i64..300,
        ) {
            let seconds: Vec<_> = gaps.iter().scan(0, |sum, gap| { *sum += gap; Some(*sum) }).collect();
            if let Some(onset) = batches(&seconds, 2).next(TimeDelta::seconds(spread)) {
                let last = at(*seconds.last().unwrap() + 10);
                prop_assert!(onset.from <= onset.until && onset.last == last && onset.jobs > 0);
                prop_assert!(onset.until - REPORTED - onset.from <= TimeDelta::seconds(spread));
            }
        }
    }
}
