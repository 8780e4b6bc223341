//! The turn to write: a file lock in front of SQLite's own lock. The kernel admits the writers of
//! all processes one after the other and wakes the next one at once, whereas SQLite's lock would
//! make them sleep and retry. It is released when its holder is killed.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};

/// A handle for taking the turn. The lock belongs to the opened file, so competing callers need
/// separate handles.
#[derive(Debug)]
pub(super) struct Turn {
    file: File,
    path: PathBuf,
}

/// The turn; dropping this releases it.
#[derive(Debug)]
#[must_use]
pub(super) struct Taken<'a>(&'a File);

impl Turn {
    /// Opens the lock file, creating it if missing.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().create(true).truncate(false).write(true).open(path)?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Opens another handle on the same file.
    pub(super) fn another(&self) -> io::Result<Self> {
        Self::open(&self.path)
    }

    /// Waits for the turn.
    pub(super) fn take(&self) -> io::Result<Taken<'_>> {
        flock(&self.file, FlockOperation::LockExclusive)?;
        Ok(Taken(&self.file))
    }

    /// Takes the turn if it is free.
    pub(super) fn try_take(&self) -> Option<Taken<'_>> {
        flock(&self.file, FlockOperation::NonBlockingLockExclusive).ok()?;
        Some(Taken(&self.file))
    }
}

impl Taken<'_> {
    /// Runs `work` during the turn, but releases the turn if that takes longer than `limit`.
    /// Returns the turn if it was kept.
    pub(super) fn for_at_most<T>(self, limit: Duration, work: impl FnOnce() -> T) -> (T, Option<Self>) {
        let (working, worked) = mpsc::channel::<()>();
        let hold = move || match worked.recv_timeout(limit) {
            Err(RecvTimeoutError::Disconnected) | Ok(()) => Some(self),
            Err(RecvTimeoutError::Timeout) => None,
        };
        thread::scope(|scope| {
            // If no thread can be started, the turn is released at once.
            let held = thread::Builder::new().name("queue-turn".into()).spawn_scoped(scope, hold);
            let done = work();
            drop(working);
            (done, held.ok().and_then(|held| held.join().ok().flatten()))
        })
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        // Otherwise the kernel does it when the process ends.
        let _released = flock(self.0, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn quick_work_keeps_the_turn_and_slow_work_releases_it() {
        let folder = tempfile::tempdir().unwrap();
        let turn = Turn::open(&folder.path().join("lock")).unwrap();
        let other = turn.another().unwrap();

        let (seen, kept) =
            turn.take().unwrap().for_at_most(Duration::from_secs(60), || other.try_take().is_some());
        assert!(!seen && kept.is_some() && other.try_take().is_none());
        drop(kept);

        let barrier = Barrier::new(2);
        thread::scope(|scope| {
            scope.spawn(|| {
                drop(other.take().unwrap());
                barrier.wait();
            });
            // Ends only after the other handle had the turn.
            let ((), kept) = turn.take().unwrap().for_at_most(Duration::from_millis(1), || {
                barrier.wait();
            });
            assert!(kept.is_none());
        });
        assert!(turn.try_take().is_some());
    }
}
