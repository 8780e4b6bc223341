//! The memory of the controller over restarts: one JSON file in the state folder, written regularly
//! and at the end. Losing it does no harm: if the file is missing, invalid or of another version,
//! the controller starts without a memory.

use std::{
    io,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use chrono::{DateTime, TimeDelta, Utc};
use eirs_platform::state_folder;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::state_file;

/// Name of the file in the state folder.
pub const FILE: &str = state_folder::LEARNT;
/// Version of the format. It is increased when the meaning of the content changes; files of other
/// versions are ignored.
const VERSION: u32 = 1;
/// Interval between two writes, which limits what a crash loses.
const EVERY: TimeDelta = TimeDelta::seconds(30);

/// The file, and what was last written to it.
#[derive(Debug)]
pub struct MemoryFile {
    file: PathBuf,
    /// Time and content of the last write.
    written: Option<(DateTime<Utc>, Vec<u8>)>,
    is_failing: bool,
}

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    version: u32,
    written_at: DateTime<Utc>,
    memory: T,
}

impl MemoryFile {
    /// Uses the file of a state folder.
    pub fn of(state: &Path) -> Self {
        Self { file: state.join(FILE), written: None, is_failing: false }
    }

    /// Reads the memory. If the file cannot be read, logs a warning and returns the default.
    pub fn load<T: DeserializeOwned + Default>(&self) -> T {
        load(&self.file).unwrap_or_else(|problem| {
            let file = self.file.display();
            tracing::warn!(%file, problem, "{file} {problem}; it will be learnt again");
            T::default()
        })
    }

    /// Writes the memory if the last write was long ago. A failure is logged once, and the next
    /// call tries again.
    pub fn save_if_due<T: Serialize>(&mut self, memory: &T, now: DateTime<Utc>) {
        // After the clock was set back, the file must still be written.
        let is_due = self.written.as_ref().is_none_or(|(last, _)| now - *last >= EVERY || now < *last);
        if is_due {
            self.save(memory, now);
        }
    }

    /// Writes the memory now, unless it has not changed since the last write.
    pub fn save<T: Serialize>(&mut self, memory: &T, now: DateTime<Utc>) {
        let text = serde_json::to_vec(memory).unwrap_or_default();
        let is_known = self.written.as_ref().is_some_and(|(_, last)| *last == text);
        self.written = Some((now, text));
        if is_known && !self.is_failing {
            return;
        }
        let written = state_file::write(&self.file, &Envelope { version: VERSION, written_at: now, memory });
        let was_failing = std::mem::replace(&mut self.is_failing, written.is_err());
        match written {
            Err(error) if !was_failing => {
                let file = self.file.display();
                tracing::warn!(%file, %error, "learnt values cannot be written to {file}: {error}");
            }
            Ok(()) if was_failing => tracing::info!("learnt values can be written again"),
            _ => {}
        }
    }
}

fn load<T: DeserializeOwned + Default>(file: &Path) -> Result<T, String> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(T::default()),
        Err(error) => return Err(unreadable(&error)),
    };
    let broken = |error: serde_json::Error| format!("is broken ({error})");
    match serde_json::from_slice::<Versioned>(&text).map_err(broken)?.version {
        VERSION => Ok(serde_json::from_slice::<Envelope<T>>(&text).map_err(broken)?.memory),
        other => Err(format!("has version {other}, this program writes version {VERSION}")),
    }
}

fn unreadable(error: &io::Error) -> String {
    format!("cannot be read: {error}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    type Memory = BTreeMap<String, f64>;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(second)
    }

    fn memory(delay: f64) -> Memory {
        Memory::from([("p-1".to_owned(), delay)])
    }

    #[test]
    fn the_saved_memory_is_loaded_and_writes_have_a_minimum_interval() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = MemoryFile::of(folder.path());
        assert_eq!(file.load::<Memory>(), Memory::new());
        for (second, expected) in [(0, 0.0), (29, 0.0), (30, 30.0), (31, 30.0), (5, 5.0)] {
            file.save_if_due(&memory(f64::from(second)), at(second.into()));
            assert_eq!(MemoryFile::of(folder.path()).load::<Memory>(), memory(expected), "{second}");
        }
        file.save(&memory(6.0), at(6));
        assert_eq!(file.load::<Memory>(), memory(6.0));
    }

    #[test]
    fn an_invalid_truncated_or_newer_file_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = MemoryFile::of(folder.path());
        file.save(&memory(1.0), at(0));
        let path = folder.path().join(FILE);
        let whole = std::fs::read(&path).unwrap();
        for end in 0..whole.len() {
            std::fs::write(&path, &whole[..end]).unwrap();
            assert_eq!(file.load::<Memory>(), Memory::new(), "cut at {end}");
        }
        for text in [r#"{"version":2,"memory":"of tomorrow"}"#, r#"{"version":1,"memory":3}"#, "\u{0}\u{0}"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(file.load::<Memory>(), Memory::new(), "{text}");
        }
        file.save(&memory(2.0), at(0));
        assert_eq!(file.load::<Memory>(), memory(2.0));
    }

    #[test]
    fn a_folder_that_cannot_be_written_does_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = MemoryFile::of(&folder.path().join("gone"));
        file.save(&memory(1.0), at(0));
        assert_eq!(file.load::<Memory>(), Memory::new());
    }
}
