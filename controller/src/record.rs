//! What was seen and decided, recorded continuously: one JSON line at a time in `recording/` of the
//! state folder, so that yesterday can be replayed under tomorrow's policy (`eirs simulate`).
//!
//! A pool that is looked at writes a line when anything changed, at most one a second unless
//! another number of instances is wanted, and at least one a minute: a longer silence means that
//! nobody looked. Recording never fails a pass.

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

/// The folder's name in the state folder.
pub const FOLDER: &str = state_folder::RECORDING;
/// The file that is written; full ones are named by the date of their end.
const CURRENT: &str = state_folder::OBSERVATIONS;
/// The recording consists of this many files, of which the oldest goes when all are full.
const FILES: u64 = 8;
/// Raised when a reader would misunderstand a line.
const VERSION: u8 = 1;
/// Changes that come faster share a line.
const SOONEST: TimeDelta = TimeDelta::seconds(1);
/// A pool in which nothing happens says so every minute.
const LATEST: TimeDelta = TimeDelta::seconds(60);

/// What was seen of a pool at one moment, and how many instances were wanted then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// The version of the line.
    pub v: u8,
    /// When it was seen.
    pub at: DateTime<Utc>,
    /// The pool.
    pub pool: String,
    /// Jobs that arrived since this pool's line before, exactly. The first line of a controller
    /// begins at 0.
    pub arrived: u64,
    /// Jobs that no worker held; absent where the queue could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visible: Option<u64>,
    /// Jobs that workers held; absent where the queue could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u64>,
    /// Instances that served.
    pub ready: u32,
    /// Instances that were started and did not serve yet.
    pub starting: u32,
    /// Instances that drained or stopped.
    pub leaving: u32,
    /// Instances that were wanted.
    pub desired: u32,
    /// Seconds from the receipt of a job to its result, on the average of the last reports; absent
    /// before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_s: Option<f64>,
    /// Seconds from an instance's start to its first report that it is ready, as learnt, or as the
    /// policy guesses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_delay_s: Option<f64>,
    /// Jobs that an instance does at once, as learnt or guessed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_once: Option<f64>,
    /// The limit on all pools together, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Writes the recording.
#[derive(Debug)]
pub struct Recording {
    folder: PathBuf,
    /// Bytes of all files together; `None` switches the recording off.
    size: Option<u64>,
    file: Option<(File, u64)>,
    pools: BTreeMap<String, Last>,
    is_failing: bool,
}

/// A pool's last line, and its arrivals up to then.
#[derive(Debug)]
struct Last {
    line: Option<Line>,
    arrived: u64,
}

impl Recording {
    /// As the settings have it.
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

    /// Writes what is worth a line. `figures` are a pool's service time and start delay, in
    /// seconds.
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
            // What has no policy is not decided about.
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
            // A line has no value that JSON lacks.
            if serde_json::to_writer(&mut text, &line).is_ok() {
                text.push(b'\n');
            }
            written.push((pool.clone(), Last { line: Some(line), arrived: *arrived }));
        }
        if text.is_empty() {
            return;
        }
        let done = self.write(&text, size, seen.at);
        // What arrived and could not be written is counted in a later line.
        if done.is_ok() {
            self.pools.extend(written);
        }
        self.tell(done);
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
            // Opened again, half a line is cut off.
            self.file = None;
        }
        written
    }

    fn tell(&mut self, written: io::Result<()>) {
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
    // A clock that was set back begins a new story.
    if since < TimeDelta::zero() || since >= LATEST || last.desired != now.desired {
        return true;
    }
    let state = |line: &Line| (line.visible, line.in_flight, line.ready, line.starting, line.leaving);
    since >= SOONEST && (now.arrived > 0 || state(last) != state(now))
}

/// A microsecond more or less is noise, and six digits more.
fn to_milliseconds(seconds: f64) -> f64 {
    (seconds * 1e3).round() / 1e3
}

/// Opens the current file for more lines; what a crash left of the last one is cut off.
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

/// Up to where the file consists of whole lines.
fn whole_lines(file: &mut File, length: u64) -> io::Result<u64> {
    // No line is longer, a torn one neither.
    let start = length.saturating_sub(4096);
    file.seek(SeekFrom::Start(start))?;
    let mut tail = Vec::new();
    file.take(4096).read_to_end(&mut tail)?;
    let end = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |place| place + 1);
    Ok(start + end as u64)
}

/// Puts the full file aside, and deletes the oldest ones that are too much together with a new one.
fn rotate(folder: &Path, size: u64, now: DateTime<Utc>) -> io::Result<()> {
    let aside = format!("observations-{}.jsonl", now.format("%Y%m%dT%H%M%S%.3fZ"));
    fs::rename(folder.join(CURRENT), folder.join(aside))?;
    let mut files = read::files(folder)?;
    let mut bytes = 0;
    // The newest first.
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
