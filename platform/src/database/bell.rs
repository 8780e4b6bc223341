//! Wakes a receiver in another process: one named pipe per queue, one byte in it per message. The
//! kernel wakes a waiting receiver, which takes one byte; a receiver that takes several messages
//! takes their bytes as well. The bytes are only hints: a receiver always looks before it waits, so
//! a lost byte costs a delay of at most `LONGEST_SLEEP`, and an extra byte costs one look.
//!
//! The messages of a transaction are announced by one write after its commit
//! ([`Batch::ring`](super::Batch::ring)).

use std::{
    io::{self, ErrorKind},
    os::fd::OwnedFd,
    path::Path,
    sync::OnceLock,
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, mknodat, open},
    io::{Errno, read, write},
};
use tokio::{net::unix::pipe::Receiver, time::Instant};

use crate::error::{Error, Result};

/// Maximum number of bytes written at once; more would wake no further receiver.
const MOST_RINGS: usize = 256;

#[derive(Debug)]
pub(crate) struct Bell {
    pipe: OwnedFd,
    /// The same pipe, registered with the runtime once a receiver waits here, so that a process
    /// that only rings is not woken by its own bytes.
    ear: OnceLock<Receiver>,
}

impl Bell {
    /// Opens the pipe, creating it if missing.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let failed =
            |error: io::Error| Error::from_io(format!("opening the pipe {}", path.display()), &error);
        match mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed(error.into())),
        }
        // Open for reading and writing, a pipe never reports an end of file and never lacks a
        // reader.
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let pipe = open(path, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
        Ok(Self { pipe, ear: OnceLock::new() })
    }

    /// Announces messages. If the pipe is full, all receivers are awake already.
    pub(crate) fn ring(&self, messages: usize) {
        let _full = write(&self.pipe, &[1; MOST_RINGS][..messages.min(MOST_RINGS)]);
    }

    /// Takes the bytes of messages that were received without waiting.
    pub(crate) fn silence(&self, messages: usize) {
        if messages > 0 {
            let _empty = read(&self.pipe, &mut [0; MOST_RINGS][..messages.min(MOST_RINGS)]);
        }
    }

    /// Waits for a byte and takes it; returns false if none came by the deadline.
    pub(crate) async fn heard(&self, deadline: Instant) -> Result<bool> {
        let failed = |error| Error::from_io("waiting for a message", &error);
        let ear = self.ear().map_err(failed)?;
        let take_one = async {
            loop {
                ear.readable().await?;
                // Another receiver may have been faster.
                match ear.try_read(&mut [0; 1]) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    taken => return taken,
                }
            }
        };
        match tokio::time::timeout_at(deadline, take_one).await {
            Ok(taken) => taken.map(|_| true).map_err(failed),
            Err(_late) => Ok(false),
        }
    }

    /// Takes all bytes and returns their number.
    #[cfg(test)]
    pub(crate) fn rings(&self) -> usize {
        read(&self.pipe, &mut [0; MOST_RINGS]).unwrap_or(0)
    }

    fn ear(&self) -> io::Result<&Receiver> {
        if let Some(ear) = self.ear.get() {
            return Ok(ear);
        }
        let ear = Receiver::from_owned_fd_unchecked(self.pipe.try_clone()?)?;
        Ok(self.ear.get_or_init(|| ear))
    }
}
