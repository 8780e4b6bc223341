//! The current date and time, passed as a parameter. Timers are those of `tokio::time`; *dates*
//! come from here, so that both advance together in tests with tokio's paused time.

use std::{fmt::Debug, sync::Arc};

use chrono::{DateTime, Utc};

/// A source of the date and time.
pub trait Clock: Debug + Send + Sync + 'static {
    /// Returns the current time in UTC.
    fn now(&self) -> DateTime<Utc>;
}

/// A shared clock.
pub type SharedClock = Arc<dyn Clock>;

/// The clock of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}

/// A clock that advances with tokio's: with `start_paused` it stands still until the test advances
/// it.
#[derive(Debug, Clone, Copy)]
pub struct TokioClock {
    start: DateTime<Utc>,
    epoch: tokio::time::Instant,
}

impl TokioClock {
    /// A clock that shows `start` now.
    pub fn starting_at(start: DateTime<Utc>) -> Self {
        Self { start, epoch: tokio::time::Instant::now() }
    }
}

impl Clock for TokioClock {
    fn now(&self) -> DateTime<Utc> {
        self.start + self.epoch.elapsed()
    }
}
