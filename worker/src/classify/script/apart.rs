//! Runs a script through the service for scripts (`host.rs`), which has another user: the script
//! can neither read the worker's files nor reach the credentials of the machine. One connection is
//! one run: when the worker closes it, or dies, the service ends the run.

use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::ExitStatusExt,
    },
    path::Path,
    process::ExitStatus,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
};

use super::{
    order::{Order, Process},
    wire::{Ask, Reply, receive, send},
};

/// The first connection starts the service, which takes a while.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// The same time as for a child process: only a process stuck in the kernel takes longer.
const END_PATIENCE: Duration = Duration::from_secs(4);

pub(super) struct Apart {
    /// `None` if the service is gone.
    connection: Option<OwnedFd>,
    /// The exit status of the command, until it is taken.
    status: Option<ExitStatus>,
    has_exited: bool,
}

impl Apart {
    /// Starts a run. Returns its pipes: standard input, if it is open, output and error.
    pub(super) fn start(socket: &Path, order: &Order) -> io::Result<(Self, Vec<OwnedFd>)> {
        let say = |error: &dyn std::fmt::Display| {
            let socket = socket.display();
            io::Error::other(format!("the service for scripts at {socket} does not take it: {error}"))
        };
        let connection = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let address = SocketAddrUnix::new(socket)?;
        connect(&connection, &address).map_err(|error| say(&error))?;
        send(&connection, order, &[]).map_err(|error| say(&error))?;
        let mut run = Self { connection: Some(connection), status: None, has_exited: false };
        match run.next(START_PATIENCE) {
            Some((Reply::Started, pipes)) => Ok((run, pipes)),
            Some((Reply::Refused(why), _)) => Err(io::Error::other(why)),
            _ => Err(say(&"it said nothing")),
        }
    }

    /// Waits up to `patience` for the next reply.
    fn next(&mut self, patience: Duration) -> Option<(Reply, Vec<OwnedFd>)> {
        let connection = self.connection.as_ref()?;
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            let mut look = [PollFd::from_borrowed_fd(connection.as_fd(), PollFlags::IN)];
            match poll(&mut look, Some(&left)) {
                Ok(0) => return None,
                Err(Errno::INTR) => {}
                Ok(_) | Err(_) => break,
            }
        }
        let reply = receive(connection).ok().flatten();
        if reply.is_none() {
            (self.connection, self.has_exited) = (None, true);
        }
        if let Some((Reply::Ended(raw), _)) = reply {
            (self.status, self.has_exited) = (Some(ExitStatus::from_raw(raw)), true);
        }
        reply
    }

    fn ask(&self, what: Ask) {
        // If the service is gone, reading its reply shows that.
        let _ = self.connection.as_ref().map(|connection| send(connection, &what, &[]));
    }
}

impl Process for Apart {
    fn has_exited(&mut self) -> bool {
        if !self.has_exited {
            self.next(Duration::ZERO);
        }
        self.has_exited
    }

    fn end(&mut self) -> Option<ExitStatus> {
        if !self.has_exited() {
            self.ask(Ask::End);
            self.next(END_PATIENCE);
        }
        self.status.take()
    }

    fn put_down(&mut self) {
        self.end();
        self.ask(Ask::PutDown);
        self.next(END_PATIENCE);
        self.connection = None;
    }
}
