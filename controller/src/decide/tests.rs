//! Tests the decision by examples, and by proptest against [`check`](super::check).

mod documented;
mod limits;
mod operator;
mod pools;
mod random;
mod tiers;
mod trust;
mod versions;

use std::{path::Path, time::Duration};

use chrono::{DateTime, Utc};
use eirs_platform::{
    job::{Phase, ServiceTimes, VERSION, WorkerReport},
    queue::Depth,
};
use proptest::prelude::*;

use super::{
    check::check,
    plan::Hold::{
        BackOff, Budget, Cordoned, Deaf, Incomplete, Limit, MaxStarting, MaxStep, NoCapacity, NoPlace,
        NoneStopped, NotIdle, PaidFor, SuddenDrop, TooEarly, Unheard, WasHigher, WorthKeeping,
    },
    *,
};
use crate::{
    fleet::{Instance, State},
    observe::{Heard, InForce, InstanceView, PoolView},
    operator::{Cordon, Operator},
    policy::{Policy, parse},
};

/// A time long after the controller started, in seconds since 1970.
pub(crate) const NOW: u64 = 100_000;

pub(crate) fn at(second: u64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + Duration::from_secs(second)
}

/// A stopped instance, from which all others are derived.
pub(crate) fn stopped(id: &str) -> InstanceView {
    let pool = id.rsplit_once('-').map_or(id, |(pool, _)| pool).to_owned();
    let instance = Instance::stopped(id, &pool, &pool, at(NOW - 1000));
    InstanceView { instance, heard: None }
}

pub(crate) fn in_state(id: &str, state: State, since: u64) -> InstanceView {
    let mut view = stopped(id);
    (view.instance.state, view.instance.since) = (state, at(since));
    view.instance.generation = Some("1".to_owned());
    view
}

pub(crate) fn starting(id: &str, since: u64) -> InstanceView {
    in_state(id, State::Running, since)
}

pub(crate) fn draining(id: &str, until: u64) -> InstanceView {
    let mut view = in_state(id, State::Draining, NOW - 10);
    view.instance.drain_until = Some(at(until));
    view
}

pub(crate) fn says(
    mut view: InstanceView,
    phase: Phase,
    second: u64,
    idle_since: Option<u64>,
) -> InstanceView {
    let idle_since = idle_since.map(at);
    let report = WorkerReport {
        v: VERSION,
        instance: view.instance.id.clone(),
        generation: "1".into(),
        model: view.instance.model.clone(),
        version: String::new(),
        engine: "test".into(),
        phase,
        in_flight: u32::from(idle_since.is_none()),
        slots: 2,
        at_once: 1,
        done: 7,
        idle_since,
        failing: None,
        service: ServiceTimes::default(),
        at: at(second),
    };
    view.heard = Some(Heard { at: at(second), report, idle_since, service: None, done_per_s: 0.0 });
    view
}

pub(crate) fn busy(id: &str) -> InstanceView {
    says(in_state(id, State::Running, NOW - 1000), Phase::Ready, NOW - 3, None)
}

pub(crate) fn idle(id: &str, seconds: u64) -> InstanceView {
    says(in_state(id, State::Running, NOW - 1000), Phase::Ready, NOW - 3, Some(NOW - seconds))
}

/// Policies of pools with the given names, each for the model of the same name, with short times.
pub(crate) fn policies(pools: &[(&str, &str)]) -> Policies {
    let policy = |(name, pool): &(&str, &str)| {
        let text = format!(
            "[pool]\nmodel = '{name}'\n{pool}\n[[rule]]\nkind = 'backlog'\nper_instance = 10\n\
             [scale_in]\nidle = '30s'\nwindow = '60s'\nmax_step = 2\n[instance]\nbilling_minimum = '0s'"
        );
        ((*name).to_owned(), parse(Path::new(name), &text).unwrap())
    };
    Policies { pools: pools.iter().map(policy).collect(), ..Policies::default() }
}

/// An observation of now, with the backlog of each pool, all of it waiting.
pub(crate) fn seen(backlogs: &[(&str, Option<u64>)], instances: Vec<InstanceView>) -> Observation {
    let view = |(name, backlog): &(&str, Option<u64>)| {
        let depth = backlog.map(|visible| Depth { visible, in_flight: 0 });
        ((*name).to_owned(), PoolView { depth, ..PoolView::default() })
    };
    Observation {
        at: at(NOW),
        pools: backlogs.iter().map(view).collect(),
        instances: Some(instances),
        hears: true,
        missing: Vec::new(),
        operator: Operator::default(),
        refused: BTreeMap::new(),
        versions: BTreeMap::new(),
    }
}

/// A history of observations of one backlog (seconds ago and jobs) that ends with `now`. Its plans
/// follow [`policies`].
pub(crate) fn history(past: &[(u64, u64)], now: &Observation) -> History {
    let names: Vec<_> = now.pools.keys().map(|name| (name.as_str(), "")).collect();
    let policies = policies(&names);
    let mut history = History::new(Duration::from_secs(10_000));
    for (ago, backlog) in past {
        let mut then = now.clone();
        then.at = at(NOW - ago);
        for pool in then.pools.values_mut() {
            pool.depth = Some(Depth { visible: *backlog, in_flight: 0 });
        }
        history = history.observe(&then);
        history = history.clone().remember(&decide(&policies, &then, &history));
    }
    history.observe(now)
}

/// A history without jobs for a long time.
fn quiet(now: &Observation) -> History {
    history(&[(2000, 0)], now)
}

/// Decides, and asserts everything that must hold of any plan.
#[track_caller]
fn decide_checked(policies: &Policies, seen: &Observation, history: &History) -> Plan {
    let plan = decide(policies, seen, history);
    assert_eq!(check(policies, seen, history, &plan), Vec::<String>::new(), "\n{plan}\n{plan:#?}");
    assert_eq!(decide(policies, seen, history), plan);
    let then = applied(seen, &plan);
    let again = decide(policies, &then, &history.clone().observe(&then));
    assert_eq!(again.actions().collect::<Vec<_>>(), Vec::<&Action>::new(), "first:\n{plan}\nthen:\n{again}");
    plan
}

/// The observation right after the plan was carried out.
pub(crate) fn applied(seen: &Observation, plan: &Plan) -> Observation {
    let mut then = seen.clone();
    // Reported counts are returned only once.
    then.pools.values_mut().for_each(|pool| pool.counts.clear());
    for action in plan.actions() {
        let views = then.instances.iter_mut().flatten();
        let Some(view) = views.into_iter().find(|view| view.instance.id == action.id()) else { continue };
        let instance = &mut view.instance;
        instance.since = seen.at;
        match action {
            Action::Start { .. } => {
                instance.state = State::Running;
                instance.generation = Some("2".to_owned());
                view.heard = None;
            }
            Action::Drain { deadline, .. } => {
                (instance.state, instance.drain_until) = (State::Draining, Some(seen.at + *deadline));
            }
            Action::Stop { .. } => (instance.state, instance.drain_until) = (State::Stopping, None),
        }
    }
    then
}

/// Asserts the actions of a plan in short form, such as `start p-1`.
#[track_caller]
fn check_actions(policies: &Policies, seen: &Observation, history: &History, expected: &[&str]) -> Plan {
    let plan = decide_checked(policies, seen, history);
    let actions: Vec<_> = plan.actions().map(ToString::to_string).collect();
    let short: Vec<_> = actions.iter().map(|action| action.split(':').next().unwrap()).collect();
    assert_eq!(short, expected, "\n{plan}");
    plan
}

fn all_stopped(count: u32) -> Vec<InstanceView> {
    (1..=count).rev().map(|number| stopped(&format!("p-{number}"))).collect()
}

#[test]
fn one_job_starts_one_instance_even_when_the_controller_has_just_started() {
    let now = seen(&[("p", Some(1))], all_stopped(10));
    check_actions(&policies(&[("p", "")]), &now, &history(&[], &now), &["start p-1"]);
}

#[test]
fn without_a_job_no_instance_starts() {
    let now = seen(&[("p", Some(0))], all_stopped(10));
    check_actions(&policies(&[("p", "")]), &now, &quiet(&now), &[]);
}

#[test]
fn jobs_in_flight_count_as_backlog() {
    let mut now = seen(&[("p", Some(0))], all_stopped(3));
    now.pools.get_mut("p").unwrap().depth = Some(Depth { visible: 5, in_flight: 15 });
    check_actions(&policies(&[("p", "")]), &now, &quiet(&now), &["start p-1", "start p-2"]);
}

#[test]
fn starting_instances_count_as_capacity() {
    let now =
        seen(&[("p", Some(25))], vec![busy("p-1"), starting("p-2", NOW - 5), stopped("p-3"), stopped("p-4")]);
    check_actions(&policies(&[("p", "")]), &now, &quiet(&now), &["start p-3"]);
}

#[test]
fn draining_instances_count_against_max() {
    let now = seen(
        &[("p", Some(25))],
        vec![busy("p-1"), says(draining("p-2", NOW + 60), Phase::Drained, NOW, None), stopped("p-3")],
    );
    let plan = check_actions(&policies(&[("p", "max = 2")]), &now, &quiet(&now), &["stop p-2"]);
    assert_eq!(plan.pools["p"].holds, [NoPlace]);
}

#[test]
fn the_longest_idle_instances_are_drained_first_and_at_most_max_step_at_a_time() {
    let now =
        seen(&[("p", Some(0))], vec![idle("p-1", 40), idle("p-2", 90), idle("p-3", 60), idle("p-4", 50)]);
    let plan = check_actions(&policies(&[("p", "")]), &now, &quiet(&now), &["drain p-2", "drain p-3"]);
    assert_eq!(plan.pools["p"].holds, [MaxStep]);
}

#[test]
fn busy_and_briefly_idle_instances_stay() {
    let now = seen(&[("p", Some(0))], vec![busy("p-1"), idle("p-2", 29)]);
    let plan = check_actions(&policies(&[("p", "")]), &now, &quiet(&now), &[]);
    assert_eq!(plan.pools["p"].holds, [NotIdle]);
}

#[test]
fn an_old_report_does_not_count_as_idle() {
    let view = says(in_state("p-1", State::Running, NOW - 1000), Phase::Ready, NOW - 31, Some(NOW - 500));
    let now = seen(&[("p", Some(0))], vec![view]);
    check_actions(&policies(&[("p", "")]), &now, &quiet(&now), &[]);
}

#[test]
fn the_last_instance_stays_until_the_whole_window_was_without_jobs() {
    let now = seen(&[("p", Some(0))], vec![idle("p-1", 40)]);
    let policies = policies(&[("p", "")]);
    let plan = check_actions(&policies, &now, &history(&[(2000, 0), (70, 1), (59, 0)], &now), &[]);
    assert_eq!(plan.pools["p"].holds, [WasHigher { instances: 1 }]);
    check_actions(&policies, &now, &history(&[(2000, 1), (70, 1), (60, 0)], &now), &["drain p-1"]);
}

#[test]
fn a_job_that_came_and_went_between_two_observations_is_demand_too() {
    let mut now = seen(&[("p", Some(0))], vec![idle("p-1", 40)]);
    now.pools.get_mut("p").unwrap().last_arrival = Some(at(NOW - 50));
    check_actions(&policies(&[("p", "")]), &now, &quiet(&now), &[]);
}

#[test]
fn a_controller_that_has_just_started_drains_no_instance() {
    let now = seen(&[("p", Some(0))], vec![idle("p-1", 500)]);
    let plan = check_actions(&policies(&[("p", "")]), &now, &history(&[(59, 0)], &now), &[]);
    assert_eq!(plan.pools["p"].holds, [TooEarly]);
    check_actions(&policies(&[("p", "")]), &now, &history(&[(60, 0)], &now), &["drain p-1"]);
}

#[test]
fn a_start_that_is_no_longer_needed_is_cancelled_before_a_ready_instance_is_drained() {
    let now = seen(&[("p", Some(5))], vec![idle("p-1", 500), starting("p-2", NOW - 5)]);
    check_actions(&policies(&[("p", "")]), &now, &history(&[(2000, 5)], &now), &["drain p-2"]);
    // An instance that an earlier controller started may be working, even if it has not reported
    // yet.
    let now = seen(&[("p", Some(0))], vec![starting("p-2", NOW - 200)]);
    check_actions(&policies(&[("p", "")]), &now, &history(&[(100, 0)], &now), &[]);
}

#[test]
fn with_an_unreadable_backlog_no_instance_is_drained_and_only_min_are_started() {
    let mut now = seen(&[("p", None)], vec![idle("p-1", 500), stopped("p-2"), stopped("p-3")]);
    let plan = check_actions(&policies(&[("p", "min = 2\nspare = 1")]), &now, &quiet(&now), &["start p-2"]);
    assert_eq!((plan.pools["p"].desired, &plan.pools["p"].holds[..]), (2, &[Incomplete][..]));
    check_actions(&policies(&[("p", "")]), &now, &quiet(&now), &[]);
    now.instances = None;
    check_actions(&policies(&[("p", "min = 2")]), &now, &quiet(&now), &[]);
}

#[test]
fn a_pool_that_cannot_be_read_does_not_hold_the_others() {
    let now = seen(&[("p", None), ("q", Some(0))], vec![idle("p-1", 500), idle("q-1", 500)]);
    check_actions(&policies(&[("p", ""), ("q", "")]), &now, &quiet(&now), &["drain q-1"]);
}

#[test]
fn a_lowered_max_drains_the_excess_even_if_busy_and_a_max_of_0_drains_all() {
    let instances = vec![busy("p-1"), idle("p-2", 5), busy("p-3")];
    let now = seen(&[("p", Some(90))], instances);
    check_actions(&policies(&[("p", "max = 2")]), &now, &quiet(&now), &["drain p-2"]);
    check_actions(
        &policies(&[("p", "max = 0")]),
        &now,
        &quiet(&now),
        &["drain p-2", "drain p-1", "drain p-3"],
    );
}

#[test]
fn instances_of_a_pool_without_a_policy_are_drained_but_not_while_its_file_is_bad() {
    let now = seen(&[], vec![busy("p-1"), stopped("p-2"), draining("p-3", NOW)]);
    let mut none = policies(&[]);
    check_actions(&none, &now, &quiet(&now), &["drain p-1", "stop p-3"]);
    none.unreadable.insert("p".to_owned());
    let plan = check_actions(&none, &now, &quiet(&now), &[]);
    assert_eq!((plan.pools["p"].desired, &plan.pools["p"].holds[..]), (1, &[NoGoodPolicy][..]));
}

#[test]
fn an_instance_of_another_model_is_drained_and_replaced() {
    let mut old = busy("p-1");
    old.instance.model = "old".to_owned();
    let now = seen(&[("p", Some(5))], vec![old, stopped("p-2")]);
    check_actions(&policies(&[("p", "")]), &now, &quiet(&now), &["start p-2", "drain p-1"]);
}

#[test]
fn a_crashed_instance_is_left_alone_and_the_plan_says_until_when() {
    let mut crashed = stopped("p-1");
    (crashed.instance.crashes, crashed.instance.since) = (3, at(NOW - 8));
    let now = seen(&[("p", Some(5))], vec![crashed.clone()]);
    let plan = check_actions(&policies(&[("p", "")]), &now, &quiet(&now), &[]);
    assert_eq!(plan.pools["p"].holds, [BackOff { until: at(NOW + 8) }]);
    assert!(
        plan.pools["p"].reason().contains("waiting until 03:46:48: the other instances failed recently"),
        "{plan}"
    );
    let now = seen(&[("p", Some(5))], vec![crashed, stopped("p-2")]);
    check_actions(&policies(&[("p", "")]), &now, &quiet(&now), &["start p-2"]);
}

#[test]
fn an_overdue_drain_is_stopped() {
    let now = seen(&[("p", Some(0))], vec![draining("p-1", NOW), draining("p-2", NOW + 1)]);
    check_actions(&policies(&[("p", "")]), &now, &quiet(&now), &["stop p-1"]);
}

#[test]
fn a_plan_explains_itself() {
    let now = seen(&[("p", Some(27))], vec![busy("p-1"), stopped("p-2"), stopped("p-3")]);
    let plan = decide_checked(&policies(&[("p", "")]), &now, &quiet(&now));
    let expected = "p: 3 desired, 1 running\n  \
                    27 jobs (27 waiting, 0 in flight): backlog wants 3 (10 for each instance); 1 ready, 0 \
                    starting, 0 leaving\n  \
                    -> start p-2\n  -> start p-3\n";
    assert_eq!(plan.to_string(), expected);
}

proptest! {
    #[test]
    fn plans_break_no_rule_are_deterministic_and_leave_nothing_to_do_once_carried_out(
        world in random::world(),
    ) {
        decide_checked(&world.policies, &world.seen, &world.history);
    }

    #[test]
    fn the_order_of_the_instances_does_not_change_the_plan(world in random::world(), turn in 0usize..30) {
        let mut turned = world.seen.clone();
        if let Some(instances) = turned.instances.as_mut().filter(|instances| !instances.is_empty()) {
            let turn = turn % instances.len();
            instances.rotate_left(turn);
            instances[..turn].reverse();
        }
        prop_assert_eq!(
            decide(&world.policies, &turned, &world.history),
            decide(&world.policies, &world.seen, &world.history)
        );
    }
}
