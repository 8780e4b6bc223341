//! Waits for a time with microsecond precision.
//!
//! Tokio's timers have a resolution of a millisecond and round up, so that each upload would start
//! up to a millisecond late. A kernel timer is exact, and as a file descriptor it wakes the runtime
//! in the same way as a response does, without a spinning thread or a switch between threads.

use std::{io, os::fd::OwnedFd, time::Duration};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::Instant,
};

/// A kernel timer.
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

    /// Waits until `due`; returns at once if it has passed.
    pub(crate) async fn until(&self, due: Instant) -> io::Result<()> {
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.set(left)?;
            let mut ready = self.timer.readable().await?;
            let mut expirations = [0; 8];
            // Readiness from an earlier setting is not an expiration of this one: then there is
            // nothing to read, and the wait continues.
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

/// Registers the timer with tokio, which reports when it is readable.
#[expect(
    unsafe_code,
    reason = "tokio asks its caller to promise that the descriptor is open and stays the same"
)]
fn watched(timer: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open until it is dropped, and nothing here takes `&mut` to replace
    // it.
    let registered = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) };
    registered.map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waits_never_end_early_and_past_times_return_at_once() {
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
    async fn a_cancelled_wait_does_not_shorten_the_next_one() {
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
