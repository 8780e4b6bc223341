//! `[controller.simulate]`: simulated trouble. A worker process starts at once and never lacks
//! capacity; these settings make a fleet of processes behave like one of machines, so that scaling
//! can be watched on one machine.

use serde::{Deserialize, Serialize};

use super::Distribution;

/// The behaviour that the process fleet simulates; nothing by default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Simulate {
    /// The time after which a started instance begins to run.
    pub start_delay: Distribution,
    /// The fraction of starts that fail: half of them end before the worker begins, half hang.
    pub boot_failure: f64,
    /// The fraction of starts that are refused for lack of capacity.
    pub capacity_error: f64,
    /// The seed of the random numbers: equal seeds cause the same trouble in the same order.
    pub seed: u64,
}

impl Default for Simulate {
    fn default() -> Self {
        Self { start_delay: Distribution::default(), boot_failure: 0.0, capacity_error: 0.0, seed: 1 }
    }
}

impl Simulate {
    /// Returns whether anything is simulated.
    pub fn is_on(&self) -> bool {
        let Self { start_delay, boot_failure, capacity_error, seed: _ } = self;
        *start_delay != Distribution::default() || *boot_failure > 0.0 || *capacity_error > 0.0
    }
}
