//! The parameters of a script run, by the worker or by the service for scripts.

use std::{
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::{Child, Command, ExitStatus, Stdio},
};

use eirs_platform::{process_tree, program};
use serde::{Deserialize, Serialize};

use super::environment;

/// A run of a script.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Order {
    /// The program and its arguments.
    pub(super) command: Vec<String>,
    /// Additional environment variables, as in the settings.
    pub(super) env: Vec<String>,
    /// Whether standard input is open; else it is empty.
    pub(super) talk: bool,
    /// The mark of all processes of this run, which begins with `worker`.
    pub(super) mark: String,
    /// The prefix of the marks of all runs of this worker.
    pub(super) worker: String,
}

/// A started run.
pub(super) trait Process: Send {
    /// Returns whether the command has exited.
    fn has_exited(&mut self) -> bool;

    /// Kills the command and what it left running, also in other groups, and returns the exit
    /// status, if it was available in time. A second call has no effect.
    fn end(&mut self) -> Option<ExitStatus>;

    /// The same after a long run, whose processes may have any numbers.
    fn put_down(&mut self);
}

impl Order {
    /// Starts the command as a child of this process, in its own process group. Also returns its
    /// pipes: standard input, if it is open, output and error.
    pub(super) fn spawn(&self) -> io::Result<(Child, Vec<OwnedFd>)> {
        let (program, arguments) =
            self.command.split_first().ok_or_else(|| io::Error::other("no command"))?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(if self.talk { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .env_clear()
            .envs(environment::for_scripts(&self.env))
            .env(process_tree::MARK, &self.mark)
            .process_group(0)
            .spawn()
            .map_err(|error| explained(program, error))?;
        let pipes = [
            child.stdin.take().map(OwnedFd::from),
            child.stdout.take().map(OwnedFd::from),
            child.stderr.take().map(OwnedFd::from),
        ];
        Ok((child, pipes.into_iter().flatten().collect()))
    }
}

/// The error of the system with its reason: it reports a missing interpreter as a missing file.
fn explained(program: &str, error: io::Error) -> io::Error {
    let why = match program::find(program) {
        Err(why) => why,
        Ok(file) => match program::check_first_line(&file) {
            Err(why) => why,
            Ok(()) if error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => {
                "it is no program of this system; the first line of a script names its interpreter, \
                like `#!/bin/sh`"
                    .to_owned()
            }
            Ok(()) => return error,
        },
    };
    io::Error::new(error.kind(), format!("{why} ({error})"))
}
