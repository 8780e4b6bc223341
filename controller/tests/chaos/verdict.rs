//! Checks what must hold of a run, whatever its faults.

use chrono::{DateTime, Days, NaiveTime, TimeDelta, TimeZone, Utc};
use eirs_controller::{
    policy::{Policy, Rule},
    simulate::{Faults, Outcome, Sample, setup::Micros, simulate},
};

use super::case::Case;

/// Time before the end in which the number of instances must not change.
const QUIET: Micros = 15 * 60 * 1_000_000;
/// Time before the end for which all numbers that the policy kept are acceptable.
const UNCHANGED: Micros = 60 * 60 * 1_000_000;

/// All violations, one sentence each.
pub(crate) fn verdict(case: &Case) -> Vec<String> {
    let samples = u32::try_from(case.trace.length / 60_000_000).unwrap();
    let outcome = simulate(&case.first, &case.trace, &case.setup, samples);
    let mut complaints = outcome.wrong.clone();
    if does_all_work(&case.last) && outcome.figures.unfinished > 0 {
        complaints.push(format!("{} jobs never ended", outcome.figures.unfinished));
    }
    if kills_no_job(case) && outcome.figures.killed > 0 {
        complaints
            .push(format!("{} jobs were killed though the drains are long enough", outcome.figures.killed));
    }
    complaints.extend(late_changes(case, &outcome));
    if is_metered(case) {
        complaints.extend(overspent(case, &outcome));
    }
    complaints
}

/// Whether the policy starts an instance for every job, including a single one.
fn does_all_work(policy: &Policy) -> bool {
    let comes_for_one = policy.rules.iter().any(|rule| match rule {
        Rule::Backlog { .. } | Rule::Latency { .. } => true,
        Rule::Step { steps } => steps.iter().all(|step| step.instances > 0) && steps[0].backlog == 1,
        Rule::Schedule { .. } | Rule::Forecast { .. } => false,
    });
    let stays = policy.pool.min > 0 || policy.pool.spare > 0;
    policy.pool.max > 0 && policy.budget.instance_hours_per_day.is_none() && (comes_for_one || stays)
}

/// Whether workers return their jobs before they are stopped.
fn kills_no_job(case: &Case) -> bool {
    let gives_back = case.setup.worker_drain_deadline + case.setup.order_delay;
    let is_long = |policy: &Policy| policy.scale_in.drain_deadline > gives_back;
    let stays = case.setup.faults.edits.is_empty();
    is_long(&case.first) && stays && case.setup.faults.clock_jump_every.is_none()
}

/// Number of instances that the policy keeps without jobs.
fn kept(policy: &Policy, now: DateTime<Utc>) -> u32 {
    let scheduled = |rule: &Rule| match rule {
        Rule::Schedule { when, instances } if when.covers(now) => *instances,
        _ => 0,
    };
    let wished = policy.rules.iter().map(scheduled).max().unwrap_or(0);
    (wished + policy.pool.spare).min(policy.pool.max).max(policy.pool.min)
}

/// Checks that at the end the number of instances is what the policy keeps, and that there are no
/// more orders.
fn late_changes(case: &Case, outcome: &Outcome) -> Vec<String> {
    let policy = &case.last;
    let end = outcome.end;
    let Faults { clock_jump, clock_jump_every, .. } = case.setup.faults;
    // A changed clock may still differ.
    let off = clock_jump_every.map_or(0, |_| clock_jump.as_secs() as i64 * 10);
    let wall = |at: Micros| case.trace.starts_at + TimeDelta::microseconds(at as i64);
    let kept_then: Vec<_> = (0..=UNCHANGED / 60_000_000)
        .flat_map(|ago| [-off, 0, off].map(|off| (ago, off)))
        .map(|(ago, off)| kept(policy, wall(end - ago * 60_000_000) + TimeDelta::seconds(off)))
        .collect();
    let (least, most) = (*kept_then.iter().min().unwrap(), *kept_then.iter().max().unwrap());
    let has_budget = policy.budget.instance_hours_per_day.is_some();
    let foresees = policy.rules.iter().any(|rule| matches!(rule, Rule::Forecast { .. }));
    // Each instance may be tested as a canary, one after the other, and stays until its billing
    // minimum.
    let canaries = policy.pool.canary.map_or(0, |_| policy.pool.max);
    // A canary is started, drained and stopped, and a forecast may change every minute.
    let expected_orders = u64::from(canaries * 5 + most.abs_diff(least) * 3)
        + if foresees { u64::from(policy.pool.max) * 15 } else { 0 }
        + if has_budget { u64::from(policy.pool.max) * 4 } else { 0 };
    let last: Vec<&Sample> = outcome.samples.iter().filter(|sample| sample.at + QUIET >= end).collect();
    let mut complaints = Vec::new();
    let orders = last[last.len() - 1].orders - last[0].orders;
    if orders > expected_orders {
        complaints.push(format!("{orders} orders in the last quarter of an hour, not {expected_orders}"));
    }
    let alive = |sample: &&Sample| sample.ready + sample.starting + sample.leaving;
    let (fewest, highest) = (last.iter().map(alive).min().unwrap(), last.iter().map(alive).max().unwrap());
    if fewest < least && !has_budget {
        complaints.push(format!("{fewest} run at the end, where the policy keeps {least}"));
    }
    if highest > most + canaries && !foresees && does_all_work_or_none(policy) {
        complaints.push(format!("{highest} run at the end, where the policy keeps {most}"));
    }
    complaints
}

/// Whether no jobs are left at the end that a rule may count.
fn does_all_work_or_none(policy: &Policy) -> bool {
    does_all_work(policy) || policy.pool.max == 0
}

/// Whether the use of instances is known and they can always be drained.
fn is_metered(case: &Case) -> bool {
    let faults = &case.setup.faults;
    faults.depth_errors == 0.0
        && faults.call_errors == 0.0
        && faults.clock_jump_every.is_none()
        && faults.lost_learnt == 0.0
        && faults.edits.is_empty()
}

/// The days on which more was used than the budget allows.
fn overspent(case: &Case, outcome: &Outcome) -> Vec<String> {
    let policy = &case.first;
    let Some(hours) = policy.budget.instance_hours_per_day else { return Vec::new() };
    let zone = policy.budget.timezone;
    let wall = |at: Micros| case.trace.starts_at + TimeDelta::microseconds(at as i64);
    let midnight = |days: u64| {
        let date = case.trace.starts_at.with_timezone(&zone).date_naive() + Days::new(days);
        zone.from_local_datetime(&date.and_time(NaiveTime::MIN)).earliest().unwrap().with_timezone(&Utc)
    };
    // A pass shows the number of instances, but not when they started or stopped in between.
    let unseen_s = f64::from(policy.pool.max) * case.setup.tick.as_secs_f64();
    let mut complaints = Vec::new();
    for day in 0..2 {
        let (from, to) = (midnight(day), midnight(day + 1));
        let within = |(begin, end): &(Micros, Micros)| {
            (wall(*end).min(to) - wall(*begin).max(from)).as_seconds_f64().max(0.0)
        };
        let used_s: f64 = outcome.spans.iter().map(within).sum();
        if used_s > hours * 3600.0 + unseen_s {
            complaints.push(format!("{used_s:.0} s of {:.0} were used on day {day}", hours * 3600.0));
        }
    }
    complaints
}
