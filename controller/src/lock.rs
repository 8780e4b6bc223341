//! The lock of a state folder for its controller: two controllers would start workers for the same
//! backlog.

use std::path::Path;

use eirs_platform::state_folder::{self, CONTROLLER_LOCK, Lock};

/// Why the lock could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum NotLocked {
    /// Another controller holds it.
    #[error("another controller{} runs on the state folder {folder}; stop one of them",
        .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    Taken {
        /// Path of the state folder.
        folder: String,
        /// Process id of the other controller, if known.
        pid: Option<u32>,
    },
    /// The lock file cannot be used.
    #[error("{0}")]
    Failed(state_folder::NotLocked),
}

/// Takes the lock of a state folder, and creates the folder if necessary.
pub fn take(state: &Path) -> Result<Lock, NotLocked> {
    Lock::take(state, CONTROLLER_LOCK).map_err(|error| match error {
        state_folder::NotLocked::Taken(taken) => {
            NotLocked::Taken { folder: state.display().to_string(), pid: taken.by }
        }
        failed @ state_folder::NotLocked::Failed { .. } => NotLocked::Failed(failed),
    })
}

/// Process id of the controller that holds the lock, if any.
pub fn holder(state: &Path) -> Option<u32> {
    state_folder::holder(state, CONTROLLER_LOCK)?.by
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_controller_is_refused_with_the_process_of_the_first() {
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
