//! When requests arrive: from files, from the controller's own recording, or from a generator.

mod files;
mod generators;

use std::{path::Path, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};

pub use self::{files::read, generators::generate};
use super::setup::{Micros, micros};

/// The arrivals of one pool.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// The file or the generator.
    pub name: String,
    /// When each request arrives, in order.
    pub arrivals: Vec<Micros>,
    /// How long it is; no request arrives later.
    pub length: Micros,
    /// The time of day at its beginning; schedules go by it.
    pub starts_at: DateTime<Utc>,
    /// What a recording says of the workers.
    pub recorded: Recorded,
}

/// What the lines of a recording say beside the arrivals; absent is what they do not.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Recorded {
    /// Seconds that a job took, on the average of all jobs.
    pub service_s: Option<f64>,
    /// Seconds that a start took, in the middle of all lines.
    pub start_delay_s: Option<f64>,
    /// Jobs that an instance did at once, as the last line says.
    pub at_once: Option<f64>,
    /// The limit on all pools together, as the last line says.
    pub limit: Option<u32>,
}

/// Traces longer than this are a slip of the finger, or a file in other units.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);
/// More arrivals do not fit into memory comfortably.
const MOST_ARRIVALS: usize = 50_000_000;

impl Trace {
    /// A trace of these arrivals. One with no arrivals or no length is refused with a sentence.
    pub fn new(
        name: String,
        mut arrivals: Vec<Micros>,
        length: Micros,
        starts_at: DateTime<Utc>,
    ) -> Result<Self, String> {
        arrivals.sort_unstable();
        let length = length.max(arrivals.last().copied().unwrap_or(0));
        if arrivals.is_empty() {
            return Err(format!("{name}: has no arrivals"));
        }
        if arrivals.len() > MOST_ARRIVALS {
            return Err(format!("{name}: more than {MOST_ARRIVALS} arrivals"));
        }
        if length > micros(LONGEST) {
            return Err(format!("{name}: is longer than a year; are its times seconds?"));
        }
        Ok(Self { name, arrivals, length, starts_at, recorded: Recorded::default() })
    }

    /// A file, a folder of recordings, or a generator, whichever the words name. A file that is
    /// there comes first.
    pub fn of(words: &str, pool: &str, seed: u64) -> Result<Self, String> {
        let path = Path::new(words);
        if path.exists() {
            return read(path, pool, seed);
        }
        generate(words, seed).unwrap_or_else(|| {
            Err(format!(
                "{words}: no such file or generator; the generators are {}",
                generators::NAMES.join(", ")
            ))
        })
    }

    /// Its length in seconds.
    pub fn seconds(&self) -> f64 {
        self.length as f64 / 1e6
    }
}

/// A Monday at midnight: where a trace does not say when it was, schedules see this.
pub fn default_start() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(1_767_571_200)
}
