//! Asks the controller that runs to read its policies anew, and waits until they are in force: what
//! `systemctl reload` runs.
//!
//! A count of reloads could not tell whose signal was answered: one that was under way when ours
//! came may have read a file before it was edited. So the controller writes down when it *began* to
//! read, and a beginning after our question is an answer to it. Signals that come together are one
//! reload, which began after all of them.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use eirs_platform::{clock::Clock, descriptor, settings::Settings, state_folder::Wake};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::Instant;

use crate::{lock, status::Status};

/// A pass asks queues and fleet for ten seconds each at most, and the one that is under way comes
/// first. Below the time that systemd gives a reload (`TimeoutStartSec=`), so that the sentence is
/// ours.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// Where the kernel has no watch to give, the status is looked at so often.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Why nothing is known of the new policies.
#[derive(Debug, thiserror::Error)]
pub enum NotReloaded {
    /// There is nobody to ask.
    #[error("no controller runs on the state folder {}", .0.display())]
    NoController(PathBuf),
    /// It did not live to answer.
    #[error("the controller (process {0}) ended before it had read its policies")]
    Ended(u32),
    /// It lives and does not answer.
    #[error(
        "the controller (process {pid}) has not read its policies within {}: it hangs, or cannot \
        write {}",
        humantime::format_duration(*.limit), .file.display()
    )]
    Late {
        /// Its process.
        pid: u32,
        /// How long it was given.
        limit: Duration,
        /// Where it should have told.
        file: PathBuf,
    },
    /// It cannot be asked.
    #[error("the controller (process {pid}) cannot be asked to reload: {error}")]
    Failed {
        /// Its process.
        pid: u32,
        /// Why.
        error: io::Error,
    },
}

/// Returns when the policies are in force as they are on disk now, with every complaint about them:
/// a file that is wrong leaves its last good version in force.
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
    // Only now it is sure that the descriptor is of the controller, and not of a stranger that got
    // its number.
    if lock::holder(state) != Some(pid) {
        return Err(nobody());
    }
    let process = descriptor::readable(process).map_err(failed)?;
    let folder = file.parent().unwrap_or(Path::new("."));
    let written = Wake::of_file(folder, file.file_name().and_then(OsStr::to_str).unwrap_or_default());
    let (asked, deadline) = (clock.now(), Instant::now() + limit);
    pidfd_send_signal(process.get_ref(), Signal::HUP).map_err(|error| failed(error.into()))?;
    loop {
        let status = fs::read(&file).ok().and_then(|text| serde_json::from_slice::<Status>(&text).ok());
        let answer = |status: &Status| status.pid == pid && status.reloaded_at.is_some_and(|at| at >= asked);
        if let Some(status) = status.filter(answer) {
            return Ok(status.policy_errors);
        }
        tokio::select! {
            () = written.changed() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
            // The descriptor of a process reads as ready from its end on.
            _ended = process.readable() => return Err(NotReloaded::Ended(pid)),
            () = tokio::time::sleep_until(deadline) => return Err(NotReloaded::Late { pid, limit, file }),
        }
    }
}
