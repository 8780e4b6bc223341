//! Measures the speed of the decision and of the simulator, and compares the default policy with
//! other rules.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail};
use chrono::{DateTime, TimeDelta, Utc};
use eirs_controller::{
    decide::{History, decide},
    fleet::{Instance, State},
    observe::{Count, Heard, InstanceView, Observation, PoolView},
    operator::Operator,
    policy::{Policies, Policy, parse},
    simulate::{self, Draw, Reference, Setup, Trace, compare},
};
use eirs_platform::{
    job::{Phase, ServiceTimes, VERSION, WorkerReport},
    queue::Depth,
};

use super::board::{Bar, Board};

/// The default policy, for 15 instances.
const DEFAULT: &str = include_str!("../../../../policies/default.toml");
const MOST: u32 = 15;
/// 200,000 jobs of 2 s in a day: five instances are busy on average, ten at noon.
const DAY: &str = "diurnal:0..4.63/s@24h";
/// The traces of the comparison, in addition to a given one, with the maximum cost relative to a
/// schedule that knows the future.
const TRACES: [(&str, f64); 6] = [
    ("diurnal:0..5/s,period=6h@6h", 1.10),
    ("burst:300/10m@2h", 1.20),
    ("onoff:4/s,on=5m,off=15m@4h", 1.20),
    ("poisson:3/s@2h", 1.10),
    ("constant:1/m@4h", 1.05),
    ("diurnal:0..2/s@3days", 1.10),
];

fn default_policy() -> anyhow::Result<Policy> {
    let policy = parse(Path::new("default.toml"), DEFAULT);
    let mut policy = policy.map_err(|complaints| anyhow!("the default policy is bad: {complaints:?}"))?;
    policy.pool.max = MOST;
    Ok(policy)
}

fn trace(text: &str) -> anyhow::Result<Trace> {
    Trace::of(text, "default", 1).map_err(anyhow::Error::msg)
}

/// Measures a simulated day, and compares all rules on several traces.
pub(super) fn simulated(board: &mut Board, given: Option<&PathBuf>, less: u64) -> anyhow::Result<()> {
    board.table("Simulator: a day of 15 instances under the default policy");
    let (policy, setup) = (default_policy()?, Setup::default());
    let day = trace(DAY)?;
    let start = Instant::now();
    let outcome = simulate::simulate(&policy, &day, &setup, 0);
    let seconds = start.elapsed().as_secs_f64();
    if !outcome.wrong.is_empty() {
        bail!("the run broke rules: {}", outcome.wrong.join("; "));
    }
    board.row(format!("{} jobs", outcome.figures.requests), seconds, "s", Bar::AtMost(2.0));
    memory(board, &policy, &setup)?;

    let texts = TRACES.into_iter().take(if less > 1 { 2 } else { TRACES.len() });
    for (text, most) in texts {
        beside_others(board, &policy, &trace(text)?, &setup, most)?;
    }
    if let Some(file) = given {
        beside_others(board, &policy, &trace(&file.to_string_lossy())?, &setup, 1.20)?;
    }
    Ok(())
}

/// A run needs memory per job only for its results: the latency, the service time and the arrival.
fn memory(board: &mut Board, policy: &Policy, setup: &Setup) -> anyhow::Result<()> {
    let mut peaks = Vec::new();
    for days in [2, 8] {
        let trace = trace(&format!("constant:100/h@{}h", days * 24))?;
        forget_peak()?;
        let before = memory_mb("VmRSS")?;
        let outcome = simulate::simulate(policy, &trace, setup, 0);
        peaks.push(memory_mb("VmHWM")? - before);
        drop(outcome);
    }
    board.row("memory for 2 days of 100 jobs an hour, beyond the trace", peaks[0], "MB", Bar::None);
    board.row("memory for 8 days", peaks[1], "MB", Bar::AtMost(peaks[0] + 4.0));
    Ok(())
}

/// Resets the peak memory to the current memory.
fn forget_peak() -> anyhow::Result<()> {
    std::fs::write("/proc/self/clear_refs", "5").context("setting the peak of the memory back")
}

fn memory_mb(key: &str) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with(key)).with_context(|| format!("no {key}"))?;
    let kilobytes: f64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
    Ok(kilobytes / 1024.0)
}

fn beside_others(
    board: &mut Board,
    policy: &Policy,
    trace: &Trace,
    setup: &Setup,
    most_ignorance: f64,
) -> anyhow::Result<()> {
    let draws = [Draw { trace: trace.clone(), setup: setup.clone() }];
    let report = compare(policy, &draws, &Reference::ALL, 0, &|| {}).report;
    if !report.wrong.is_empty() {
        bail!("{}: the run broke rules: {}", trace.name, report.wrong.join("; "));
    }
    let title =
        format!("{}: {} requests, {MOST} instances at most", report.trace.name, report.trace.arrivals);
    board.table(title);
    let ours = report.policy;
    board.row("policy: p95", ours.p95_s, "s", Bar::None);
    board.row("policy: cost", ours.cost_usd * 100.0, "cents", Bar::None);
    board.row("policy: within 30 s", ours.within_slo * 100.0, "%", Bar::None);
    board.row("policy: jobs killed", ours.killed as f64, "jobs", Bar::AtMost(0.0));
    board.row("clairvoyant, the SLO only: cost", report.clairvoyant.cost_usd * 100.0, "cents", Bar::None);
    board.row("clairvoyant, as fast: cost", report.as_fast.cost_usd * 100.0, "cents", Bar::None);
    board.row("price of ignorance", report.prices.ignorance.found, "x", Bar::AtMost(most_ignorance));
    board.row("price of ignorance, at most", report.prices.ignorance.most, "x", Bar::None);
    board.row("price of speed", report.prices.speed.found, "x", Bar::None);
    board.row("policy over the best plan online", report.prices.online.found, "x", Bar::None);
    let swept = report.fronts.values().flatten();
    let better = swept.filter(|swept| swept.beats_policy).count();
    board.row(
        "points of swept references that cost less and are faster",
        better as f64,
        "points",
        Bar::AtMost(0.0),
    );
    for (name, theirs) in &report.references {
        // A difference of one per cent is not measurable.
        let over = |ours: f64, theirs: f64| if theirs > 0.0 { ours / theirs } else { 1.0 };
        let (p95, cost) = (over(ours.p95_s, theirs.p95_s), over(ours.cost_usd, theirs.cost_usd));
        board.row(format!("{name}: p95"), theirs.p95_s, "s", Bar::None);
        board.row(format!("{name}: cost"), theirs.cost_usd * 100.0, "cents", Bar::None);
        board.row(format!("policy over {name}: p95"), p95, "x", Bar::AtMost(1.01));
        board.row(format!("policy over {name}: cost"), cost, "x", Bar::AtMost(1.01));
        board.row(
            format!("policy less {name}: within 30 s"),
            (ours.within_slo - theirs.within_slo) * 100.0,
            "points",
            Bar::AtLeast(-0.5),
        );
    }
    Ok(())
}

/// Measures one decision for many instances.
pub(super) fn decision(board: &mut Board, less: u64) -> anyhow::Result<()> {
    board.table("One decision, median");
    for (instances, most_us) in [(1_000, 100.0), (10_000, 1_000.0)] {
        let site = Busy::new(instances)?;
        let mut times: Vec<_> = (0..400 / less).map(|_| site.time_us()).collect();
        times.sort_unstable_by(f64::total_cmp);
        let median = times[times.len() / 2];
        board.row(format!("{instances} instances"), median, "\u{b5}s", Bar::AtMost(most_us));
    }
    Ok(())
}

/// A pool in normal operation: most instances busy, some idle, a few starting, draining and
/// stopped, with an hour of history.
struct Busy {
    policies: Policies,
    seen: Observation,
    history: History,
}

impl Busy {
    fn new(instances: usize) -> anyhow::Result<Self> {
        let text = format!(
            "[pool]\nmax = {instances}\n[[rule]]\nkind = 'latency'\np95 = '30s'\n[[rule]]\nkind = 'backlog'\n\
             [[rule]]\nkind = 'forecast'\nseason = '24h'\n[budget]\ninstance_hours_per_day = 200000\n"
        );
        let policy = parse(Path::new("pool.toml"), &text).map_err(|bad| anyhow!("{bad:?}"))?;
        let policies =
            Policies { pools: BTreeMap::from([("pool".to_owned(), policy)]), ..Policies::default() };
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
        let mut history = History::new(Duration::from_secs(90));
        for ago in (1..360).rev() {
            let seen = observation(now - TimeDelta::seconds(ago * 10), instances);
            history = history.observe(&seen);
        }
        let seen = observation(now, instances);
        history = history.observe(&seen);
        Ok(Self { policies, seen, history })
    }

    fn time_us(&self) -> f64 {
        let start = Instant::now();
        let plan = decide(&self.policies, &self.seen, &self.history);
        let elapsed = start.elapsed();
        assert!(!plan.pools.is_empty(), "a plan has a part for each pool");
        elapsed.as_secs_f64() * 1e6
    }
}

fn observation(now: DateTime<Utc>, instances: usize) -> Observation {
    let second = now.timestamp().unsigned_abs();
    let depth = Depth { visible: second / 10 % 50, in_flight: instances as u64 * 8 / 10 };
    let view = PoolView {
        depth: Some(depth),
        arrived: second * instances as u64 / 3,
        last_arrival: Some(now),
        counts: vec![Count { from: now - TimeDelta::seconds(10), to: now, jobs: instances as u64 * 10 / 3 }],
    };
    Observation {
        at: now,
        pools: BTreeMap::from([("pool".to_owned(), view)]),
        instances: Some((0..instances).map(|number| instance(number, now)).collect()),
        hears: true,
        missing: Vec::new(),
        operator: Operator::default(),
        refused: BTreeMap::new(),
        versions: BTreeMap::new(),
    }
}

fn instance(number: usize, now: DateTime<Utc>) -> InstanceView {
    let (state, phase) = match number % 20 {
        0 => (State::Stopped, None),
        1 => (State::Running, None),
        2 => (State::Draining, Some(Phase::Draining)),
        _ => (State::Running, Some(Phase::Ready)),
    };
    let since = now - TimeDelta::seconds(if phase.is_none() { 5 } else { 4000 });
    let id = format!("pool-{}", number + 1);
    let idle_since = number.is_multiple_of(7).then(|| now - TimeDelta::seconds(number as i64 % 300));
    let heard = phase.map(|phase| {
        let report = WorkerReport {
            v: VERSION,
            instance: id.clone(),
            generation: "1".to_owned(),
            model: "default".to_owned(),
            version: String::new(),
            engine: "none".to_owned(),
            phase,
            in_flight: u32::from(idle_since.is_none()),
            slots: 2,
            at_once: 1,
            done: 100,
            idle_since,
            failing: None,
            service: ServiceTimes { count: 5, mean_ms: 2000.0, p95_ms: 2500.0 },
            at: now,
        };
        Heard { at: now, idle_since, service: Some(report.service), done_per_s: 0.5, report }
    });
    let instance = Instance {
        state,
        generation: Some("1".to_owned()),
        drain_until: (state == State::Draining).then(|| now + TimeDelta::seconds(60)),
        ..Instance::stopped(id, "pool", "default", since)
    };
    InstanceView { instance, heard }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_is_a_decision_with_something_to_decide_and_a_day_of_200_000_jobs() {
        let site = Busy::new(100).unwrap();
        let plan = decide(&site.policies, &site.seen, &site.history);
        let pool = &plan.pools["pool"];
        assert!(pool.wishes.len() == 3 && pool.load.is_some_and(|load| load.facts.arrivals_per_s > 1.0));
        assert_eq!(default_policy().unwrap().pool.max, MOST);
        assert!(trace(DAY).unwrap().arrivals.len().abs_diff(200_000) < 2_000);
    }
}
