//! Traces: the arrival times of requests, from files, from the controller's own recording, or from
//! a generator.

mod files;
mod generators;

use std::{path::Path, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};

pub use self::{files::read, generators::generate};
use super::setup::{Micros, micros};

/// The arrivals of one pool.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// Path of the file, or text of the generator.
    pub name: String,
    /// Arrival time of each request, in order.
    pub arrivals: Vec<Micros>,
    /// Length of the trace; no request arrives later.
    pub length: Micros,
    /// Time of day at its beginning, for schedules.
    pub starts_at: DateTime<Utc>,
    /// Measured values of the workers, if the trace is a recording.
    pub recorded: Recorded,
}

/// The measured values in the lines of a recording; `None` if they have none.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Recorded {
    /// Mean service time of a job over all jobs, in seconds.
    pub service_s: Option<f64>,
    /// Median start delay over all lines, in seconds.
    pub start_delay_s: Option<f64>,
    /// Number of jobs that an instance processed at the same time, from the last line.
    pub at_once: Option<f64>,
    /// Limit on all pools together, from the last line.
    pub limit: Option<u32>,
}

/// Longest trace. Longer ones are assumed to be a mistake or in another unit.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);
/// Maximum number of arrivals, to bound the memory.
const MOST_ARRIVALS: usize = 50_000_000;

impl Trace {
    /// Makes a trace of these arrivals. Fails with a sentence if there are none or too many, or if
    /// it is too long.
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

    /// Makes a trace from the path of a file, the path of a folder with a recording, or the text of
    /// a generator. An existing path takes precedence.
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

    /// Length in seconds.
    pub fn seconds(&self) -> f64 {
        self.length as f64 / 1e6
    }
}

/// A Monday at midnight UTC, at which traces without a date begin.
pub fn default_start() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(1_767_571_200)
}
