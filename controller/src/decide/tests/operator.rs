//! What an operator orders beyond the policies.

use super::*;

/// An operator cordoned these, and wants some of them to go now.
fn cordoned(mut seen: Observation, ids: &[(&str, bool)]) -> Observation {
    let cordon = |drain| Cordon { since: at(NOW - 60), by: None, drain };
    seen.operator = Operator {
        cordoned: ids.iter().map(|(id, drain)| ((*id).to_owned(), cordon(*drain))).collect(),
        ..Operator::default()
    };
    seen
}

#[test]
fn a_cordoned_instance_is_not_started_and_a_pool_that_has_only_such_says_so() {
    let policies = policies(&[("p", "")]);
    let now = cordoned(seen(&[("p", Some(15))], all_stopped(3)), &[("p-1", false), ("p-3", true)]);
    let plan = check_actions(&policies, &now, &quiet(&now), &["start p-2"]);
    assert_eq!(plan.pools["p"].holds, [Cordoned { instances: 2 }]);
    assert!(plan.to_string().contains("all 2 stopped instances are cordoned"), "{plan}");
}

#[test]
fn of_a_surplus_the_cordoned_one_goes_first_and_one_that_is_told_to_leave_goes_and_is_replaced() {
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
