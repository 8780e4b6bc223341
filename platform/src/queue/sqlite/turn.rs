//! Whose turn it is to write: a file lock in front of SQLite's own. The kernel lets writers of all
//! processes in one after the other and wakes the next one at once, where SQLite's lock would make
//! them sleep and try again; and it lets go when its holder is killed.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

/// One who may ask for the turn. The lock belongs to the opened file: two that ask against each
/// other need two of these.
#[derive(Debug)]
pub(super) struct Turn {
    file: File,
    path: PathBuf,
}

/// The turn, until this is dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct Taken<'a>(&'a File);

impl Turn {
    /// Opens the lock file, which is made where there is none.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().create(true).truncate(false).write(true).open(path)?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Another one on the same file.
    pub(super) fn another(&self) -> io::Result<Self> {
        Self::open(&self.path)
    }

    /// Waits for the turn.
    pub(super) fn take(&self) -> io::Result<Taken<'_>> {
        flock(&self.file, FlockOperation::LockExclusive)?;
        Ok(Taken(&self.file))
    }

    /// Takes the turn if nobody has it.
    pub(super) fn try_take(&self) -> Option<Taken<'_>> {
        flock(&self.file, FlockOperation::NonBlockingLockExclusive).ok()?;
        Some(Taken(&self.file))
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        // The kernel does it at the latest when the process ends.
        let _released = flock(self.0, FlockOperation::Unlock);
    }
}
