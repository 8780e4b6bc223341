//! A script run as a child process of the worker.

use std::{
    process::{Child, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use eirs_platform::process_tree;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::order::Process;

/// How long to wait for a killed process before a thread of its own takes over. Only a process
/// stuck in the kernel takes longer.
const REAP_PATIENCE: Duration = Duration::from_secs(2);

pub(super) struct Own {
    /// `None` once it is reaped.
    child: Option<Child>,
    group: Pid,
    mark: String,
}

impl Own {
    pub(super) fn new(child: Child, mark: String) -> Self {
        Self { group: Pid::from_child(&child), child: Some(child), mark }
    }
}

impl Process for Own {
    /// Does not reap the process, so that its number remains valid for its group.
    fn has_exited(&mut self) -> bool {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        self.child.is_none() || !matches!(waitid(WaitId::Pid(self.group), look), Ok(None))
    }

    fn end(&mut self) -> Option<ExitStatus> {
        let mut child = self.child.take()?;
        // It is not reaped yet, so its number cannot belong to another process.
        let _ = kill_process_group(self.group, Signal::KILL);
        process_tree::kill_marked_since(&self.mark, self.group);
        let deadline = Instant::now() + REAP_PATIENCE;
        while Instant::now() < deadline {
            match child.try_wait() {
                Ok(None) => thread::park_timeout(Duration::from_millis(1)),
                Ok(Some(status)) => return Some(status),
                Err(_) => return None,
            }
        }
        let _ = thread::Builder::new().name("reaper".to_owned()).spawn(move || child.wait());
        None
    }

    fn put_down(&mut self) {
        self.end();
        process_tree::kill_marked(&self.mark);
    }
}
