//! Makes the running controller read its policies again, and waits until they are in force.
//! `systemctl reload` runs this.
//!
//! A count of reloads would not show which signal a reload belongs to: one that was under way when
//! the signal came may have read a file before it was edited. The controller therefore writes the
//! time at which it *began* to read, and a time after the signal is the confirmation. Several
//! signals may lead to one reload, which begins after all of them.

use std::{
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use eirs_platform::{clock::Clock, descriptor, settings::Settings, state_folder::Wake};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::Instant;

use crate::{
    lock,
    status::{self, Status},
};

/// Time to wait for the controller. A pass reads queues and fleet for up to ten seconds each, and
/// the current pass ends first. It is shorter than the time that systemd allows for a reload
/// (`TimeoutStartSec=`), so that this module's message is shown.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// Interval at which the status is read if the kernel cannot watch the file.
const POLL_EVERY: Duration = Duration::from_millis(500);

/// Why it is not known whether the new policies are in force.
#[derive(Debug, thiserror::Error)]
pub enum NotReloaded {
    /// No controller runs.
    #[error("no controller runs on the state folder {}", .0.display())]
    NoController(PathBuf),
    /// The controller ended before it had read its policies.
    #[error("the controller (process {0}) ended before it had read its policies")]
    Ended(u32),
    /// The controller runs and has not confirmed the reload.
    #[error(
        "the controller (process {pid}) has not read its policies within {}: it hangs, or cannot \
        write {}",
        humantime::format_duration(*.limit), .file.display()
    )]
    Late {
        /// Process id of the controller.
        pid: u32,
        /// Time that was allowed.
        limit: Duration,
        /// The status file, in which the confirmation was expected.
        file: PathBuf,
    },
    /// The signal could not be sent.
    #[error("the controller (process {pid}) cannot be asked to reload: {error}")]
    Failed {
        /// Process id of the controller.
        pid: u32,
        /// The error of the operating system.
        error: io::Error,
    },
}

/// Waits until the policies on disk are in force, and returns all complaints about them. An invalid
/// file leaves its last valid version in force.
pub async fn reload(
    settings: &Settings,
    clock: &dyn Clock,
    limit: Duration,
) -> Result<Vec<String>, NotReloaded> {
    let (state, file) = (&settings.local.state, settings.status_file());
    let nobody = || NotReloaded::NoController(state.clone());
    let pid = lock::holder(state).ok_or_else(nobody)?;
    let failed = |error: io::Error| NotReloaded::Failed { pid, error };
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(nobody)?;
    let process = pidfd_open(process, PidfdFlags::empty()).map_err(|error| failed(error.into()))?;
    // Checked again: only now the descriptor certainly belongs to the controller, and not to
    // another process with the same pid.
    if lock::holder(state) != Some(pid) {
        return Err(nobody());
    }
    let process = descriptor::readable(process).map_err(failed)?;
    let folder = file.parent().unwrap_or(Path::new("."));
    let written = Wake::of_file(folder, file.file_name().and_then(OsStr::to_str).unwrap_or_default());
    let (asked, deadline) = (clock.now(), Instant::now() + limit);
    pidfd_send_signal(process.get_ref(), Signal::HUP).map_err(|error| failed(error.into()))?;
    loop {
        let status = status::read(&file);
        let answer = |status: &Status| status.pid == pid && status.reloaded_at.is_some_and(|at| at >= asked);
        if let Some(status) = status.filter(answer) {
            return Ok(status.policy_errors);
        }
        tokio::select! {
            () = written.changed() => {}
            () = tokio::time::sleep(POLL_EVERY) => {}
            // The pidfd becomes readable when the process ends.
            _ended = process.readable() => return Err(NotReloaded::Ended(pid)),
            () = tokio::time::sleep_until(deadline) => return Err(NotReloaded::Late { pid, limit, file }),
        }
    }
}
