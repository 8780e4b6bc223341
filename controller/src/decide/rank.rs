//! The order of the instances of a pool: the one of most worth starts first, the one of least worth
//! is drained first.

use std::cmp::Reverse;

use super::Known;
use crate::{
    fleet::Tier,
    observe::{InstanceView, Stage},
};

/// Worth of an instance relative to others of its pool. Among equals the first by name is taken,
/// both to start and to drain.
pub(super) fn worth<'v>(view: &'v InstanceView, is_late: bool, known: Known<'_>) -> impl Ord + use<'v> {
    let Known { seen, history } = known;
    let (id, instance) = (&view.instance.id, &view.instance);
    let idle = view.idle_for(seen.at);
    // A ready instance counts as having no failures.
    let failures = match view.stage() {
        Stage::Ready => 0,
        _ => history.career(id).map_or(0, |career| career.failures).max(instance.crashes),
    };
    (
        // Draining a late instance loses no capacity ...
        !is_late,
        // ... and these will stop soon anyway.
        !(instance.retires || seen.operator.is_cordoned(id)),
        !is_new_start(view, known),
        idle.is_none(),
        // A launched instance is terminated when it stops, so its disk costs nothing afterwards.
        instance.tier == Tier::Parked,
        Reverse(idle),
        Reverse(failures),
        // The longest-running has most surely passed its billing minimum. For a stopped instance
        // the time means nothing.
        Reverse(instance.is_alive().then_some(instance.since)),
    )
}

/// Sort key of a name: by length first, so that p-2 comes before p-10.
pub(super) fn name(view: &InstanceView) -> (usize, &str) {
    (view.instance.id.len(), view.instance.id.as_str())
}

/// Whether the instance is starting and the controller saw it start. A start from before the first
/// observation may long be ready.
pub(super) fn is_new_start(view: &InstanceView, known: Known<'_>) -> bool {
    view.stage() == Stage::Starting && known.history.since().is_some_and(|since| view.instance.since >= since)
}
