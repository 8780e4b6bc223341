//! Renews the leases of held jobs. One task renews all leases in one call; a dropped lease is not
//! renewed any more.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use eirs_platform::queue::{Receipt, SharedQueue};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How long a job may still be held after its ack, until its lease is dropped.
const ENDING: Duration = Duration::from_millis(200);

/// All leases of this worker.
#[derive(Debug)]
pub(crate) struct Leases {
    requests: SharedQueue,
    heartbeat: Duration,
    held: Held,
    ending: Arc<Endings>,
}

type Held = Arc<Mutex<HashMap<Receipt, CancellationToken>>>;

/// The held jobs whose results are stored.
#[derive(Debug, Default)]
struct Endings {
    count: AtomicUsize,
    /// Signals that a job's result was stored, or that a lease was dropped.
    fewer_under_way: Notify,
}

/// The lease of one job, which is renewed until this is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) receipt: Receipt,
    lost: CancellationToken,
    held: Held,
    ending: Arc<Endings>,
}

/// A held job whose result is stored, until this is dropped.
#[derive(Debug)]
pub(crate) struct Ending(Arc<Endings>);

impl Leases {
    pub(crate) fn new(requests: SharedQueue, heartbeat: Duration) -> Self {
        Self { requests, heartbeat, held: Held::default(), ending: Arc::default() }
    }

    pub(crate) fn hold(&self, receipt: Receipt) -> Lease {
        let lost = CancellationToken::new();
        lock(&self.held).insert(receipt.clone(), lost.clone());
        Lease { receipt, lost, held: self.held.clone(), ending: self.ending.clone() }
    }

    /// Returns the receipts of the held jobs.
    pub(crate) fn held(&self) -> Vec<Receipt> {
        lock(&self.held).keys().cloned().collect()
    }

    /// Returns the number of held jobs.
    pub(crate) fn count(&self) -> usize {
        lock(&self.held).len()
    }

    /// Returns the number of held jobs whose results are not stored yet.
    pub(crate) fn under_way(&self) -> usize {
        self.count().saturating_sub(self.ending.count.load(Ordering::Relaxed))
    }

    /// Waits until the results of all held jobs are stored.
    pub(crate) async fn all_ending(&self) {
        loop {
            let mut changed = std::pin::pin!(self.ending.fewer_under_way.notified());
            changed.as_mut().enable();
            if self.under_way() == 0 {
                return;
            }
            changed.await;
        }
    }

    /// Renews all leases until `stop`.
    pub(crate) async fn keep_alive(&self, stop: &CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(self.heartbeat)).await.is_some() {
            let receipts = self.held();
            if receipts.is_empty() {
                continue;
            }
            match self.requests.extend(&receipts).await {
                Ok(lost) if lost.is_empty() => {}
                Ok(lost) => {
                    let _stopped = stop.run_until_cancelled(tokio::time::sleep(ENDING)).await;
                    self.lose(&lost);
                }
                // The lease lasts more than two heartbeats, so the next renewal is in time.
                Err(error) => tracing::warn!(%error, "leases could not be renewed"),
            }
        }
    }

    /// Marks the leases that are still held as lost; the other jobs were acked meanwhile.
    fn lose(&self, lost: &[Receipt]) {
        let held = lock(&self.held);
        for (receipt, lease) in lost.iter().filter_map(|receipt| held.get_key_value(receipt)) {
            tracing::warn!(receipt = receipt.0, "a lease was lost: another worker may have the job");
            lease.cancel();
        }
    }
}

impl Lease {
    /// Returns whether another worker may have the job.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// Notes that the result is stored; only the reply and the ack remain.
    pub(crate) fn ending(&self) -> Ending {
        self.ending.count.fetch_add(1, Ordering::Relaxed);
        self.ending.fewer_under_way.notify_waiters();
        Ending(self.ending.clone())
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        lock(&self.held).remove(&self.receipt);
        self.ending.fewer_under_way.notify_waiters();
    }
}

fn lock(held: &Held) -> MutexGuard<'_, HashMap<Receipt, CancellationToken>> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use eirs_platform::{
        clock::SystemClock,
        queue::{QueueOptions, memory::MemoryQueues},
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_expired_lease_is_lost_and_that_of_an_acked_job_is_not() {
        let requests = MemoryQueues::new(Arc::new(SystemClock)).open("requests", QueueOptions::default());
        requests.send(vec!["ends".into(), "runs out".into()]).await.unwrap();
        let [ends, runs_out] =
            <[_; 2]>::try_from(requests.receive(2, Duration::ZERO).await.unwrap()).unwrap();
        let leases = Leases::new(requests.clone(), Duration::from_secs(1));
        let ends = leases.hold(ends.receipt);
        let runs_out = leases.hold(runs_out.receipt);
        // The queue has neither; the first lease is dropped during the pause before the renewal
        // marks leases as lost.
        requests.ack(&[ends.receipt.clone(), runs_out.receipt.clone()]).await.unwrap();
        let lost = ends.lost.clone();
        let ending = async move {
            tokio::time::sleep(Duration::from_millis(1100)).await;
            drop(ends);
        };
        let stop = CancellationToken::new();
        let renewing = leases.keep_alive(&stop);
        let watching = async {
            tokio::time::timeout(Duration::from_secs(60), runs_out.lost.cancelled()).await.unwrap();
            stop.cancel();
        };
        tokio::join!(ending, renewing, watching);
        assert!(runs_out.is_lost() && !lost.is_cancelled());
    }

    #[test]
    fn a_job_with_a_stored_result_is_held_but_not_under_way() {
        let queue = MemoryQueues::new(Arc::new(SystemClock)).open("q", QueueOptions::default());
        let leases = Leases::new(queue, Duration::from_secs(1));
        let (one, _two) = (leases.hold(Receipt("1".into())), leases.hold(Receipt("2".into())));
        let ending = one.ending();
        assert_eq!((leases.count(), leases.under_way()), (2, 1));
        drop((ending, one));
        assert_eq!((leases.count(), leases.under_way()), (1, 1));
    }

    #[tokio::test]
    async fn waiting_for_all_results_ends_on_a_result_or_a_dropped_lease() {
        let queue = MemoryQueues::new(Arc::new(SystemClock)).open("q", QueueOptions::default());
        let leases = Leases::new(queue, Duration::from_secs(1));
        leases.all_ending().await;
        let (one, two) = (leases.hold(Receipt("1".into())), leases.hold(Receipt("2".into())));
        let mut quiet = std::pin::pin!(leases.all_ending());
        let is_over = |quiet: std::pin::Pin<&mut dyn Future<Output = ()>>| {
            quiet.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_ready()
        };
        assert!(!is_over(quiet.as_mut()));
        drop(one);
        assert!(!is_over(quiet.as_mut()));
        let _ending = two.ending();
        assert!(is_over(quiet.as_mut()));
    }
}
