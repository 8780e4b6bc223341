//! The past of each instance: how long its starts took, and how often it failed.

use std::time::Duration;

use chrono::{DateTime, Utc};
use eirs_platform::job::WorkerReport;
use serde::{Deserialize, Serialize};

use crate::{
    backoff,
    fleet::{Instance, Tier},
    observe::{InstanceView, Stage, age},
    policy::Pool,
};

/// Upper bound of the time for which a start is waited for.
const LONGEST_PATIENCE: Duration = Duration::from_secs(3600);
/// Base of the time for which a start is waited for after failures. It doubles with each failure.
const FIRST_PATIENCE: Duration = Duration::from_secs(15);

/// The past of one instance, as far as it was observed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Career {
    /// Pool in which it was last seen.
    pub pool: String,
    /// Tier in which it was last seen.
    #[serde(default)]
    pub tier: Tier,
    /// Seconds from its last start to its first ready report.
    pub start_delay_s: Option<f64>,
    /// Time at which it was last seen ready.
    pub last_ready: Option<DateTime<Utc>>,
    /// Number of failures in a row: never ready, silent, hung, or stopped without an order.
    pub failures: u32,
    /// Reason of the last failure.
    pub failure: Option<String>,
    /// Time of the last failure.
    #[serde(default)]
    failed_at: Option<DateTime<Utc>>,
    /// Time of the latest report that was evaluated.
    #[serde(skip)]
    heard_at: Option<DateTime<Utc>>,
    #[serde(skip)]
    now: Option<Now>,
    /// Time since which it runs, if its start was observed.
    #[serde(default)]
    runs_since: Option<DateTime<Utc>>,
    /// Length of the run that ended at the last observation, in seconds.
    #[serde(skip)]
    ended_run_s: Option<f64>,
    /// Jobs completed since its start, and the time of the last increase.
    #[serde(skip)]
    progress: Option<(u64, DateTime<Utc>)>,
    /// Start delay that was measured at the last observation, in seconds.
    #[serde(skip)]
    new_delay_s: Option<f64>,
}

/// Its state at the last observation.
#[derive(Debug, Clone, PartialEq)]
struct Now {
    generation: Option<String>,
    stage: Stage,
    ordered_to_stop: bool,
    /// Whether its start was observed. If not, its start delay is unknown.
    saw_start: bool,
}

impl Career {
    /// Adds an observation. Returns whether it was started since the last one, and its report if
    /// that is new and contains service times.
    pub(super) fn observe<'v>(
        &mut self,
        view: &'v InstanceView,
        now: DateTime<Utc>,
    ) -> (bool, Option<&'v WorkerReport>) {
        if self.pool != view.instance.pool {
            self.pool.clone_from(&view.instance.pool);
        }
        self.tier = view.instance.tier;
        let started = self.see(view, now);
        self.note_progress(view, now);
        let news = view.heard.as_ref().filter(|heard| self.heard_at.is_none_or(|before| heard.at > before));
        self.heard_at = news.map_or(self.heard_at, |heard| Some(heard.at));
        (started, news.map(|heard| &heard.report).filter(|report| report.service.count > 0))
    }

    /// Takes the start delay that was measured at the last observation, in seconds.
    pub(super) fn take_new_delay_s(&mut self) -> Option<f64> {
        self.new_delay_s.take()
    }

    /// Takes the length of the run that ended at the last observation, in seconds.
    pub(super) fn take_ended_run_s(&mut self) -> Option<f64> {
        self.ended_run_s.take()
    }

    /// Time since which it runs, if its start was observed and its end was not.
    pub(super) fn runs_since(&self) -> Option<DateTime<Utc>> {
        self.runs_since
    }

    /// Time since which it has been ready and has completed nothing.
    pub(crate) fn idles_since(&self) -> Option<DateTime<Utc>> {
        self.progress.map(|(_, since)| since)
    }

    fn note_progress(&mut self, view: &InstanceView, now: DateTime<Utc>) {
        let done =
            view.heard.as_ref().filter(|_| view.stage() == Stage::Ready).map(|heard| heard.report.done);
        self.progress = done.map(|done| match self.progress {
            Some((before, since)) if before == done => (done, since),
            _ => (done, now),
        });
    }

    fn see(&mut self, view: &InstanceView, now: DateTime<Utc>) -> bool {
        let (generation, stage) = (&view.instance.generation, view.stage());
        let before = self.now.take();
        let same = before.as_ref().filter(|before| before.generation == *generation);
        let was = same.map(|same| same.stage);
        let ordered_to_stop = same.is_some_and(|same| same.ordered_to_stop)
            || matches!(stage, Stage::Draining | Stage::Drained | Stage::Stopping);
        if stage == Stage::Ready {
            if was == Some(Stage::Starting)
                && same.is_some_and(|same| same.saw_start)
                && let Some(heard) = &view.heard
            {
                self.start_delay_s = Some(age(view.instance.since, heard.at).as_secs_f64());
                self.new_delay_s = self.start_delay_s;
            }
            self.last_ready = Some(now);
            (self.failures, self.failure, self.failed_at) = (0, None, None);
        }
        let served = matches!(was, Some(Stage::Starting | Stage::Ready));
        if stage == Stage::Stopped && served && !ordered_to_stop {
            self.fail("it stopped unexpectedly", now);
        }
        let alive = |stage: Stage| stage != Stage::Stopped;
        let started = alive(stage)
            && before.as_ref().is_some_and(|before| !alive(before.stage) || before.generation != *generation);
        if started {
            self.runs_since = Some(view.instance.since);
        } else if matches!(stage, Stage::Stopped | Stage::Stopping) {
            let since = self.runs_since.take();
            self.ended_run_s = since.map(|since| age(since, now).as_secs_f64());
        }
        let saw_start = started || same.is_some_and(|same| same.saw_start);
        let generation = match before {
            Some(before) if before.generation == *generation => before.generation,
            _ => generation.clone(),
        };
        self.now = Some(Now { generation, stage, ordered_to_stop, saw_start });
        started
    }

    /// Minimum time that a start may take, whatever the policy says: `OVERDUE` times the last start
    /// delay, and doubled with each failure. Otherwise a policy with too short a delay would never
    /// get a ready instance.
    pub(crate) fn patience(&self) -> Duration {
        let last_s = self.start_delay_s.unwrap_or(0.0).clamp(0.0, LONGEST_PATIENCE.as_secs_f64());
        let last = Duration::from_secs_f64(last_s).saturating_mul(Pool::OVERDUE);
        let doubled = FIRST_PATIENCE.saturating_mul(2_u32.saturating_pow(self.failures));
        let failed = if self.failures == 0 { Duration::ZERO } else { doubled };
        last.max(failed).min(LONGEST_PATIENCE)
    }

    /// Time until which it is left alone after a failure. The larger of the fleet's and the
    /// controller's number of failures counts.
    pub(crate) fn retry_at(career: Option<&Self>, instance: &Instance) -> Option<DateTime<Utc>> {
        let died = (instance.crashes > 0 && !instance.is_alive()).then_some(instance.since);
        let failed_at = career.and_then(|career| career.failed_at).max(died)?;
        let failures = career.map_or(0, |career| career.failures).max(instance.crashes);
        Some(failed_at + backoff::INSTANCE.after(failures))
    }

    /// Records that it was ordered to stop, so that its stop does not count as a failure.
    pub(super) fn order_to_stop(&mut self) {
        if let Some(now) = &mut self.now {
            now.ordered_to_stop = true;
        }
    }

    pub(super) fn fail(&mut self, why: &str, now: DateTime<Utc>) {
        self.failures = self.failures.saturating_add(1);
        self.failure = Some(why.to_owned());
        self.failed_at = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        decide::tests::{NOW, at, busy, starting, stopped},
        fleet::State,
    };

    #[test]
    fn the_start_delay_is_measured_if_the_start_was_observed() {
        let mut career = Career::default();
        career.observe(&stopped("p-1"), at(NOW - 30));
        assert!(career.observe(&starting("p-1", NOW - 28), at(NOW - 28)).0);
        let mut ready = busy("p-1");
        ready.instance.since = at(NOW - 28);
        assert!(!career.observe(&ready, at(NOW)).0);
        assert_eq!(career.start_delay_s, Some(25.0));

        // A controller that was just started has not received its reports yet.
        for first in [busy("p-2"), starting("p-2", NOW - 1000)] {
            let mut unseen = Career::default();
            unseen.observe(&first, at(NOW - 5));
            unseen.observe(&busy("p-2"), at(NOW));
            assert_eq!((unseen.start_delay_s, unseen.last_ready), (None, Some(at(NOW))));
        }
    }

    #[test]
    fn an_instance_that_stops_by_itself_is_left_alone_longer_each_time_until_it_is_ready() {
        let mut career = Career::default();
        let mut rests = Vec::new();
        for _ in 0..7 {
            career.observe(&starting("p-1", NOW - 28), at(NOW - 28));
            let mut dead = starting("p-1", NOW - 28);
            dead.instance.state = State::Stopped;
            career.observe(&dead, at(NOW));
            let until = Career::retry_at(Some(&career), &dead.instance).unwrap();
            rests.push((until - at(NOW)).num_seconds());
        }
        assert_eq!(rests, [1, 4, 16, 64, 256, 1024, 3600]);
        career.observe(&busy("p-1"), at(NOW));
        assert_eq!((career.failures, career.failed_at), (0, None));
    }

    #[test]
    fn a_start_may_take_as_long_as_the_last_one_and_longer_after_each_failure() {
        let mut career = Career::default();
        assert_eq!(career.patience(), Duration::ZERO);
        career.fail("it was never ready", at(NOW));
        career.fail("it was never ready", at(NOW));
        assert_eq!(career.patience(), Duration::from_secs(60));
        career.start_delay_s = Some(40.0);
        assert_eq!(career.patience(), Duration::from_secs(400));
        career.failures = u32::MAX;
        assert_eq!(career.patience(), LONGEST_PATIENCE);
    }

    #[test]
    fn an_instance_that_was_ordered_to_stop_has_not_failed() {
        let mut career = Career::default();
        career.observe(&busy("p-1"), at(NOW));
        career.order_to_stop();
        let mut gone = busy("p-1");
        gone.instance.state = State::Stopped;
        career.observe(&gone, at(NOW + 5));
        assert_eq!(career.failures, 0);
    }
}
