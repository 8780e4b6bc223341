//! Detects that every job fails on this worker. Such a worker only takes the jobs that it needs to
//! notice its recovery; the others stay in the queue for workers that can do them.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use eirs_platform::backoff::Backoff;
use tokio::{sync::Notify, time::Instant};

/// Number of consecutive failures after which the worker is failing.
const FAILING_AFTER: u32 = 3;
/// A failing worker first waits this long before it tries one job, then twice as long at a time.
const FIRST_PROBE: Duration = Duration::from_millis(500);
/// The longest of these waits, and so the longest time until it notices the end of an outage.
const LAST_PROBE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Health {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug)]
struct Inner {
    in_a_row: u32,
    since: Option<Instant>,
    why: String,
    probes: Backoff,
}

impl Health {
    pub(crate) fn new() -> Self {
        let probes = Backoff::new(FIRST_PROBE, LAST_PROBE);
        let inner = Inner { in_a_row: 0, since: None, why: String::new(), probes };
        Self { inner: Mutex::new(inner), changed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a job ended; returns whether the worker was failing before.
    pub(crate) fn works(&self) -> bool {
        let mut inner = self.lock();
        let was_failing = inner.in_a_row >= FAILING_AFTER;
        (inner.in_a_row, inner.since) = (0, None);
        inner.probes.reset();
        drop(inner);
        if was_failing {
            self.changed.notify_waiters();
        }
        was_failing
    }

    /// Notes that a job failed; returns whether the worker is failing from now on.
    pub(crate) fn fails(&self, why: &str) -> bool {
        let mut inner = self.lock();
        inner.in_a_row = inner.in_a_row.saturating_add(1);
        inner.since.get_or_insert_with(Instant::now);
        why.clone_into(&mut inner.why);
        let is_news = inner.in_a_row == FAILING_AFTER;
        drop(inner);
        if is_news {
            self.changed.notify_waiters();
        }
        is_news
    }

    /// Returns the last cause if the worker is failing.
    pub(crate) fn failing(&self) -> Option<String> {
        let inner = self.lock();
        (inner.in_a_row >= FAILING_AFTER).then(|| inner.why.clone())
    }

    /// Returns how long the worker has been failing.
    pub(crate) fn failing_for(&self) -> Option<Duration> {
        let inner = self.lock();
        inner.since.filter(|_| inner.in_a_row >= FAILING_AFTER).map(|since| since.elapsed())
    }

    /// Returns the wait before the next job; zero unless the worker is failing.
    pub(crate) fn pause(&self) -> Duration {
        let mut inner = self.lock();
        if inner.in_a_row < FAILING_AFTER { Duration::ZERO } else { inner.probes.next_wait() }
    }

    /// Waits for `time`, or until the worker is failing.
    pub(crate) async fn rest(&self, time: Duration) {
        // Registers before the check, so that no change in between is missed.
        let changed = self.changed.notified();
        if self.failing().is_none() {
            let _either = tokio::time::timeout(time, changed).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn three_consecutive_failures_make_a_worker_failing_until_a_success() {
        let health = Health::new();
        assert!(!health.fails("a") && !health.fails("b") && health.failing().is_none());
        assert!(!health.works(), "no news");
        assert!(!health.fails("a") && !health.fails("b") && health.fails("c") && !health.fails("d"));
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(
            (health.failing().as_deref(), health.failing_for()),
            (Some("d"), Some(Duration::from_secs(7)))
        );
        assert!(health.works() && health.failing().is_none() && health.failing_for().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_worker_pauses_ever_longer_and_a_healthy_one_never() {
        let health = Health::new();
        assert_eq!(health.pause(), Duration::ZERO);
        for _ in 0..3 {
            health.fails("x");
        }
        let pauses: Vec<_> = (0..200).map(|_| health.pause()).collect();
        assert!(pauses[0] <= FIRST_PROBE && pauses.iter().all(|pause| *pause <= LAST_PROBE));
        assert!(pauses.iter().max() > Some(&(LAST_PROBE / 2)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_rest_ends_when_the_worker_starts_failing() {
        let health = Health::new();
        let start = Instant::now();
        let fail = async {
            for _ in 0..3 {
                health.fails("x");
            }
        };
        tokio::join!(health.rest(Duration::from_secs(60)), fail);
        health.rest(Duration::from_secs(60)).await;
        assert!(start.elapsed() < Duration::from_secs(1));
    }
}
