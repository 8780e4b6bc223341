//! Waiting on a kernel object that tokio has no type for: a process, a watched folder, a timer.

use std::{io, os::fd::OwnedFd};

use tokio::io::{Interest, unix::AsyncFd};

/// Passes a descriptor to tokio, which reports when it can be read.
#[expect(
    unsafe_code,
    reason = "tokio asks its caller to promise that the descriptor is open and stays the same"
)]
///
/// # Errors
///
/// Where the kernel cannot watch it.
pub fn readable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open until it is dropped, and nobody here takes `&mut` to put another
    // one in its place.
    let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    registered.map_err(Into::into)
}
