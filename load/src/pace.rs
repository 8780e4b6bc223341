//! Waiting for a moment to the microsecond.
//!
//! Tokio's timers count in milliseconds and round up, so that each upload would begin up to a
//! millisecond late. The kernel's timers are exact, and one of them as a file descriptor wakes the
//! runtime in the same way as an answer does: no thread spins, and nothing is handed from one
//! thread to another.

use std::{io, os::fd::OwnedFd, time::Duration};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::Instant,
};

/// A timer of the kernel.
#[derive(Debug)]
pub(crate) struct Pacer {
    timer: AsyncFd<OwnedFd>,
}

impl Pacer {
    pub(crate) fn new() -> io::Result<Self> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        Ok(Self { timer: watched(timer)? })
    }

    /// Waits until then; at once where that is over.
    pub(crate) async fn until(&self, due: Instant) -> io::Result<()> {
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.set(left)?;
            let mut ready = self.timer.readable().await?;
            let mut expirations = [0; 8];
            // A readiness from a setting before is no expiration of this one: then there is nothing
            // to read, and it is asked again.
            let _read = ready.try_io(|timer| Ok(rustix::io::read(timer, &mut expirations)?));
        }
    }

    fn set(&self, left: Duration) -> io::Result<()> {
        let value = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }
}

/// Passes the timer to tokio, which reports when it can be read.
#[expect(
    unsafe_code,
    reason = "tokio asks its caller to promise that the descriptor is open and stays the same"
)]
fn watched(timer: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open until it is dropped, and nobody here takes `&mut` to put another
    // one in its place.
    let registered = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) };
    registered.map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_is_too_early_and_what_is_over_is_not_waited_for() {
        let pacer = Pacer::new().unwrap();
        let start = Instant::now();
        pacer.until(start).await.unwrap();
        for us in [300u64, 700, 5_000, 5_001, 20_000] {
            let due = start + Duration::from_micros(us);
            pacer.until(due).await.unwrap();
            assert!(Instant::now() >= due);
        }
    }

    #[tokio::test]
    async fn a_wait_that_was_given_up_does_not_shorten_the_next_one() {
        let pacer = Pacer::new().unwrap();
        let soon = Instant::now() + Duration::from_millis(2);
        let given_up =
            tokio::time::timeout(Duration::from_millis(1), pacer.until(soon + Duration::from_secs(60)));
        assert!(given_up.await.is_err());
        let due = Instant::now() + Duration::from_millis(10);
        pacer.until(due).await.unwrap();
        assert!(Instant::now() >= due);
    }
}
