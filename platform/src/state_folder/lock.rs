//! Locks that end with their process, even if it is killed.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, ErrorKind, Read, Seek, Write},
    path::{Path, PathBuf},
};

/// A lock of a state folder, held until it is dropped.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "the lock lives as long as its file is open")] File);

/// The lock is held by another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// The process id, if it is known.
    pub by: Option<u32>,
}

/// The reason why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum NotLocked {
    /// Another process has it.
    #[error("it is held{}", .0.who())]
    Taken(Taken),
    /// Its file cannot be used.
    #[error("the lock {file} cannot be taken: {error}")]
    Failed {
        /// The file.
        file: PathBuf,
        /// The error.
        error: io::Error,
    },
}

impl Lock {
    /// Takes the lock of this name, and writes the process id into its file. Creates the folder if
    /// missing.
    pub fn take(state: &Path, name: &str) -> Result<Self, NotLocked> {
        let file = state.join(name);
        match try_take(state, &file) {
            Ok(taken) => taken.map(Self).map_err(NotLocked::Taken),
            Err(error) => Err(NotLocked::Failed { file, error }),
        }
    }
}

fn try_take(state: &Path, path: &Path) -> io::Result<Result<File, Taken>> {
    fs::create_dir_all(state)?;
    let opened = OpenOptions::new().create(true).read(true).write(true).truncate(false).open(path);
    let (mut file, may_write) = match opened {
        // A file of another user can be locked as well.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            (File::open(path).map_err(|_| error)?, false)
        }
        file => (file?, true),
    };
    match file.try_lock() {
        Ok(()) => {
            if may_write {
                file.set_len(0)?;
                write!(file, "{}", std::process::id())?;
            }
            Ok(Ok(file))
        }
        Err(TryLockError::WouldBlock) => Ok(Err(Taken { by: pid(&mut file) })),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Returns the holder of a lock, if there is one. This look may delay a process that takes the
/// lock, but only briefly.
pub fn holder(state: &Path, name: &str) -> Option<Taken> {
    let mut file = File::open(state.join(name)).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => Some(Taken { by: pid(&mut file) }),
        Ok(()) | Err(TryLockError::Error(_)) => None,
    }
}

impl Taken {
    /// Returns `, process 17`, or nothing if the process is unknown.
    pub fn who(&self) -> String {
        self.by.map_or_else(String::new, |pid| format!(", process {pid}"))
    }
}

fn pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(20).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_lock_has_one_holder_whose_process_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let held = Lock::take(folder.path(), "x.lock").unwrap();
        let NotLocked::Taken(taken) = Lock::take(folder.path(), "x.lock").unwrap_err() else {
            panic!("not taken")
        };
        assert_eq!(taken.by, Some(std::process::id()));
        assert_eq!(holder(folder.path(), "x.lock"), Some(taken));
        Lock::take(folder.path(), "y.lock").unwrap();
        drop(held);
        // A process that another test is just starting has the file, too, until it executes its
        // program.
        let deadline = Instant::now() + Duration::from_secs(20);
        while Lock::take(folder.path(), "x.lock").is_err() {
            assert!(Instant::now() < deadline, "the lock is never free");
            std::thread::yield_now();
        }
    }

    #[test]
    fn the_error_of_a_failed_lock_has_the_file_and_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("x.lock")).unwrap();
        let error = Lock::take(folder.path(), "x.lock").unwrap_err().to_string();
        assert!(error.contains("x.lock cannot be taken: "), "{error}");
    }
}
