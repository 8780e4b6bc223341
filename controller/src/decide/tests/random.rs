//! Random inputs for the decision, from the likely to the absurd.

use std::{collections::BTreeMap, time::Duration};

use eirs_platform::{job::Phase, queue::Depth};
use proptest::{collection::vec, option, prelude::*, sample::select};

use super::{NOW, at, in_state, says};
use crate::{
    decide::{History, decide},
    fleet::{State, Tier},
    observe::{Count, InstanceView, Observation, PoolView},
    operator::{Cordon, Operator},
    policy::{
        Budget, Launch, Policies, Policy, Pool, Price, Rule, ScaleIn, ScaleOut, Schedule, Step,
        schedule::parse_cron,
    },
};

#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) policies: Policies,
    pub(super) seen: Observation,
    pub(super) history: History,
}

pub(super) fn world() -> impl Strategy<Value = World> {
    let pools = vec(
        (
            policy(),
            option::weighted(0.9, depth()),
            (option::of(0u64..200), 0u64..2000),
            vec(instance(), 0..9),
        ),
        1..4,
    );
    let past = vec((1u64..40, vec(option::weighted(0.95, prop_oneof![Just(0u64), 0u64..40]), 4)), 0..8);
    let odd = (option::of(1u32..14), vec(instance(), 0..4), prop::bool::weighted(0.95), any::<bool>());
    let cordoned = vec((select(vec!["a-1", "a-2", "b-1", "gone-1"]), any::<bool>()), 0..3);
    let rest = (prop::bool::weighted(0.9), any::<bool>(), cordoned);
    (pools, past, odd, rest).prop_map(|(pools, past, odd, (sees_fleet, is_unreadable, cordoned))| {
        let (instance_limit, strays, hears, has_past) = odd;
        let mut policies = Policies { instance_limit, ..Policies::default() };
        let (mut views, mut instances) = (BTreeMap::new(), named("gone", strays));
        if is_unreadable {
            policies.unreadable.insert("gone".to_owned());
        }
        for (name, (mut policy, depth, (arrival, arrived), own)) in ["a", "b", "c"].into_iter().zip(pools) {
            policy.pool.model = name.to_owned();
            policies.pools.insert(name.to_owned(), policy);
            let last_arrival = arrival.map(|ago| at(NOW - ago));
            let to = last_arrival.unwrap_or(at(NOW));
            let counts = vec![Count { from: to - Duration::from_secs(10), to, jobs: arrived }];
            views.insert(name.to_owned(), PoolView { depth, last_arrival, arrived, counts });
            instances.extend(named(name, own));
        }
        let instances = sees_fleet.then_some(instances);
        let cordoned = cordoned
            .into_iter()
            .map(|(id, drain)| (id.to_owned(), Cordon { since: at(NOW - 5), by: None, drain }));
        let seen = Observation {
            at: at(NOW),
            pools: views,
            instances,
            hears,
            missing: Vec::new(),
            operator: Operator { cordoned: cordoned.collect(), ..Operator::default() },
            refused: BTreeMap::new(),
            versions: BTreeMap::new(),
        };
        let past = if has_past { past } else { Vec::new() };
        let history = history(&policies, &past, &seen);
        World { policies, seen, history }
    })
}

/// A history of observations up to `now`; `past` has the seconds between them and the backlogs.
fn history(policies: &Policies, past: &[(u64, Vec<Option<u64>>)], now: &Observation) -> History {
    let mut second = NOW - past.iter().map(|(step, _)| step).sum::<u64>();
    let mut history = History::new(Duration::from_secs(35));
    for (step, backlogs) in past {
        let mut then = Observation { at: at(second), instances: None, ..now.clone() };
        for (pool, backlog) in then.pools.values_mut().zip(backlogs) {
            pool.depth = backlog.map(|visible| Depth { visible, in_flight: 0 });
            pool.last_arrival = None;
        }
        history = history.observe(&then);
        let plan = decide(policies, &then, &history);
        history = history.remember(&plan);
        second += step;
    }
    history.observe(now)
}

fn named(pool: &str, instances: Vec<InstanceView>) -> Vec<InstanceView> {
    let name = |(number, mut view): (usize, InstanceView)| {
        view.instance.id = format!("{pool}-{}", number + 1);
        view.instance.pool = pool.to_owned();
        // A third of the instances is launched.
        view.instance.tier = if number % 3 == 2 { Tier::Launched } else { Tier::Parked };
        if view.instance.model == "own" {
            view.instance.model = pool.to_owned();
        }
        view
    };
    instances.into_iter().enumerate().map(name).collect()
}

fn policy() -> impl Strategy<Value = Policy> {
    let seconds = |of: &'static [u64]| select(of).prop_map(Duration::from_secs);
    let canary = option::weighted(0.1, seconds(&[5, 50]));
    let pool = (0u32..4, 0u32..7, 0u32..3, seconds(&[1, 25]), canary);
    let scale_in = (seconds(&[0, 10, 30]), seconds(&[0, 20, 60]), 1u32..4, select(vec![0u64, 600]));
    let money = (option::weighted(0.2, 0.0..0.5), seconds(&[0, 60]), 1u32..6, 0u32..3);
    (pool, vec(rule(), 0..3), scale_in, money).prop_map(|(pool, rules, scale_in, money)| {
        let (min, more, spare, start_delay, canary) = pool;
        let (idle, window, max_step, keep) = scale_in;
        let (instance_hours_per_day, billing_minimum, scale_out, launch) = money;
        let (max, service_time) = (min + more, Duration::from_secs(1));
        Policy {
            pool: Pool {
                model: String::new(),
                min,
                max,
                spare: spare.min(max),
                start_delay,
                service_time,
                weight: 1.0,
                observe: false,
                canary,
            },
            rules,
            scale_out: ScaleOut { max_step: scale_out },
            scale_in: ScaleIn {
                idle,
                window,
                keep: Duration::from_secs(keep),
                drain_deadline: Duration::from_secs(60),
                max_step,
            },
            budget: Budget { instance_hours_per_day, ..Budget::default() },
            instance: Price { billing_minimum, ..Price::default() },
            launch: Launch { most: launch, ..Launch::default() },
        }
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let step = |(backlog, instances)| Step { backlog, instances };
    let schedule = |instances| Rule::Schedule {
        when: Schedule {
            cron: parse_cron("* * * * *").expect("a cron line"),
            duration: Duration::from_secs(60),
            timezone: chrono_tz::UTC,
        },
        instances,
    };
    prop_oneof![
        3 => (1u64..12).prop_map(|per_instance| Rule::Backlog { per_instance }),
        2 => (1u64..60).prop_map(|seconds| Rule::Latency { p95: Duration::from_secs(seconds) }),
        1 => (1u64..30, 0u32..9).prop_map(step).prop_map(|step| Rule::Step { steps: vec![step] }),
        1 => (0u32..5).prop_map(schedule),
        1 => (60u64..600, 0.1..0.99)
            .prop_map(|(season, quantile)| Rule::Forecast {
                season: Duration::from_secs(season),
                quantile,
                timezone: chrono_tz::UTC,
                after: 1,
            }),
    ]
}

fn depth() -> impl Strategy<Value = Depth> {
    let count = || prop_oneof![2 => Just(0u64), 2 => 0u64..40, 1 => 0u64..1_000_000];
    (count(), count()).prop_map(|(visible, in_flight)| Depth { visible, in_flight })
}

fn instance() -> impl Strategy<Value = InstanceView> {
    let state = select(vec![
        State::Stopped,
        State::Running,
        State::Running,
        State::Running,
        State::Draining,
        State::Stopping,
    ]);
    let phase = select(vec![
        Phase::Starting,
        Phase::Ready,
        Phase::Ready,
        Phase::Ready,
        Phase::Draining,
        Phase::Drained,
    ]);
    let report = (phase, 0u64..150, option::of(0u64..100));
    let is_rare = || prop::bool::weighted(0.1);
    let rest = (-30i64..60, prop_oneof![2 => 0u32..3, 1 => 3u32..8], is_rare(), is_rare());
    (state, 0u64..400, option::weighted(0.8, report), rest).prop_map(|(state, age, report, rest)| {
        let (drain, crashes, is_of_other_model, retires) = rest;
        let mut view = in_state("x-1", state, NOW - age);
        if let Some((phase, ago, idle)) = report.filter(|_| state != State::Stopped) {
            view = says(view, phase, NOW - ago, idle.map(|idle| NOW - ago - idle));
        }
        let instance = &mut view.instance;
        instance.retires = retires;
        let from_now = |seconds: i64| at(NOW) + chrono::TimeDelta::seconds(seconds);
        if matches!(state, State::Draining | State::Stopping) {
            instance.drain_until = Some(from_now(drain));
        }
        if state == State::Stopped {
            instance.crashes = crashes;
        }
        instance.model =
            if is_of_other_model && state != State::Stopped { "other" } else { "own" }.to_owned();
        view
    })
}
