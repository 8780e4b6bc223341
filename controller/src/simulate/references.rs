//! The rules of others, as their public documentation tells them, on the same site: the same arrivals, service times, start
//! delays and `max`, and, but for the seed rule, the same graceful stop.

mod keda;
mod kpa;
mod seed;
mod target_tracking;

use std::{fmt, str::FromStr};

use serde::Serialize;

use self::{keda::Keda, kpa::Kpa, seed::SeedRule, target_tracking::TargetTracking};
use super::{load::Load, outcome::Outcome, run::Driver, setup::Setup};

/// A rule that people use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reference {
    /// All or nothing by the length of the queue.
    Seed,
    /// KEDA's SQS scaler with the Kubernetes HPA.
    Keda,
    /// EC2 Auto Scaling's target tracking on the backlog per instance.
    TargetTracking,
    /// Knative's pod autoscaler.
    Kpa,
}

impl Reference {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Seed, Self::Keda, Self::TargetTracking, Self::Kpa];

    /// The name of the token, on the command line and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Seed => "seed",
            Self::Keda => "keda",
            Self::TargetTracking => "target-tracking",
            Self::Kpa => "kpa",
        }
    }

    /// The rule, with at most so many instances.
    fn driver(self, setup: &Setup, max: u32) -> Box<dyn Driver> {
        match self {
            Self::Seed => Box::new(SeedRule { max }),
            Self::Keda => Box::new(Keda::new(max)),
            Self::TargetTracking => Box::new(TargetTracking::new(setup, max)),
            Self::Kpa => Box::new(Kpa::new(setup, max)),
        }
    }

    pub(super) fn run(self, load: &Load<'_>, max: u32, samples: u32) -> Outcome {
        super::run::run(load, &mut *self.driver(load.setup, max), samples)
    }
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

/// A quotient, rounded up.
fn ceil(value: f64) -> u32 {
    // Sums of floats that should be whole are a little off.
    (value - 1e-9).ceil().clamp(0.0, f64::from(u32::MAX)) as u32
}
