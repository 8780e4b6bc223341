//! Several pools under one limit.

use super::*;

#[test]
fn under_the_limit_a_pool_that_waits_gets_its_share_of_what_another_one_has() {
    let mut policies = policies(&[("p", ""), ("q", "")]);
    policies.instance_limit = Some(4);
    let mut instances: Vec<_> = ["p-1", "p-2", "p-3"].map(busy).into();
    instances.extend([idle("p-4", 3), stopped("q-1"), stopped("q-2")]);
    let now = seen(&[("p", Some(90)), ("q", Some(20))], instances);
    let plan = check_actions(&policies, &now, &quiet(&now), &["drain p-4", "drain p-1"]);
    assert_eq!((plan.pools["p"].desired, plan.pools["q"].desired), (2, 2));
    assert!(plan.pools["q"].holds.contains(&Limit));
}

#[test]
fn under_the_limit_starts_go_to_the_pool_with_the_fewest() {
    let mut policies = policies(&[("p", ""), ("q", "")]);
    policies.instance_limit = Some(3);
    let instances = vec![busy("p-1"), stopped("p-2"), stopped("p-3"), stopped("q-1"), stopped("q-2")];
    let now = seen(&[("p", Some(90)), ("q", Some(90))], instances);
    check_actions(&policies, &now, &quiet(&now), &["start p-2", "start q-1"]);
}

#[test]
fn under_the_limit_nobody_goes_for_another_pool_who_is_not_paid_off() {
    let mut policies = policies(&[("p", ""), ("q", "")]);
    policies.instance_limit = Some(3);
    policies.pools.get_mut("p").unwrap().instance.billing_minimum = Duration::from_secs(60);
    let world = |ran: u64| {
        let mut instances: Vec<_> = ["p-1", "p-2", "p-3"].map(busy).into();
        instances.iter_mut().for_each(|view| view.instance.since = at(NOW - ran));
        instances.push(stopped("q-1"));
        seen(&[("p", Some(90)), ("q", Some(5))], instances)
    };
    let (young, old) = (world(30), world(90));
    check_actions(&policies, &young, &quiet(&young), &[]);
    check_actions(&policies, &old, &quiet(&old), &["drain p-1"]);
}

#[test]
fn what_a_pool_needed_a_moment_ago_is_not_given_away_and_asked_for_again() {
    let mut policies = policies(&[("p", ""), ("q", "")]);
    policies.instance_limit = Some(4);
    let instances = vec![busy("p-1"), busy("p-2"), busy("q-1"), busy("q-2"), stopped("q-3")];
    let now = seen(&[("p", Some(5)), ("q", Some(30))], instances);
    // Both had work for two within the window, and p will again.
    check_actions(&policies, &now, &history(&[(2000, 15), (30, 15)], &now), &[]);
    check_actions(&policies, &now, &history(&[(2000, 15), (300, 5), (200, 5)], &now), &["drain p-1"]);
}
