//! Several pools under one limit.

use super::*;

#[test]
fn under_the_limit_a_waiting_pool_gets_its_share_from_another_pool() {
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
fn under_the_limit_starts_go_to_the_pool_with_the_fewest_instances() {
    let mut policies = policies(&[("p", ""), ("q", "")]);
    policies.instance_limit = Some(3);
    let instances = vec![busy("p-1"), stopped("p-2"), stopped("p-3"), stopped("q-1"), stopped("q-2")];
    let now = seen(&[("p", Some(90)), ("q", Some(90))], instances);
    check_actions(&policies, &now, &quiet(&now), &["start p-2", "start q-1"]);
}

#[test]
fn under_the_limit_no_instance_gives_way_before_its_billing_minimum() {
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
fn a_pool_keeps_what_it_needed_a_moment_ago() {
    let mut policies = policies(&[("p", ""), ("q", "")]);
    policies.instance_limit = Some(4);
    let instances = vec![busy("p-1"), busy("p-2"), busy("q-1"), busy("q-2"), stopped("q-3")];
    let now = seen(&[("p", Some(5)), ("q", Some(30))], instances);
    // Both pools needed two instances within the window, and p will need them again.
    check_actions(&policies, &now, &history(&[(2000, 15), (30, 15)], &now), &[]);
    check_actions(&policies, &now, &history(&[(2000, 15), (300, 5), (200, 5)], &now), &["drain p-1"]);
}
