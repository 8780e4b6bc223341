//! Judges instances by their reports: which are never ready, silent or hang, and when it is the
//! reports that are missing.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Known, history::Career, plan::Cause};
use crate::{
    fleet::Tier,
    observe::{InstanceView, REPORT_EXPIRES, Stage, age},
    policy::{Policy, Pool},
};

/// Time without a report after which an instance counts as silent: twelve missed reports.
pub(super) const SILENT: Duration = Duration::from_secs(120);

/// A worker that completes nothing while jobs wait counts as hung after this multiple of the 95th
/// percentile of the service times.
const SLOW: f64 = 10.0;
/// The same limit if no service time was measured: a script may take minutes per image.
const HANGS_UNMEASURED: Duration = Duration::from_secs(3600);

/// If more than one in this many instances is silent at the same time, the reports may be what is
/// missing.
const DEAF: usize = 3;

/// A starting instance is late after this multiple of the measured start delay.
const LATE: f64 = 2.0;
/// Minimum time after which a starting instance may be late, in seconds.
const LATE_AT_LEAST_S: f64 = 10.0;
/// Without any reports, a job that waits no longer than this does not show yet that no instance
/// works.
const TAKEN_WITHIN: Duration = Duration::from_secs(10);

/// The rules by which the instances of one pool are judged.
#[derive(Debug)]
pub(super) struct Trust<'a> {
    pool: &'a str,
    policy: Option<&'a Policy>,
    known: Known<'a>,
    /// Time for which a ready worker may complete nothing; `None` if jobs have not waited that
    /// long.
    hangs_after: Option<Duration>,
    /// Whether no instance of any pool reports.
    no_reports: bool,
}

impl<'a> Trust<'a> {
    pub(super) fn new(pool: &'a str, policy: Option<&'a Policy>, known: Known<'a>) -> Self {
        let Known { seen, history } = known;
        let slow = history.service_p95_s(pool).map(|p95_s| Duration::try_from_secs_f64(SLOW * p95_s));
        let after = slow.map_or(HANGS_UNMEASURED, |slow| slow.unwrap_or(HANGS_UNMEASURED).max(SILENT));
        let waits_long = history.waits_since(pool).is_some_and(|waits| age(waits, seen.at) > after);
        let reports =
            |view: &InstanceView| view.heard.as_ref().is_some_and(|heard| age(heard.at, seen.at) <= SILENT);
        let no_reports = !seen.instances.iter().flatten().any(reports);
        Self { pool, policy, known, hangs_after: waits_long.then_some(after), no_reports }
    }

    /// Whether enough instances of a pool fail at once that there may be a common cause.
    pub(super) fn is_mass(failing: usize, others: usize) -> bool {
        failing > 1 && failing * DEAF > failing + others
    }

    /// The cause why a running instance is of no use; `None` if it is of use.
    pub(super) fn uselessness(&self, view: &InstanceView) -> Option<Cause> {
        let Some(Policy { pool, .. }) = self.policy else { return Some(Cause::NoPolicy) };
        let is = |holds: bool, cause| holds.then_some(cause);
        is(view.instance.model != pool.model, Cause::OtherModel)
            .or_else(|| is(self.known.seen.operator.drains(&view.instance.id), Cause::Cordoned))
            .or_else(|| is(self.is_overdue(view), Cause::NeverReady))
            .or_else(|| is(self.is_silent(view), Cause::Silent))
            .or_else(|| is(self.is_hung(view), Cause::Hung))
    }

    /// Whether a starting instance should be ready by now, judged by earlier starts.
    pub(super) fn should_be_ready(&self, view: &InstanceView) -> bool {
        let delay_s =
            |policy: &Policy, tier: Tier| self.known.history.start_delay_of(self.pool, policy, tier);
        self.policy.is_some_and(|policy| {
            let most_s = (LATE * delay_s(policy, view.instance.tier)).max(LATE_AT_LEAST_S);
            self.listened_since(view.instance.since).as_secs_f64() > most_s
        })
    }

    /// Whether an instance that never reported may work all the same: jobs were taken since its
    /// start, and no other instance reports having taken them.
    pub(super) fn works_unheard(&self, view: &InstanceView) -> bool {
        let Known { seen, history } = self.known;
        let taken = history.taken_at(self.pool);
        let waits = history.waits_since(self.pool);
        let is_ignored = waits.is_some_and(|waits| {
            taken.is_none_or(|taken| taken < waits) && age(waits, seen.at) > TAKEN_WITHIN
        });
        let was_taken = taken.is_some_and(|taken| taken >= view.instance.since);
        self.no_reports && !is_ignored && was_taken
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

    /// Time for which the controller has been able to receive reports since `then`; zero if it
    /// receives none now.
    fn listened_since(&self, then: DateTime<Utc>) -> Duration {
        let Known { seen, history } = self.known;
        match history.since() {
            Some(since) if seen.hears => age(then.max(since), seen.at),
            _ => Duration::ZERO,
        }
    }
}
