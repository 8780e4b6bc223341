//! Keeps leased jobs ours. One task renews all leases together, in one call; a lease that is
//! dropped is renewed no more.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use eirs_platform::queue::{Receipt, SharedQueue};
use tokio_util::sync::CancellationToken;

/// All the leases of this worker.
#[derive(Debug)]
pub(crate) struct Leases {
    requests: SharedQueue,
    heartbeat: Duration,
    held: Held,
}

type Held = Arc<Mutex<HashMap<Receipt, CancellationToken>>>;

/// One leased job. It is renewed until this is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) receipt: Receipt,
    lost: CancellationToken,
    held: Held,
}

impl Leases {
    pub(crate) fn new(requests: SharedQueue, heartbeat: Duration) -> Self {
        Self { requests, heartbeat, held: Held::default() }
    }

    pub(crate) fn hold(&self, receipt: Receipt) -> Lease {
        let lost = CancellationToken::new();
        lock(&self.held).insert(receipt.clone(), lost.clone());
        Lease { receipt, lost, held: self.held.clone() }
    }

    /// What is held now.
    pub(crate) fn held(&self) -> Vec<Receipt> {
        lock(&self.held).keys().cloned().collect()
    }

    /// How many are held now.
    pub(crate) fn count(&self) -> usize {
        lock(&self.held).len()
    }

    /// Renews everything that is held, until `stop`.
    pub(crate) async fn keep_alive(&self, stop: &CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(self.heartbeat)).await.is_some() {
            let receipts = self.held();
            if receipts.is_empty() {
                continue;
            }
            match self.requests.extend(&receipts).await {
                Ok(lost) => {
                    for receipt in lost {
                        // Absent means that it was acked while this was under way.
                        if let Some(lease) = lock(&self.held).get(&receipt) {
                            tracing::warn!(
                                receipt = receipt.0,
                                "a lease was lost: another worker may have the job"
                            );
                            lease.cancel();
                        }
                    }
                }
                // The visibility time-out is more than two heartbeats: the next one is in time.
                Err(error) => tracing::warn!(%error, "leases could not be renewed"),
            }
        }
    }
}

impl Lease {
    /// Whether another worker may have the job now.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        lock(&self.held).remove(&self.receipt);
    }
}

fn lock(held: &Held) -> MutexGuard<'_, HashMap<Receipt, CancellationToken>> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}
