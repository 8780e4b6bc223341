//! Whether what this worker does comes to anything. One that fails for everything takes no more
//! jobs than it needs to find out whether it works again: the others stay in the queue, for workers
//! that can do them.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use eirs_platform::backoff::Backoff;
use tokio::{sync::Notify, time::Instant};

/// From this many failures in a row it is no accident.
const FAILING_AFTER: u32 = 3;
/// A failing worker tries one job after so long, then after twice as long, ...
const FIRST_PROBE: Duration = Duration::from_millis(500);
/// ... up to this. So long it takes at most until the end of an outage is noticed.
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

    /// A job came to an end; answers whether that is news.
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

    /// A job failed; answers whether it is news that everything does.
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

    /// Why everything fails; `None` where it does not.
    pub(crate) fn failing(&self) -> Option<String> {
        let inner = self.lock();
        (inner.in_a_row >= FAILING_AFTER).then(|| inner.why.clone())
    }

    /// For how long everything has failed.
    pub(crate) fn failing_for(&self) -> Option<Duration> {
        let inner = self.lock();
        inner.since.filter(|_| inner.in_a_row >= FAILING_AFTER).map(|since| since.elapsed())
    }

    /// How long to wait before the next job is tried; nothing where all is well.
    pub(crate) fn pause(&self) -> Duration {
        let mut inner = self.lock();
        if inner.in_a_row < FAILING_AFTER { Duration::ZERO } else { inner.probes.next_wait() }
    }

    /// Waits so long, or until it is known that everything fails.
    pub(crate) async fn rest(&self, time: Duration) {
        // Registered before the look, so that a change in between is not missed.
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
    async fn failures_in_a_row_make_a_failing_worker_and_one_success_ends_that() {
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
    async fn a_failing_worker_pauses_ever_longer_up_to_a_limit_and_a_working_one_not_at_all() {
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
    async fn a_rest_ends_when_everything_fails() {
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
