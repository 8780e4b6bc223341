//! Which instances: a pool's instances sorted by what can be done with them, and the order in which they are taken.

use std::{cmp::Reverse, time::Duration};

use chrono::{DateTime, Utc};

use super::{
    History,
    history::Career,
    plan::{Action, Cause},
};
use crate::{
    fleet::{State, Tier},
    observe::{InstanceView, Observation, REPORT_EXPIRES, Stage, age},
    policy::{Policy, Pool, ScaleIn},
    refusals::Refused,
};

/// Twelve missed reports in a row: whoever hangs so long does not work.
pub(super) const SILENT: Duration = Duration::from_secs(120);

/// A worker that completes nothing while jobs wait hangs after so many times the 95th percentile of the service times, ...
const SLOW: f64 = 10.0;
/// ... and where none was measured yet, only after this: a script may look at an image for minutes.
const HANGS_UNMEASURED: Duration = Duration::from_secs(3600);

/// Whoever works is sent away only when it was too many for so long: what is busy may be needed in a moment.
pub(super) const BUSY_WINDOW: Duration = Duration::from_secs(300);

/// Where more than one instance in so many is silent at the same time, the reports may be what is missing.
const DEAF: usize = 3;

/// Something that starts is late after so many times the learnt start delay, ...
const LATE: f64 = 2.0;
/// ... but not before this.
const LATE_AT_LEAST_S: f64 = 10.0;

/// The instances of one pool.
#[derive(Debug, Default)]
pub(super) struct Roster<'a> {
    /// Ready and starting: what the pool counts on.
    pub(super) serving: Vec<&'a InstanceView>,
    /// Of these, those that start.
    pub(super) starting: Vec<&'a InstanceView>,
    /// Whether an update has another one for one of these.
    has_retiring: bool,
    /// Running, but of no use.
    pub(super) useless: Vec<(&'a InstanceView, Cause)>,
    /// Draining or stopping.
    pub(super) leaving: Vec<&'a InstanceView>,
    /// Not running.
    pub(super) stopped: Vec<&'a InstanceView>,
    /// Of those that serve, how many fell silent or hang together with others. They count, because it is more likely that something
    /// else is wrong than all of them.
    pub(super) silent: u32,
}

impl<'a> Roster<'a> {
    /// Sorts the instances of a pool; one without a policy has no use for any of them.
    pub(super) fn of(name: &str, policy: Option<&Policy>, seen: &'a Observation, history: &History) -> Self {
        let mut roster = Self::default();
        let hangs_after = hangs_after(name, seen, history);
        let own = seen.instances.iter().flatten().filter(|view| view.instance.pool == name);
        for view in own {
            let silent = is_silent(view, seen, history);
            match view.stage() {
                Stage::Stopped => roster.stopped.push(view),
                // Somebody else told it to go, and it does not.
                Stage::Draining if view.instance.state == State::Running && silent => {
                    roster.useless.push((view, Cause::Silent));
                }
                Stage::Draining | Stage::Drained | Stage::Stopping => roster.leaving.push(view),
                Stage::Starting | Stage::Ready => match uselessness(view, policy, seen, history) {
                    Some(cause) => roster.useless.push((view, cause)),
                    None if hangs_after.is_some_and(|after| is_hung(view, after, seen, history)) => {
                        roster.useless.push((view, Cause::Hung));
                    }
                    None => roster.serve(view),
                },
            }
        }
        roster.doubt_mass_failure();
        roster.stopped.retain(|view| {
            policy.is_some_and(|policy| policy.pool.model == view.instance.model) && !view.instance.retires
        });
        roster.leaving.sort_by_key(|view| (Reverse(view.instance.since), view.instance.id.as_str()));
        roster.useless.sort_by(|(a, _), (b, _)| a.instance.id.cmp(&b.instance.id));
        roster
    }

    /// Many that fall silent at once do not all hang: a clock differs, or workers may not report any more. Then one of them
    /// goes at a time, and the next one only after what came in its place was heard.
    fn doubt_mass_failure(&mut self) {
        let is_silent = |cause: &Cause| matches!(cause, Cause::Silent | Cause::Hung);
        let silent = self.useless.iter().filter(|(_, cause)| is_silent(cause)).count();
        // Those that go already fell silent with the others.
        let (silent_before, others) = (silent + self.leaving.len(), self.serving.len());
        if silent == 0 || silent_before < 2 || silent_before * DEAF <= silent_before + others {
            return;
        }
        let waits_for_proof =
            !self.leaving.is_empty() || self.starting.iter().any(|view| view.heard.is_none());
        let goes = if waits_for_proof { 0 } else { 1 };
        self.useless.sort_by(|(a, _), (b, _)| a.instance.id.cmp(&b.instance.id));
        let (mut gone, mut kept) = (0, Vec::new());
        self.useless.retain(|(view, cause)| {
            gone += usize::from(is_silent(cause));
            let keeps = is_silent(cause) && gone > goes;
            if keeps {
                kept.push(*view);
            }
            !keeps
        });
        self.silent = u32::try_from(silent_before).unwrap_or(u32::MAX);
        // One that somebody else told to go is not counted on.
        let (leaving, serving): (Vec<_>, _) =
            kept.into_iter().partition(|view| view.stage() == Stage::Draining);
        self.leaving.extend(leaving);
        serving.into_iter().for_each(|view| self.serve(view));
    }

    fn serve(&mut self, view: &'a InstanceView) {
        if view.stage() == Stage::Starting {
            self.starting.push(view);
        }
        self.has_retiring |= view.instance.retires;
        self.serving.push(view);
    }

    /// The names of those that start and should have been ready by now. They may still come, but nobody counts on them.
    pub(super) fn late(
        &self,
        start_delay_s: impl Fn(Tier) -> f64,
        seen: &Observation,
        history: &History,
    ) -> Vec<&'a str> {
        let is_late = |view: &&InstanceView| {
            let most_s = (LATE * start_delay_s(view.instance.tier)).max(LATE_AT_LEAST_S);
            listened_since(view.instance.since, seen, history).as_secs_f64() > most_s
        };
        let late = self.starting.iter().copied().filter(is_late);
        late.map(|view| view.instance.id.as_str()).collect()
    }

    /// What those that start will have done when one that is started now is ready, in seconds of one instance.
    pub(super) fn starting_s(&self, start_delay_s: f64, now: DateTime<Utc>) -> f64 {
        // One that is late has no certain end.
        let so_far_s = self.starting.iter().map(|view| age(view.instance.since, now).as_secs_f64());
        // An empty sum of floats is -0, which looks odd.
        so_far_s.filter(|so_far_s| *so_far_s <= start_delay_s).sum::<f64>() + 0.0
    }

    /// Everything that takes up a place.
    pub(super) fn alive(&self) -> usize {
        self.serving.len() + self.useless.len() + self.leaving.len()
    }

    /// Where the next one to be started comes from.
    pub(super) fn next_tier(&self, seen: &Observation, history: &History) -> Option<Tier> {
        let is_launched = |view: &&InstanceView| view.instance.tier == Tier::Launched;
        // Without a place for launches nothing has to be sorted.
        self.stopped.iter().find(|view| is_launched(view))?;
        self.startable(seen, history).first().map(|view| view.instance.tier)
    }

    /// Those that may be started now: those that are parked first, and the most reliable of them.
    pub(super) fn startable(&self, seen: &Observation, history: &History) -> Vec<&'a InstanceView> {
        let may = |view: &&InstanceView| {
            left_alone_until(view, seen, history).is_none_or(|until| until <= seen.at)
                && !seen.operator.is_cordoned(&view.instance.id)
        };
        let (dry, mut startable): (Vec<_>, Vec<_>) =
            self.stopped.iter().copied().filter(may).partition(|view| is_dry(view, seen));
        // Where there was no capacity one is tried, and the others when that went well. For a launch it is another one's.
        for tier in [Tier::Parked, Tier::Launched] {
            if self.dry_until(tier, seen).is_none_or(|until| until <= seen.at) {
                let dry = dry.iter().copied().filter(|view| view.instance.tier == tier);
                startable.extend(dry.min_by_key(|view| (view.instance.id.len(), &view.instance.id)));
            }
        }
        // Names that count are compared by their length first: p-2 comes before p-10.
        startable.sort_by_cached_key(|view| {
            let failures = history.career(&view.instance.id).map_or(0, |career| career.failures);
            let id = &view.instance.id;
            (view.instance.tier, failures.max(view.instance.crashes), id.len(), id.as_str())
        });
        startable
    }

    /// Until when nobody is tried of those for which there was no capacity; none where there was for all.
    pub(super) fn dry_until(&self, tier: Tier, seen: &Observation) -> Option<DateTime<Utc>> {
        let dry = self.stopped.iter().filter(|view| view.instance.tier == tier && is_dry(view, seen));
        dry.filter_map(|view| seen.refused.get(&view.instance.id)?.rests_until()).max()
    }

    /// Those that may be drained because the demand is gone, in no order.
    pub(super) fn dispensable(
        &self,
        policy: &Policy,
        seen: &Observation,
        history: &History,
    ) -> Vec<(&'a InstanceView, Cause)> {
        let cause = |view: &'a InstanceView| {
            if view.stage() != Stage::Ready {
                let is_sent = is_canary(view, policy, seen, history);
                return (is_new_start(view, history) && !is_sent).then_some((view, Cause::StartNotNeeded));
            }
            let is_idle = view.idle_for(seen.at).is_some_and(|idle| idle >= policy.scale_in.idle);
            let may_go = is_idle || may_drain_busy(policy, view, seen);
            may_go.then_some((view, if is_idle { Cause::Idle } else { Cause::NotNeeded }))
        };
        self.serving.iter().copied().filter_map(cause).collect()
    }

    /// All that serve, those first that lose the least work.
    pub(super) fn cheapest(&self, seen: &Observation, history: &History) -> Vec<&'a InstanceView> {
        let mut all = self.serving.clone();
        all.sort_by_cached_key(|view| by_cost(view, seen, history));
        all
    }

    /// The one to be replaced next, because it has loaded an earlier version of the model than one that is started now would. They go
    /// one after the other: nobody goes while another one leaves or starts, nor where one that was started since then died, for the
    /// new version may be one that nobody can load.
    pub(super) fn next_to_replace(&self, seen: &Observation, history: &History) -> Option<&'a InstanceView> {
        let died = |view: &&InstanceView| {
            let in_force = seen.versions.get(&view.instance.model);
            let failures = history.career(&view.instance.id).map_or(0, |career| career.failures);
            let has_died = view.instance.crashes.max(failures) > 0;
            has_died && in_force.is_some_and(|in_force| view.instance.since >= in_force.since)
        };
        let outdated = self.serving.iter().copied().filter(|view| is_outdated(view, seen));
        let next = outdated.min_by_key(|view| by_cost(view, seen, history))?;
        (self.is_quiet() && !self.stopped.iter().any(died)).then_some(next)
    }

    /// Nobody leaves, and nobody starts.
    fn is_quiet(&self) -> bool {
        self.leaving.is_empty() && self.useless.is_empty() && self.starting.is_empty()
    }

    /// Whether one of those that serve has another one in its place.
    pub(super) fn has_retiring(&self) -> bool {
        self.has_retiring
    }

    /// The one that may go because an update has another one for it. They go one after the other, too.
    pub(super) fn next_to_retire(&self, seen: &Observation, history: &History) -> Option<&'a InstanceView> {
        let retiring = self.serving.iter().copied().filter(|view| view.instance.retires);
        retiring.min_by_key(|view| by_cost(view, seen, history)).filter(|_| self.is_quiet())
    }

    /// What must be stopped: drained, or its drain is overdue.
    pub(super) fn stops(&self, now: DateTime<Utc>) -> impl Iterator<Item = Action> {
        let must = move |view: &&&InstanceView| {
            let due = view.instance.drain_until.is_some_and(|until| until <= now);
            due || view.stage() == Stage::Drained
        };
        self.leaving.iter().filter(must).map(|view| Action::Stop { id: view.instance.id.clone() })
    }
}

/// Whether it could not be started for want of capacity.
fn is_dry(view: &InstanceView, seen: &Observation) -> bool {
    seen.refused.get(&view.instance.id).is_some_and(|refused| refused.capacity)
}

/// How long a ready worker may complete nothing before it counts as one that hangs; none where no jobs have waited for so long.
fn hangs_after(pool: &str, seen: &Observation, history: &History) -> Option<Duration> {
    let slow = history.service_p95_s(pool).map(|p95_s| Duration::try_from_secs_f64(SLOW * p95_s));
    let after = slow.map_or(HANGS_UNMEASURED, |slow| slow.unwrap_or(HANGS_UNMEASURED).max(SILENT));
    history.waits_since(pool).is_some_and(|waits| age(waits, seen.at) > after).then_some(after)
}

fn is_hung(view: &InstanceView, after: Duration, seen: &Observation, history: &History) -> bool {
    let is_fresh = view.heard.as_ref().is_some_and(|heard| age(heard.at, seen.at) <= REPORT_EXPIRES);
    let idles = || history.career(&view.instance.id).and_then(Career::idles_since);
    is_fresh && view.stage() == Stage::Ready && idles().is_some_and(|since| age(since, seen.at) > after)
}

/// Until when an instance that failed or refused to start is left alone.
pub(crate) fn left_alone_until(
    view: &InstanceView,
    seen: &Observation,
    history: &History,
) -> Option<DateTime<Utc>> {
    let id = &view.instance.id;
    let failed = Career::rests_until(history.career(id), &view.instance);
    failed.max(seen.refused.get(id).and_then(Refused::rests_until))
}

/// Whether another version of its model is in force than the one that it has loaded, and a new start would bring that.
fn is_outdated(view: &InstanceView, seen: &Observation) -> bool {
    let in_force = seen.versions.get(&view.instance.model);
    has_other_version(view, seen) && in_force.is_some_and(|in_force| view.instance.since < in_force.since)
}

fn has_other_version(view: &InstanceView, seen: &Observation) -> bool {
    let in_force = seen.versions.get(&view.instance.model);
    let loaded = view.heard.as_ref().map(|heard| &heard.report.version);
    in_force.zip(loaded).is_some_and(|(in_force, loaded)| *loaded != in_force.version)
}

/// Whether it has run for as long as is charged in any case.
pub(super) fn is_paid_off(view: &InstanceView, policy: &Policy, seen: &Observation) -> bool {
    age(view.instance.since, seen.at) >= policy.instance.billing_minimum
}

/// When it last showed that it works; as long as nobody has seen it, that may have been when the controller began to look.
pub(super) fn last_proof(view: &InstanceView, history: &History) -> Option<DateTime<Utc>> {
    history.career(&view.instance.id).and_then(|career| career.last_ready).or(history.since())
}

/// Whether it has not been seen ready for so long that the policy wants to know.
pub(super) fn is_canary(view: &InstanceView, policy: &Policy, seen: &Observation, history: &History) -> bool {
    let Some(canary) = policy.pool.canary else { return false };
    // In an empty place there is nobody to be tried.
    if view.instance.tier == Tier::Launched {
        return false;
    }
    last_proof(view, history).is_some_and(|proof| age(proof, seen.at) >= canary)
}

/// Whether an instance may be drained that works: the policy asks for no idle time, so that it finishes what it holds and
/// leaves. A busy pool hands its work around, and nobody in it is ever idle for long, however many there are.
fn may_drain_busy(policy: &Policy, view: &InstanceView, seen: &Observation) -> bool {
    let heard = view.heard.as_ref().filter(|heard| age(heard.at, seen.at) <= REPORT_EXPIRES);
    let p95_s = heard.and_then(|heard| heard.service).map(|service| service.p95_ms / 1e3);
    // What it holds must surely be done before its drain is due.
    let in_time = p95_s.is_some_and(|p95_s| 4.0 * p95_s <= policy.scale_in.drain_deadline.as_secs_f64());
    policy.scale_in.idle.is_zero() && in_time
}

/// So many of them, those first that lose the least work: a start that nobody needs, then the longest idle.
pub(super) fn cheapest_of<'v>(
    views: Vec<(&'v InstanceView, Cause)>,
    count: usize,
    seen: &Observation,
    history: &History,
) -> Vec<(&'v InstanceView, Cause)> {
    let mut keyed: Vec<_> =
        views.into_iter().map(|(view, cause)| (by_cost(view, seen, history), view, cause)).collect();
    // Of thousands only a few are wanted: the others need no order.
    if count < keyed.len() {
        keyed.select_nth_unstable_by(count, |(a, ..), (b, ..)| a.cmp(b));
        keyed.truncate(count);
    }
    keyed.sort_unstable_by(|(a, ..), (b, ..)| a.cmp(b));
    keyed.into_iter().map(|(_, view, cause)| (view, cause)).collect()
}

/// An order to drain.
pub(super) fn drain(view: &InstanceView, scale_in: &ScaleIn, cause: Cause) -> Action {
    Action::Drain { id: view.instance.id.clone(), deadline: scale_in.drain_deadline, cause }
}

/// A start that has not come to anything yet. One that was under way before the controller looked may long be at work.
fn is_new_start(view: &InstanceView, history: &History) -> bool {
    view.stage() == Stage::Starting && history.since().is_some_and(|since| view.instance.since >= since)
}

fn by_cost<'v>(view: &'v InstanceView, seen: &Observation, history: &History) -> impl Ord + use<'v> {
    let idle = view.idle_for(seen.at);
    let newest = Reverse(view.instance.since);
    let is_cordoned = seen.operator.is_cordoned(&view.instance.id);
    (
        !(is_cordoned || view.instance.retires),
        !is_new_start(view, history),
        idle.is_none(),
        // Of those that have nothing to do, first those that are gone then: their disks cost no more, either.
        Reverse(view.instance.tier),
        Reverse(idle),
        newest,
        view.instance.id.as_str(),
    )
}

fn uselessness(
    view: &InstanceView,
    policy: Option<&Policy>,
    seen: &Observation,
    history: &History,
) -> Option<Cause> {
    let Some(policy @ Policy { pool, .. }) = policy else { return Some(Cause::NoPolicy) };
    if view.instance.model != pool.model {
        Some(Cause::OtherModel)
    } else if seen.operator.drains(&view.instance.id) {
        Some(Cause::Cordoned)
    } else if is_overdue(view, policy, seen, history) {
        Some(Cause::NeverReady)
    } else {
        is_silent(view, seen, history).then_some(Cause::Silent)
    }
}

/// For how long the controller has been there to hear something that should have been said since `then`.
fn listened_since(then: DateTime<Utc>, seen: &Observation, history: &History) -> Duration {
    match history.since() {
        Some(since) if seen.hears => age(then.max(since), seen.at),
        _ => Duration::ZERO,
    }
}

fn is_overdue(view: &InstanceView, policy: &Policy, seen: &Observation, history: &History) -> bool {
    let waited = listened_since(view.instance.since, seen, history);
    let patience = || history.career(&view.instance.id).map_or(Duration::ZERO, Career::patience);
    view.stage() == Stage::Starting
        && waited > policy.start_delay(view.instance.tier).saturating_mul(Pool::OVERDUE)
        && waited > patience()
}

fn is_silent(view: &InstanceView, seen: &Observation, history: &History) -> bool {
    view.heard.as_ref().is_some_and(|heard| listened_since(heard.at, seen, history) > SILENT)
}
