//! A run of a script as a child of the worker.

use std::{
    process::{Child, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use eirs_platform::process_tree;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::order::Process;

/// How long a killed process may take to go before waiting for it is left to a thread of its own.
/// Only one that is stuck in the kernel takes longer.
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
    /// It stays unreaped, so that its number still stands for its group.
    fn has_exited(&mut self) -> bool {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        self.child.is_none() || !matches!(waitid(WaitId::Pid(self.group), look), Ok(None))
    }

    fn end(&mut self) -> Option<ExitStatus> {
        let mut child = self.child.take()?;
        // Not reaped yet, so this cannot hit a stranger who was given the same number.
        let _ = kill_process_group(self.group, Signal::KILL);
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
