//! Instances that have loaded an earlier version of their model, or that are replaced by an update.

use super::*;

/// Adds version `2` of the model, in force for a minute.
fn with_new_version(mut seen: Observation) -> Observation {
    let in_force = InForce { version: "2".to_owned(), since: at(NOW - 60) };
    seen.versions.insert("p".to_owned(), in_force);
    seen
}

fn loaded(mut view: InstanceView, version: &str) -> InstanceView {
    view.heard.as_mut().expect("it has reported").report.version = version.to_owned();
    view
}

/// Asserts the plan for these instances of a pool that needs all of them while version `2` is in
/// force.
#[track_caller]
fn check_replaced(instances: Vec<InstanceView>, expected: &[&str]) {
    let policies = policies(&[("p", "max = 3")]);
    let seen = with_new_version(seen(&[("p", Some(30))], instances));
    let history = history(&[(2000, 30)], &seen);
    let plan = decide(&policies, &seen, &history);
    assert_eq!(check(&policies, &seen, &history, &plan), Vec::<String>::new(), "{plan}");
    let actions: Vec<_> = plan.actions().map(ToString::to_string).collect();
    assert_eq!(actions, expected, "{plan}");
}

#[test]
fn instances_with_an_earlier_version_are_replaced_one_after_the_other() {
    let all = |version| ["p-1", "p-2", "p-3"].map(|id| loaded(busy(id), version));
    let (old, new) = (all("1"), all("2"));
    let why = "it loaded an earlier version of the model";
    check_replaced(old.to_vec(), &[&format!("drain p-1: {why}")]);
    let leaves = loaded(says(draining("p-1", NOW + 9), Phase::Draining, NOW - 3, None), "1");
    check_replaced(vec![leaves, old[1].clone(), old[2].clone()], &[]);
    check_replaced(vec![starting("p-1", NOW - 1), old[1].clone(), old[2].clone()], &[]);
    check_replaced(vec![new[0].clone(), old[1].clone(), old[2].clone()], &[&format!("drain p-2: {why}")]);
    check_replaced(new.to_vec(), &[]);
}

#[test]
fn replacement_stops_if_the_new_version_cannot_be_loaded() {
    let mut died = stopped("p-1");
    (died.instance.since, died.instance.crashes) = (at(NOW - 5), 3);
    check_replaced(vec![died, loaded(busy("p-2"), "1"), loaded(busy("p-3"), "1")], &[]);
}

#[test]
fn an_instance_started_since_with_another_version_is_left_alone() {
    let late = says(in_state("p-1", State::Running, NOW - 30), Phase::Ready, NOW - 3, None);
    check_replaced(vec![loaded(late, "1"), loaded(busy("p-2"), "2"), loaded(busy("p-3"), "2")], &[]);
}

/// Marks an instance as being replaced by an update.
fn retiring(mut view: InstanceView) -> InstanceView {
    view.instance.retires = true;
    view
}

/// Asserts the plan for a pool with this policy and backlog.
#[track_caller]
fn check_updated(pool: &str, backlog: u64, instances: Vec<InstanceView>, expected: &[&str]) {
    let policies = policies(&[("p", pool)]);
    let seen = seen(&[("p", Some(backlog))], instances);
    let history = history(&[(2000, backlog)], &seen);
    let plan = decide(&policies, &seen, &history);
    assert_eq!(check(&policies, &seen, &history, &plan), Vec::<String>::new(), "{plan}");
    let actions: Vec<_> = plan.actions().map(ToString::to_string).collect();
    assert_eq!(actions, expected, "{plan}");
}

#[test]
fn a_retiring_instance_is_drained_once_its_replacement_serves_even_at_max() {
    let why = "replaced by an update";
    for pool in ["max = 3", "min = 2\nmax = 2"] {
        let (old, other) = (retiring(busy("p-1")), busy("p-2"));
        check_updated(pool, 20, vec![old.clone(), other.clone(), stopped("p-3")], &["start p-3"]);
        check_updated(pool, 20, vec![old.clone(), other.clone(), starting("p-3", NOW - 1)], &[]);
        check_updated(
            pool,
            20,
            vec![old.clone(), other.clone(), busy("p-3")],
            &[&format!("drain p-1: {why}")],
        );
        let leaves = retiring(draining("p-1", NOW + 9));
        check_updated(pool, 20, vec![leaves, other.clone(), busy("p-3")], &[]);
        // No other instance could replace it.
        check_updated(pool, 20, vec![old, other, retiring(stopped("p-3"))], &[]);
    }
}

#[test]
fn retiring_instances_are_drained_one_after_the_other_and_before_others() {
    let why = "replaced by an update";
    let old = [retiring(busy("p-1")), retiring(busy("p-2"))];
    check_updated(
        "max = 4",
        20,
        vec![old[0].clone(), old[1].clone(), busy("p-3")],
        &[&format!("drain p-1: {why}")],
    );
    let both = [retiring(idle("p-2", 500)), idle("p-1", 500)];
    check_updated("max = 4\nmin = 1", 0, both.to_vec(), &[&format!("drain p-2: {why}")]);
    check_updated("max = 4", 0, vec![retiring(idle("p-1", 500))], &["drain p-1: idle and not needed"]);
}

#[test]
fn a_retiring_instance_is_not_replaced_while_the_backlog_is_unknown() {
    let seen = seen(&[("p", None)], vec![retiring(busy("p-1")), stopped("p-2"), stopped("p-3")]);
    let plan = decide_checked(&policies(&[("p", "max = 5")]), &seen, &quiet(&seen));
    assert_eq!(plan.actions().count(), 0, "{plan}");
}
