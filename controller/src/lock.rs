//! One controller for each state folder: two would start workers for the same backlog.

use std::path::Path;

use eirs_platform::state_folder::{self, CONTROLLER_LOCK, Lock};

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum NotLocked {
    /// Another controller has it.
    #[error("another controller{} runs on the state folder {folder}; stop one of them",
        .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    Taken {
        /// The state folder.
        folder: String,
        /// Its process.
        pid: Option<u32>,
    },
    /// The lock file cannot be used.
    #[error("{0}")]
    Failed(state_folder::NotLocked),
}

/// Takes the lock of a state folder, which is made if it is not there.
pub fn take(state: &Path) -> Result<Lock, NotLocked> {
    Lock::take(state, CONTROLLER_LOCK).map_err(|error| match error {
        state_folder::NotLocked::Taken(taken) => {
            NotLocked::Taken { folder: state.display().to_string(), pid: taken.by }
        }
        failed @ state_folder::NotLocked::Failed { .. } => NotLocked::Failed(failed),
    })
}

/// The process that has the lock, if there is one.
pub fn holder(state: &Path) -> Option<u32> {
    state_folder::holder(state, CONTROLLER_LOCK)?.by
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_one_is_told_who_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let _first = take(folder.path()).unwrap();
        let error = take(folder.path()).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("another controller (process {}) runs on", std::process::id())),
            "{error}"
        );
        assert_eq!(holder(folder.path()), Some(std::process::id()));
    }
}
