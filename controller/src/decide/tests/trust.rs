//! Failing instances: late, silent or hung ones, and ones without capacity.

use super::*;
use crate::refusals::{Refused, Verb};

#[test]
fn an_instance_that_takes_twice_the_measured_start_delay_is_late_and_another_is_started() {
    let policies = policies(&[("p", "start_delay = '10s'")]);
    let world = |started: u64| seen(&[("p", Some(5))], vec![starting("p-1", NOW - started), stopped("p-2")]);
    let plan = |seen: &Observation| decide(&policies, seen, &history(&[(2000, 5)], seen));
    assert_eq!(plan(&world(19)).pools["p"].actions, []);
    let late = plan(&world(21));
    assert_eq!(late.pools["p"].actions, [Action::Start { id: "p-2".into() }]);
    assert!(late.pools["p"].reason().contains("1 late to become ready"), "{late}");
    // A controller that has just started cannot have received its reports yet.
    let seen = world(500);
    assert_eq!(decide(&policies, &seen, &history(&[(5, 5)], &seen)).pools["p"].actions, []);
}

#[test]
fn with_an_unreadable_backlog_a_late_instance_starts_no_others() {
    let policies = policies(&[("p", "start_delay = '10s'")]);
    let started = starting("p-1", NOW - 21);
    let mut now = seen(&[("p", None)], vec![started, stopped("p-2"), stopped("p-3")]);
    let history = history(&[(2000, 0)], &now);
    let plan = decide_checked(&policies, &now, &history);
    assert_eq!((plan.pools["p"].late, plan.actions().count()), (1, 0), "{plan}");
    // With one that works beside it, too.
    now.instances.as_mut().unwrap()[1] = busy("p-2");
    assert_eq!(decide_checked(&policies, &now, &history).actions().count(), 0);
}

#[test]
fn one_silent_instance_is_replaced_at_once_and_many_one_by_one() {
    let policies = policies(&[("p", "min = 6\nmax = 12")]);
    let silent = |id: &str| says(in_state(id, State::Running, NOW - 1000), Phase::Ready, NOW - 200, None);
    let drains = |instances: Vec<InstanceView>| {
        let seen = seen(&[("p", Some(0))], instances);
        let plan = decide(&policies, &seen, &history(&[(2000, 0)], &seen));
        let drains = plan.actions().filter(|action| matches!(action, Action::Drain { .. }));
        let drains: Vec<_> = drains.map(|action| action.id().to_owned()).collect();
        (drains, plan.pools["p"].holds.contains(&Deaf { instances: 6 }))
    };
    let names = ["p-1", "p-2", "p-3", "p-4", "p-5", "p-6"];
    let mut one: Vec<_> = names.map(busy).into();
    one[2] = silent("p-3");
    assert_eq!(drains(one), (vec!["p-3".to_owned()], false));

    let all: Vec<_> = names.map(silent).into();
    assert_eq!(drains(all.clone()), (vec!["p-1".to_owned()], true));
    // The others stay until the first has gone and its replacement has reported.
    let mut leaving = all.clone();
    leaving[0] = draining("p-1", NOW + 50);
    assert_eq!(drains(leaving).0, Vec::<String>::new());
    let mut replaced = all;
    replaced[0] = starting("p-7", NOW - 5);
    assert_eq!(drains(replaced).0, Vec::<String>::new());
}

#[test]
fn an_instance_that_is_never_ready_or_becomes_silent_is_drained_and_replaced() {
    let text = "start_delay = '10s'";
    let now = seen(&[("p", Some(5))], vec![starting("p-1", NOW - 101), stopped("p-2")]);
    check_actions(&policies(&[("p", text)]), &now, &quiet(&now), &["start p-2", "drain p-1"]);
    let silent = says(in_state("p-1", State::Running, NOW - 1000), Phase::Ready, NOW - 121, None);
    let mut now = seen(&[("p", Some(5))], vec![silent, stopped("p-2")]);
    check_actions(&policies(&[("p", text)]), &now, &quiet(&now), &["start p-2", "drain p-1"]);
    // Silence counts only while the controller could receive reports.
    check_actions(&policies(&[("p", text)]), &now, &history(&[(100, 5)], &now), &[]);
    now.hears = false;
    check_actions(&policies(&[("p", text)]), &now, &quiet(&now), &[]);
}

/// Observes `world` for `seconds`, every ten seconds.
fn watched(world: impl Fn(u64) -> Observation, seconds: u64) -> (Observation, History) {
    let mut history = History::new(Duration::from_secs(60));
    for second in (0..=seconds).step_by(10) {
        history = history.observe(&world(NOW - seconds + second));
    }
    (world(NOW), history)
}

#[test]
fn a_worker_that_completes_nothing_while_jobs_wait_is_replaced() {
    let policies = policies(&[("p", "")]);
    let world = |waiting: u64, hangs: &'static [&'static str]| {
        move |second: u64| {
            let view = |id: &'static str| {
                let view = says(in_state(id, State::Running, NOW - 9000), Phase::Ready, second, None);
                let mut heard = view.heard.clone().unwrap();
                heard.report.service = ServiceTimes { count: 5, mean_ms: 900.0, p95_ms: 1000.0 };
                heard.report.done = if hangs.contains(&id) { 7 } else { second };
                InstanceView { heard: Some(heard), ..view }
            };
            let mut instances: Vec<_> = ["p-1", "p-2", "p-3", "p-4"].map(view).into();
            instances.push(stopped("p-5"));
            let mut seen = seen(&[("p", Some(waiting))], instances);
            seen.at = at(second);
            seen
        }
    };
    let drains = |waiting, hangs, seconds| {
        let (seen, history) = watched(world(waiting, hangs), seconds);
        let plan = decide(&policies, &seen, &history);
        assert_eq!(check(&policies, &seen, &history, &plan), Vec::<String>::new(), "{plan}");
        let hung = |action: &&Action| matches!(action, Action::Drain { cause: Cause::Hung, .. });
        plan.actions().filter(hung).map(|action| action.id().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(drains(30, &["p-2"], 200), ["p-2"]);
    assert!(drains(30, &["p-2"], 100).is_empty(), "the job may be a long one");
    assert!(drains(0, &["p-2"], 200).is_empty(), "no job waits");
    assert_eq!(
        drains(30, &["p-1", "p-2", "p-3"], 200).len(),
        1,
        "many that hang at once are replaced one by one"
    );
}

#[test]
fn after_a_lack_of_capacity_one_instance_is_tried_first() {
    let policies = policies(&[("p", "")]);
    let dry = |ago: u64| Refused {
        verb: Verb::Start,
        count: 9,
        since: at(NOW - 500),
        at: at(NOW - ago),
        error: "none left".to_owned(),
        capacity: true,
    };
    let world = |ago: u64| {
        let mut seen = seen(&[("p", Some(30))], all_stopped(3));
        seen.refused = ["p-1", "p-2", "p-3"].map(|id| (id.to_owned(), dry(ago))).into();
        seen
    };
    let now = world(10);
    let plan = check_actions(&policies, &now, &quiet(&now), &[]);
    assert_eq!(plan.pools["p"].holds, [NoCapacity { until: at(NOW + 20) }]);
    let now = world(31);
    let plan = decide(&policies, &now, &quiet(&now));
    assert_eq!(plan.actions().map(Action::id).collect::<Vec<_>>(), ["p-1"]);
}

/// Observes, every ten seconds, a pool with jobs in flight and an instance that was started right
/// after the first observation and never reports.
fn unheard(in_flight: impl Fn(u64) -> u64, seconds: u64) -> (Observation, History) {
    let world = |second: u64| {
        let mut seen =
            seen(&[("p", Some(5))], vec![starting("p-1", NOW - seconds + 1), stopped("p-2"), stopped("p-3")]);
        let depth = Depth { visible: 5, in_flight: in_flight(second) };
        seen.pools.insert("p".to_owned(), PoolView { depth: Some(depth), ..PoolView::default() });
        seen.at = at(second);
        seen
    };
    watched(world, seconds)
}

#[test]
fn if_no_instance_reports_but_jobs_are_done_the_worker_is_kept_and_the_plan_says_so() {
    let policies = policies(&[("p", "start_delay = '10s'")]);
    let (seen, history) = unheard(|_| 1, 200);
    let plan = check_actions(&policies, &seen, &history, &[]);
    assert_eq!((plan.pools["p"].ready, plan.pools["p"].late), (1, 0));
    assert!(plan.pools["p"].holds.contains(&Unheard { instances: 1 }));
    assert!(plan.pools["p"].reason().contains("may send to the events queue"), "{plan}");
}

#[test]
fn if_no_jobs_are_taken_or_another_instance_reports_a_silent_start_is_never_ready() {
    let policies = policies(&[("p", "start_delay = '10s'")]);
    let (seen, history) = unheard(|_| 0, 200);
    check_actions(&policies, &seen, &history, &["start p-2", "drain p-1"]);
    let (mut seen, history) = unheard(|_| 1, 200);
    seen.instances.as_mut().unwrap().push(busy("p-4"));
    let history = history.observe(&seen);
    assert_eq!(decide(&policies, &seen, &history).actions().map(Action::id).collect::<Vec<_>>(), ["p-1"]);
}

#[test]
fn an_instance_without_reports_is_drained_when_no_jobs_are_left() {
    let policies = policies(&[("p", "start_delay = '10s'")]);
    let world = |second: u64| {
        let mut seen = seen(&[("p", Some(0))], vec![starting("p-1", NOW - 299)]);
        let in_flight = u64::from(second < NOW - 150);
        let depth = Depth { visible: 0, in_flight };
        seen.pools.insert("p".to_owned(), PoolView { depth: Some(depth), ..PoolView::default() });
        seen.at = at(second);
        seen
    };
    let mut history = History::new(Duration::from_secs(60));
    for second in (NOW - 300..=NOW).step_by(10) {
        history = history.observe(&world(second));
        history = history.clone().remember(&decide(&policies, &world(second), &history));
    }
    let plan = check_actions(&policies, &world(NOW), &history, &["drain p-1"]);
    assert!(
        plan.actions().all(|action| matches!(action, Action::Drain { cause: Cause::StartNotNeeded, .. }))
    );
}
