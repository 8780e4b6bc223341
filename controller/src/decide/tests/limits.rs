//! Limits of a decision besides the demand: budget, billing minimum, rate of starts, and failing
//! instances.

use super::*;
use crate::observe::Count;

#[test]
fn the_daily_budget_is_a_hard_limit_even_for_busy_instances() {
    let budget = "[budget]\ninstance_hours_per_day = 0.5";
    let mut policies = policies(&[("p", "")]);
    policies.pools.get_mut("p").unwrap().budget = parse(Path::new("p"), budget).unwrap().budget;
    // Two instances ran for up to 2000 s of a day that began long ago; the budget is 1800 s.
    let stopped = ["p-3", "p-4", "p-5"].map(stopped);
    let now = seen(&[("p", Some(90))], [vec![busy("p-1"), busy("p-2")], stopped.into()].concat());
    let used = |seconds: u64| {
        let ran = (1..=seconds / 100).rev().map(|step| (step * 100, 90)).collect::<Vec<_>>();
        history(&ran, &now)
    };
    let plan = check_actions(&policies, &now, &used(600), &["start p-3", "start p-4"]);
    assert_eq!((plan.pools["p"].affordable, &plan.pools["p"].holds[..]), (Some(4), &[Budget][..]));
    let plan = check_actions(&policies, &now, &used(800), &["drain p-1"]);
    assert_eq!(plan.pools["p"].affordable, Some(1));
    assert!(plan.to_string().contains("drain p-1: above the day's budget"), "{plan}");
    check_actions(&policies, &now, &used(2000), &["drain p-1", "drain p-2"]);
}

#[test]
fn a_new_instance_stays_until_its_billing_minimum() {
    let mut policies = policies(&[("p", "")]);
    policies.pools.get_mut("p").unwrap().instance.billing_minimum = Duration::from_secs(60);
    let mut young = idle("p-1", 40);
    young.instance.since = at(NOW - 59);
    let mut now = seen(&[("p", Some(0))], vec![young]);
    let plan = check_actions(&policies, &now, &quiet(&now), &[]);
    assert_eq!(plan.pools["p"].holds, [PaidFor]);
    now.instances.as_mut().unwrap()[0].instance.since = at(NOW - 60);
    check_actions(&policies, &now, &quiet(&now), &["drain p-1"]);
}

#[test]
fn with_idle_0_busy_instances_are_drained_after_minutes_of_surplus_if_they_can_finish() {
    let policies_of = |scale_in: &str| {
        let mut policies = policies(&[("p", "")]);
        let text = format!("[scale_in]\nwindow = '30s'\n{scale_in}");
        policies.pools.get_mut("p").unwrap().scale_in = parse(Path::new("p"), &text).unwrap().scale_in;
        policies
    };
    let working = |id: &str, p95_ms: f64| {
        let mut view = busy(id);
        let heard = view.heard.as_mut().unwrap();
        heard.service = Some(ServiceTimes { count: 5, mean_ms: p95_ms, p95_ms });
        view
    };
    let now = seen(&[("p", Some(5))], vec![working("p-1", 900.0), working("p-2", 900.0)]);
    check_actions(&policies_of("idle = '0s'"), &now, &history(&[(2000, 5)], &now), &["drain p-1"]);
    check_actions(&policies_of("idle = '1s'"), &now, &history(&[(2000, 5)], &now), &[]);
    check_actions(&policies_of("idle = '0s'"), &now, &history(&[(2000, 5), (299, 15), (200, 5)], &now), &[]);
    let slow = seen(&[("p", Some(5))], vec![working("p-1", 30_000.0), working("p-2", 30_000.0)]);
    check_actions(&policies_of("idle = '0s'"), &slow, &history(&[(2000, 5)], &slow), &[]);
}

#[test]
fn at_most_max_step_instances_start_at_once() {
    let mut policies = policies(&[("p", "")]);
    policies.pools.get_mut("p").unwrap().scale_out.max_step = 2;
    let instances = vec![starting("p-1", NOW - 5), stopped("p-2"), stopped("p-3")];
    let now = seen(&[("p", Some(90))], instances);
    let plan = check_actions(&policies, &now, &quiet(&now), &["start p-2"]);
    assert_eq!(plan.pools["p"].holds, [MaxStarting]);
}

#[test]
fn an_instance_that_was_never_ready_is_left_alone_and_tried_last() {
    let now = seen(&[("p", Some(5))], vec![starting("p-1", NOW - 101), stopped("p-2")]);
    let policies = policies(&[("p", "start_delay = '10s'")]);
    let history = quiet(&now);
    let plan = check_actions(&policies, &now, &history, &["start p-2", "drain p-1"]);
    let history = history.remember(&plan);
    let career = history.career("p-1").unwrap();
    assert_eq!((career.failures, career.failure.as_deref()), (1, Some("not ready after ten start delays")));
    let mut then = seen(&[("p", Some(15))], vec![stopped("p-1"), busy("p-2"), stopped("p-3")]);
    check_actions(&policies, &then, &history.clone().observe(&then), &["start p-3"]);
    then.instances.as_mut().unwrap().pop();
    let plan = check_actions(&policies, &then, &history.clone().observe(&then), &[]);
    assert_eq!(plan.pools["p"].holds, [BackOff { until: at(NOW + 1) }]);
    then.at = at(NOW + 1);
    check_actions(&policies, &then, &history.observe(&then), &["start p-1"]);
}

#[test]
fn a_canary_starts_if_an_instance_was_not_seen_for_long_and_there_is_no_other_work() {
    let policies = policies(&[("p", "canary = '1h'")]);
    let now = seen(&[("p", Some(0))], vec![stopped("p-1"), stopped("p-2")]);
    check_actions(&policies, &now, &quiet(&now), &[]);
    let long = history(&[(3600, 0)], &now);
    let plan = check_actions(&policies, &now, &long, &["start p-1"]);
    assert_eq!(plan.pools["p"].canary.as_deref(), Some("p-1"));
    assert!(plan.pools["p"].reason().contains("p-1 is started as a canary"), "{plan}");
    // It is kept until it is ready. With jobs waiting, it is an ordinary start.
    let sent = seen(&[("p", Some(0))], vec![starting("p-1", NOW - 20), stopped("p-2")]);
    check_actions(&policies, &sent, &history(&[(3600, 0)], &sent), &[]);
    let work = seen(&[("p", Some(5))], vec![stopped("p-1"), stopped("p-2")]);
    let plan = check_actions(&policies, &work, &history(&[(3600, 0)], &work), &["start p-1"]);
    assert_eq!(plan.pools["p"].canary, None);
}

#[test]
fn a_sudden_drop_of_arrivals_holds_all_instances_for_a_window() {
    let policies = policies(&[("p", "")]);
    let mut now = seen(&[("p", Some(0))], vec![idle("p-1", 500), idle("p-2", 500)]);
    let mut history = History::new(Duration::from_secs(10_000));
    for second in (0..=200).step_by(10) {
        now.at = at(NOW - 200 + second);
        // Ten jobs per second for a long time, and none in the last 25 s.
        let pool = now.pools.get_mut("p").unwrap();
        let from = at(NOW - 210 + second);
        pool.counts = if second < 180 { vec![Count { from, to: now.at, jobs: 100 }] } else { Vec::new() };
        pool.last_arrival = Some(at(NOW - 200 + second.min(175)));
        history = history.observe(&now);
    }
    let plan = decide(&policies, &now, &history);
    assert_eq!(plan.pools["p"].holds, [SuddenDrop]);
}
