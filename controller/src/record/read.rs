//! Reads a recording line by line, whatever its size.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, ErrorKind},
    path::{Path, PathBuf},
    vec,
};

use super::{Line, VERSION};

/// A line that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}{}: {problem}", .file.display(), .line.map(|line| format!(":{line}")).unwrap_or_default())]
pub struct BadLine {
    /// Path of the file.
    pub file: PathBuf,
    /// Number of the line, counted from 1; `None` if the whole file cannot be read.
    pub line: Option<u64>,
    /// What is wrong.
    pub problem: String,
}

/// Reads the lines of a recording: of one file, or of all files of a folder, oldest first. A last
/// line that a crash cut off is left out. Any other line that cannot be read is an error, after
/// which reading continues.
pub fn read(path: &Path) -> impl Iterator<Item = Result<Line, BadLine>> + use<> {
    let found = if path.is_dir() { files(path) } else { Ok(vec![path.to_owned()]) };
    match found {
        Ok(files) => Lines { files: files.into_iter(), open: None, failed: None },
        Err(error) => {
            let failed = BadLine { file: path.to_owned(), line: None, problem: error.to_string() };
            Lines { files: Vec::new().into_iter(), open: None, failed: Some(failed) }
        }
    }
}

/// The files of a recording, oldest first: names of full files contain a date, that of the current
/// one does not.
pub(super) fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            files.push(path);
        }
    }
    // `observations-2026....jsonl` comes before `observations.jsonl`, as `-` comes before `.`.
    files.sort();
    Ok(files)
}

struct Lines {
    files: vec::IntoIter<PathBuf>,
    open: Option<Open>,
    failed: Option<BadLine>,
}

struct Open {
    path: PathBuf,
    lines: BufReader<File>,
    number: u64,
}

impl Iterator for Lines {
    type Item = Result<Line, BadLine>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(failed) = self.failed.take() {
            return Some(Err(failed));
        }
        loop {
            if self.open.is_none() {
                let path = self.files.next()?;
                match File::open(&path) {
                    Ok(file) => self.open = Some(Open { path, lines: BufReader::new(file), number: 0 }),
                    // It was the oldest one, and was deleted during the reading.
                    Err(error) if error.kind() == ErrorKind::NotFound && self.files.len() > 0 => {}
                    Err(error) => {
                        return Some(Err(BadLine { file: path, line: None, problem: error.to_string() }));
                    }
                }
            }
            match self.open.as_mut().and_then(Open::next) {
                Some(line) => return Some(line),
                None => self.open = None,
            }
        }
    }
}

impl Open {
    fn next(&mut self) -> Option<Result<Line, BadLine>> {
        let mut text = Vec::new();
        self.number += 1;
        let bad = |problem: String| BadLine { file: self.path.clone(), line: Some(self.number), problem };
        let is_whole = match self.lines.read_until(b'\n', &mut text) {
            Ok(0) => return None,
            Ok(_) => text.ends_with(b"\n"),
            Err(error) => return Some(Err(bad(error.to_string()))),
        };
        match serde_json::from_slice::<Line>(&text) {
            Ok(line) if line.v > VERSION => {
                Some(Err(bad(format!("has version {}, this program reads up to {VERSION}", line.v))))
            }
            Ok(line) => Some(Ok(line)),
            Err(_torn) if !is_whole => None,
            Err(error) => Some(Err(bad(format!("is not a line of a recording: {error}")))),
        }
    }
}
