//! How far instances are to be trusted: which of them are never ready, silent or hang, and when
//! reports are what is missing.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Known, history::Career, plan::Cause};
use crate::{
    fleet::Tier,
    observe::{InstanceView, REPORT_EXPIRES, Stage, age},
    policy::{Policy, Pool},
};

/// Twelve missed reports in a row: an instance that is silent for this long does not work.
pub(super) const SILENT: Duration = Duration::from_secs(120);

/// A worker that completes nothing while jobs wait hangs after this multiple of the 95th percentile
/// of the service times, ...
const SLOW: f64 = 10.0;
/// ... and where none was measured yet, only after this: a script may look at an image for minutes.
const HANGS_UNMEASURED: Duration = Duration::from_secs(3600);

/// Where more than one instance in this number is silent at the same time, the reports may be what
/// is missing.
const DEAF: usize = 3;

/// Something that starts is late after this multiple of the learnt start delay, ...
const LATE: f64 = 2.0;
/// ... but not before this.
const LATE_AT_LEAST_S: f64 = 10.0;
/// Where nobody reports, a job that waits for no longer than this does not yet show that nobody
/// works.
const TAKEN_WITHIN: Duration = Duration::from_secs(10);

/// What the instances of one pool are judged by.
#[derive(Debug)]
pub(super) struct Trust<'a> {
    pool: &'a str,
    policy: Option<&'a Policy>,
    known: Known<'a>,
    /// How long a ready worker may complete nothing; none where no jobs have waited for so long.
    hangs_after: Option<Duration>,
    /// Not a single instance of any pool reports.
    nobody_reports: bool,
}

impl<'a> Trust<'a> {
    pub(super) fn new(pool: &'a str, policy: Option<&'a Policy>, known: Known<'a>) -> Self {
        let Known { seen, history } = known;
        let slow = history.service_p95_s(pool).map(|p95_s| Duration::try_from_secs_f64(SLOW * p95_s));
        let after = slow.map_or(HANGS_UNMEASURED, |slow| slow.unwrap_or(HANGS_UNMEASURED).max(SILENT));
        let waits_long = history.waits_since(pool).is_some_and(|waits| age(waits, seen.at) > after);
        let reports =
            |view: &InstanceView| view.heard.as_ref().is_some_and(|heard| age(heard.at, seen.at) <= SILENT);
        let nobody_reports = !seen.instances.iter().flatten().any(reports);
        Self { pool, policy, known, hangs_after: waits_long.then_some(after), nobody_reports }
    }

    /// Whether enough of a pool fail at once that something else may be wrong.
    pub(super) fn is_mass(failing: usize, others: usize) -> bool {
        failing > 1 && failing * DEAF > failing + others
    }

    /// Why one that runs is of no use, if it is of none.
    pub(super) fn uselessness(&self, view: &InstanceView) -> Option<Cause> {
        let Some(Policy { pool, .. }) = self.policy else { return Some(Cause::NoPolicy) };
        let is = |is_it: bool, cause| is_it.then_some(cause);
        is(view.instance.model != pool.model, Cause::OtherModel)
            .or_else(|| is(self.known.seen.operator.drains(&view.instance.id), Cause::Cordoned))
            .or_else(|| is(self.is_overdue(view), Cause::NeverReady))
            .or_else(|| is(self.is_silent(view), Cause::Silent))
            .or_else(|| is(self.is_hung(view), Cause::Hung))
    }

    /// Whether one that starts should be ready by now, as its like were.
    pub(super) fn should_be_ready(&self, view: &InstanceView) -> bool {
        let delay_s =
            |policy: &Policy, tier: Tier| self.known.history.start_delay_of(self.pool, policy, tier);
        self.policy.is_some_and(|policy| {
            let most_s = (LATE * delay_s(policy, view.instance.tier)).max(LATE_AT_LEAST_S);
            self.listened_since(view.instance.since).as_secs_f64() > most_s
        })
    }

    /// Whether one of which nothing was heard may well be at work: jobs were taken since it was
    /// started, and nobody else reports that it took them.
    pub(super) fn works_unheard(&self, view: &InstanceView) -> bool {
        let Known { seen, history } = self.known;
        let taken = history.taken_at(self.pool);
        let waits = history.waits_since(self.pool);
        let is_ignored = waits.is_some_and(|waits| {
            taken.is_none_or(|taken| taken < waits) && age(waits, seen.at) > TAKEN_WITHIN
        });
        let was_taken = taken.is_some_and(|taken| taken >= view.instance.since);
        self.nobody_reports && !is_ignored && was_taken
    }

    fn is_overdue(&self, view: &InstanceView) -> bool {
        let waited = self.listened_since(view.instance.since);
        let patience =
            || self.known.history.career(&view.instance.id).map_or(Duration::ZERO, Career::patience);
        let delay = |policy: &Policy| policy.start_delay(view.instance.tier);
        view.stage() == Stage::Starting
            && self.policy.is_some_and(|policy| waited > delay(policy).saturating_mul(Pool::OVERDUE))
            && waited > patience()
            && !self.works_unheard(view)
    }

    pub(super) fn is_silent(&self, view: &InstanceView) -> bool {
        view.heard.as_ref().is_some_and(|heard| self.listened_since(heard.at) > SILENT)
    }

    fn is_hung(&self, view: &InstanceView) -> bool {
        let Some(after) = self.hangs_after else { return false };
        let now = self.known.seen.at;
        let is_fresh = view.heard.as_ref().is_some_and(|heard| age(heard.at, now) <= REPORT_EXPIRES);
        let idles = || self.known.history.career(&view.instance.id).and_then(Career::idles_since);
        is_fresh && view.stage() == Stage::Ready && idles().is_some_and(|since| age(since, now) > after)
    }

    /// For how long the controller has been there to hear something that should have been said
    /// since `then`.
    fn listened_since(&self, then: DateTime<Utc>) -> Duration {
        let Known { seen, history } = self.known;
        match history.since() {
            Some(since) if seen.hears => age(then.max(since), seen.at),
            _ => Duration::ZERO,
        }
    }
}
