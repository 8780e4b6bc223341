//! How long instances ran: what is paid for.

use std::{collections::VecDeque, time::Duration};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// Every time zone's midnight is at a quarter of an hour.
const QUARTER_S: i64 = 900;
/// No policy has a longer billing minimum.
const LONGEST_MINIMUM_S: f64 = 3600.0;
/// Two days and a little.
const QUARTERS: usize = 200;

/// The use of one pool's instances, a quarter of an hour each.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Usage {
    quarters: VecDeque<Quarter>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Quarter {
    /// Its number since 1970.
    number: i64,
    instance_s: f64,
    starts: u32,
    jobs: u64,
    /// How long those ran that ended in it, in seconds, where that was less than an hour: the
    /// longest billing minimum.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    short_runs_s: Vec<u16>,
}

/// The use of a pool since some moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Used {
    /// Seconds that instances ran, summed over all of them.
    pub instance_s: f64,
    /// How often one was started.
    pub starts: u32,
    /// Jobs that arrived.
    pub jobs: u64,
}

impl Usage {
    /// How many instances ran from then to now, how many of them for the first time, and how many
    /// jobs arrived.
    pub(super) fn add(
        &mut self,
        then: DateTime<Utc>,
        now: DateTime<Utc>,
        instances: usize,
        starts: u32,
        jobs: u64,
    ) {
        let mut from = then;
        while from < now {
            let end = DateTime::from_timestamp((from.timestamp().div_euclid(QUARTER_S) + 1) * QUARTER_S, 0);
            let to = end.unwrap_or(now).min(now);
            let span = (to - from).to_std().unwrap_or_default();
            self.quarter(from).instance_s += span.as_secs_f64() * instances as f64;
            from = to;
        }
        let last = self.quarter(now);
        last.starts = last.starts.saturating_add(starts);
        last.jobs = last.jobs.saturating_add(jobs);
    }

    /// An instance ended that ran for so long.
    pub(super) fn end_run(&mut self, now: DateTime<Utc>, run_s: f64) {
        if run_s < LONGEST_MINIMUM_S {
            self.quarter(now).short_runs_s.push(run_s as u16);
        }
    }

    /// What those that ended since a moment are charged for beyond the time that they ran, in
    /// seconds.
    pub(super) fn short_s(&self, moment: DateTime<Utc>, minimum_s: f64) -> f64 {
        let first = moment.timestamp().div_euclid(QUARTER_S);
        let within = self.quarters.iter().filter(|quarter| quarter.number >= first);
        let runs = within.flat_map(|quarter| &quarter.short_runs_s);
        runs.map(|run_s| (minimum_s - f64::from(*run_s)).max(0.0)).sum()
    }

    /// Since a moment, in whole quarters of an hour.
    pub(super) fn since(&self, moment: DateTime<Utc>) -> Used {
        let first = moment.timestamp().div_euclid(QUARTER_S);
        let within = self.quarters.iter().filter(|quarter| quarter.number >= first);
        within.fold(Used::default(), |sum, quarter| Used {
            instance_s: sum.instance_s + quarter.instance_s,
            starts: sum.starts.saturating_add(quarter.starts),
            jobs: sum.jobs.saturating_add(quarter.jobs),
        })
    }

    fn quarter(&mut self, at: DateTime<Utc>) -> &mut Quarter {
        let number = at.timestamp().div_euclid(QUARTER_S);
        // A clock that is set back must not make what was used unused.
        if self.quarters.back().is_none_or(|last| last.number < number) {
            self.quarters.push_back(Quarter { number, ..Quarter::default() });
        }
        if self.quarters.len() > QUARTERS {
            self.quarters.pop_front();
        }
        let last = self.quarters.len() - 1;
        &mut self.quarters[last]
    }
}

impl Used {
    /// The same as a time.
    pub fn time(&self) -> Duration {
        Duration::try_from_secs_f64(self.instance_s).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::{
        History,
        history::Learnt,
        tests::{self, NOW, busy},
    };

    /// What is charged after a look, half a minute, and what a look finds then. The instance runs
    /// since long before.
    fn charged(then: impl FnOnce(History) -> History) -> f64 {
        let look = |second: u64| {
            let mut running = busy("p-1");
            running.instance.since = tests::at(NOW - 5000);
            let mut seen = tests::seen(&[("p", Some(1))], vec![running]);
            seen.at = tests::at(second);
            seen
        };
        let history = History::new(Duration::from_secs(60)).observe(&look(NOW - 30));
        then(history).observe(&look(NOW)).used_since("p", tests::at(NOW - 5000)).instance_s
    }

    #[test]
    fn who_runs_is_charged_while_the_controller_is_started_again_and_while_nobody_can_be_listed() {
        assert_eq!(charged(|history| history), 30.0);
        let again =
            |history: History| History::new(Duration::from_secs(60)).with_learnt(history.learnt().clone());
        assert_eq!(charged(again), 30.0);
        let blind = |history: History| {
            let mut seen = tests::seen(&[("p", Some(1))], Vec::new());
            (seen.at, seen.instances) = (tests::at(NOW - 10), None);
            history.observe(&seen)
        };
        assert_eq!(charged(blind), 30.0);
    }

    #[test]
    fn where_all_files_are_lost_a_day_is_known_by_launches_and_by_the_recording() {
        let first_look = |learnt: Learnt| {
            let mut running = busy("p-1");
            running.instance.since = tests::at(NOW - 5000);
            let seen = tests::seen(&[("p", Some(1))], vec![running]);
            let history = History::new(Duration::from_secs(60)).with_learnt(learnt).observe(&seen);
            history.used_since("p", tests::at(NOW - 9000)).instance_s
        };
        assert_eq!(first_look(Learnt::default()), 0.0, "a fleet that was never ours");
        let mut learnt = Learnt::default();
        learnt.recall_launches();
        assert_eq!(first_look(learnt.clone()), 5000.0);
        // The recording knows of two up to a minute ago; from then on the one that runs is charged.
        learnt.recall_use("p", tests::at(NOW - 3060), tests::at(NOW - 60), 2, 7);
        assert_eq!(first_look(learnt), 6060.0);
    }

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(second)
    }

    #[test]
    fn use_is_counted_in_the_quarter_in_which_it_was() {
        let mut usage = Usage::default();
        usage.add(at(800), at(2000), 3, 1, 5);
        assert_eq!(usage.since(at(0)), Used { instance_s: 3600.0, starts: 1, jobs: 5 });
        assert_eq!(usage.since(at(900)).instance_s, 3300.0);
        assert_eq!(usage.since(at(1800)), Used { instance_s: 600.0, starts: 1, jobs: 5 });
        assert_eq!(usage.since(at(2700)), Used::default());
    }

    #[test]
    fn starts_that_were_shorter_than_the_minimum_are_charged_for_the_rest_of_it() {
        let mut usage = Usage::default();
        for (run_s, second) in [(100.0, 1000), (600.0, 1100), (5000.0, 9000)] {
            usage.end_run(at(second), run_s);
        }
        assert_eq!(usage.short_s(at(900), 3600.0), 6500.0);
        assert_eq!(usage.short_s(at(900), 60.0), 0.0);
        assert_eq!(usage.short_s(at(1800), 3600.0), 0.0);
    }

    #[test]
    fn a_clock_that_is_set_back_forgets_nothing_and_no_more_than_two_days_are_kept() {
        let mut usage = Usage::default();
        usage.add(at(0), at(9000), 1, 0, 0);
        usage.add(at(100), at(200), 1, 0, 0);
        assert_eq!(usage.since(at(0)).instance_s, 9100.0);
        usage.add(at(9000), at(900 * 1000), 1, 0, 0);
        assert_eq!(usage.quarters.len(), QUARTERS);
    }
}
