//! The interface to a message queue, with only the operations that EIRS needs.
//!
//! A queue delivers every message *at least* once. A delivery is a lease: the receiver has the
//! message to itself for the visibility timeout, and must [`extend`](Queue::extend),
//! [`ack`](Queue::ack) or [`release`](Queue::release) it before that ends, or the message is
//! delivered again. `contract::suite` checks this contract on every implementation.

#[cfg(any(test, feature = "testing"))]
pub mod contract;
mod ending;
pub mod memory;
#[cfg(test)]
mod model;
pub mod sqlite;
#[cfg(feature = "aws")]
pub mod sqs;

pub use self::ending::Ending;
use std::{fmt::Debug, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use crate::{blobs::Staged, error::Result};

/// A shared handle of a queue.
pub type SharedQueue = Arc<dyn Queue>;

/// Returns how long a message may wait to be sent together with others: a twentieth of the time
/// that its job waits anyway, so that clients do not notice, and at most [`LONGEST_PATIENCE`]. A
/// job that waits less than [`QUICK`] is sent at once.
pub fn patience(waited: Duration) -> Duration {
    (waited.saturating_sub(QUICK) / 20).min(LONGEST_PATIENCE)
}

/// Below this, clients notice every millisecond.
const QUICK: Duration = Duration::from_millis(100);

/// Waiting longer gathers few more messages.
const LONGEST_PATIENCE: Duration = Duration::from_millis(100);

/// The operations of a message queue.
#[async_trait]
pub trait Queue: Debug + Send + Sync {
    /// Appends messages durably: once this returns `Ok`, they survive a kill of every process.
    /// After an error, some of them may have been sent; the caller sends all of them again.
    async fn send(&self, bodies: Vec<Bytes>) -> Result<()>;

    /// Like [`send`](Queue::send), but a queue that bills calls may delay the messages by up to
    /// `patience`, to send them together with others. By default, sends at once.
    async fn send_within(&self, bodies: Vec<Bytes>, _patience: Duration) -> Result<()> {
        self.send(bodies).await
    }

    /// Sends a message and stores what was staged for it, no later than the message and in the same
    /// transaction if possible. By default, stores first and then sends.
    async fn send_with(&self, body: Bytes, staged: Staged) -> Result<()> {
        staged.enter().await?;
        self.send(vec![body]).await
    }

    /// Like [`send_with`](Queue::send_with), for one of several clients that share the queue. A
    /// queue that separates clients, as SQS does, does not let one client's many messages delay
    /// those of others. `client` has at most 128 letters and digits. The message may be delayed as
    /// in [`send_within`](Queue::send_within). By default, ignores `client`.
    async fn send_for(&self, _client: &str, body: Bytes, staged: Staged, _patience: Duration) -> Result<()> {
        self.send_with(body, staged).await
    }

    /// Returns whether the message last sent with this blob by [`send_with`](Queue::send_with) is
    /// still in this queue, visible or leased. `None`, the default, if the queue cannot tell.
    async fn has(&self, _blob: &str) -> Result<Option<bool>> {
        Ok(None)
    }

    /// Leases up to `max` visible messages, oldest first as far as the queue knows the order. Waits
    /// up to `wait` for the first one; returns an empty list if none comes.
    ///
    /// Do not drop the future: messages it has received may stay invisible until the visibility
    /// timeout.
    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>>;

    /// Like [`receive`](Queue::receive), but may return early, with what it has, once `stop` is
    /// cancelled. By default, and if a wait cannot be ended without leaving messages invisible, it
    /// ends by itself.
    async fn receive_unless(
        &self,
        stop: &CancellationToken,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Delivery>> {
        if stop.is_cancelled() { Ok(Vec::new()) } else { self.receive(max, wait).await }
    }

    /// Like [`receive_unless`](Queue::receive_unless), for a queue with a single receiver. If that
    /// costs less, messages are not leased: this handle receives each one once, and the next handle
    /// receives it again unless it was acked. By default, they are leased.
    async fn receive_alone(
        &self,
        stop: &CancellationToken,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Delivery>> {
        self.receive_unless(stop, max, wait).await
    }

    /// Renews leases for the visibility timeout from now on. Returns the receipts whose lease was
    /// already lost; work on those must not be completed with an ack.
    async fn extend(&self, receipts: &[Receipt]) -> Result<Vec<Receipt>>;

    /// Deletes delivered messages. A stale receipt, whose message was delivered again since,
    /// deletes nothing. Acking twice is not an error.
    async fn ack(&self, receipts: &[Receipt]) -> Result<()>;

    /// Like [`ack`](Queue::ack), if no one waits for it: a queue whose calls or transactions are
    /// expensive delays it, to ack several together. By default, acks at once.
    async fn ack_unhurried(&self, receipts: &[Receipt]) -> Result<()> {
        self.ack(receipts).await
    }

    /// Returns leased messages to the queue: they are visible at once. A stale receipt does
    /// nothing.
    async fn release(&self, receipts: &[Receipt]) -> Result<()>;

    /// Ends a job of this queue in one transaction and returns true, if results and replies are in
    /// the same database. Returns false without doing anything if they are not, or if a result with
    /// this key exists; the caller then stores the result, sends the reply and acks, in this order.
    /// By default, returns false.
    async fn end(&self, _ending: &Ending<'_>) -> Result<bool> {
        Ok(false)
    }

    /// Access for [`end`](Queue::end) to the queue of replies, to send to it within a transaction
    /// of the same database. `None` by default.
    #[doc(hidden)]
    fn in_database(&self) -> Option<sqlite::InTransaction> {
        None
    }

    /// Returns the number of messages. May be approximate and delayed.
    async fn depth(&self) -> Result<Depth>;

    /// Deletes every message, leased or not.
    async fn purge(&self) -> Result<()>;
}

/// A leased message.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The message.
    pub body: Bytes,
    /// Identifies *this* delivery in `extend`, `ack` and `release`.
    pub receipt: Receipt,
    /// Number of deliveries of the message, including this one.
    pub receives: u32,
    /// When it was first sent.
    pub sent_at: DateTime<Utc>,
}

/// Identifies one delivery of one message. Opaque to all but its queue.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Receipt(pub String);

/// The number of messages in a queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Depth {
    /// Messages that are waiting.
    pub visible: u64,
    /// Messages that are leased.
    pub in_flight: u64,
}

impl Depth {
    /// All messages, visible and in flight.
    pub fn backlog(&self) -> u64 {
        self.visible + self.in_flight
    }
}

/// Options of a queue that every implementation supports.
#[derive(Debug, Clone)]
pub struct QueueOptions {
    /// The duration of a lease.
    pub visibility: Duration,
    /// Maximum age of a message that is not leased. Older ones become dead letters, or are deleted
    /// if there is no dead letter queue. SQS always deletes them.
    pub retention: Duration,
    /// The dead letter queue, if there is one.
    pub dead_letters: Option<DeadLetters>,
}

/// When and where messages become dead letters.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    /// The name of the dead letter queue.
    pub queue: String,
    /// Maximum number of deliveries; a message that would be delivered once more becomes a dead
    /// letter.
    pub max_receives: u32,
}

impl Default for QueueOptions {
    /// The defaults of SQS: 30 s visibility, four days of retention, no dead letters.
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3600);
        Self { visibility: Duration::from_secs(30), retention: 4 * day, dead_letters: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_delayed_by_a_twentieth_of_its_jobs_wait_but_not_if_that_is_short() {
        let ms = Duration::from_millis;
        assert_eq!([0, 90, 1100, 60_000].map(|waited| patience(ms(waited))), [ms(0), ms(0), ms(50), ms(100)]);
    }
}
