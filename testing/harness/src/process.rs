//! Processes that end with their test.

use std::{
    fs,
    path::PathBuf,
    process::{Child, ExitStatus},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::eventually;

/// A process that does not outlive its test.
pub struct Process {
    /// The process.
    pub child: Child,
    pub(crate) log: PathBuf,
}

impl Process {
    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it can be signalled");
    }

    /// Kills it, and waits until it is gone.
    pub fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it can be waited for");
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("its status").is_some()
    }

    /// How it ends; waits for that.
    pub fn exit(&mut self) -> ExitStatus {
        eventually("the process leaves", || self.child.try_wait().expect("its status"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.log());
        }
    }
}

/// Whether a process has ended. One that was killed stays in the table until its new parent has
/// looked.
pub fn is_gone(pid: &impl std::fmt::Display) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
}
