//! The tiers: parked and launched instances, which have different start delays and prices.

use serde::{Deserialize, Serialize};

/// The origin of an instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Exists all the time, and is stopped while it is not needed.
    #[default]
    Parked,
    /// A place that is empty until an instance is needed. A start creates a machine, a stop
    /// terminates it.
    Launched,
}

impl Tier {
    pub(crate) fn is_parked(&self) -> bool {
        *self == Self::Parked
    }
}
