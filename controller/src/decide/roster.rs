//! Which instances: those of a pool, sorted by what can be done with them.

use std::cmp::Reverse;

use chrono::{DateTime, Utc};

use super::{
    Known,
    history::{Career, History},
    plan::{Action, Cause, PoolPlan},
    rank::{is_new_start, name, worth},
    size,
    trust::Trust,
};
use crate::{
    fleet::{State, Tier},
    observe::{InstanceView, Observation, REPORT_EXPIRES, Stage, age},
    policy::{Policy, ScaleIn},
    refusals::Refused,
};

/// The instances of one pool.
#[derive(Debug, Default)]
pub(super) struct Roster<'a> {
    /// Ready and starting: what the pool counts on.
    pub(super) serving: Vec<&'a InstanceView>,
    /// Of these, those that start, ...
    pub(super) starting: Vec<&'a InstanceView>,
    /// ... and the names of those that should have been ready by now. They may still come, but
    /// nobody counts on them.
    late: Vec<&'a str>,
    /// Whether an update has another one for one of these.
    pub(super) has_retiring: bool,
    /// Running, but of no use.
    pub(super) useless: Vec<(&'a InstanceView, Cause)>,
    /// Draining or stopping.
    pub(super) leaving: Vec<&'a InstanceView>,
    /// Not running.
    pub(super) stopped: Vec<&'a InstanceView>,
    /// Of those that serve, how many fell silent or hang together with others. They count, because
    /// it is more likely that something else is wrong than all of them.
    pub(super) silent: u32,
    /// Of those that start, how many seem to be at work, though nobody reports.
    pub(super) unheard: u32,
}

impl<'a> Roster<'a> {
    /// Sorts the instances of a pool; one without a policy has no use for any of them.
    pub(super) fn of(pool: &str, policy: Option<&'a Policy>, known: Known<'a>) -> Self {
        let mut roster = Self::default();
        let trust = Trust::new(pool, policy, known);
        for view in known.seen.instances.iter().flatten().filter(|view| view.instance.pool == pool) {
            match view.stage() {
                Stage::Stopped => roster.stopped.push(view),
                // Somebody else told it to go, and it does not.
                Stage::Draining if view.instance.state == State::Running && trust.is_silent(view) => {
                    roster.useless.push((view, Cause::Silent));
                }
                Stage::Draining | Stage::Drained | Stage::Stopping => roster.leaving.push(view),
                Stage::Starting | Stage::Ready => match trust.uselessness(view) {
                    Some(cause) => roster.useless.push((view, cause)),
                    None => roster.serve(view),
                },
            }
        }
        roster.useless.sort_by(|(a, _), (b, _)| a.instance.id.cmp(&b.instance.id));
        roster.doubt_mass_failure();
        for view in &roster.starting {
            if trust.should_be_ready(view) {
                if trust.works_unheard(view) {
                    roster.unheard += 1;
                } else {
                    roster.late.push(&view.instance.id);
                }
            }
        }
        roster.stopped.retain(|view| {
            policy.is_some_and(|policy| policy.pool.model == view.instance.model) && !view.instance.retires
        });
        roster.leaving.sort_by_key(|view| (Reverse(view.instance.since), view.instance.id.as_str()));
        roster
    }

    /// Many that fall silent at once do not all hang: a clock differs, or workers may not report
    /// any more. Then one of them goes at a time, and the next one only after what came in its
    /// place was heard.
    fn doubt_mass_failure(&mut self) {
        let is_silent = |cause: &Cause| matches!(cause, Cause::Silent | Cause::Hung);
        let silent = self.useless.iter().filter(|(_, cause)| is_silent(cause)).count();
        // Those that go already fell silent with the others.
        let (silent_before, others) = (silent + self.leaving.len(), self.serving.len());
        if silent == 0 || !Trust::is_mass(silent_before, others) {
            return;
        }
        let waits_for_proof =
            !self.leaving.is_empty() || self.starting.iter().any(|view| view.heard.is_none());
        let goes = if waits_for_proof { 0 } else { 1 };
        let (mut gone, mut kept) = (0, Vec::new());
        self.useless.retain(|(view, cause)| {
            gone += usize::from(is_silent(cause));
            let keeps = is_silent(cause) && gone > goes;
            kept.extend(keeps.then_some(*view));
            !keeps
        });
        self.silent = size(silent_before);
        for view in kept {
            // One that somebody else told to go is not counted on.
            if view.stage() == Stage::Draining { self.leaving.push(view) } else { self.serve(view) }
        }
    }

    fn serve(&mut self, view: &'a InstanceView) {
        if view.stage() == Stage::Starting {
            self.starting.push(view);
        }
        self.has_retiring |= view.instance.retires;
        self.serving.push(view);
    }

    /// The plan of a pool of which nothing is known but these.
    pub(super) fn count(&self) -> PoolPlan {
        let late = size(self.late.len());
        let starting = size(self.starting.len()) - late - self.unheard;
        let ready = size(self.serving.len()) - starting - late;
        let leaving = size(self.leaving.len() + self.useless.len());
        PoolPlan { ready, starting, late, leaving, ..PoolPlan::default() }
    }

    pub(super) fn is_late(&self, view: &InstanceView) -> bool {
        self.late.contains(&view.instance.id.as_str())
    }

    /// What those that start will have done when one that is started now is ready, in seconds of
    /// one instance.
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

    /// Nobody leaves, and nobody starts.
    pub(super) fn is_quiet(&self) -> bool {
        self.leaving.is_empty() && self.useless.is_empty() && self.starting.is_empty()
    }

    /// Where the next one to be started comes from.
    pub(super) fn next_tier(&self, known: Known<'_>) -> Option<Tier> {
        let is_launched = |view: &&InstanceView| view.instance.tier == Tier::Launched;
        // Without a place for launches nothing has to be sorted.
        self.stopped.iter().find(|view| is_launched(view))?;
        self.startable(known).first().map(|view| view.instance.tier)
    }

    /// Those that may be started now, those first that are worth most.
    pub(super) fn startable(&self, known: Known<'_>) -> Vec<&'a InstanceView> {
        let Known { seen, history } = known;
        let may = |view: &&InstanceView| {
            left_alone_until(view, seen, history).is_none_or(|until| until <= seen.at)
                && !seen.operator.is_cordoned(&view.instance.id)
        };
        let (dry, mut startable): (Vec<_>, Vec<_>) =
            self.stopped.iter().copied().filter(may).partition(|view| is_dry(view, seen));
        // Where there was no capacity one is tried, and the others when that went well. For a
        // launch it is another one's.
        for tier in [Tier::Parked, Tier::Launched] {
            if self.dry_until(tier, seen).is_none_or(|until| until <= seen.at) {
                let dry = dry.iter().copied().filter(|view| view.instance.tier == tier);
                startable.extend(dry.min_by_key(|view| name(view)));
            }
        }
        startable.sort_by_cached_key(|view| (Reverse(worth(view, false, known)), name(view)));
        startable
    }

    /// Until when nobody is tried of those for which there was no capacity; none where there was
    /// for all.
    pub(super) fn dry_until(&self, tier: Tier, seen: &Observation) -> Option<DateTime<Utc>> {
        let dry = self.stopped.iter().filter(|view| view.instance.tier == tier && is_dry(view, seen));
        dry.filter_map(|view| seen.refused.get(&view.instance.id)?.rests_until()).max()
    }

    /// Whether one that was started since a version is in force died: it may be one that nobody can
    /// load.
    pub(super) fn new_version_died(&self, Known { seen, history }: Known<'_>) -> bool {
        self.stopped.iter().any(|view| {
            let in_force = seen.versions.get(&view.instance.model);
            let failures = history.career(&view.instance.id).map_or(0, |career| career.failures);
            let has_died = view.instance.crashes.max(failures) > 0;
            has_died && in_force.is_some_and(|in_force| view.instance.since >= in_force.since)
        })
    }

    /// What goes in any case: what is of no use is drained, and stopped what is drained or whose
    /// drain is overdue.
    pub(super) fn departures(&self, scale_in: &ScaleIn, now: DateTime<Utc>) -> Vec<Action> {
        let drains = self.useless.iter().map(|(view, cause)| drain(view, scale_in, *cause));
        let must_stop = |view: &&&InstanceView| {
            let due = view.instance.drain_until.is_some_and(|until| until <= now);
            due || view.stage() == Stage::Drained
        };
        let stops = self.leaving.iter().filter(must_stop);
        drains.chain(stops.map(|view| Action::Stop { id: view.instance.id.clone() })).collect()
    }
}

/// Whether it could not be started for want of capacity.
fn is_dry(view: &InstanceView, seen: &Observation) -> bool {
    seen.refused.get(&view.instance.id).is_some_and(|refused| refused.capacity)
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

/// Whether another version of its model is in force than the one that it has loaded, and a new
/// start would bring that.
pub(super) fn is_outdated(view: &InstanceView, seen: &Observation) -> bool {
    let Some(in_force) = seen.versions.get(&view.instance.model) else { return false };
    let loaded = view.heard.as_ref().map(|heard| &heard.report.version);
    loaded.is_some_and(|loaded| *loaded != in_force.version) && view.instance.since < in_force.since
}

/// When it last showed that it works; as long as nobody has seen it, that may have been when the
/// controller began to look.
pub(super) fn last_proof(view: &InstanceView, Known { history, .. }: Known<'_>) -> Option<DateTime<Utc>> {
    history.career(&view.instance.id).and_then(|career| career.last_ready).or(history.since())
}

/// Whether it has not been seen ready for so long that the policy wants to know.
pub(super) fn is_canary(view: &InstanceView, policy: &Policy, known: Known<'_>) -> bool {
    let Some(canary) = policy.pool.canary else { return false };
    // In an empty place there is nobody to be tried.
    view.instance.tier != Tier::Launched
        && last_proof(view, known).is_some_and(|proof| age(proof, known.seen.at) >= canary)
}

/// What is said of one that may go where it is not needed; none of one that must stay.
pub(super) fn spare(view: &InstanceView, policy: &Policy, known: Known<'_>) -> Option<Cause> {
    let (now, scale_in) = (known.seen.at, &policy.scale_in);
    if view.stage() != Stage::Ready {
        let may_go = is_new_start(view, known) && !is_canary(view, policy, known);
        return may_go.then_some(Cause::StartNotNeeded);
    }
    if view.idle_for(now).is_some_and(|idle| idle >= scale_in.idle) {
        return Some(Cause::Idle);
    }
    // Where the policy asks for no idle time, one that works finishes what it holds and leaves. A
    // busy pool hands its work around, and nobody in it is ever idle for long, however many there
    // are.
    let heard = view.heard.as_ref().filter(|heard| age(heard.at, now) <= REPORT_EXPIRES);
    let p95_s = heard.and_then(|heard| heard.service).map(|service| service.p95_ms / 1e3);
    // What it holds must surely be done before its drain is due.
    let in_time = p95_s.is_some_and(|p95_s| 4.0 * p95_s <= scale_in.drain_deadline.as_secs_f64());
    (scale_in.idle.is_zero() && in_time).then_some(Cause::NotNeeded)
}

/// An order to drain.
pub(super) fn drain(view: &InstanceView, scale_in: &ScaleIn, cause: Cause) -> Action {
    Action::Drain { id: view.instance.id.clone(), deadline: scale_in.drain_deadline, cause }
}
