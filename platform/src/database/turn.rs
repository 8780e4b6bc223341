//! Whose turn it is to write: a file lock in front of SQLite's own. The kernel lets writers of all
//! processes in one after the other and wakes the next one at once, where SQLite's lock would make
//! them sleep and try again; and it lets go when its holder is killed.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
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

impl Taken<'_> {
    /// Does `work` in the turn, and gives the turn away if that takes longer than `limit`. Returns
    /// the turn if it was kept.
    pub(super) fn for_at_most<T>(self, limit: Duration, work: impl FnOnce() -> T) -> (T, Option<Self>) {
        let (working, worked) = mpsc::channel::<()>();
        let hold = move || match worked.recv_timeout(limit) {
            Err(RecvTimeoutError::Disconnected) | Ok(()) => Some(self),
            Err(RecvTimeoutError::Timeout) => None,
        };
        thread::scope(|scope| {
            // Where no thread can be started, the turn is given away at once.
            let held = thread::Builder::new().name("queue-turn".into()).spawn_scoped(scope, hold);
            let done = work();
            drop(working);
            (done, held.ok().and_then(|held| held.join().ok().flatten()))
        })
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        // The kernel does it at the latest when the process ends.
        let _released = flock(self.0, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn work_that_is_quick_keeps_the_turn_and_work_that_is_slow_gives_it_away_meanwhile() {
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
            // It ends only after the other one had the turn.
            let ((), kept) = turn.take().unwrap().for_at_most(Duration::from_millis(1), || {
                barrier.wait();
            });
            assert!(kept.is_none());
        });
        assert!(turn.try_take().is_some());
    }
}
