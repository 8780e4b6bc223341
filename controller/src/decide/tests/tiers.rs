//! Parked and launched instances.

use super::*;
use crate::{fleet::Tier, observe::Stage};

/// An empty place to launch an instance in.
fn place(id: &str) -> InstanceView {
    launched(stopped(id))
}

fn launched(mut view: InstanceView) -> InstanceView {
    view.instance.pool = "p".to_owned();
    view.instance.model = "p".to_owned();
    view.instance.tier = Tier::Launched;
    view
}

fn launching(pool: &str, most: u32) -> Policies {
    let mut policies = policies(&[("p", pool)]);
    policies.pools.get_mut("p").unwrap().launch.most = most;
    policies
}

#[test]
fn parked_instances_are_started_first_and_the_rest_is_launched() {
    let policies = launching("max = 2", 3);
    let instances = vec![place("p-l-1"), stopped("p-1"), place("p-l-2"), stopped("p-2"), place("p-l-3")];
    let now = seen(&[("p", Some(35))], instances.clone());
    let plan = check_actions(
        &policies,
        &now,
        &quiet(&now),
        &["start p-1", "start p-2", "start p-l-1", "start p-l-2"],
    );
    assert_eq!(plan.pools["p"].launches, 2);
    let reason = plan.pools["p"].reason();
    assert!(reason.contains("2 launched, for no parked instance can be started"), "{reason}");
    let now = seen(&[("p", Some(15))], instances);
    assert_eq!(
        check_actions(&policies, &now, &quiet(&now), &["start p-1", "start p-2"]).pools["p"].launches,
        0
    );
}

#[test]
fn an_instance_is_launched_if_the_parked_one_has_no_capacity() {
    let policies = launching("max = 2", 1);
    let mut now = seen(&[("p", Some(5))], vec![stopped("p-1"), place("p-l-1")]);
    let error = eirs_platform::error::Error::no_capacity("starting", "InsufficientInstanceCapacity");
    let mut refusals = crate::refusals::Refusals::default();
    let verbs = BTreeMap::from([("p-1", crate::refusals::Verb::Start)]);
    let refusal = crate::fleet::Refusal { id: "p-1".into(), error };
    refusals.note(&verbs, &[refusal], at(NOW - 1));
    now.refused = refusals.now(at(NOW));
    check_actions(&policies, &now, &quiet(&now), &["start p-l-1"]);
}

#[test]
fn launched_instances_are_drained_first_and_at_most_launch_most_run() {
    let policies = launching("max = 2", 1);
    let idle_one = launched(idle("p-l-1", 40));
    let now = seen(&[("p", Some(0))], vec![idle("p-1", 400), idle_one]);
    check_actions(&policies, &now, &quiet(&now), &["drain p-l-1", "drain p-1"]);
    let all = vec![busy("p-1"), busy("p-2"), launched(busy("p-l-1")), place("p-l-2")];
    let now = seen(&[("p", Some(900))], all);
    check_actions(&policies, &now, &quiet(&now), &[]);
    let none = launching("max = 0", 3);
    let now = seen(&[("p", Some(900))], vec![place("p-l-1")]);
    check_actions(&none, &now, &quiet(&now), &[]);
}

/// More than ten start delays of 10 s have passed for both, but a launch may take 60 s.
#[test]
fn each_tier_has_its_own_time_to_start() {
    let mut policies = launching("max = 2\nstart_delay = '10s'", 1);
    policies.pools.get_mut("p").unwrap().launch.start_delay = Duration::from_secs(60);
    let since = NOW - 110;
    let now = seen(&[("p", Some(15))], vec![starting("p-1", since), launched(starting("p-l-1", since))]);
    let plan = decide(&policies, &now, &quiet(&now));
    let drains: Vec<_> = plan.actions().map(ToString::to_string).collect();
    assert_eq!(drains, ["drain p-1: not ready after ten start delays"]);
    assert_eq!(plan.pools["p"].late, 0, "the launch is not even late");
}

#[test]
fn the_start_delay_is_measured_separately_for_each_tier() {
    let policies = launching("max = 2", 1);
    let mut now = seen(&[("p", Some(15))], vec![stopped("p-1"), place("p-l-1")]);
    let mut history = History::new(Duration::from_secs(100)).observe(&now);
    for (seconds, delay_s) in [(0, None), (20, Some("p-1")), (70, Some("p-l-1"))] {
        now.at = at(NOW + 1 + seconds);
        let views = now.instances.as_mut().unwrap();
        for view in views.iter_mut() {
            if view.instance.state == State::Stopped {
                (view.instance.state, view.instance.since) = (State::Running, at(NOW + 1));
                view.instance.generation = Some("1".to_owned());
            } else if delay_s == Some(view.instance.id.as_str()) {
                *view = says(view.clone(), Phase::Ready, NOW + 1 + seconds, None);
            }
        }
        history = history.observe(&now);
    }
    assert!(now.instances.iter().flatten().all(|view| view.stage() == Stage::Ready));
    assert_eq!((history.start_delay_s("p", 0.5), history.launch_delay_s("p", 0.5)), (Some(20.0), Some(70.0)));
    let policy = &policies.pools["p"];
    assert_eq!(history.start_delay_of("p", policy, Tier::Launched), 70.0);
}
