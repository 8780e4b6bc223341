//! The one order of instances: who is worth most is started first, who is worth least goes first.

use std::cmp::Reverse;

use super::Known;
use crate::{
    fleet::Tier,
    observe::{InstanceView, Stage},
};

/// What an instance is worth beside others of its pool; of two that are worth the same, the first
/// by name is taken, to start and to go.
pub(super) fn worth<'v>(view: &'v InstanceView, is_late: bool, known: Known<'_>) -> impl Ord + use<'v> {
    let Known { seen, history } = known;
    let (id, instance) = (&view.instance.id, &view.instance);
    let idle = view.idle_for(seen.at);
    // One that was ready has none.
    let failures = match view.stage() {
        Stage::Ready => 0,
        _ => history.career(id).map_or(0, |career| career.failures).max(instance.crashes),
    };
    (
        // Nothing is lost with one that is late ...
        !is_late,
        // ... or with one that goes soon anyway.
        !(instance.retires || seen.operator.is_cordoned(id)),
        !is_new_start(view, known),
        idle.is_none(),
        // What is launched is gone when it goes: its disk costs no more, either.
        instance.tier == Tier::Parked,
        Reverse(idle),
        Reverse(failures),
        // The longer it has run, the surer it is paid off. Since when one is stopped says nothing.
        Reverse(instance.is_alive().then_some(instance.since)),
    )
}

/// Names that count are compared by their length first: p-2 comes before p-10.
pub(super) fn name(view: &InstanceView) -> (usize, &str) {
    (view.instance.id.len(), view.instance.id.as_str())
}

/// A start that has not come to anything yet. One that was under way before the controller looked
/// may long be at work.
pub(super) fn is_new_start(view: &InstanceView, known: Known<'_>) -> bool {
    view.stage() == Stage::Starting && known.history.since().is_some_and(|since| view.instance.since >= since)
}
