//! What a simulation tells: the policy, those who know the future and the references, side by side.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{outcome::Figures, trace::Trace};

/// Everything that people compare, of one trace.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// What was simulated.
    pub trace: TraceSummary,
    /// How the policy did, with the first seed.
    pub policy: Figures,
    /// The cheapest way that was found, by somebody who knows the trace, to have the policy's share
    /// within the SLO.
    pub clairvoyant: Figures,
    /// The same, held to the policy's median and 95th percentile.
    pub as_fast: Figures,
    /// The same again, where no start precedes its job.
    pub online: Figures,
    /// What the policy costs beyond these, and why.
    pub prices: Prices,
    /// How others' rules did, by their names.
    pub references: BTreeMap<&'static str, Figures>,
    /// The same with other values of each one's main parameter.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub fronts: BTreeMap<&'static str, Vec<Swept>>,
    /// Over several seeds: everybody by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub seeds: BTreeMap<&'static str, Spread>,
    /// What the policy's run did that nobody should, in sentences. Empty, if all is well.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub wrong: Vec<String>,
}

/// A cost that nobody can go below, as an interval: a schedule that was found, and a relaxation
/// that no schedule can beat.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bound {
    /// The schedule.
    pub found: Figures,
    /// What no schedule goes below, in US dollars.
    pub least_usd: f64,
}

/// Why a policy costs more than it must, in three ratios of costs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Prices {
    /// The policy over who knows the future and is as fast: the price of not knowing it.
    pub ignorance: Ratio,
    /// Who is as fast as the policy over who only keeps the SLO: the price of speed.
    pub speed: Ratio,
    /// The policy over the best plan as fast in which no start precedes its job.
    pub online: Ratio,
}

/// A ratio of costs to a bound.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ratio {
    /// To the schedule that was found: certainly no less.
    pub found: f64,
    /// To what no schedule goes below: certainly no more.
    pub most: f64,
}

impl Ratio {
    /// Of a cost to a bound.
    pub(super) fn of(cost_usd: f64, bound: &Bound) -> Self {
        let over = |usd: f64| if usd > 0.0 { cost_usd / usd } else { 1.0 };
        Self { found: over(bound.found.cost_usd), most: over(bound.least_usd) }
    }
}

/// A reference with another value of its main parameter.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Swept {
    /// The value.
    pub value: f64,
    /// Whether no other value of this reference is both cheaper and faster.
    pub on_front: bool,
    /// Whether it is both cheaper and faster at the 95th percentile than the policy.
    pub beats_policy: bool,
    /// How it did.
    #[serde(flatten)]
    pub figures: Figures,
}

/// The mean over several seeds, and how far it may be off.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// How many.
    pub seeds: usize,
    /// The 95th percentile of latencies, in seconds.
    pub p95_s: Mean,
    /// The share within the SLO.
    pub within_slo: Mean,
    /// The cost in US dollars.
    pub cost_usd: Mean,
}

/// A mean with the half width of its confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Mean {
    /// The mean.
    pub mean: f64,
    /// In 95 of 100 cases the true mean is no further away.
    pub off: f64,
}

/// The 97.5th percentiles of Student's t distribution for one degree of freedom and more.
const STUDENT: [f64; 10] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];

impl Mean {
    fn of(values: &[f64]) -> Self {
        let count = values.len().max(1) as f64;
        let mean = values.iter().sum::<f64>() / count;
        if values.len() < 2 {
            return Self { mean, off: f64::INFINITY };
        }
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
        let student = STUDENT.get(values.len() - 2).copied().unwrap_or(1.96);
        Self { mean, off: student * (variance / count).sqrt() }
    }
}

impl Spread {
    /// Of the same policy or reference under several seeds.
    pub(super) fn of(runs: &[Figures]) -> Self {
        let mean = |value: fn(&Figures) -> f64| Mean::of(&runs.iter().map(value).collect::<Vec<_>>());
        Self {
            seeds: runs.len(),
            p95_s: mean(|run| run.p95_s),
            within_slo: mean(|run| run.within_slo),
            cost_usd: mean(|run| run.cost_usd),
        }
    }
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
    /// How somebody did who knew the trace, with at least the largest share within the SLO of any
    /// of the policies.
    pub clairvoyant: Figures,
    /// How others' rules did, by their names.
    pub references: BTreeMap<&'static str, Figures>,
}

/// Whether one is nowhere worse than the other and somewhere better, of cost and latency.
pub fn is_better(one: &Figures, other: &Figures) -> bool {
    let (one, other) = ([one.cost_usd, one.p95_s], [other.cost_usd, other.p95_s]);
    one != other && one.iter().zip(other).all(|(one, other)| *one <= other)
}

impl TraceSummary {
    pub(super) fn of(trace: &Trace) -> Self {
        Self { name: trace.name.clone(), arrivals: trace.arrivals.len() as u64, seconds: trace.seconds() }
    }
}

impl Report {
    /// Everybody by name, the policy first.
    pub fn rows(&self) -> impl Iterator<Item = (&str, &Figures)> {
        let ours = [
            ("policy", &self.policy),
            ("as fast", &self.as_fast),
            ("online", &self.online),
            ("clairvoyant", &self.clairvoyant),
        ];
        ours.into_iter().chain(self.references.iter().map(|(name, figures)| (*name, figures)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_of_a_few_seeds_has_students_interval() {
        let mean = Mean::of(&[1.0, 2.0, 3.0]);
        assert!((mean.mean - 2.0).abs() < 1e-12 && (mean.off - 4.303 / 3f64.sqrt()).abs() < 1e-9, "{mean:?}");
        assert_eq!(Mean::of(&[5.0, 5.0]), Mean { mean: 5.0, off: 0.0 });
        assert!(Mean::of(&[5.0]).off.is_infinite(), "one seed says nothing of chance");
    }

    #[test]
    fn better_is_nowhere_worse_and_somewhere_better() {
        let figures = |cost_usd, p95_s| Figures { cost_usd, p95_s, ..Figures::default() };
        assert!(is_better(&figures(1.0, 5.0), &figures(2.0, 5.0)));
        assert!(!is_better(&figures(1.0, 5.0), &figures(1.0, 5.0)));
        assert!(!is_better(&figures(1.0, 6.0), &figures(2.0, 5.0)));
    }
}
