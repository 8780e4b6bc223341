//! The time that instances ran, which is charged.

use std::{collections::VecDeque, time::Duration};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::fleet::Tier;

/// Length of the intervals in which use is counted, in seconds: midnight of every time zone is at a
/// quarter of an hour.
const QUARTER_S: i64 = 900;
/// Longest billing minimum that a policy may have, in seconds.
const LONGEST_MINIMUM_S: f64 = 3600.0;
/// Number of quarters that are kept: a little more than two days.
const QUARTERS: usize = 200;

/// The use of one pool's instances, in quarters of an hour.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Usage {
    quarters: VecDeque<Quarter>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Quarter {
    /// Number of the quarter since 1970.
    number: i64,
    instance_s: f64,
    /// Part of `instance_s` that launched instances ran, which may have another price.
    #[serde(default, skip_serializing_if = "is_zero")]
    launched_s: f64,
    starts: u32,
    jobs: u64,
    /// Lengths of the runs of parked instances that ended in this quarter, in seconds, if shorter
    /// than the longest billing minimum.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    short_runs_s: Vec<u16>,
    /// The same for launched instances.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    short_launches_s: Vec<u16>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(seconds: &f64) -> bool {
    *seconds == 0.0
}

/// Number of live instances of a pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Alive {
    pub(super) parked: usize,
    pub(super) launched: usize,
}

impl Alive {
    pub(super) fn one(tier: Tier) -> Self {
        let mut alive = Self::default();
        *alive.of(tier) = 1;
        alive
    }

    pub(super) fn of(&mut self, tier: Tier) -> &mut usize {
        match tier {
            Tier::Parked => &mut self.parked,
            Tier::Launched => &mut self.launched,
        }
    }

    /// The larger number of both, for each tier.
    pub(super) fn or_more(self, other: Self) -> Self {
        Self { parked: self.parked.max(other.parked), launched: self.launched.max(other.launched) }
    }
}

/// The use of a pool since a certain time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Used {
    /// Seconds that instances ran, summed over all of them.
    pub instance_s: f64,
    /// Part of `instance_s` that launched instances ran.
    #[serde(default)]
    pub launched_s: f64,
    /// Number of starts.
    pub starts: u32,
    /// Number of jobs that arrived.
    pub jobs: u64,
}

impl Usage {
    /// Adds the time from `then` to `now` in which `instances` ran, and the starts and arrivals in
    /// it.
    pub(super) fn add(
        &mut self,
        then: DateTime<Utc>,
        now: DateTime<Utc>,
        instances: Alive,
        starts: u32,
        jobs: u64,
    ) {
        let mut from = then;
        while from < now {
            let end = DateTime::from_timestamp((from.timestamp().div_euclid(QUARTER_S) + 1) * QUARTER_S, 0);
            let to = end.unwrap_or(now).min(now);
            let span_s = (to - from).to_std().unwrap_or_default().as_secs_f64();
            let quarter = self.quarter(from);
            quarter.instance_s += span_s * (instances.parked + instances.launched) as f64;
            quarter.launched_s += span_s * instances.launched as f64;
            from = to;
        }
        let last = self.quarter(now);
        last.starts = last.starts.saturating_add(starts);
        last.jobs = last.jobs.saturating_add(jobs);
    }

    /// Adds a run of `run_s` seconds that ended at `now`.
    pub(super) fn end_run(&mut self, now: DateTime<Utc>, tier: Tier, run_s: f64) {
        if run_s < LONGEST_MINIMUM_S {
            let quarter = self.quarter(now);
            let runs = match tier {
                Tier::Parked => &mut quarter.short_runs_s,
                Tier::Launched => &mut quarter.short_launches_s,
            };
            runs.push(run_s as u16);
        }
    }

    /// Time for which runs that ended since `moment` are charged beyond their length, in seconds,
    /// because they were shorter than `minimum_s`.
    pub(super) fn short_s(&self, moment: DateTime<Utc>, tier: Tier, minimum_s: f64) -> f64 {
        let first = moment.timestamp().div_euclid(QUARTER_S);
        let within = self.quarters.iter().filter(|quarter| quarter.number >= first);
        let runs = within.flat_map(|quarter| match tier {
            Tier::Parked => &quarter.short_runs_s,
            Tier::Launched => &quarter.short_launches_s,
        });
        runs.map(|run_s| (minimum_s - f64::from(*run_s)).max(0.0)).sum()
    }

    /// The use since the quarter of an hour that contains `moment`.
    pub(super) fn since(&self, moment: DateTime<Utc>) -> Used {
        let first = moment.timestamp().div_euclid(QUARTER_S);
        let within = self.quarters.iter().filter(|quarter| quarter.number >= first);
        within.fold(Used::default(), |sum, quarter| Used {
            instance_s: sum.instance_s + quarter.instance_s,
            launched_s: sum.launched_s + quarter.launched_s,
            starts: sum.starts.saturating_add(quarter.starts),
            jobs: sum.jobs.saturating_add(quarter.jobs),
        })
    }

    fn quarter(&mut self, at: DateTime<Utc>) -> &mut Quarter {
        let number = at.timestamp().div_euclid(QUARTER_S);
        // If the clock is set back, earlier use must stay counted: add to the last quarter.
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
    /// The instance time as a duration.
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

    /// Charged seconds of one long-running instance for half a minute, in which `then` changes the
    /// history.
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
    fn a_running_instance_is_charged_over_a_restart_and_while_the_fleet_cannot_be_listed() {
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
    fn launched_instances_cost_the_launch_price_of_the_policy() {
        let text = "[pool]\nmax = 1\n[[rule]]\nkind = 'backlog'\n[launch]\nmost = 1\nusd_per_hour = 0.4\n\
                    [instance]\nusd_per_hour = 1.0\nbilling_minimum = '60s'";
        let policy = crate::policy::parse(std::path::Path::new("p.toml"), text).unwrap();
        let look = |second: u64, runs: bool| {
            let mut launched = busy("p-launched-1");
            launched.instance.pool = "p".into();
            launched.instance.tier = Tier::Launched;
            launched.instance.since = tests::at(second);
            if !runs {
                launched = tests::stopped("p-launched-1");
                (launched.instance.pool, launched.instance.tier) = ("p".into(), Tier::Launched);
            }
            let mut parked = busy("p-1");
            parked.instance.since = tests::at(NOW - 5000);
            let mut seen = tests::seen(&[("p", Some(1))], vec![parked, launched]);
            seen.at = tests::at(second);
            seen
        };
        let mut history = History::new(Duration::from_secs(60)).observe(&look(NOW, false));
        let cost = |history: &History, second| history.cost_today_usd("p", &policy, tests::at(second));
        history = history.observe(&look(NOW + 36, true));
        // Both ran for 36 s, and the launched one is charged for the rest of its minute too.
        let charged = (36.0 * 1.0 + (36.0 + 60.0) * 0.4) / 3600.0;
        assert!((cost(&history, NOW + 36) - charged).abs() < 1e-9, "{} {charged}", cost(&history, NOW + 36));
        assert_eq!(history.used_today("p", &policy, tests::at(NOW + 36)).launched_s, 36.0);
    }

    #[test]
    fn if_all_files_are_lost_a_days_use_is_restored_from_launches_and_the_recording() {
        let first_look = |learnt: Learnt| {
            let mut running = busy("p-1");
            running.instance.since = tests::at(NOW - 5000);
            let seen = tests::seen(&[("p", Some(1))], vec![running]);
            let history = History::new(Duration::from_secs(60)).with_learnt(learnt).observe(&seen);
            history.used_since("p", tests::at(NOW - 9000)).instance_s
        };
        assert_eq!(first_look(Learnt::default()), 0.0, "nothing to restore");
        let mut learnt = Learnt::default();
        learnt.recall_launches();
        assert_eq!(first_look(learnt.clone()), 5000.0);
        // The recording shows two instances until a minute ago. From then on the running one is
        // charged.
        learnt.recall_use("p", tests::at(NOW - 3060), tests::at(NOW - 60), 2, 7);
        assert_eq!(first_look(learnt), 6060.0);
    }

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(second)
    }

    fn parked(count: usize) -> Alive {
        Alive { parked: count, launched: 0 }
    }

    #[test]
    fn launched_instances_and_the_rest_of_their_billing_minimum_are_counted_separately() {
        let mut usage = Usage::default();
        usage.add(at(0), at(1000), Alive { parked: 2, launched: 3 }, 5, 0);
        let used = usage.since(at(0));
        assert_eq!((used.instance_s, used.launched_s), (5000.0, 3000.0));
        usage.end_run(at(1000), Tier::Launched, 20.0);
        let rest = |tier| usage.short_s(at(0), tier, 60.0);
        assert_eq!((rest(Tier::Parked), rest(Tier::Launched)), (0.0, 40.0));
        // The format of an earlier version.
        let before: Quarter =
            serde_json::from_str(r#"{"number":1,"instance_s":9.0,"starts":0,"jobs":0}"#).unwrap();
        assert_eq!((before.instance_s, before.launched_s), (9.0, 0.0));
    }

    #[test]
    fn use_is_counted_in_its_quarter_of_an_hour() {
        let mut usage = Usage::default();
        usage.add(at(800), at(2000), parked(3), 1, 5);
        assert_eq!(usage.since(at(0)), Used { instance_s: 3600.0, starts: 1, jobs: 5, ..Used::default() });
        assert_eq!(usage.since(at(900)).instance_s, 3300.0);
        assert_eq!(usage.since(at(1800)), Used { instance_s: 600.0, starts: 1, jobs: 5, ..Used::default() });
        assert_eq!(usage.since(at(2700)), Used::default());
    }

    #[test]
    fn runs_shorter_than_the_billing_minimum_are_charged_for_the_rest_of_it() {
        let mut usage = Usage::default();
        for (run_s, second) in [(100.0, 1000), (600.0, 1100), (5000.0, 9000)] {
            usage.end_run(at(second), Tier::Parked, run_s);
        }
        assert_eq!(usage.short_s(at(900), Tier::Parked, 3600.0), 6500.0);
        assert_eq!(usage.short_s(at(900), Tier::Parked, 60.0), 0.0);
        assert_eq!(usage.short_s(at(1800), Tier::Parked, 3600.0), 0.0);
    }

    #[test]
    fn a_clock_set_back_loses_no_use_and_only_two_days_are_kept() {
        let mut usage = Usage::default();
        usage.add(at(0), at(9000), parked(1), 0, 0);
        usage.add(at(100), at(200), parked(1), 0, 0);
        assert_eq!(usage.since(at(0)).instance_s, 9100.0);
        usage.add(at(9000), at(900 * 1000), parked(1), 0, 0);
        assert_eq!(usage.quarters.len(), QUARTERS);
    }
}
