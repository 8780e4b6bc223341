//! The report of a simulation: the policy, the clairvoyants and the references side by side.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{outcome::Figures, trace::Trace};

/// The complete comparison on one trace.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The simulated trace.
    pub trace: TraceSummary,
    /// The policy, with the first seed.
    pub policy: Figures,
    /// The cheapest known schedule, with knowledge of the trace, that has at least the policy's
    /// share within the SLO.
    pub clairvoyant: Figures,
    /// The same, with the policy's median and 95th percentile instead.
    pub as_fast: Figures,
    /// The same as `as_fast`, without starts before their jobs arrive.
    pub online: Figures,
    /// The ratios of the policy's cost to these.
    pub prices: Prices,
    /// The references, by name.
    pub references: BTreeMap<&'static str, Figures>,
    /// The references with other values of their main parameters, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub fronts: BTreeMap<&'static str, Vec<Swept>>,
    /// Means over several seeds, of the policy and the references by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub seeds: BTreeMap<&'static str, Spread>,
    /// Actions of the policy's run that are never right, one sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub wrong: Vec<String>,
}

/// A lower bound of the cost, as an interval: a schedule that was found, and a relaxation that no
/// schedule can beat.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bound {
    /// The schedule.
    pub found: Figures,
    /// Cost of the relaxation, in US dollars.
    pub least_usd: f64,
}

/// Why a policy costs more than necessary, as three ratios of costs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Prices {
    /// The policy to the clairvoyant that is as fast: the price of not knowing the future.
    pub ignorance: Ratio,
    /// The clairvoyant that is as fast to the one that only keeps the SLO: the price of speed.
    pub speed: Ratio,
    /// The policy to the best equally fast schedule without starts before their jobs arrive.
    pub online: Ratio,
}

/// The ratio of a cost to a bound.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ratio {
    /// Ratio to the schedule that was found: a lower limit.
    pub found: f64,
    /// Ratio to the relaxation: an upper limit.
    pub most: f64,
}

impl Ratio {
    /// Computes the ratio of a cost to a bound.
    pub(super) fn of(cost_usd: f64, bound: &Bound) -> Self {
        let over = |usd: f64| if usd > 0.0 { cost_usd / usd } else { 1.0 };
        Self { found: over(bound.found.cost_usd), most: over(bound.least_usd) }
    }
}

/// The result of a reference with another value of its main parameter.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Swept {
    /// Value of the parameter.
    pub value: f64,
    /// Whether no other value of this reference is both cheaper and faster.
    pub on_front: bool,
    /// Whether it is both cheaper and faster (at the 95th percentile) than the policy.
    pub beats_policy: bool,
    /// The figures of the run.
    #[serde(flatten)]
    pub figures: Figures,
}

/// Means over several seeds, with their confidence intervals.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// Number of seeds.
    pub seeds: usize,
    /// 95th percentile of the latency, in seconds.
    pub p95_s: Mean,
    /// Share within the SLO, from 0 to 1.
    pub within_slo: Mean,
    /// Cost in US dollars.
    pub cost_usd: Mean,
}

/// A mean with its confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Mean {
    /// The mean.
    pub mean: f64,
    /// Half the width of the 95 % confidence interval.
    pub off: f64,
}

/// 97.5th percentiles of Student's t distribution, from one degree of freedom on.
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
    /// Computes the means of the runs of one policy or reference.
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

/// A summary of a trace.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TraceSummary {
    /// Path of the file, or text of the generator.
    pub name: String,
    /// Number of requests.
    pub arrivals: u64,
    /// Length in seconds.
    pub seconds: f64,
}

/// The comparison of several policies on one trace.
#[derive(Debug, Clone, PartialEq)]
pub struct Sweep {
    /// The simulated trace.
    pub trace: TraceSummary,
    /// Figures of each policy and actions that are never right, in the order of the policies.
    pub policies: Vec<(Figures, Vec<String>)>,
    /// A clairvoyant with at least the largest share within the SLO of all policies.
    pub clairvoyant: Figures,
    /// The references, by name.
    pub references: BTreeMap<&'static str, Figures>,
}

/// Whether `one` is not worse in cost and latency, and better in at least one of them.
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
    /// All figures by name, the policy first.
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
        assert!(Mean::of(&[5.0]).off.is_infinite(), "one seed gives no confidence interval");
    }

    #[test]
    fn better_is_not_worse_in_any_and_better_in_one_figure() {
        let figures = |cost_usd, p95_s| Figures { cost_usd, p95_s, ..Figures::default() };
        assert!(is_better(&figures(1.0, 5.0), &figures(2.0, 5.0)));
        assert!(!is_better(&figures(1.0, 5.0), &figures(1.0, 5.0)));
        assert!(!is_better(&figures(1.0, 6.0), &figures(2.0, 5.0)));
    }
}
