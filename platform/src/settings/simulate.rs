//! `[controller.simulate]`: trouble on purpose. A worker process starts in no time and never for
//! want of capacity; with these a fleet of processes behaves like one of machines, so that scaling
//! can be watched on one machine.

use serde::{Deserialize, Serialize};

use super::Distribution;

/// What the process fleet makes up; nothing unless it is set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Simulate {
    /// How long after its start an instance begins to run.
    pub start_delay: Distribution,
    /// The share of starts that come to nothing: half of them end where the worker should begin,
    /// half of them never do.
    pub boot_failure: f64,
    /// The share of starts that are refused for want of capacity.
    pub capacity_error: f64,
    /// What chance begins with: equal seeds, equal troubles in equal order.
    pub seed: u64,
}

impl Default for Simulate {
    fn default() -> Self {
        Self { start_delay: Distribution::default(), boot_failure: 0.0, capacity_error: 0.0, seed: 1 }
    }
}

impl Simulate {
    /// Whether anything is made up.
    pub fn is_on(&self) -> bool {
        let Self { start_delay, boot_failure, capacity_error, seed: _ } = self;
        *start_delay != Distribution::default() || *boot_failure > 0.0 || *capacity_error > 0.0
    }
}
