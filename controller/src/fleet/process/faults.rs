//! Simulated faults, as set in [`Simulate`]: slow starts, failing starts and refused starts.

use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};
use eirs_platform::{
    error::{Error, Result},
    settings::Simulate,
};
use serde::{Deserialize, Serialize};

/// Decides at random which starts fail.
#[derive(Debug)]
pub(super) struct Faults {
    settings: Simulate,
    chance: Mutex<u64>,
}

/// A simulated start.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Boot {
    /// Time at which the process starts.
    pub(super) due: DateTime<Utc>,
    /// How the start ends.
    pub(super) end: BootEnd,
}

/// How a simulated start ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum BootEnd {
    /// The worker runs.
    Runs,
    /// The instance dies.
    Dies,
    /// The instance never becomes ready.
    Hangs,
}

impl Faults {
    pub(super) fn new(settings: Simulate) -> Self {
        Self { chance: Mutex::new(settings.seed), settings }
    }

    /// Refuses a start with the configured probability.
    pub(super) fn check_capacity(&self, id: &str) -> Result<()> {
        let refused = self.settings.capacity_error > 0.0 && self.uniform() < self.settings.capacity_error;
        if refused {
            return Err(Error::no_capacity(
                format!("starting {id}"),
                "simulated, controller.simulate.capacity_error",
            ));
        }
        Ok(())
    }

    /// Decides how a start goes; `None` if the process starts at once.
    pub(super) fn boot(&self, now: DateTime<Utc>) -> Option<Boot> {
        if !self.settings.is_on() {
            return None;
        }
        let delay = self.settings.start_delay.sample(|| self.uniform());
        let fails = self.settings.boot_failure > 0.0 && self.uniform() < self.settings.boot_failure;
        let end = match fails.then(|| self.uniform() < 0.5) {
            None => BootEnd::Runs,
            Some(true) => BootEnd::Dies,
            Some(false) => BootEnd::Hangs,
        };
        (!delay.is_zero() || end != BootEnd::Runs).then(|| Boot { due: now + delay, end })
    }

    /// A uniformly distributed number in 0..1.
    fn uniform(&self) -> f64 {
        let mut state = self.chance.lock().unwrap_or_else(PoisonError::into_inner);
        // SplitMix64 (Steele, Lea, Flood 2014), which accepts any seed.
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        // The 53 bits that a float holds exactly.
        (mixed >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(seed: u64, boot_failure: f64, capacity_error: f64) -> Faults {
        let start_delay = "10s..20s".parse().unwrap();
        Faults::new(Simulate { start_delay, boot_failure, capacity_error, seed })
    }

    #[test]
    fn there_are_no_faults_by_default() {
        let faults = Faults::new(Simulate::default());
        assert!(
            (0..100)
                .all(|_| faults.check_capacity("p-1").is_ok() && faults.boot(DateTime::UNIX_EPOCH).is_none())
        );
    }

    #[test]
    fn faults_have_the_configured_probability_and_depend_on_the_seed() {
        let count = 10_000;
        let run = |seed| {
            let faults = faults(seed, 0.2, 0.3);
            let boots = (0..count).map(|_| faults.boot(DateTime::UNIX_EPOCH).unwrap()).collect::<Vec<_>>();
            let refused = (0..count).filter(|_| faults.check_capacity("p-1").is_err()).count();
            (boots, refused)
        };
        let (boots, refused) = run(7);
        let share = |end| boots.iter().filter(|boot| boot.end == end).count() as f64 / f64::from(count);
        assert!((share(BootEnd::Dies) - 0.1).abs() < 0.01 && (share(BootEnd::Hangs) - 0.1).abs() < 0.01);
        assert!((refused as f64 / f64::from(count) - 0.3).abs() < 0.02, "{refused}");
        assert!(boots.iter().all(|boot| (10..=20).contains(&boot.due.timestamp())));
        assert_eq!(run(7), (boots.clone(), refused));
        assert_ne!(run(8).0, boots);
    }
}
