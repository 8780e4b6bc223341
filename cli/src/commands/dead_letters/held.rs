//! Holds letters: receives them, renews their leases while they are inspected, and gives them back.
//!
//! If the program is killed, the letters return when their leases expire. Each receive increases
//! the delivery count of a letter, which has no consequences: dead letters have no dead letter
//! queue.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use eirs_platform::{
    Result,
    queue::{Delivery, Receipt, SharedQueue},
};
use tokio::task::JoinHandle;

use crate::show;

/// The held letters of one queue. Their leases are renewed until this is dropped.
#[derive(Debug)]
pub(super) struct Held {
    queue: SharedQueue,
    /// How long a receive waits for the first letter.
    patience: Duration,
    receipts: Receipts,
    renewing: JoinHandle<()>,
}

type Receipts = Arc<Mutex<HashSet<Receipt>>>;

impl Held {
    /// Creates the holder without any letters.
    pub(super) fn new(queue: SharedQueue, visibility: Duration, patience: Duration) -> Self {
        let receipts = Receipts::default();
        let renewing = tokio::spawn(renew(queue.clone(), receipts.clone(), visibility / 3));
        Self { queue, patience, receipts, renewing }
    }

    /// Receives and holds letters that no other process holds.
    pub(super) async fn receive(&self, most: usize) -> Result<Vec<Delivery>> {
        let received = self.queue.receive(most, self.patience).await?;
        lock(&self.receipts).extend(received.iter().map(|delivery| delivery.receipt.clone()));
        Ok(received)
    }

    /// Deletes letters.
    pub(super) async fn ack(&self, receipts: &[Receipt]) -> Result<()> {
        self.queue.ack(receipts).await?;
        lock(&self.receipts).retain(|receipt| !receipts.contains(receipt));
        Ok(())
    }

    /// Gives back all letters except these.
    pub(super) async fn give_back_all_but(&self, kept: &HashSet<Receipt>) {
        let receipts: Vec<_> = lock(&self.receipts).extract_if(|receipt| !kept.contains(receipt)).collect();
        if let Err(error) = self.queue.release(&receipts).await {
            show::aside(format_args!("{error}; the letters return when their lease expires"));
        }
    }

    /// Gives back all letters.
    pub(super) async fn give_back(&self) {
        self.give_back_all_but(&HashSet::new()).await;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

async fn renew(queue: SharedQueue, receipts: Receipts, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let held: Vec<_> = lock(&receipts).iter().cloned().collect();
        if held.is_empty() {
            continue;
        }
        // Losing a lease is harmless: another process also sees the letter, and running a job twice
        // is safe. A failed renewal is repeated in time.
        let _lost_or_failed = queue.extend(&held).await;
    }
}

fn lock(receipts: &Receipts) -> MutexGuard<'_, HashSet<Receipt>> {
    receipts.lock().unwrap_or_else(PoisonError::into_inner)
}
