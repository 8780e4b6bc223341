//! What worker and service for scripts say to each other: a connection for each run, one JSON value
//! in each message, and pipes beside the first reply.

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

/// No message is longer, in bytes; the kernel's own limit for one is lower by default.
const MOST: usize = 256 << 10;

/// What the worker asks of a run that began; its end of the connection says that all of it must go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Ask {
    /// End the command's group; the reply is `Ended`.
    End,
    /// End whatever it started; the reply is `Gone`.
    PutDown,
}

/// What the service replies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Reply {
    /// It runs; its pipes come with this: standard input if that is open, output, and error.
    Started,
    /// It does not run, for this reason.
    Refused(String),
    /// The command is gone, with this status, as `wait(2)` has it.
    Ended(i32),
    /// Nothing of it is left.
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

/// The next message; `None` if the other side has closed.
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
