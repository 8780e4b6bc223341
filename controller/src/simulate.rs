//! The simulator: the decision as it is, on a virtual queue, fleet, web and clock, and beside it a clairvoyant and the rules of
//! others. Everything comes from a seed: the same seed gives the same run.
//!
//! A run is a sequence of events in virtual time ([`site`]) under a [`Driver`](run::Driver): the real controller's decision
//! ([`controller`]), one of the [`references`], or the [`clairvoyant`]. All of them have the same arrivals, the same service time
//! for each job and the same delay for the first, second, third start.

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

use self::{clairvoyant::clairvoyant, controller::Controller, load::Load, run::run};
pub use self::{
    faults::Faults,
    outcome::{Figures, Outcome, Sample},
    references::Reference,
    report::{Report, Sweep, TraceSummary},
    setup::{Distribution, Setup, Shape},
    trace::Trace,
};
use crate::policy::Policy;

/// How a policy and those that it is compared with did on one trace.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// What people compare.
    pub report: Report,
    /// The policy's run in full.
    pub policy: Outcome,
}

/// Runs a policy. With `samples` it is noted about so many times how things stand.
pub fn simulate(policy: &Policy, trace: &Trace, setup: &Setup, samples: u32) -> Outcome {
    let load = Load::new(trace, setup, &policy.pool.model);
    run_policy(&load, policy, samples)
}

/// Runs a reference instead.
pub fn simulate_reference(reference: Reference, max: u32, trace: &Trace, setup: &Setup) -> Outcome {
    reference.run(&Load::new(trace, setup, "default"), max, 0)
}

fn run_policy(load: &Load<'_>, policy: &Policy, samples: u32) -> Outcome {
    run(load, &mut Controller::new(load.setup, policy.clone()), samples)
}

/// Runs a policy, these references and the clairvoyant, and tells when one of them is through.
pub fn compare(
    policy: &Policy,
    trace: &Trace,
    setup: &Setup,
    references: &[Reference],
    samples: u32,
    through: &(dyn Fn() + Sync),
) -> Comparison {
    let load = Load::new(trace, setup, &policy.pool.model);
    let max = policy.pool.max;
    let (ours, theirs) = std::thread::scope(|scope| {
        let theirs =
            scope.spawn(|| at_once(references, through, |reference| reference.run(&load, max, 0).figures));
        let ours = run_policy(&load, policy, samples);
        through();
        (ours, theirs.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let others = [&[ours.figures], &theirs[..]].concat();
    let report = Report {
        trace: TraceSummary::of(trace),
        policy: ours.figures,
        clairvoyant: clairvoyant(&load, max, ours.figures.within_slo, &others),
        references: named(references, theirs),
        wrong: ours.wrong.clone(),
    };
    through();
    Comparison { report, policy: ours }
}

/// Runs several policies, and once the references and the clairvoyant, who serves as many in time as the best of the policies. Tells
/// when one of them is through.
pub fn sweep(
    policies: &[Policy],
    max: u32,
    trace: &Trace,
    setup: &Setup,
    references: &[Reference],
    through: &(dyn Fn() + Sync),
) -> Sweep {
    let model = policies.first().map_or("default", |policy| &policy.pool.model);
    let load = Load::new(trace, setup, model);
    let ours = at_once(policies, through, |policy| {
        let outcome = run_policy(&load, policy, 0);
        (outcome.figures, outcome.wrong)
    });
    let theirs = at_once(references, through, |reference| reference.run(&load, max, 0).figures);
    let mut others: Vec<_> = ours.iter().map(|(figures, _)| *figures).collect();
    let share = others.iter().map(|figures| figures.within_slo).fold(0.0, f64::max);
    others.extend(&theirs);
    let clairvoyant = clairvoyant(&load, max, share, &others);
    through();
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

/// Does something with each of these, as many at a time as there are processors, and tells when one is through; the answers are
/// in the same order.
fn at_once<T: Sync, R: Send>(
    these: &[T],
    through: &(dyn Fn() + Sync),
    run: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let Some((place, this)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|place| Some((place, these.get(place)?)))
        {
            done.push((place, run(this)));
            through();
        }
        done
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(these.len());
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
