//! The protocol between the worker and the service for scripts: one connection per run, one JSON
//! value per message, and file descriptors of pipes with the first reply.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    cmsg_space,
    io::{Errno, retry_on_intr},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, recvmsg, sendmsg,
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Maximum size of a message, in bytes; the default limit of the kernel is lower.
const MOST: usize = 256 << 10;

/// The requests of the worker for a started run. Closing the connection ends the whole run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Ask {
    /// Kill the command's process group; the reply is `Ended`.
    End,
    /// Kill all processes of the run; the reply is `Gone`.
    PutDown,
}

/// The replies of the service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Reply {
    /// The command runs. Its pipes are sent with this reply: standard input, if it is open, output
    /// and error.
    Started,
    /// The command does not run, for this reason.
    Refused(String),
    /// The command has exited with this status, as in `wait(2)`.
    Ended(i32),
    /// No process of the run is left.
    Gone,
}

pub(super) fn send(to: impl AsFd, message: &impl Serialize, pipes: &[BorrowedFd]) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !pipes.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(pipes));
    }
    retry_on_intr(|| sendmsg(&to, &[IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Receives the next message; `None` if the other side has closed the connection.
pub(super) fn receive<T: DeserializeOwned>(from: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut text = vec![0; MOST];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(3))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = retry_on_intr(|| {
        recvmsg(&from, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC)
    });
    let bytes = match received {
        Ok(received) if received.bytes > 0 => received.bytes,
        Ok(_) | Err(Errno::CONNRESET) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let pipes = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(pipes) => Some(pipes),
        _ => None,
    });
    let pipes = pipes.flatten().collect();
    Ok(Some((serde_json::from_slice(&text[..bytes])?, pipes)))
}
