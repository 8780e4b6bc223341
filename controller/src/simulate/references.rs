//! The rules of other systems, according to their public documentation, on the same site: with the
//! same arrivals, service times, start delays and `max`, and, except for the seed rule, the same
//! graceful stop.

mod keda;
mod kpa;
mod seed;
mod target_tracking;

use std::{fmt, str::FromStr};

use eirs_platform::queue::Depth;
use serde::Serialize;

use self::{keda::Keda, kpa::Kpa, seed::SeedRule, target_tracking::TargetTracking};
use super::{load::Load, outcome::Outcome, run::Driver, setup::Setup, site::Site};

/// A rule of another system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reference {
    /// All or nothing, by the length of the queue.
    Seed,
    /// KEDA's SQS scaler with the Kubernetes HPA.
    Keda,
    /// EC2 Auto Scaling's target tracking on the backlog per instance.
    TargetTracking,
    /// Knative's pod autoscaler.
    Kpa,
}

impl Reference {
    /// All references.
    pub const ALL: [Self; 4] = [Self::Seed, Self::Keda, Self::TargetTracking, Self::Kpa];

    /// Name on the command line and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Seed => "seed",
            Self::Keda => "keda",
            Self::TargetTracking => "target-tracking",
            Self::Kpa => "kpa",
        }
    }

    /// Default value of the main parameter, from the documentation.
    pub fn usual(self) -> f64 {
        match self {
            Self::Seed => 10.0,
            Self::Keda => 5.0,
            Self::TargetTracking | Self::Kpa => 1.0,
        }
    }

    /// Name of the main parameter.
    pub fn parameter(self) -> &'static str {
        match self {
            Self::Seed => "messages",
            Self::Keda => "queueLength",
            Self::TargetTracking => "target, as a share of the SLO's",
            Self::Kpa => "target, as a share of the concurrency",
        }
    }

    /// The values of the main parameter for sweeps, the most usual ones first.
    pub(super) fn values(self) -> Vec<f64> {
        match self {
            Self::Seed => vec![10.0, 0.0, 100.0, 3.0, 30.0, 300.0],
            Self::Keda => vec![5.0, 1.0, 20.0, 2.0, 10.0, 50.0, 3.0, 8.0, 100.0],
            Self::TargetTracking => vec![1.0, 0.25, 4.0, 0.5, 2.0, 0.1, 10.0, 0.75],
            Self::Kpa => vec![1.0, 0.7, 3.0, 0.5, 1.5, 2.0, 5.0, 10.0, 20.0],
        }
    }

    /// Makes the driver with this value of the main parameter and at most `max` instances.
    fn driver(self, setup: &Setup, max: u32, value: f64) -> Box<dyn Driver> {
        match self {
            Self::Seed => Box::new(SeedRule { max, backlog: value as u64 }),
            Self::Keda => Box::new(Keda::new(max, value)),
            Self::TargetTracking => Box::new(TargetTracking::new(setup, max, value)),
            Self::Kpa => Box::new(Kpa::new(setup, max, value)),
        }
    }

    pub(super) fn run(self, load: &Load<'_>, max: u32, value: f64) -> Outcome {
        super::run::run(load, &mut *self.driver(load.setup, max, value), 0)
    }
}

/// The queue depth as the controller reads it; `None` if the read failed.
fn depth(site: &mut Site<'_>) -> Option<Depth> {
    site.read_depth().ok()
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Reference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|reference| reference.name() == text.trim());
        found.ok_or_else(|| {
            format!(
                "unknown reference `{text}`; the known ones are seed, keda, \
                target-tracking and kpa"
            )
        })
    }
}

/// Rounds up.
fn ceil(value: f64) -> u32 {
    // Floating-point sums may exceed a whole number by a tiny amount.
    (value - 1e-9).ceil().clamp(0.0, f64::from(u32::MAX)) as u32
}
