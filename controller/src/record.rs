//! Records observations and decisions as JSON lines in `recording/` of the state folder, so that
//! past load can be replayed with another policy (`eirs simulate`).
//!
//! A pool that is observed gets a line when something changed: at most one per second, unless the
//! desired number of instances changes, and at least one per minute. A longer gap means that there
//! was no observation. A failure to record never fails a pass.

mod read;

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use chrono::{DateTime, TimeDelta, Utc};
use eirs_platform::{settings::Settings, state_folder};
use serde::{Deserialize, Serialize};

pub use self::read::{BadLine, read};
use crate::{
    decide::Plan,
    observe::{Observation, PoolView},
};

/// Name of the folder in the state folder.
pub const FOLDER: &str = state_folder::RECORDING;
/// Name of the file that is being written. Full files are renamed with the date of their end.
const CURRENT: &str = state_folder::OBSERVATIONS;
/// Number of files. The oldest is deleted when all are full.
const FILES: u64 = 8;
/// Version of the lines. It is increased when a reader would misunderstand them.
const VERSION: u8 = 1;
/// Minimum time between two lines of a pool.
const SOONEST: TimeDelta = TimeDelta::seconds(1);
/// Maximum time between two lines of a pool.
const LATEST: TimeDelta = TimeDelta::seconds(60);

/// The observation of a pool, and the number of instances that it should have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Version of the line.
    pub v: u8,
    /// Time of the observation.
    pub at: DateTime<Utc>,
    /// Name of the pool.
    pub pool: String,
    /// Exact number of jobs that arrived since the previous line of this pool. It is 0 in the first
    /// line of a controller.
    pub arrived: u64,
    /// Number of waiting jobs; absent if the queue could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visible: Option<u64>,
    /// Number of jobs in flight; absent if the queue could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u64>,
    /// Number of instances that serve.
    pub ready: u32,
    /// Number of instances that were started and do not serve yet.
    pub starting: u32,
    /// Number of instances that drain or stop.
    pub leaving: u32,
    /// Number of instances that the pool should have.
    pub desired: u32,
    /// Mean time from the receipt of a job to its result in the last reports, in seconds; absent
    /// before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_s: Option<f64>,
    /// Time from the start of an instance to its first ready report, in seconds: measured, or the
    /// policy's value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_delay_s: Option<f64>,
    /// Number of jobs that an instance processes at the same time: measured, or 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_once: Option<f64>,
    /// Limit on the instances of all pools together, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Writes the recording.
#[derive(Debug)]
pub struct Recording {
    folder: PathBuf,
    /// Maximum size of all files together, in bytes; `None` if recording is off.
    size: Option<u64>,
    file: Option<(File, u64)>,
    pools: BTreeMap<String, Last>,
    is_failing: bool,
}

/// The last line of a pool, and its total arrivals up to then.
#[derive(Debug)]
struct Last {
    line: Option<Line>,
    arrived: u64,
}

impl Recording {
    /// Makes the recording that the settings describe.
    pub fn of(settings: &Settings) -> Self {
        let size = settings.controller.recording_size.as_u64();
        Self {
            folder: settings.local.state.join(FOLDER),
            size: settings.controller.recording.then_some(size),
            file: None,
            pools: BTreeMap::new(),
            is_failing: false,
        }
    }

    /// Writes a line for each pool that needs one. `figures` returns a pool's service time and
    /// start delay, in seconds.
    pub fn note(
        &mut self,
        seen: &Observation,
        plan: &Plan,
        figures: impl Fn(&str) -> (Option<f64>, Option<f64>),
        limit: Option<u32>,
    ) {
        let Some(size) = self.size else { return };
        self.pools.retain(|pool, _| plan.pools.contains_key(pool));
        let (mut text, mut written) = (Vec::new(), Vec::new());
        for (pool, part) in &plan.pools {
            // Pools without a policy are not recorded.
            let Some(PoolView { depth, arrived, .. }) = seen.pools.get(pool) else { continue };
            let last = self.pools.entry(pool.clone()).or_insert(Last { line: None, arrived: *arrived });
            let (service_s, start_delay_s) = figures(pool);
            let line = Line {
                v: VERSION,
                at: seen.at,
                pool: pool.clone(),
                arrived: arrived.saturating_sub(last.arrived),
                visible: depth.map(|depth| depth.visible),
                in_flight: depth.map(|depth| depth.in_flight),
                ready: part.ready,
                starting: part.starting,
                leaving: part.leaving,
                desired: part.desired,
                service_s: service_s.map(to_milliseconds),
                start_delay_s: start_delay_s.map(to_milliseconds),
                at_once: part.load.map(|load| to_milliseconds(load.facts.at_once)),
                limit,
            };
            if last.line.as_ref().is_some_and(|last| !is_worth_a_line(last, &line)) {
                continue;
            }
            // A line has no value that JSON cannot represent.
            if serde_json::to_writer(&mut text, &line).is_ok() {
                text.push(b'\n');
            }
            written.push((pool.clone(), Last { line: Some(line), arrived: *arrived }));
        }
        if text.is_empty() {
            return;
        }
        let done = self.write(&text, size, seen.at);
        // Arrivals that could not be written are counted in a later line.
        if done.is_ok() {
            self.pools.extend(written);
        }
        self.log_result(done);
    }

    fn write(&mut self, text: &[u8], size: u64, now: DateTime<Utc>) -> io::Result<()> {
        let is_full = |length: u64| length > 0 && length + text.len() as u64 > size / FILES;
        if self.file.as_ref().is_some_and(|(_, length)| is_full(*length)) {
            self.file = None;
            rotate(&self.folder, size, now)?;
        }
        if self.file.is_none() {
            self.file = Some(open(&self.folder)?);
        }
        let Some((file, length)) = &mut self.file else { return Ok(()) };
        let written = file.write_all(text);
        *length += text.len() as u64;
        if written.is_err() {
            // Opening the file again cuts off an incomplete line.
            self.file = None;
        }
        written
    }

    fn log_result(&mut self, written: io::Result<()>) {
        let was_failing = std::mem::replace(&mut self.is_failing, written.is_err());
        match written {
            Err(error) if !was_failing => {
                let folder = self.folder.display();
                tracing::warn!(%error, "observations cannot be recorded in {folder}: {error}");
            }
            Ok(()) if was_failing => tracing::info!("observations are recorded again"),
            _ => {}
        }
    }
}

fn is_worth_a_line(last: &Line, now: &Line) -> bool {
    let since = now.at - last.at;
    // The clock was set back.
    if since < TimeDelta::zero() || since >= LATEST || last.desired != now.desired {
        return true;
    }
    let state = |line: &Line| (line.visible, line.in_flight, line.ready, line.starting, line.leaving);
    since >= SOONEST && (now.arrived > 0 || state(last) != state(now))
}

/// Rounds to milliseconds: more digits would be noise.
fn to_milliseconds(seconds: f64) -> f64 {
    (seconds * 1e3).round() / 1e3
}

/// Opens the current file for appending, and cuts off an incomplete last line.
fn open(folder: &Path) -> io::Result<(File, u64)> {
    fs::create_dir_all(folder)?;
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(folder.join(CURRENT))?;
    let length = file.metadata()?.len();
    let whole = whole_lines(&mut file, length)?;
    if whole < length {
        file.set_len(whole)?;
    }
    file.seek(SeekFrom::End(0))?;
    Ok((file, whole))
}

/// Length of the part of the file that consists of complete lines.
fn whole_lines(file: &mut File, length: u64) -> io::Result<u64> {
    // Lines are shorter than this, also incomplete ones.
    let start = length.saturating_sub(4096);
    file.seek(SeekFrom::Start(start))?;
    let mut tail = Vec::new();
    file.take(4096).read_to_end(&mut tail)?;
    let end = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |place| place + 1);
    Ok(start + end as u64)
}

/// Renames the full file, and deletes the oldest files to make room for a new one.
fn rotate(folder: &Path, size: u64, now: DateTime<Utc>) -> io::Result<()> {
    let aside = format!("observations-{}.jsonl", now.format("%Y%m%dT%H%M%S%.3fZ"));
    fs::rename(folder.join(CURRENT), folder.join(aside))?;
    let mut files = read::files(folder)?;
    let mut bytes = 0;
    // Newest first.
    while let Some(file) = files.pop() {
        bytes += fs::metadata(&file)?.len();
        if bytes > size - size / FILES {
            fs::remove_file(&file)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
