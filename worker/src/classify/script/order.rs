//! What a run of a script is made of, whether the worker starts it or the service for scripts.

use std::{
    io,
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus, Stdio},
};

use eirs_platform::process_tree;
use serde::{Deserialize, Serialize};

use super::environment;

/// One run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Order {
    /// The program and its arguments.
    pub(super) command: Vec<String>,
    /// What it gets of the environment beside the usual, as in the settings.
    pub(super) env: Vec<String>,
    /// Whether its standard input is open, or else empty.
    pub(super) talk: bool,
    /// Borne by all that it starts. It begins with `worker`.
    pub(super) mark: String,
    /// What the marks of all runs of this worker begin with.
    pub(super) worker: String,
}

/// A run that began, wherever.
pub(super) trait Process: Send {
    /// Whether the command is gone.
    fn has_exited(&mut self) -> bool;

    /// Ends the command's group, and returns how the command went, if it went by itself or in good
    /// time. A second call does nothing.
    fn end(&mut self) -> Option<ExitStatus>;

    /// Ends also what the command started, wherever that went.
    fn put_down(&mut self);
}

impl Order {
    /// Starts it as a child of this process, in a process group of its own, with pipes.
    pub(super) fn spawn(&self) -> io::Result<Child> {
        let (program, arguments) =
            self.command.split_first().ok_or_else(|| io::Error::other("no command"))?;
        Command::new(program)
            .args(arguments)
            .stdin(if self.talk { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .env_clear()
            .envs(environment::for_scripts(&self.env))
            .env(process_tree::MARK, &self.mark)
            .process_group(0)
            .spawn()
    }
}
