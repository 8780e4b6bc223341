//! How a sender in one process wakes a receiver in another: one named pipe for each queue, one byte
//! in it for each message. A receiver that waits is woken by the kernel and takes one byte; who
//! takes several messages takes their bytes too. The bytes are only hints: a receiver always looks
//! before it waits, so a lost byte costs a delay that `LOST_RING` bounds, and a byte too many costs
//! one look.
//!
//! The messages of one transaction are announced by one write after its commit
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

/// More rings than this wake nobody who is not awake already.
const MOST_RINGS: usize = 256;

#[derive(Debug)]
pub(crate) struct Bell {
    pipe: OwnedFd,
    /// The same, known to the runtime since somebody waited here. Who only rings is not woken by
    /// its own rings.
    ear: OnceLock<Receiver>,
}

impl Bell {
    /// Opens the pipe, making it if it is not there.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let failed =
            |error: io::Error| Error::from_io(format!("opening the pipe {}", path.display()), &error);
        match mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed(error.into())),
        }
        // Open for both, the pipe never reports an end of file and never lacks a reader.
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let pipe = open(path, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
        Ok(Self { pipe, ear: OnceLock::new() })
    }

    /// Announces messages. A full pipe is as good: everybody is awake.
    pub(crate) fn ring(&self, messages: usize) {
        let _full = write(&self.pipe, &[1; MOST_RINGS][..messages.min(MOST_RINGS)]);
    }

    /// Takes back the rings of messages that were received without waiting for them.
    pub(crate) fn silence(&self, messages: usize) {
        if messages > 0 {
            let _empty = read(&self.pipe, &mut [0; MOST_RINGS][..messages.min(MOST_RINGS)]);
        }
    }

    /// Waits for one ring and takes it; `false` if none came by the deadline.
    pub(crate) async fn heard(&self, deadline: Instant) -> Result<bool> {
        let failed = |error| Error::from_io("waiting for a message", &error);
        let ear = self.ear().map_err(failed)?;
        let take_one = async {
            loop {
                ear.readable().await?;
                // Another receiver may have been quicker.
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

    /// Takes all rings that there are, and counts them.
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
