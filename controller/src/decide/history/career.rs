//! What became of each instance's starts: how long they took, and whom to leave alone for a while.

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

/// Nobody is waited for longer than this.
const LONGEST_PATIENCE: Duration = Duration::from_secs(3600);
/// An instance that failed once is waited for twice as long the next time, then four times, and so
/// on.
const FIRST_PATIENCE: Duration = Duration::from_secs(15);

/// The past of one instance, as far as it was seen.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Career {
    /// The pool that it was last seen in.
    pub pool: String,
    /// Where it came from when it was last seen.
    #[serde(default)]
    pub tier: Tier,
    /// Seconds from its last start to its first report that it is ready.
    pub start_delay_s: Option<f64>,
    /// When it was last seen ready.
    pub last_ready: Option<DateTime<Utc>>,
    /// How often in a row it failed: was never ready, fell silent, or stopped without being told.
    pub failures: u32,
    /// Why, the last time.
    pub failure: Option<String>,
    /// When, the last time.
    #[serde(default)]
    failed_at: Option<DateTime<Utc>>,
    /// When it sent the latest report that was looked at.
    #[serde(skip)]
    heard_at: Option<DateTime<Utc>>,
    #[serde(skip)]
    now: Option<Now>,
    /// Since when it runs, where its start was seen.
    #[serde(default)]
    runs_since: Option<DateTime<Utc>>,
    /// For how long it had run when it ended, at the last look.
    #[serde(skip)]
    ended_run_s: Option<f64>,
    /// The jobs that it has done since its start, and since when it has been no more.
    #[serde(skip)]
    progress: Option<(u64, DateTime<Utc>)>,
    /// A start delay that was measured at the last look.
    #[serde(skip)]
    new_delay_s: Option<f64>,
}

/// What it was when it was last seen.
#[derive(Debug, Clone, PartialEq)]
struct Now {
    generation: Option<String>,
    stage: Stage,
    told_to_go: bool,
    /// Whether its start was seen. One that runs already says nothing about how long it took.
    saw_start: bool,
}

impl Career {
    /// Sees it once more; answers whether it was started since the last time, and its report where
    /// that is new and tells service times.
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

    /// The delay of a start that came to its end at the last look.
    pub(super) fn take_new_delay_s(&mut self) -> Option<f64> {
        self.new_delay_s.take()
    }

    /// For how long one had run that ended at the last look.
    pub(super) fn take_ended_run_s(&mut self) -> Option<f64> {
        self.ended_run_s.take()
    }

    /// Since when it runs, where its start was seen and not its end.
    pub(super) fn runs_since(&self) -> Option<DateTime<Utc>> {
        self.runs_since
    }

    /// Since when it has been ready and completed nothing.
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
        let told_to_go = same.is_some_and(|same| same.told_to_go)
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
        if stage == Stage::Stopped && served && !told_to_go {
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
        self.now = Some(Now { generation, stage, told_to_go, saw_start });
        started
    }

    /// It may take so long to start at least, whatever the policy says: as it did the last time,
    /// and twice as long with each failure, for a policy that expects too much would never have
    /// anybody ready.
    pub(crate) fn patience(&self) -> Duration {
        let last_s = self.start_delay_s.unwrap_or(0.0).clamp(0.0, LONGEST_PATIENCE.as_secs_f64());
        let last = Duration::from_secs_f64(last_s).saturating_mul(Pool::OVERDUE);
        let doubled = FIRST_PATIENCE.saturating_mul(2_u32.saturating_pow(self.failures));
        let failed = if self.failures == 0 { Duration::ZERO } else { doubled };
        last.max(failed).min(LONGEST_PATIENCE)
    }

    /// Until when it is left alone because it failed, as its fleet counts or as was seen from here,
    /// whichever is more.
    pub(crate) fn rests_until(career: Option<&Self>, instance: &Instance) -> Option<DateTime<Utc>> {
        let died = (instance.crashes > 0 && !instance.is_alive()).then_some(instance.since);
        let failed_at = career.and_then(|career| career.failed_at).max(died)?;
        let failures = career.map_or(0, |career| career.failures).max(instance.crashes);
        Some(failed_at + backoff::INSTANCE.after(failures))
    }

    /// It is told to leave, so that its stop will be no failure.
    pub(super) fn told_to_go(&mut self) {
        if let Some(now) = &mut self.now {
            now.told_to_go = true;
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
    fn the_time_from_a_start_to_the_ready_report_is_learnt_where_the_start_was_seen() {
        let mut career = Career::default();
        career.observe(&stopped("p-1"), at(NOW - 30));
        assert!(career.observe(&starting("p-1", NOW - 28), at(NOW - 28)).0);
        let mut ready = busy("p-1");
        ready.instance.since = at(NOW - 28);
        assert!(!career.observe(&ready, at(NOW)).0);
        assert_eq!(career.start_delay_s, Some(25.0));

        // A controller that was just started has not heard it yet.
        for first in [busy("p-2"), starting("p-2", NOW - 1000)] {
            let mut unseen = Career::default();
            unseen.observe(&first, at(NOW - 5));
            unseen.observe(&busy("p-2"), at(NOW));
            assert_eq!((unseen.start_delay_s, unseen.last_ready), (None, Some(at(NOW))));
        }
    }

    #[test]
    fn one_that_stops_by_itself_is_left_alone_longer_each_time_until_it_was_ready_again() {
        let mut career = Career::default();
        let mut rests = Vec::new();
        for _ in 0..7 {
            career.observe(&starting("p-1", NOW - 28), at(NOW - 28));
            let mut dead = starting("p-1", NOW - 28);
            dead.instance.state = State::Stopped;
            career.observe(&dead, at(NOW));
            let until = Career::rests_until(Some(&career), &dead.instance).unwrap();
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
    fn one_that_had_to_go_has_not_failed() {
        let mut career = Career::default();
        career.observe(&busy("p-1"), at(NOW));
        career.told_to_go();
        let mut gone = busy("p-1");
        gone.instance.state = State::Stopped;
        career.observe(&gone, at(NOW + 5));
        assert_eq!(career.failures, 0);
    }
}
