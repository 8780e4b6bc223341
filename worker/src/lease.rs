//! Keeps leased jobs ours. One task renews all leases together, in one call; a lease that is
//! dropped is renewed no more.

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

/// How long a job that has just ended may still be held here: its ack is committed, and its lease
/// is dropped in a moment.
const ENDING: Duration = Duration::from_millis(200);

/// All the leases of this worker.
#[derive(Debug)]
pub(crate) struct Leases {
    requests: SharedQueue,
    heartbeat: Duration,
    held: Held,
    ending: Arc<Endings>,
}

type Held = Arc<Mutex<HashMap<Receipt, CancellationToken>>>;

/// Of those held that have their result stored.
#[derive(Debug, Default)]
struct Endings {
    count: AtomicUsize,
    /// One more is, or one is held no more.
    fewer_under_way: Notify,
}

/// One leased job. It is renewed until this is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) receipt: Receipt,
    lost: CancellationToken,
    held: Held,
    ending: Arc<Endings>,
}

/// A job whose result is stored, as long as this is there.
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

    /// What is held now.
    pub(crate) fn held(&self) -> Vec<Receipt> {
        lock(&self.held).keys().cloned().collect()
    }

    /// How many are held now.
    pub(crate) fn count(&self) -> usize {
        lock(&self.held).len()
    }

    /// How many of these have no result stored yet.
    pub(crate) fn under_way(&self) -> usize {
        self.count().saturating_sub(self.ending.count.load(Ordering::Relaxed))
    }

    /// Ends when every job that is held has its result stored.
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

    /// Renews everything that is held, until `stop`.
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
                // The visibility time-out is more than two heartbeats: the next one is in time.
                Err(error) => tracing::warn!(%error, "leases could not be renewed"),
            }
        }
    }

    /// Tells those that are still held that they were lost. The others had been acked.
    fn lose(&self, lost: &[Receipt]) {
        let held = lock(&self.held);
        for (receipt, lease) in lost.iter().filter_map(|receipt| held.get_key_value(receipt)) {
            tracing::warn!(receipt = receipt.0, "a lease was lost: another worker may have the job");
            lease.cancel();
        }
    }
}

impl Lease {
    /// Whether another worker may have the job now.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// Its result is stored; what is left to do is to tell and to ack.
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
    async fn a_lease_whose_job_was_acked_and_ends_in_a_moment_is_not_lost_and_one_that_ran_out_is() {
        let requests = MemoryQueues::new(Arc::new(SystemClock)).open("requests", QueueOptions::default());
        requests.send(vec!["ends".into(), "runs out".into()]).await.unwrap();
        let [ends, runs_out] =
            <[_; 2]>::try_from(requests.receive(2, Duration::ZERO).await.unwrap()).unwrap();
        let leases = Leases::new(requests.clone(), Duration::from_secs(1));
        let ends = leases.hold(ends.receipt);
        let runs_out = leases.hold(runs_out.receipt);
        // To the queue both are gone; the first one is dropped while the renewal looks again.
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
    fn a_job_whose_result_is_stored_is_held_and_no_longer_under_way() {
        let queue = MemoryQueues::new(Arc::new(SystemClock)).open("q", QueueOptions::default());
        let leases = Leases::new(queue, Duration::from_secs(1));
        let (one, _two) = (leases.hold(Receipt("1".into())), leases.hold(Receipt("2".into())));
        let ending = one.ending();
        assert_eq!((leases.count(), leases.under_way()), (2, 1));
        drop((ending, one));
        assert_eq!((leases.count(), leases.under_way()), (1, 1));
    }

    #[tokio::test]
    async fn who_waits_until_all_jobs_have_their_results_is_woken_by_a_result_and_by_a_job_that_goes() {
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
