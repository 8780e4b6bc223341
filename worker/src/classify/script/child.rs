//! A process of the operator's, held at arm's length: it can crash, hang, flood its outputs or
//! leave children behind, and none of that blocks the thread that waits for it beyond the deadline.

use std::{
    io,
    os::{fd::AsFd, unix::process::CommandExt},
    path::Path,
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use eirs_platform::{process_tree, settings::Model};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{OFlags, fcntl_setfl},
    io::Errno,
    process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid},
};

use super::{environment, guardian};

/// The most that a command may print for one image, in bytes.
pub(super) const OUTPUT_MAX_BYTES: usize = 1 << 20;

/// How much of its standard error is kept, for the log, in bytes.
const TAIL_BYTES: usize = 4096;

/// How soon an exit is noticed while a grandchild holds the outputs open. Otherwise their end wakes
/// us.
const TICK: Duration = Duration::from_millis(20);

/// How long a killed process may take to go before waiting for it is left to a thread of its own.
/// Only one that is stuck in the kernel takes longer.
const REAP_PATIENCE: Duration = Duration::from_secs(2);

/// A running command, in a process group of its own. Dropping it kills the whole group.
pub(super) struct Running {
    /// `None` once it is reaped.
    child: Option<Child>,
    group: Pid,
    /// Borne by all that it starts.
    mark: String,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    /// What it printed and nobody took yet.
    pub(super) printed: Vec<u8>,
    tail: Vec<u8>,
}

/// Why waiting ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// What was waited for has been printed.
    Printed,
    /// It is gone; all that it printed has been read.
    Exited,
    /// The deadline passed.
    TimedOut,
    /// It printed more than [`OUTPUT_MAX_BYTES`].
    Flooded,
}

impl Running {
    /// Starts the command of the settings; `last` is its last argument. With `talk` its standard
    /// input is open, or else empty.
    pub(super) fn start(settings: &Model, last: Option<&Path>, talk: bool) -> io::Result<Self> {
        let (program, arguments) =
            settings.command.split_first().ok_or_else(|| io::Error::other("no command"))?;
        let mark = guardian::mark_of_a_run();
        let mut child = Command::new(program)
            .args(arguments)
            .args(last)
            .stdin(if talk { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .env_clear()
            .envs(environment::for_scripts(&settings.env))
            .env(process_tree::MARK, &mark)
            .process_group(0)
            .spawn()?;
        let running = Self {
            mark,
            group: Pid::from_child(&child),
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            child: Some(child),
            printed: Vec::new(),
            tail: Vec::new(),
        };
        if guardian::is_ending() {
            return Err(io::Error::other("the worker is ending"));
        }
        // The pipes' ends on this side only; the command's are its own.
        running.stdin.as_ref().map(|pipe| fcntl_setfl(pipe, OFlags::NONBLOCK)).transpose()?;
        running.stdout.as_ref().map(|pipe| fcntl_setfl(pipe, OFlags::NONBLOCK)).transpose()?;
        running.stderr.as_ref().map(|pipe| fcntl_setfl(pipe, OFlags::NONBLOCK)).transpose()?;
        Ok(running)
    }

    /// Writes a short line to its standard input. One that does not read is as good as gone: the
    /// pipe holds a hundred of these.
    pub(super) fn tell(&mut self, line: &str) -> io::Result<()> {
        let stdin = self.stdin.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut rest = line.as_bytes();
        while !rest.is_empty() {
            match rustix::io::write(stdin, rest) {
                Ok(written) => rest = &rest[written..],
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Says that nothing more will be asked.
    pub(super) fn close_input(&mut self) {
        self.stdin = None;
    }

    /// Waits until `enough` is printed, the command is gone, or the deadline passes. Once at least
    /// it looks at the outputs, whatever the deadline.
    pub(super) fn wait(&mut self, deadline: Instant, enough: impl Fn(&[u8]) -> bool) -> Event {
        loop {
            // First the exit, then the outputs: what was printed before the exit is then certainly
            // read.
            let exited = self.has_exited();
            self.read();
            if enough(&self.printed) {
                return Event::Printed;
            }
            if self.printed.len() > OUTPUT_MAX_BYTES {
                return Event::Flooded;
            }
            if exited {
                return Event::Exited;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Event::TimedOut;
            }
            self.doze(left.min(TICK));
        }
    }

    /// Waits for an output or for so long.
    fn doze(&self, most: Duration) {
        let mut pipes = Vec::with_capacity(2);
        pipes.extend(self.stdout.as_ref().map(|pipe| PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)));
        pipes.extend(self.stderr.as_ref().map(|pipe| PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)));
        if pipes.is_empty() {
            // Both outputs are closed, so it is about to exit.
            return thread::park_timeout(most.min(Duration::from_millis(1)));
        }
        let most = Timespec { tv_sec: 0, tv_nsec: most.subsec_nanos().into() };
        // An interrupted wait is a short one.
        let _ = poll(&mut pipes, Some(&most));
    }

    /// Takes what is in the pipes, as far as it makes sense.
    fn read(&mut self) {
        let mut buffer = [0; 16 << 10];
        while let Some(pipe) = &self.stdout
            && self.printed.len() <= OUTPUT_MAX_BYTES
        {
            match rustix::io::read(pipe, &mut buffer) {
                Ok(0) => self.stdout = None,
                Ok(read) => self.printed.extend_from_slice(&buffer[..read]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => self.stdout = None,
            }
        }
        // Bounded as well: a command that floods its standard error must not keep us here.
        for _ in 0..64 {
            let Some(pipe) = &self.stderr else { break };
            match rustix::io::read(pipe, &mut buffer) {
                Ok(0) => self.stderr = None,
                Ok(read) => {
                    self.tail.extend_from_slice(&buffer[..read]);
                    let surplus = self.tail.len().saturating_sub(TAIL_BYTES);
                    self.tail.drain(..surplus);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => self.stderr = None,
            }
        }
    }

    /// Whether it is gone. It stays unreaped, so that its number still stands for its group.
    pub(super) fn has_exited(&self) -> bool {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        self.child.is_none() || !matches!(waitid(WaitId::Pid(self.group), look), Ok(None))
    }

    /// Ends what has not ended by itself, and what it started, wherever that went.
    pub(super) fn put_down(&mut self) {
        self.end();
        process_tree::kill_marked(&self.mark);
    }

    /// Ends the group and returns how the command went, if it went by itself or in good time.
    pub(super) fn end(&mut self) -> Option<ExitStatus> {
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

    /// The end of its standard error, in one line, as the end of a sentence.
    pub(super) fn last_words(&self) -> String {
        let text = String::from_utf8_lossy(&self.tail);
        let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let shown = lines[lines.len().saturating_sub(5)..].join(" | ").replace(char::is_control, " ");
        if shown.is_empty() {
            "it said nothing on standard error".to_owned()
        } else {
            format!("its last output: {shown}")
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// Whether a command says by its exit code that this may work later (`EX_TEMPFAIL` of sysexits.h).
pub(super) fn wants_later(status: Option<ExitStatus>) -> bool {
    status.and_then(|status| status.code()) == Some(75)
}

/// How a process went, as a part of a sentence.
pub(super) fn manner(status: Option<ExitStatus>) -> String {
    match status {
        Some(status) => status.to_string(),
        None => "in an unknown way".to_owned(),
    }
}
