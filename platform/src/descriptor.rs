//! Waits for kernel objects for which tokio has no type: a process, a watched folder, a timer.

use std::{io, os::fd::OwnedFd};

use tokio::io::{Interest, unix::AsyncFd};

/// Registers a descriptor with tokio, which reports when it is readable.
#[expect(
    unsafe_code,
    reason = "tokio asks its caller to promise that the descriptor is open and stays the same"
)]
///
/// # Errors
///
/// If the kernel cannot watch it.
pub fn readable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open until it is dropped, and no code here takes `&mut` to replace
    // it.
    let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    registered.map_err(Into::into)
}
