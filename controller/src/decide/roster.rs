//! The roster: the instances of one pool, sorted by what can be done with them.

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
    /// Ready and starting: the capacity of the pool.
    pub(super) serving: Vec<&'a InstanceView>,
    /// Those of `serving` that are starting.
    pub(super) starting: Vec<&'a InstanceView>,
    /// Ids of those of `starting` that should be ready by now. They may still become ready, but do
    /// not count as capacity.
    late: Vec<&'a str>,
    /// Whether one of `serving` is being replaced by an update.
    pub(super) has_retiring: bool,
    /// Running, but of no use, with the cause.
    pub(super) useless: Vec<(&'a InstanceView, Cause)>,
    /// Draining or stopping.
    pub(super) leaving: Vec<&'a InstanceView>,
    /// Stopped, and able to serve the policy's model.
    pub(super) stopped: Vec<&'a InstanceView>,
    /// Number of instances that became silent or hang together with others. They still count as
    /// capacity: one common cause is more likely than that all of them failed.
    pub(super) silent: u32,
    /// Number of `starting` instances that seem to work although no instance reports.
    pub(super) unheard: u32,
}

impl<'a> Roster<'a> {
    /// Sorts the instances of a pool. Without a policy all of them are of no use.
    pub(super) fn of(pool: &str, policy: Option<&'a Policy>, known: Known<'a>) -> Self {
        let mut roster = Self::default();
        let trust = Trust::new(pool, policy, known);
        for view in known.seen.instances.iter().flatten().filter(|view| view.instance.pool == pool) {
            match view.stage() {
                Stage::Stopped => roster.stopped.push(view),
                // It was ordered to drain by another program, and does not.
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
        roster.replace_one_of_many();
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

    /// Instances that become silent together are unlikely to all hang: a clock may be wrong, or
    /// workers may have lost the permission to report. In that case they are replaced one at a
    /// time, the next one only after the replacement has reported.
    fn replace_one_of_many(&mut self) {
        let is_silent = |cause: &Cause| matches!(cause, Cause::Silent | Cause::Hung);
        let silent = self.useless.iter().filter(|(_, cause)| is_silent(cause)).count();
        // Leaving instances may have become silent together with these.
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
            // An instance that another program ordered to drain is not capacity.
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

    /// A plan that holds only the counts of the instances.
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

    /// Work that the starting instances will have done by the time an instance started now is
    /// ready, in seconds of one instance.
    pub(super) fn starting_s(&self, start_delay_s: f64, now: DateTime<Utc>) -> f64 {
        // A late instance has no known end of its start.
        let so_far_s = self.starting.iter().map(|view| age(view.instance.since, now).as_secs_f64());
        // An empty sum of floats is -0, which would be printed.
        so_far_s.filter(|so_far_s| *so_far_s <= start_delay_s).sum::<f64>() + 0.0
    }

    /// Number of instances that take up a place.
    pub(super) fn alive(&self) -> usize {
        self.serving.len() + self.useless.len() + self.leaving.len()
    }

    /// Whether no instance is starting or leaving.
    pub(super) fn is_quiet(&self) -> bool {
        self.leaving.is_empty() && self.useless.is_empty() && self.starting.is_empty()
    }

    /// The tier of the instance that would be started next; `None` if there is nothing to launch or
    /// to start.
    pub(super) fn next_tier(&self, known: Known<'_>) -> Option<Tier> {
        let is_launched = |view: &&InstanceView| view.instance.tier == Tier::Launched;
        // Without a place to launch in, the order does not matter.
        self.stopped.iter().find(|view| is_launched(view))?;
        self.startable(known).first().map(|view| view.instance.tier)
    }

    /// The instances that may be started now, those of most worth first.
    pub(super) fn startable(&self, known: Known<'_>) -> Vec<&'a InstanceView> {
        let Known { seen, history } = known;
        let may = |view: &&InstanceView| {
            left_alone_until(view, seen, history).is_none_or(|until| until <= seen.at)
                && !seen.operator.is_cordoned(&view.instance.id)
        };
        let (dry, mut startable): (Vec<_>, Vec<_>) =
            self.stopped.iter().copied().filter(may).partition(|view| is_dry(view, seen));
        // After a lack of capacity one instance is tried first, and the others only once it has
        // started. For launches this may be another one than failed.
        for tier in [Tier::Parked, Tier::Launched] {
            if self.dry_until(tier, seen).is_none_or(|until| until <= seen.at) {
                let dry = dry.iter().copied().filter(|view| view.instance.tier == tier);
                startable.extend(dry.min_by_key(|view| name(view)));
            }
        }
        startable.sort_by_cached_key(|view| (Reverse(worth(view, false, known)), name(view)));
        startable
    }

    /// Time until which no instance of the tier is tried after a lack of capacity; `None` if none
    /// lacked capacity.
    pub(super) fn dry_until(&self, tier: Tier, seen: &Observation) -> Option<DateTime<Utc>> {
        let dry = self.stopped.iter().filter(|view| view.instance.tier == tier && is_dry(view, seen));
        dry.filter_map(|view| seen.refused.get(&view.instance.id)?.retry_at()).max()
    }

    /// Whether an instance that was started under the version in force has failed: the version may
    /// be one that does not load.
    pub(super) fn new_version_died(&self, Known { seen, history }: Known<'_>) -> bool {
        self.stopped.iter().any(|view| {
            let in_force = seen.versions.get(&view.instance.model);
            let failures = history.career(&view.instance.id).map_or(0, |career| career.failures);
            let has_died = view.instance.crashes.max(failures) > 0;
            has_died && in_force.is_some_and(|in_force| view.instance.since >= in_force.since)
        })
    }

    /// Actions that need no decision: drain instances of no use, and stop instances that are
    /// drained or whose drain is overdue.
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

/// Whether its last start was refused for lack of capacity.
fn is_dry(view: &InstanceView, seen: &Observation) -> bool {
    seen.refused.get(&view.instance.id).is_some_and(|refused| refused.capacity)
}

/// Time until which an instance that failed or whose start was refused is left alone.
pub(crate) fn left_alone_until(
    view: &InstanceView,
    seen: &Observation,
    history: &History,
) -> Option<DateTime<Utc>> {
    let id = &view.instance.id;
    let failed = Career::retry_at(history.career(id), &view.instance);
    failed.max(seen.refused.get(id).and_then(Refused::retry_at))
}

/// Whether the instance has loaded another version of its model than the one in force and was
/// started before that version, so that a restart would load it.
pub(super) fn is_outdated(view: &InstanceView, seen: &Observation) -> bool {
    let Some(in_force) = seen.versions.get(&view.instance.model) else { return false };
    let loaded = view.heard.as_ref().map(|heard| &heard.report.version);
    loaded.is_some_and(|loaded| *loaded != in_force.version) && view.instance.since < in_force.since
}

/// Time at which the instance was last seen ready; if never, the time of the controller's first
/// observation.
pub(super) fn last_proof(view: &InstanceView, Known { history, .. }: Known<'_>) -> Option<DateTime<Utc>> {
    history.career(&view.instance.id).and_then(|career| career.last_ready).or(history.since())
}

/// Whether the instance has not been seen ready for at least the policy's `canary` time.
pub(super) fn is_canary(view: &InstanceView, policy: &Policy, known: Known<'_>) -> bool {
    let Some(canary) = policy.pool.canary else { return false };
    // An empty place holds no instance to test.
    view.instance.tier != Tier::Launched
        && last_proof(view, known).is_some_and(|proof| age(proof, known.seen.at) >= canary)
}

/// The cause to drain an instance that is not needed; `None` if it must stay.
pub(super) fn spare(view: &InstanceView, policy: &Policy, known: Known<'_>) -> Option<Cause> {
    let (now, scale_in) = (known.seen.at, &policy.scale_in);
    if view.stage() != Stage::Ready {
        let may_go = is_new_start(view, known) && !is_canary(view, policy, known);
        return may_go.then_some(Cause::StartNotNeeded);
    }
    if view.idle_for(now).is_some_and(|idle| idle >= scale_in.idle) {
        return Some(Cause::Idle);
    }
    // With `idle = 0` a working instance may be drained too: it finishes its jobs first. In a busy
    // pool the work moves around, and no instance is idle for long however many there are.
    let heard = view.heard.as_ref().filter(|heard| age(heard.at, now) <= REPORT_EXPIRES);
    let p95_s = heard.and_then(|heard| heard.service).map(|service| service.p95_ms / 1e3);
    // Its jobs must certainly be done before the drain deadline.
    let in_time = p95_s.is_some_and(|p95_s| 4.0 * p95_s <= scale_in.drain_deadline.as_secs_f64());
    (scale_in.idle.is_zero() && in_time).then_some(Cause::NotNeeded)
}

/// A drain action.
pub(super) fn drain(view: &InstanceView, scale_in: &ScaleIn, cause: Cause) -> Action {
    Action::Drain { id: view.instance.id.clone(), deadline: scale_in.drain_deadline, cause }
}
