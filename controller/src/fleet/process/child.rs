//! A process of this machine, held by a pidfd: signals reach exactly this process or none, and the
//! kernel announces its end, even if an earlier controller started it.

use std::{
    fmt, fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::ExitStatusExt,
    },
    process::{Command, ExitStatus},
};

use eirs_platform::{descriptor, process_tree::kill_children_of};
use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid},
};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

/// Identifies a process uniquely: pids are reused, but within one boot not by a process that
/// started in the same clock tick.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    pub(super) pid: u32,
    /// Field 22 of `/proc/PID/stat`: the start time, in clock ticks since the boot.
    started_ticks: u64,
    /// Id of the boot.
    boot: String,
}

/// A process that runs or has not been waited for.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) mark: Mark,
    descriptor: AsyncFd<OwnedFd>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The process exited with this status.
    Known(ExitStatus),
    /// Only the parent process receives the status, and that was an earlier controller.
    Unknown,
}

impl Process {
    /// Starts a program. [`ended`](Self::ended) waits for it.
    pub(super) fn spawn(command: &mut Command) -> io::Result<Self> {
        let mut child = command.spawn()?;
        let held = Mark::of(child.id()).and_then(Self::hold);
        if held.is_err() {
            // It could not be drained or found again. The pid is valid until the process is waited
            // for.
            child.kill()?;
            child.wait()?;
        }
        held
    }

    /// The process of this mark, if it runs.
    pub(super) fn find(mark: &Mark) -> Option<Self> {
        let process = Self::hold(mark.clone()).ok()?;
        // The mark is compared after the descriptor was opened: if it matches now, the descriptor
        // belongs to this process.
        (Mark::of(mark.pid).ok()? == *mark).then_some(process)
    }

    /// Finds a process whose command line contains these arguments in a row.
    pub(super) fn find_by_arguments(arguments: &[&str]) -> Option<Self> {
        let pids = fs::read_dir("/proc")
            .ok()?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        let runs_with = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let found: Vec<_> = line.split(|byte| *byte == 0).collect();
            found
                .windows(arguments.len())
                .any(|row| row.iter().zip(arguments).all(|(a, b)| *a == b.as_bytes()))
        };
        let pid = pids.into_iter().find(runs_with)?;
        Self::find(&Mark::of(pid).ok()?)
    }

    fn hold(mark: Mark) -> io::Result<Self> {
        let pid = mark.pid().ok_or(io::ErrorKind::InvalidInput)?;
        let descriptor = descriptor::readable(pidfd_open(pid, PidfdFlags::empty())?)?;
        Ok(Self { mark, descriptor })
    }

    /// Sends a signal. Succeeds if the process has ended already.
    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(self.descriptor.as_fd(), signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Kills the process and the scripts that it runs.
    pub(super) fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(self.descriptor.as_fd(), Signal::STOP) {
            // Its pid may belong to another process by now.
            Err(Errno::SRCH) => return Ok(()),
            stopped => stopped?,
        }
        if let Some(pid) = self.mark.pid() {
            kill_children_of(pid);
        }
        self.signal(Signal::KILL)
    }

    /// Waits for the end of the process.
    pub(super) async fn ended(&self) -> End {
        // The descriptor becomes readable when the process ends, and not before.
        let _ready = self.descriptor.readable().await;
        let status =
            waitid(WaitId::PidFd(self.descriptor.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        match status {
            // The format of wait(2): the code in the second byte, or the signal in the first.
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => End::Known(ExitStatus::from_raw(code << 8)),
                (None, Some(signal)) => End::Known(ExitStatus::from_raw(signal)),
                (None, None) => End::Unknown,
            },
            Ok(None) | Err(_) => End::Unknown,
        }
    }
}

impl Mark {
    fn pid(&self) -> Option<Pid> {
        Pid::from_raw(i32::try_from(self.pid).ok()?)
    }

    fn of(pid: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let boot =
            fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        let started_ticks = start_of(&stat).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { pid, started_ticks, boot })
    }
}

/// The start time in a line of `/proc/PID/stat`. Field 2 is the program's name in brackets, which
/// may itself contain brackets and spaces; field 22 is the 20th after it.
fn start_of(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bad_settings = i32::from(eirs_platform::settings::EXIT_BAD_SETTINGS);
        match self {
            Self::Known(status) => match (status.code(), status.signal()) {
                (Some(code), _) if code == bad_settings => {
                    write!(f, "exited with code {code}: wrong settings or model; see its log")
                }
                (Some(code), _) => write!(f, "exited with code {code}; see its log"),
                (None, Some(9)) => f.write_str("was killed by signal 9; perhaps out of memory"),
                (None, signal) => write!(f, "was killed by signal {}", signal.unwrap_or_default()),
            },
            Self::Unknown => f.write_str(
                "ended; the exit code is unknown, because an earlier controller \
                    started it",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_after_any_program_name() {
        let stat = "7 (a) b) (c) S 1 7 7 0 -1 4194304 1 2 0 0 3 2 4 1 20 0 1 0 256771 1 1";
        assert_eq!(start_of(stat), Some(256_771));
        assert_eq!(start_of("nonsense"), None);
    }

    #[tokio::test]
    async fn the_end_of_a_process_is_announced_with_its_status() {
        let process = Process::spawn(Command::new("sh").args(["-c", "exit 78"])).unwrap();
        let end = process.ended().await;
        assert!(end.to_string().starts_with("exited with code 78: wrong settings"), "{end}");
    }

    #[tokio::test]
    async fn a_mark_of_another_process_with_the_same_pid_finds_no_process() {
        let process = Process::spawn(Command::new("sleep").arg("1000")).unwrap();
        let mark = process.mark.clone();
        assert!(Process::find(&mark).is_some());
        assert!(Process::find(&Mark { started_ticks: mark.started_ticks - 1, ..mark.clone() }).is_none());
        assert!(Process::find(&Mark { boot: "another".into(), ..mark.clone() }).is_none());
        process.signal(Signal::KILL).unwrap();
        assert!(process.ended().await.to_string().contains("signal 9"));
        assert!(Process::find(&mark).is_none());
        process.signal(Signal::KILL).unwrap();
    }

    #[tokio::test]
    async fn a_process_is_found_by_its_arguments() {
        // A program that does not fork: a child would have the same arguments for a moment.
        let name = format!("0.{}", std::process::id());
        let process = Process::spawn(Command::new("sleep").args(["1000", &name])).unwrap();
        let found = || Process::find_by_arguments(&["1000", &name]);
        // `spawn` may return a moment before the kernel shows the new program's arguments.
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
        while found().is_none() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        assert_eq!(found().map(|found| found.mark), Some(process.mark.clone()));
        process.signal(Signal::KILL).unwrap();
        process.ended().await;
        assert!(found().is_none());
    }
}
