//! Number of instances that a pool needs: what its rules want, within its policy and the limit on
//! all pools.

use chrono::{DateTime, Utc};
use eirs_platform::queue::Depth;
use serde::{Deserialize, Serialize};

use super::{
    forecast::{Season, forecast},
    history::{Facts, Minutes},
    plan::{Because, Wish},
    queueing::{Work, servers_in_time},
};
use crate::policy::{Policy, Rule, Step};

/// Approximate number of steps that a season is divided into.
const STEPS: u64 = 288;

/// The load of a pool now, as the rules see it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// The backlog in the job queue.
    pub depth: Depth,
    /// The measured facts about jobs and workers.
    #[serde(flatten)]
    pub facts: Facts,
    /// Number of instances that serve.
    pub ready: u32,
    /// Work that the starting instances will have done by the time an instance started now is
    /// ready, in seconds of one instance.
    pub starting_s: f64,
    /// Number of jobs that are due, by the regular times of earlier ones, when an instance started
    /// now is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<u64>,
}

/// The number of instances that each rule of a policy wants.
pub(super) fn wishes(
    policy: &Policy,
    load: &Load,
    history: Option<&Minutes>,
    now: DateTime<Utc>,
) -> Vec<Wish> {
    let wish = |rule: &Rule| {
        let backlog = load.depth.backlog();
        let (instances, steady, because) = match rule {
            Rule::Backlog { per_instance } => {
                all_steady(whole(backlog.div_ceil(*per_instance) as f64), Because::PerInstance(*per_instance))
            }
            Rule::Latency { p95 } => latency(p95.as_secs_f64(), load, policy),
            Rule::Step { steps } => step(steps, backlog),
            Rule::Schedule { when, instances } if when.covers(now) => {
                all_steady(*instances, format!("since {}", when.cron))
            }
            Rule::Schedule { when, .. } => all_steady(0, format!("not now: {}", when.cron)),
            Rule::Forecast { season, quantile, timezone, after } => {
                let minutes = season.as_secs().div_ceil(60);
                let season = Season { minutes, timezone: *timezone, after: *after };
                history.map_or(all_steady(0, "no history yet".to_owned()), |minutes| {
                    forecast_wish(minutes, &season, *quantile, load, now)
                })
            }
        };
        Wish { rule: rule.kind(), instances, steady, because }
    };
    policy.rules.iter().map(wish).collect()
}

/// Number of instances for 95 of 100 jobs to end within `p95_s`: those that keep up with arrivals,
/// and those that clear the jobs that will still wait when an instance started now is ready. The
/// reasons are in `docs/decisions/0003-latency-rule.md`.
fn latency(p95_s: f64, load: &Load, policy: &Policy) -> (u32, u32, Because) {
    let Facts { arrivals_per_s, service_s, is_measured, variability, service_scv, at_once, start_delay_s } =
        load.facts;
    let (backlog, service_s) = (load.depth.backlog() as f64, service_s.max(1e-6));
    // More than `max` is never used, and bounds the loop of the formula.
    let most = policy.most().saturating_mul(whole(at_once)).saturating_add(1);
    let slack_s = (p95_s - service_s).max(0.0);
    // A guessed service time may be wrong by any factor, so the number of jobs bounds the number of
    // busy servers.
    let most_busy = if is_measured { f64::INFINITY } else { backlog };
    let busy = (arrivals_per_s * service_s).min(most_busy);
    let work = Work { arrivals_per_s: busy / service_s, service_s, service_scv, variability };
    let servers = servers_in_time(&work, p95_s, most);
    let steady = f64::from(servers) / at_once;
    let offered = busy / at_once;
    // Until then the ready instances keep working, and more jobs arrive.
    let done_s = f64::from(load.ready) * start_delay_s + load.starting_s;
    let waiting = load.depth.visible as f64;
    let left = waiting * service_s / at_once + offered * start_delay_s - done_s;
    let clearing = left.max(0.0) / clearing_time_s(slack_s, load.facts, policy);
    // Waiting work for less than half an instance is ordinary fluctuation of a queue.
    let instances = whole(steady).max((offered + clearing).round() as u32);
    // Even a single job in flight needs an instance.
    let instances = instances.max(u32::from(backlog > 0.0));
    // What is due would wait for a start. If the deadline leaves no time for that, instances start
    // ahead: as many as it will fill.
    if let Some(jobs) = load.due.filter(|_| slack_s < 2.0 * start_delay_s) {
        let work_s = jobs as f64 * service_s / at_once;
        let ahead = (work_s / clearing_time_s(slack_s, load.facts, policy)).round().max(1.0) as u32;
        if ahead > instances {
            return all_steady(ahead, format!("{jobs} jobs are due, as they come at regular times"));
        }
    }
    let because =
        Because::Latency { arrivals_per_s, service_s, busy: offered, in_time: steady, clearing, waiting };
    (instances, whole(steady), because)
}

/// Time in which an instance that is started now should clear its part of the waiting jobs, in
/// seconds: the slack minus the start delay. If little of the slack is left, most jobs miss that
/// deadline anyway, and meeting it would take an instance per job, paid for a moment of work. In
/// that case the rest of the billing minimum after the start counts instead, or at least the start
/// delay.
fn clearing_time_s(slack_s: f64, facts: Facts, policy: &Policy) -> f64 {
    let delay_s = facts.start_delay_s.max(1e-3);
    let left_s = slack_s - delay_s;
    let in_time = (left_s / delay_s).clamp(0.0, 1.0);
    let filled_s = (policy.instance.billing_minimum.as_secs_f64() - delay_s).max(delay_s);
    left_s.max(facts.service_s).max((1.0 - in_time) * filled_s)
}

/// A number of instances of which none are for jobs that wait only now.
fn all_steady(instances: u32, because: impl Into<Because>) -> (u32, u32, Because) {
    (instances, instances, because.into())
}

fn step(steps: &[Step], backlog: u64) -> (u32, u32, Because) {
    match steps.iter().rev().find(|step| step.backlog <= backlog) {
        Some(step) => all_steady(step.instances, format!("from {} jobs on", step.backlog)),
        None => all_steady(0, "below the first step".to_owned()),
    }
}

/// Number of instances that the forecast arrivals will keep busy when an instance started now is
/// ready.
fn forecast_wish(
    minutes: &Minutes,
    season: &Season,
    quantile: f64,
    load: &Load,
    now: DateTime<Utc>,
) -> (u32, u32, Because) {
    let Facts { service_s, at_once, start_delay_s, .. } = load.facts;
    let step_minutes = (season.minutes / STEPS).max(1);
    let step_s = (step_minutes * 60) as i64;
    // The slot in which an instance started now is ready, and the next one. Later slots need no
    // start yet.
    let ready = now.timestamp() + start_delay_s as i64;
    let slot = |ahead: i64| DateTime::from_timestamp((ready.div_euclid(step_s) + ahead) * step_s, 0);
    let most = [0, 1]
        .into_iter()
        .filter_map(|ahead| forecast(minutes, season, slot(ahead)?, step_minutes, quantile));
    let Some(most) = most.reduce(f64::max) else {
        return all_steady(0, format!("fewer than {} seasons observed", season.after));
    };
    // Less than one job does not justify an instance.
    let instances = if most < 1.0 { 0 } else { whole(most / step_s as f64 * service_s / at_once) };
    all_steady(instances, format!("at most {most:.0} jobs forecast within {step_minutes} min"))
}

fn whole(instances: f64) -> u32 {
    // Floating-point sums may exceed a whole number by a tiny amount.
    (instances - 1e-9).ceil().clamp(0.0, f64::from(u32::MAX)) as u32
}

/// The largest of the numbers that the rules want. Without rules it is 0, and `min` and `spare`
/// alone size the pool.
pub(super) fn largest(wishes: &[Wish]) -> u32 {
    wishes.iter().map(|wish| wish.instances).max().unwrap_or(0)
}

/// The wanted number plus the spare instances, at least `min` and at most `max` plus the launchable
/// instances.
pub(super) fn clamp(policy: &Policy, wished: u32) -> u32 {
    let pool = &policy.pool;
    wished.saturating_add(pool.spare).min(policy.most()).max(pool.min)
}

/// What a pool wants under the limit on all pools.
#[derive(Debug, Clone, Copy)]
pub(super) struct Want {
    /// Instances that are served before any other pool's, up to `instances`.
    pub(super) min: u32,
    pub(super) instances: u32,
    /// Weight of one of its instances relative to one of another pool.
    pub(super) weight: f64,
}

/// Divides the limit among the pools: first each pool's `min`, then the rest, one instance at a
/// time to the pool with the fewest per weight. A small pool thus gets all it wants, and a large
/// one cannot starve it.
pub(super) fn shares(limit: Option<u32>, pools: &[Want]) -> Vec<u32> {
    let Some(limit) = limit else { return pools.iter().map(|want| want.instances).collect() };
    let mut shares = vec![0; pools.len()];
    let mut left = limit;
    for kept_only in [true, false] {
        let goal = |want: &Want| if kept_only { want.min.min(want.instances) } else { want.instances };
        while left > 0 {
            let has = |index: &usize| f64::from(shares[*index]) / pools[*index].weight.max(1e-9);
            let poorest = (0..pools.len())
                .filter(|index| shares[*index] < goal(&pools[*index]))
                .min_by(|a, b| has(a).total_cmp(&has(b)));
            let Some(poorest) = poorest else { break };
            shares[poorest] += 1;
            left -= 1;
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{observe::Count, policy::parse};

    const NOW: &str = "2026-07-03T12:00:00Z";

    /// Jobs take 2 s, starts 25 s.
    fn load(visible: u64, arrivals_per_s: f64, ready: u32) -> Load {
        let facts = Facts {
            arrivals_per_s,
            service_s: 2.0,
            is_measured: true,
            variability: 1.0,
            service_scv: 0.0,
            at_once: 1.0,
            start_delay_s: 25.0,
        };
        Load { depth: Depth { visible, in_flight: 0 }, facts, ready, starting_s: 0.0, due: None }
    }

    fn wish(text: &str, load: &Load) -> u32 {
        let policy = parse(Path::new("p.toml"), text).unwrap();
        largest(&wishes(&policy, load, None, NOW.parse().unwrap()))
    }

    #[track_caller]
    fn check(text: &str, expected: &[(u64, u32)]) {
        let policy = parse(Path::new("p.toml"), text).unwrap();
        for (backlog, instances) in expected {
            let wished = wish(text, &load(*backlog, 0.0, 1));
            assert_eq!(clamp(&policy, wished), *instances, "backlog {backlog}");
        }
    }

    #[track_caller]
    fn check_latency(p95: &str, cases: &[(Load, u32)]) {
        for (load, expected) in cases {
            let text = format!("[pool]\nmax = 100\n[[rule]]\nkind = 'latency'\np95 = '{p95}'");
            assert_eq!(wish(&text, load), *expected, "{load:?}");
        }
    }

    #[test]
    fn a_latency_rule_wants_instances_to_keep_up_and_instances_to_clear_the_queue() {
        check_latency(
            "60s",
            &[
                (load(0, 0.0, 1), 0),
                (load(1, 0.0, 1), 1),
                // 10 are busy. With 11, fewer than 5 of 100 jobs wait longer than 58 s.
                (load(0, 5.0, 11), 11),
                // 33 s are left after a start. The 400 jobs and the 125 that arrive until then are
                // 1050 s of work, of which the 11 instances do 275 s.
                (load(400, 5.0, 11), 33),
                // Until then one instance completes 12 of the 30 jobs. The rest, at 2 s each, needs
                // one instance more.
                (load(30, 0.0, 1), 1),
                (load(30, 0.0, 0), 2),
                (load(300, 0.0, 0), 18),
            ],
        );
    }

    #[test]
    fn starting_instances_are_not_started_a_second_time() {
        // 18 are starting. Each second more jobs arrive, and the starting instances will have done
        // more work by the time another one would be ready.
        let mut wishes = (0..=25).map(|second| {
            let starting_s = 18.0 * second as f64;
            let booting = Load { starting_s, ..load(5 * second, 5.0, 0) };
            wish("[pool]\nmax = 1000\n[[rule]]\nkind = 'latency'\np95 = '60s'", &booting)
        });
        assert_eq!(wishes.next(), Some(18));
        assert!(wishes.is_sorted_by(|earlier, later| earlier >= later));
    }

    #[test]
    fn one_more_ready_instance_lowers_the_wish_only_by_the_work_it_does() {
        let wish = |ready| {
            wish("[pool]\nmax = 1000\n[[rule]]\nkind = 'latency'\np95 = '30s'", &load(300, 0.0, ready))
        };
        assert_eq!((wish(0), wish(1), wish(2)), (19, 19, 18));
    }

    #[test]
    fn a_deadline_shorter_than_a_start_does_not_buy_an_instance_per_job() {
        // Two jobs of 50 ms per second keep a tenth of an instance busy.
        for p95 in ["1s", "12s", "24s", "25s", "27s", "30s"] {
            for backlog in [1, 50, 300] {
                let mut short = load(backlog, 2.0, 0);
                short.facts.service_s = 0.05;
                check_latency(p95, &[(short, 1)]);
            }
        }
        // Each start is charged for a minute, of which 25 s pass before it works: 600 s of work
        // fill 17 starts.
        check_latency("20s", &[(load(300, 0.0, 0), 17), (load(7, 0.0, 0), 1)]);
    }

    #[test]
    fn due_jobs_start_as_many_instances_as_they_fill_unless_they_can_wait_for_a_start() {
        let due = |jobs| Load { due: Some(jobs), ..load(0, 0.0, 0) };
        // A start is charged for a minute, of which it works 35 s: 60 s of work fill two.
        check_latency("8s", &[(due(30), 2), (due(1), 1), (due(300), 17)]);
        // They need no start ahead if the slack is twice a start.
        check_latency("60s", &[(due(30), 0)]);
        // Instances for what waits already are enough.
        check_latency("8s", &[(Load { due: Some(1), ..load(300, 0.0, 0) }, 17)]);
    }

    #[test]
    fn the_wish_changes_smoothly_as_the_start_uses_up_the_deadline() {
        let wish = |p95: u32| {
            let text = format!("[pool]\nmax = 1000\n[[rule]]\nkind = 'latency'\np95 = '{p95}s'");
            wish(&text, &load(3000, 0.0, 0))
        };
        for p95 in 3..300 {
            let (this, next) = (wish(p95), wish(p95 + 1));
            assert!(this.abs_diff(next) <= 1 + this / 8, "{p95} s: {this}, {next}");
        }
    }

    #[test]
    fn a_guessed_service_time_makes_no_instance_busy_without_a_job() {
        let mut guessed = load(0, 5.0, 1);
        (guessed.facts.is_measured, guessed.facts.service_s) = (false, 1.0);
        check_latency("12s", &[(guessed, 0)]);
        guessed.depth = Depth { visible: 0, in_flight: 1 };
        check_latency("60s", &[(guessed, 2)]);
        guessed.ready = 0;
        check_latency("60s", &[(guessed, 2)]);
        guessed.depth.visible = 20;
        check_latency("60s", &[(guessed, 9)]);
    }

    #[test]
    fn fewer_instances_are_needed_if_each_classifies_several_images_at_once() {
        let mut four = load(0, 5.0, 3);
        four.facts.at_once = 4.0;
        check_latency("30s", &[(four, 3)]);
    }

    #[test]
    fn the_highest_step_that_the_backlog_reaches_applies() {
        let steps = "[[rule]]\nkind = 'step'\n\
            steps = [{ backlog = 1, instances = 1 }, { backlog = 50, instances = 5 }]";
        check(steps, &[(0, 0), (1, 1), (49, 1), (50, 5), (5000, 5)]);
    }

    #[test]
    fn a_schedule_is_a_lower_bound_during_its_hours() {
        let hours = |cron: &str| {
            format!(
                "[[rule]]\nkind = 'schedule'\ncron = '{cron}'\nduration = '2h'\ninstances = 3\n[[rule]]\n\
                 kind = 'backlog'"
            )
        };
        check(&hours("0 11 * * *"), &[(0, 3), (25, 3), (35, 4)]);
        check(&hours("0 13 * * *"), &[(0, 0), (25, 3)]);
    }

    #[test]
    fn a_forecast_asks_for_instances_before_the_jobs_arrive() {
        let policy = parse(Path::new("p.toml"), "[[rule]]\nkind = 'forecast'\nseason = '1h'").unwrap();
        let now: DateTime<Utc> = NOW.parse().unwrap();
        // Three hours of history: the first ten minutes of each hour have 300 jobs per minute, the
        // rest none.
        let mut minutes = Minutes::default();
        let a_minute = |minute: i64| {
            let from = now + chrono::TimeDelta::minutes(minute);
            let jobs = if minute % 60 < 10 { 300 } else { 0 };
            Count { from, to: from + chrono::TimeDelta::minutes(1), jobs }
        };
        (0..180).for_each(|minute| minutes.add(&a_minute(minute)));
        let wished = |minute: i64, second: i64| {
            let at = now + chrono::TimeDelta::seconds(minute * 60 + second);
            let mut until = minutes.clone();
            (180..=minute).for_each(|minute| until.add(&Count { jobs: 0, ..a_minute(minute) }));
            largest(&wishes(&policy, &load(0, 0.0, 1), Some(&until), at))
        };
        // 300 jobs of 2 s per minute keep ten instances busy.
        assert_eq!(wished(179, 50), 10);
        assert_eq!(wished(170, 0), 0);
    }

    #[test]
    fn one_job_is_enough_for_one_instance() {
        check(
            "[[rule]]\nkind = 'backlog'\nper_instance = 10",
            &[(0, 0), (1, 1), (10, 1), (11, 2), (1_000_000, 10)],
        );
    }

    #[test]
    fn the_rule_that_wants_most_wins() {
        let rules =
            "[[rule]]\nkind = 'backlog'\nper_instance = 10\n[[rule]]\nkind = 'backlog'\nper_instance = 4";
        check(rules, &[(0, 0), (4, 1), (5, 2), (20, 5)]);
    }

    #[test]
    fn spare_instances_are_added_within_min_and_max() {
        check(
            "[pool]\nmin = 1\nmax = 4\nspare = 2\n[[rule]]\nkind = 'backlog'",
            &[(0, 2), (1, 3), (25, 4), (u64::MAX, 4)],
        );
        check("[pool]\nmin = 2", &[(0, 2), (1000, 2)]);
        check("[pool]\nmax = 0\n[[rule]]\nkind = 'backlog'", &[(1000, 0)]);
    }

    fn shared(limit: Option<u32>, pools: &[(u32, u32)]) -> Vec<u32> {
        let want = |(min, instances): &(u32, u32)| Want { min: *min, instances: *instances, weight: 1.0 };
        shares(limit, &pools.iter().map(want).collect::<Vec<_>>())
    }

    #[test]
    fn the_limit_serves_min_first_and_then_the_pool_with_the_fewest() {
        assert_eq!(shared(None, &[(0, 7), (2, 9)]), [7, 9]);
        assert_eq!(shared(Some(10), &[(0, 2), (0, 50)]), [2, 8]);
        assert_eq!(shared(Some(10), &[(0, 50), (0, 50), (0, 0)]), [5, 5, 0]);
        assert_eq!(shared(Some(3), &[(0, 5), (3, 5)]), [0, 3]);
        assert_eq!(shared(Some(100), &[(1, 5), (0, 6)]), [5, 6]);
    }

    #[test]
    fn a_pool_with_twice_the_weight_gets_twice_as_many_instances() {
        let want = |weight| Want { min: 0, instances: 50, weight };
        assert_eq!(shares(Some(12), &[want(1.0), want(2.0), want(1.0)]), [3, 6, 3]);
    }
}
