//! The orders of an operator, which apply in addition to the policies.

use super::*;

/// Adds cordons, each with its `drain` flag.
fn cordoned(mut seen: Observation, ids: &[(&str, bool)]) -> Observation {
    let cordon = |drain| Cordon { since: at(NOW - 60), by: None, drain };
    seen.operator = Operator {
        cordoned: ids.iter().map(|(id, drain)| ((*id).to_owned(), cordon(*drain))).collect(),
        ..Operator::default()
    };
    seen
}

#[test]
fn a_cordoned_instance_is_not_started_and_the_plan_says_so_if_no_other_is_left() {
    let policies = policies(&[("p", "")]);
    let now = cordoned(seen(&[("p", Some(15))], all_stopped(3)), &[("p-1", false), ("p-3", true)]);
    let plan = check_actions(&policies, &now, &quiet(&now), &["start p-2"]);
    assert_eq!(plan.pools["p"].holds, [Cordoned { instances: 2 }]);
    assert!(plan.to_string().contains("all 2 stopped instances are cordoned"), "{plan}");
}

#[test]
fn a_cordoned_instance_is_drained_first_and_one_cordoned_with_drain_is_replaced() {
    let policies = policies(&[("p", "")]);
    let two = vec![idle("p-1", 100), idle("p-2", 900), stopped("p-3")];
    let now = cordoned(seen(&[("p", Some(5))], two), &[("p-1", false)]);
    check_actions(&policies, &now, &history(&[(2000, 5)], &now), &["drain p-1"]);

    let now = cordoned(seen(&[("p", Some(5))], vec![busy("p-1"), stopped("p-2")]), &[("p-1", false)]);
    check_actions(&policies, &now, &history(&[(2000, 5)], &now), &[]);
    let now = cordoned(now, &[("p-1", true)]);
    let plan = check_actions(&policies, &now, &history(&[(2000, 5)], &now), &["start p-2", "drain p-1"]);
    assert!(plan.to_string().contains("drain p-1: cordoned with --drain"), "{plan}");
}
