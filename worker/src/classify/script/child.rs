//! Runs a command of the operator in isolation: it can crash, hang, flood its outputs or leave
//! children running, and none of that blocks the waiting thread beyond the deadline.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    process::ExitStatus,
    thread,
    time::{Duration, Instant},
};

use eirs_platform::settings::Model;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{OFlags, fcntl_setfl},
    io::Errno,
};

use super::{
    apart::Apart,
    guardian,
    order::{Order, Process},
    own::Own,
};

/// Maximum output of a command for one image, in bytes.
pub(super) const OUTPUT_MAX_BYTES: usize = 1 << 20;

/// Size of the kept end of standard error, for the log, in bytes.
const TAIL_BYTES: usize = 4096;

/// Interval of checks for an exit while a grandchild keeps the outputs open; otherwise their end
/// wakes the thread.
const TICK: Duration = Duration::from_millis(20);

/// A running command, in its own process group. Dropping this kills the whole group.
pub(super) struct Running {
    process: Box<dyn Process>,
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    /// The output that was not taken yet.
    pub(super) printed: Vec<u8>,
    tail: Vec<u8>,
}

/// The reason why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// The expected output was printed.
    Printed,
    /// The command exited, and all its output was read.
    Exited,
    /// The deadline passed.
    TimedOut,
    /// The command printed more than [`OUTPUT_MAX_BYTES`].
    Flooded,
}

impl Running {
    /// Starts the configured command, with `last` as its last argument. Its standard input is open
    /// if `talk` is set, else empty.
    pub(super) fn start(settings: &Model, last: Option<&Path>, talk: bool) -> io::Result<Self> {
        let last = last.map(|last| last.to_str().ok_or_else(|| io::Error::other("the path is not UTF-8")));
        let command = settings.command.iter().cloned().chain(last.transpose()?.map(str::to_owned));
        let mark = guardian::mark_of_a_run(settings.script_socket.is_none());
        let worker = guardian::own_mark().to_owned();
        let order = Order { command: command.collect(), env: settings.env.clone(), talk, mark, worker };
        let (process, pipes) = begin(settings, order)?;
        let mut pipes = pipes.into_iter();
        let mut running = Self {
            process,
            stdin: talk.then(|| pipes.next()).flatten(),
            stdout: pipes.next(),
            stderr: pipes.next(),
            printed: Vec::new(),
            tail: Vec::new(),
        };
        if guardian::is_ending() {
            running.process.end();
            return Err(io::Error::other("the worker is ending"));
        }
        // Only the ends on this side; the command's ends are its own.
        for pipe in [&running.stdin, &running.stdout, &running.stderr].into_iter().flatten() {
            fcntl_setfl(pipe, OFlags::NONBLOCK)?;
        }
        Ok(running)
    }

    /// Writes a short line to standard input. A command that does not read counts as gone: the pipe
    /// has room for a hundred lines.
    pub(super) fn write_line(&mut self, line: &str) -> io::Result<()> {
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

    /// Returns whether the last line written to standard input is unread, except for its end.
    pub(super) fn has_unread_input(&self) -> bool {
        self.stdin.as_ref().is_some_and(|pipe| rustix::io::ioctl_fionread(pipe).is_ok_and(|bytes| bytes > 1))
    }

    /// Closes standard input: there are no more requests.
    pub(super) fn close_input(&mut self) {
        self.stdin = None;
    }

    /// Waits until the output is `enough`, the command exits, or the deadline passes. Reads the
    /// output at least once, even after the deadline.
    pub(super) fn wait(&mut self, deadline: Instant, enough: impl Fn(&[u8]) -> bool) -> Event {
        loop {
            // Checks for the exit before reading, so that all output from before the exit is read.
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

    /// Waits for output, at most for `most`.
    fn doze(&self, most: Duration) {
        let mut pipes = Vec::with_capacity(2);
        pipes.extend(self.stdout.as_ref().map(|pipe| PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)));
        pipes.extend(self.stderr.as_ref().map(|pipe| PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)));
        if pipes.is_empty() {
            // Both outputs are closed, so the command is about to exit.
            return thread::park_timeout(most.min(Duration::from_millis(1)));
        }
        let most = Timespec { tv_sec: 0, tv_nsec: most.subsec_nanos().into() };
        // An interrupted wait is only shorter.
        let _ = poll(&mut pipes, Some(&most));
    }

    /// Reads the pipes, up to the limits.
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
        // Bounded, so that a command that floods standard error does not block this thread.
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

    /// Returns whether the command has exited.
    pub(super) fn has_exited(&mut self) -> bool {
        self.process.has_exited()
    }

    /// Kills the command and all processes that it started, whenever that was.
    pub(super) fn put_down(&mut self) {
        self.process.put_down();
    }

    /// Kills the command and what it left running, and returns the exit status, if it was available
    /// in time.
    pub(super) fn end(&mut self) -> Option<ExitStatus> {
        self.process.end()
    }

    /// Returns the last lines of standard error, joined, as the end of an error message.
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
        self.process.end();
    }
}

/// Starts a run as a child process or through the service. Returns its pipes: standard input, if it
/// is open, output and error.
fn begin(settings: &Model, order: Order) -> io::Result<(Box<dyn Process>, Vec<OwnedFd>)> {
    if let Some(socket) = &settings.script_socket {
        let (process, pipes) = Apart::start(socket, &order)?;
        return Ok((Box::new(process), pipes));
    }
    let (child, pipes) = order.spawn()?;
    Ok((Box::new(Own::new(child, order.mark)), pipes))
}

/// Returns whether the exit code asks for a later attempt (`EX_TEMPFAIL` of sysexits.h).
pub(super) fn wants_later(status: Option<ExitStatus>) -> bool {
    status.and_then(|status| status.code()) == Some(75)
}

/// Describes an exit status, for an error message.
pub(super) fn manner(status: Option<ExitStatus>) -> String {
    match status {
        Some(status) => status.to_string(),
        None => "in an unknown way".to_owned(),
    }
}
