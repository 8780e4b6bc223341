//! Schedules without planning: staffing by the arrivals of each time, and earlier runs without
//! their waste.

use super::{
    Orders,
    fluid::{Plan, in_order},
};
use crate::simulate::{
    load::Load,
    outcome::Outcome,
    setup::{Micros, micros},
};

/// Number of reserves that are tried, from the largest to slightly below zero.
pub(super) const RESERVES: u32 = 15;
/// Step in which the load is averaged.
const STEP: Micros = 5_000_000;

/// The mean load around each step, in Erlangs of one slot.
pub(super) struct Mean {
    offered: Vec<f64>,
    slots: f64,
}

impl Mean {
    /// Averages over a window around each step, including later arrivals.
    pub(super) fn of(load: &Load<'_>, window_s: f64) -> Self {
        let steps = load.trace.length / STEP + 1 + micros(load.setup.service_time.mean) / STEP;
        let mut sums = vec![0.0; steps as usize + 1];
        for (at, work) in load.jobs() {
            sums[(at / STEP) as usize + 1] += work as f64;
        }
        for step in 1..sums.len() {
            sums[step] += sums[step - 1];
        }
        let half = ((window_s * 1e6 / STEP as f64) as usize / 2).max(1);
        let mean = |step: usize| {
            let (from, to) = (step.saturating_sub(half), (step + half).min(sums.len() - 1));
            (sums[to] - sums[from]) / ((to - from).max(1) as f64 * STEP as f64)
        };
        let offered = (0..steps as usize).map(mean).collect();
        Self { offered, slots: f64::from(load.setup.concurrency.max(1)) }
    }

    /// The offered load plus a reserve in proportion to its square root (Halfin and Whitt, 1981). A
    /// higher rank means a smaller reserve.
    pub(super) fn orders(&self, rank: u32, delay: Micros, max: u32) -> Orders {
        let beta = 2.5 - 0.2 * f64::from(rank);
        let count = |offered: &f64| {
            let busy = offered / self.slots;
            // No instance for less than a job in minutes.
            let wanted = if busy < 1e-9 { 0.0 } else { beta.mul_add(busy.sqrt(), busy).round().max(1.0) };
            (wanted as u32).min(max)
        };
        Plan { step: STEP, counts: self.offered.iter().map(count).collect() }.orders(delay)
    }
}

/// The schedule of a run, with each instance only from its start to the end of its last job, and
/// without instances that had no job.
pub(super) fn without_waste(outcome: &Outcome) -> Orders {
    let changes = outcome.worked.iter().flat_map(|(from, to)| [(*from, 1), (*to, -1)]);
    in_order(changes.collect())
}
