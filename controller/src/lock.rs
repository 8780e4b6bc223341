//! One controller for each state folder: two would start workers for the same backlog.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, Write},
    path::Path,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

const FILE: &str = "controller.lock";

/// Held as long as the controller lives; the kernel lets go of it however the process ends.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "the lock lives as long as its file is open")] File);

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum NotLocked {
    /// Another controller has it.
    #[error("another controller{} runs on the state folder {folder}; one is enough", .pid.as_ref().map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    Taken {
        /// The state folder.
        folder: String,
        /// Its process.
        pid: Option<u32>,
    },
    /// The lock file cannot be used.
    #[error("the lock of the state folder {folder} cannot be taken: {error}")]
    Failed {
        /// The state folder.
        folder: String,
        /// Why.
        error: io::Error,
    },
}

/// Takes the lock of a state folder, which is made if it is not there.
pub fn take(state: &Path) -> Result<Lock, NotLocked> {
    let folder = state.display().to_string();
    let failed = |error: io::Error| NotLocked::Failed { folder: folder.clone(), error };
    fs::create_dir_all(state).map_err(failed)?;
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(state.join(FILE));
    let mut file = open.map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            let pid = std::process::id();
            file.set_len(0)
                .and_then(|()| file.rewind())
                .and_then(|()| write!(file, "{pid}"))
                .map_err(failed)?;
            Ok(Lock(file))
        }
        Err(Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            let _unknown = file.read_to_string(&mut pid);
            Err(NotLocked::Taken { folder, pid: pid.trim().parse().ok() })
        }
        Err(error) => Err(failed(error.into())),
    }
}

/// The process that has the lock, if there is one. Nobody is kept from taking it by this look, but for its moment.
pub fn holder(state: &Path) -> Option<u32> {
    let mut file = File::open(state.join(FILE)).ok()?;
    let Err(Errno::WOULDBLOCK) = flock(&file, FlockOperation::NonBlockingLockShared) else { return None };
    let mut pid = String::new();
    file.read_to_string(&mut pid).ok()?;
    pid.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_one_is_told_who_has_it_and_gets_it_when_the_first_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let first = take(folder.path()).unwrap();
        let error = take(folder.path()).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("another controller (process {}) runs on", std::process::id())),
            "{error}"
        );
        assert_eq!(holder(folder.path()), Some(std::process::id()));
        drop(first);
        // A process that another test starts right now has the file too, until it becomes another program.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while take(folder.path()).is_err() {
            assert!(std::time::Instant::now() < deadline, "the lock is never free");
            std::thread::yield_now();
        }
    }
}
