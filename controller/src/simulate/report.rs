//! What a simulation tells: the policy, the clairvoyant and the references, side by side.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{outcome::Figures, trace::Trace};

/// Everything that people compare, of one trace.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// What was simulated.
    pub trace: TraceSummary,
    /// How the policy did.
    pub policy: Figures,
    /// How somebody did who knew the trace, with at least the policy's share within the SLO.
    pub clairvoyant: Figures,
    /// How others' rules did, by their names.
    pub references: BTreeMap<&'static str, Figures>,
    /// What the policy's run did that nobody should, in sentences. Empty, if all is well.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub wrong: Vec<String>,
}

/// A trace in three figures.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TraceSummary {
    /// The file or the generator.
    pub name: String,
    /// How many requests arrive.
    pub arrivals: u64,
    /// How long it is.
    pub seconds: f64,
}

/// Several policies on one trace.
#[derive(Debug, Clone, PartialEq)]
pub struct Sweep {
    /// What was simulated.
    pub trace: TraceSummary,
    /// How each of them did, and what it did that nobody should, in the order of the policies.
    pub policies: Vec<(Figures, Vec<String>)>,
    /// How somebody did who knew the trace, with at least the largest share within the SLO of any of the policies.
    pub clairvoyant: Figures,
    /// How others' rules did, by their names.
    pub references: BTreeMap<&'static str, Figures>,
}

impl TraceSummary {
    pub(super) fn of(trace: &Trace) -> Self {
        Self { name: trace.name.clone(), arrivals: trace.arrivals.len() as u64, seconds: trace.seconds() }
    }
}

impl Report {
    /// Everybody by name, the policy first.
    pub fn rows(&self) -> impl Iterator<Item = (&str, &Figures)> {
        let ours = [("policy", &self.policy), ("clairvoyant", &self.clairvoyant)];
        ours.into_iter().chain(self.references.iter().map(|(name, figures)| (*name, figures)))
    }
}
