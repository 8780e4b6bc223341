//! The seam to a message queue, cut at our verbs.
//!
//! A queue delivers every message *at least* once. A delivery is a lease: the receiver has the
//! message to itself for the visibility time-out and must [`extend`](Queue::extend),
//! [`ack`](Queue::ack) or [`release`](Queue::release) it by then, or it is delivered again. The
//! contract below is what `contract::suite` checks on every implementation.

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

/// A queue that can be handed around.
pub type SharedQueue = Arc<dyn Queue>;

/// Who has waited for a job for so long does not notice a twentieth more: so long may a message of
/// it wait for company. Of a quick job none waits.
pub fn patience(waited: Duration) -> Duration {
    (waited.saturating_sub(QUICK) / 20).min(LONGEST_PATIENCE)
}

/// Faster than this, people notice each millisecond.
const QUICK: Duration = Duration::from_millis(100);

/// Longer than this, little more company comes.
const LONGEST_PATIENCE: Duration = Duration::from_millis(100);

/// What EIRS asks of a message queue.
#[async_trait]
pub trait Queue: Debug + Send + Sync {
    /// Appends messages, durably: when this returns `Ok` they survive a kill of every process.
    /// An error may have sent some of them; sending all of them again is the right answer to it.
    async fn send(&self, bodies: Vec<Bytes>) -> Result<()>;

    /// The same for messages that may wait for company for so long, where a queue bills calls: they
    /// are sent together with others, and the answer comes as much later. At once unless
    /// overridden.
    async fn send_within(&self, bodies: Vec<Bytes>, _patience: Duration) -> Result<()> {
        self.send(bodies).await
    }

    /// Sends a message, and makes visible with it what was staged for it: not later than the
    /// message, and in the same transaction where that is possible. Unless overridden, one after
    /// the other.
    async fn send_with(&self, body: Bytes, staged: Staged) -> Result<()> {
        staged.enter().await?;
        self.send(vec![body]).await
    }

    /// The same for one of several clients who share the queue. Where the queue keeps them apart,
    /// as SQS does, what others send is not held up by a client that sends very much; `client` is a
    /// text of at most 128 letters and digits. Others ignore it. It may wait for company as with
    /// [`send_within`](Queue::send_within).
    async fn send_for(&self, _client: &str, body: Bytes, staged: Staged, _patience: Duration) -> Result<()> {
        self.send_with(body, staged).await
    }

    /// Whether the message that was last sent with this blob, by [`send_with`](Queue::send_with),
    /// is in this queue still, waiting or leased. `None` where that is not known; that is what this
    /// says unless overridden.
    async fn has(&self, _blob: &str) -> Result<Option<bool>> {
        Ok(None)
    }

    /// Leases up to `max` visible messages, the oldest first as far as the queue knows, waiting up
    /// to `wait` for the first one; an empty answer is no error.
    ///
    /// Let it end: a receive whose future is dropped may strand what it had received for a
    /// visibility time-out.
    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>>;

    /// Like [`receive`](Queue::receive), but may end early, with what it has, once `stop` is
    /// cancelled. An implementation that cannot end a wait without stranding messages lets it end
    /// by itself; that is what this does unless overridden.
    async fn receive_unless(
        &self,
        stop: &CancellationToken,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Delivery>> {
        if stop.is_cancelled() { Ok(Vec::new()) } else { self.receive(max, wait).await }
    }

    /// Like [`receive_unless`](Queue::receive_unless), for a queue that nobody else receives from.
    /// Where it costs less, messages are not leased: each is received once by this handle, and
    /// again by the next one unless it is acked. Unless overridden, they are leased.
    async fn receive_alone(
        &self,
        stop: &CancellationToken,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Delivery>> {
        self.receive_unless(stop, max, wait).await
    }

    /// Renews leases, for the queue's visibility time-out from now on. Answers the receipts whose
    /// lease was already lost; work on those must not be committed by an ack.
    async fn extend(&self, receipts: &[Receipt]) -> Result<Vec<Receipt>>;

    /// Deletes delivered messages. A stale receipt (its message was delivered again since) deletes
    /// nothing; acking twice is fine.
    async fn ack(&self, receipts: &[Receipt]) -> Result<()>;

    /// The same where nobody waits for it: a queue in which calls or transactions cost something
    /// has them wait for company. At once unless overridden.
    async fn ack_unhurried(&self, receipts: &[Receipt]) -> Result<()> {
        self.ack(receipts).await
    }

    /// Gives leased messages back: they are visible now. A stale receipt does nothing.
    async fn release(&self, receipts: &[Receipt]) -> Result<()>;

    /// Ends a job of this queue in one transaction, where results and replies are in its own
    /// database, and answers `true`. Where there is a result of this key already, or they are not,
    /// it answers `false` and has done nothing: then the caller stores, tells and acks, in this
    /// order. That is what this does unless overridden.
    async fn end(&self, _ending: &Ending<'_>) -> Result<bool> {
        Ok(false)
    }

    /// Sends from within a transaction of the database that the queue is in: the way of
    /// [`end`](Queue::end) into the queue of the replies. Nothing unless overridden.
    #[doc(hidden)]
    fn in_database(&self) -> Option<sqlite::InTransaction> {
        None
    }

    /// How much lies in the queue. May be approximate, and may lag.
    async fn depth(&self) -> Result<Depth>;

    /// Deletes everything in the queue, leased or not.
    async fn purge(&self) -> Result<()>;
}

/// A leased message.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The message.
    pub body: Bytes,
    /// What to show when extending, acking or releasing *this* delivery.
    pub receipt: Receipt,
    /// How often the message was delivered, this time included.
    pub receives: u32,
    /// When it was first sent.
    pub sent_at: DateTime<Utc>,
}

/// Identifies one delivery of one message. Opaque to all but the queue that gave it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Receipt(pub String);

/// How much lies in a queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Depth {
    /// Messages nobody holds.
    pub visible: u64,
    /// Messages leased and not yet acked.
    pub in_flight: u64,
}

impl Depth {
    /// Visible and in flight: all the work there is.
    pub fn backlog(&self) -> u64 {
        self.visible + self.in_flight
    }
}

/// What every implementation can be told about a queue.
#[derive(Debug, Clone)]
pub struct QueueOptions {
    /// How long a lease lasts.
    pub visibility: Duration,
    /// A message that is older, and that nobody holds, goes to the dead letters, or is deleted
    /// where there are none. SQS deletes it in any case.
    pub retention: Duration,
    /// Where a message goes instead of being delivered once more than so many times.
    pub dead_letters: Option<DeadLetters>,
}

/// The redrive rule of a queue.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    /// The queue that takes them.
    pub queue: String,
    /// Deliveries before a message counts as dead.
    pub max_receives: u32,
}

impl Default for QueueOptions {
    /// SQS's own defaults: 30 s of visibility, four days of retention, no dead letters.
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3600);
        Self { visibility: Duration::from_secs(30), retention: 4 * day, dead_letters: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_waits_for_a_twentieth_of_what_its_job_takes_a_moment_at_most_and_of_a_quick_job_not_at_all()
    {
        let ms = Duration::from_millis;
        assert_eq!([0, 90, 1100, 60_000].map(|waited| patience(ms(waited))), [ms(0), ms(0), ms(50), ms(100)]);
    }
}
