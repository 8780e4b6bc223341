//! The load that all runs of one simulation share.

use super::{
    setup::{Chance, Micros, Setup, Stream, micros},
    trace::Trace,
};

/// The load that all runs of one simulation share: the arrivals, and the service time of each job.
#[derive(Debug)]
pub(super) struct Load<'a> {
    pub(super) trace: &'a Trace,
    pub(super) setup: &'a Setup,
    /// Pool of all instances.
    pub(super) pool: String,
    /// Model of all jobs.
    pub(super) model: String,
    /// Service time of each job, in microseconds.
    pub(super) service: Vec<u32>,
    /// Sum of all service times.
    pub(super) work: Micros,
}

impl<'a> Load<'a> {
    /// Name of the pool if there is only one.
    pub(super) const POOL: &'static str = "pool";

    pub(super) fn new(trace: &'a Trace, setup: &'a Setup, model: &str) -> Self {
        Self::of_pool(Self::POOL, trace, setup, model)
    }

    /// Makes the load of a pool with this name.
    pub(super) fn of_pool(pool: &str, trace: &'a Trace, setup: &'a Setup, model: &str) -> Self {
        let mut chance = Chance::of(setup.seed, Stream::Service);
        let mut draw = |_: &Micros| u32::try_from(setup.service_time.draw(&mut chance).as_micros());
        let service: Vec<_> = trace.arrivals.iter().map(|at| draw(at).unwrap_or(u32::MAX).max(1)).collect();
        let work = service.iter().map(|time| Micros::from(*time)).sum();
        Self { trace, setup, pool: pool.to_owned(), model: model.to_owned(), service, work }
    }

    /// Arrival time and service time of each job.
    pub(super) fn jobs(&self) -> impl Iterator<Item = (Micros, Micros)> {
        self.trace.arrivals.iter().copied().zip(self.service.iter().map(|time| Micros::from(*time)))
    }

    /// Start delay of the start with this number, the same in every run.
    pub(super) fn start_delay(&self, number: u64) -> Micros {
        let mut chance = Chance::of(self.setup.seed ^ number.wrapping_mul(0x9e37_79b9), Stream::Starts);
        micros(self.setup.start_delay.draw(&mut chance))
    }
}
