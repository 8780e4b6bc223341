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

use self::{controller::Controller, load::Load, run::run};
pub use self::{
    faults::Faults,
    outcome::{Figures, Outcome, Sample},
    references::Reference,
    report::{Report, TraceSummary},
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

/// Runs a policy, these references and the clairvoyant.
pub fn compare(
    policy: &Policy,
    trace: &Trace,
    setup: &Setup,
    references: &[Reference],
    samples: u32,
) -> Comparison {
    let load = Load::new(trace, setup, &policy.pool.model);
    let max = policy.pool.max;
    let (ours, theirs) = std::thread::scope(|scope| {
        let run = |reference: &Reference| {
            let (reference, load) = (*reference, &load);
            (reference, scope.spawn(move || reference.run(load, max, 0)))
        };
        let theirs: Vec<_> = references.iter().map(run).collect();
        let ours = run_policy(&load, policy, samples);
        let done = |(reference, run): (Reference, std::thread::ScopedJoinHandle<'_, Outcome>)| {
            let outcome = run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (reference, outcome)
        };
        (ours, theirs.into_iter().map(done).collect::<Vec<_>>())
    });
    let mut others = vec![&ours];
    others.extend(theirs.iter().map(|(_, outcome)| outcome));
    let best = clairvoyant::clairvoyant(&load, max, ours.figures.within_slo, &others, 0);
    let report = Report {
        trace: TraceSummary {
            name: trace.name.clone(),
            arrivals: trace.arrivals.len() as u64,
            seconds: trace.seconds(),
        },
        policy: ours.figures,
        wrong: ours.wrong.clone(),
        clairvoyant: best.figures,
        references: theirs.iter().map(|(reference, outcome)| (reference.name(), outcome.figures)).collect(),
    };
    Comparison { report, policy: ours }
}
