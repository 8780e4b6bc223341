//! The simulator: runs the real decision with a virtual queue, fleet, web host and clock, and
//! compares it with a clairvoyant and with the rules of other systems. All randomness comes from a
//! seed: the same seed gives the same run.
//!
//! A run is a sequence of events in virtual time ([`site`]) under a [`Driver`](run::Driver): the
//! real controller's decision ([`controller`]), one of the [`references`], or the [`clairvoyant`].
//! All drivers get the same arrivals, the same service time for each job and the same delay for the
//! first, second and third start.

pub mod setup;
pub mod trace;

mod faults;

mod load;
mod site;

mod run;

mod controller;

mod clairvoyant;
mod references;

mod outcome;
mod report;

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
};

use self::{
    controller::Controller,
    load::Load,
    run::{run, run_together},
};
pub use self::{
    faults::Faults,
    outcome::{Figures, Outcome, Sample},
    references::Reference,
    report::{Bound, Mean, Prices, Ratio, Report, Spread, Sweep, Swept, TraceSummary, is_better},
    setup::{Distribution, Setup, Shape},
    trace::{Recorded, Trace},
};
use crate::policy::{Policies, Policy};

/// The results of a policy and of its alternatives on one trace.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// The comparison.
    pub report: Report,
    /// The complete run of the policy.
    pub policy: Outcome,
}

/// The input of a simulation for one seed.
#[derive(Debug, Clone, PartialEq)]
pub struct Draw {
    /// The arrivals.
    pub trace: Trace,
    /// All other inputs, including the seed.
    pub setup: Setup,
}

/// Maximum number of jobs that all sweeps of references together simulate.
const MOST_SWEPT: u64 = 6_000_000;

/// Runs a policy. If `samples` is not 0, about this many samples of the state are recorded.
pub fn simulate(policy: &Policy, trace: &Trace, setup: &Setup, samples: u32) -> Outcome {
    let load = Load::new(trace, setup, &policy.pool.model);
    run_policy(&load, policy, samples)
}

/// Runs several pools under one controller, each with its own arrivals, times and prices. Inputs
/// that concern all pools, such as the tick and the faults, are taken from the first. Returns the
/// results by pool name.
pub fn simulate_together(
    policies: &Policies,
    pools: &BTreeMap<String, (Trace, Setup)>,
    samples: u32,
) -> BTreeMap<String, Outcome> {
    let both = policies.pools.iter().filter_map(|(name, policy)| Some((name, policy, pools.get(name)?)));
    let loads: Vec<_> = both
        .map(|(name, policy, (trace, setup))| Load::of_pool(name, trace, setup, &policy.pool.model))
        .collect();
    let Some(first) = loads.first() else { return BTreeMap::new() };
    let mut controller = Controller::new(first.setup, &loads, policies.clone());
    let outcomes = run_together(&loads, &mut controller, samples);
    loads.iter().map(|load| load.pool.clone()).zip(outcomes).collect()
}

/// Runs a reference instead of a policy.
pub fn simulate_reference(reference: Reference, max: u32, trace: &Trace, setup: &Setup) -> Outcome {
    reference.run(&Load::new(trace, setup, "default"), max, reference.usual())
}

fn run_policy(load: &Load<'_>, policy: &Policy, samples: u32) -> Outcome {
    run(load, &mut Controller::alone(load, policy.clone()), samples)
}

/// Runs a policy and these references with every seed. With the first seed, also runs the
/// references with other values of their main parameters, and the clairvoyants. Calls `progress`
/// after each run.
pub fn compare(
    policy: &Policy,
    draws: &[Draw],
    references: &[Reference],
    samples: u32,
    progress: &(dyn Fn() + Sync),
) -> Comparison {
    let (max, model) = (policy.most(), &policy.pool.model);
    let loads: Vec<_> = draws.iter().map(|draw| Load::new(&draw.trace, &draw.setup, model)).collect();
    let load = &loads[0];
    // The policy and then each reference, each with every seed.
    let runs: Vec<_> =
        (0..=references.len()).flat_map(|driver| (0..loads.len()).map(move |seed| (driver, seed))).collect();
    let mut outcomes = in_parallel(&runs, progress, |(driver, seed)| match driver.checked_sub(1) {
        None => run_policy(&loads[*seed], policy, if *seed == 0 { samples } else { 0 }),
        Some(other) => references[other].run(&loads[*seed], max, references[other].usual()),
    });
    let names = ["policy"].into_iter().chain(references.iter().map(|reference| reference.name()));
    let by_name: Vec<_> = names.zip(outcomes.chunks(loads.len())).collect();
    let several = by_name.iter().filter(|_| loads.len() > 1);
    let spread = |runs: &[Outcome]| Spread::of(&runs.iter().map(|run| run.figures).collect::<Vec<_>>());
    let seeds = several.map(|(name, runs)| (*name, spread(runs))).collect();
    let wrong = by_name[0].1.iter().flat_map(|run| run.wrong.iter().cloned()).collect();
    // Only the first seed from here on.
    let mut number = 0;
    outcomes.retain(|_| {
        number += 1;
        (number - 1) % loads.len() == 0
    });
    let theirs = outcomes.split_off(1);
    let Some(ours) = outcomes.pop() else { unreachable!("the policy was run") };
    let (bounds, fronts) = std::thread::scope(|scope| {
        let fronts = scope.spawn(|| fronts(load, max, references, &ours.figures));
        let bounds = clairvoyant::bounds(load, max, &ours, &theirs);
        (bounds, fronts.join().unwrap_or_default())
    });
    progress();
    let theirs = theirs.iter().map(|run| run.figures).collect();
    let cost = ours.figures.cost_usd;
    let report = Report {
        trace: TraceSummary::of(&draws[0].trace),
        policy: ours.figures,
        clairvoyant: bounds.slo.found,
        as_fast: bounds.as_fast.found,
        online: bounds.online.found,
        prices: Prices {
            ignorance: Ratio::of(cost, &bounds.as_fast),
            speed: Ratio::of(bounds.as_fast.found.cost_usd, &bounds.slo),
            online: Ratio::of(cost, &bounds.online),
        },
        references: named(references, theirs),
        fronts,
        seeds,
        wrong,
    };
    Comparison { report, policy: ours }
}

/// Runs each reference with other values of its main parameter.
fn fronts(
    load: &Load<'_>,
    max: u32,
    references: &[Reference],
    ours: &Figures,
) -> BTreeMap<&'static str, Vec<Swept>> {
    let most = (MOST_SWEPT / load.trace.arrivals.len().max(1) as u64) as usize / references.len().max(1);
    let points: Vec<_> = references
        .iter()
        .flat_map(|reference| {
            reference.values().into_iter().take(most.max(3)).map(move |value| (*reference, value))
        })
        .collect();
    let runs: Vec<_> =
        points.iter().map(|(reference, value)| reference.run(load, max, *value).figures).collect();
    let mut fronts = BTreeMap::<&'static str, Vec<Swept>>::new();
    for ((reference, value), figures) in points.iter().zip(&runs) {
        let own = points.iter().zip(&runs).filter(|((other, _), _)| other == reference);
        let on_front = !own.into_iter().any(|(_, other)| is_better(other, figures));
        let beats_policy = figures.cost_usd < ours.cost_usd && figures.p95_s < ours.p95_s;
        let swept = Swept { value: *value, on_front, beats_policy, figures: *figures };
        fronts.entry(reference.name()).or_default().push(swept);
    }
    fronts
}

/// Runs several policies, and once the references and a clairvoyant that serves as many jobs in
/// time as the best of the policies. Calls `progress` after each run.
pub fn sweep(
    policies: &[Policy],
    max: u32,
    trace: &Trace,
    setup: &Setup,
    references: &[Reference],
    progress: &(dyn Fn() + Sync),
) -> Sweep {
    let model = policies.first().map_or("default", |policy| &policy.pool.model);
    let load = Load::new(trace, setup, model);
    let ours = in_parallel(policies, progress, |policy| {
        let outcome = run_policy(&load, policy, 0);
        (outcome.figures, outcome.wrong)
    });
    let theirs =
        in_parallel(references, progress, |reference| reference.run(&load, max, reference.usual()).figures);
    let mut others: Vec<_> = ours.iter().map(|(figures, _)| *figures).collect();
    let share = others.iter().map(|figures| figures.within_slo).fold(0.0, f64::max);
    others.extend(&theirs);
    let clairvoyant = clairvoyant::in_time(&load, max, share, &others);
    progress();
    Sweep {
        trace: TraceSummary::of(trace),
        policies: ours,
        clairvoyant,
        references: named(references, theirs),
    }
}

fn named(references: &[Reference], figures: Vec<Figures>) -> BTreeMap<&'static str, Figures> {
    references.iter().map(|reference| reference.name()).zip(figures).collect()
}

/// Applies `run` to each item, on as many threads as there are processors, and calls `progress`
/// after each. Returns the results in the same order.
fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    progress: &(dyn Fn() + Sync),
    run: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let Some((place, this)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|place| Some((place, items.get(place)?)))
        {
            done.push((place, run(this)));
            progress();
        }
        done
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(items.len());
    let mut done: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Vec<_>>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().flat_map(join).collect()
    });
    done.sort_by_key(|(place, _)| *place);
    done.into_iter().map(|(_, answer)| answer).collect()
}

#[cfg(test)]
mod tests;
