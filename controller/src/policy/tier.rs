//! Parked and launched instances: each tier has a start delay and a price of its own.

use serde::{Deserialize, Serialize};

/// Where instances come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// It is there, and stopped when it is not needed.
    #[default]
    Parked,
    /// A place that is empty until it is needed: its start makes a machine, and its stop takes that
    /// away.
    Launched,
}

impl Tier {
    pub(crate) fn is_parked(&self) -> bool {
        *self == Self::Parked
    }
}
