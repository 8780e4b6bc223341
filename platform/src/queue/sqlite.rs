//! The embedded queue: one SQLite file in WAL mode, shared by all processes of a machine.
//!
//! - **Durable.** What was sent survives a kill of every process; with `sync` a power cut too.
//! - **Group commit.** Operations that come together share one transaction ([`writer`]), so that load makes transactions
//!   larger and not more frequent.
//! - **Bounded.** The write-ahead log is copied to the database as it grows and then written over ([`log`]).
//! - **No busy polling.** A receiver that finds nothing waits on a named pipe ([`bell`]) that senders ring, or until the
//!   next lease runs out.

mod bell;
mod log;
mod statements;
mod turn;
mod writer;

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::{bell::Bell, statements::Table, writer::Writer};
use super::{Delivery, Depth, Queue, QueueOptions, Receipt, SharedQueue};
use crate::{
    clock::SharedClock,
    error::{Error, Result},
};

/// Even a receiver whose ring was lost with a killed neighbour looks again after this time.
const LOST_RING: Duration = Duration::from_secs(1);

/// The queues of one file. Clones share its writer thread.
#[derive(Debug, Clone)]
pub struct SqliteQueues {
    folder: Arc<Path>,
    writer: Writer,
    clock: SharedClock,
}

impl SqliteQueues {
    /// Opens or makes `queue.db`, its lock and its bells in `folder`. With `sync`, every commit reaches the disk
    /// before it is answered.
    pub fn open(folder: &Path, sync: bool, clock: SharedClock) -> Result<Self> {
        let bells = folder.join("bells");
        std::fs::create_dir_all(&bells)
            .map_err(|error| Error::from_io(format!("making the folder {}", bells.display()), &error))?;
        let writer = Writer::open(folder, sync)?;
        Ok(Self { folder: folder.into(), writer, clock })
    }

    /// The queue of this name, made when it is first used.
    pub async fn queue(&self, name: &str, options: QueueOptions) -> Result<SharedQueue> {
        let table = self.table(name).await?;
        let dead = match &options.dead_letters {
            Some(rule) => Some((self.table(&rule.queue).await?, rule.max_receives)),
            None => None,
        };
        let queue = SqliteQueue {
            name: name.to_owned(),
            bell: Bell::open(&self.folder.join("bells").join(name))?,
            writer: self.writer.clone(),
            clock: self.clock.clone(),
            table,
            dead,
            options,
        };
        queue.forget_expired().await?;
        Ok(Arc::new(queue))
    }

    /// The queues that there are, by name.
    pub async fn names(&self) -> Result<Vec<String>> {
        self.writer.run("listing the queues", |batch| statements::names(batch.reader())).await
    }

    async fn table(&self, name: &str) -> Result<Table> {
        let wanted = name.to_owned();
        self.writer
            .run(format!("opening the queue {name}"), move |batch| statements::table(batch, &wanted))
            .await
    }
}

#[derive(Debug)]
struct SqliteQueue {
    name: String,
    table: Table,
    dead: Option<(Table, u32)>,
    options: QueueOptions,
    writer: Writer,
    bell: Bell,
    clock: SharedClock,
}

/// What a look at the queue found.
enum Look {
    Leased(Vec<Delivery>),
    /// Nothing visible; the soonest lease runs out in so long.
    Nothing(Option<Duration>),
}

impl SqliteQueue {
    fn now_ms(&self) -> i64 {
        self.clock.now().timestamp_millis()
    }

    fn until(&self, time: Duration) -> i64 {
        self.now_ms() + time.as_millis() as i64
    }

    async fn look(&self, max: usize) -> Result<Look> {
        let (table, dead, now, until) =
            (self.table, self.dead, self.now_ms(), self.until(self.options.visibility));
        let lease = move |batch: &mut writer::Batch<'_>| {
            if !statements::anything_visible(batch.reader(), table, now)? {
                let next = statements::next_visible(batch.reader(), table, now)?;
                let wait = next.map(|at| Duration::from_millis((at - now).max(0) as u64));
                return Ok(Look::Nothing(wait));
            }
            let mut leased = statements::lease(batch, table, max, now, until)?;
            if let Some((dead, max_receives)) = dead {
                for spent in leased.extract_if(.., |delivery| delivery.receives > max_receives) {
                    statements::bury(batch, table, dead, &spent.receipt)?;
                }
            }
            Ok(Look::Leased(leased))
        };
        self.writer.run(format!("receiving from {}", self.name), lease).await
    }

    async fn forget_expired(&self) -> Result<()> {
        let (table, now) = (self.table, self.now_ms());
        let before = now - self.options.retention.as_millis() as i64;
        let forget = move |batch: &mut writer::Batch<'_>| statements::expire(batch, table, before, now);
        self.writer.run(format!("expiring messages of {}", self.name), forget).await
    }
}

#[async_trait]
impl Queue for SqliteQueue {
    async fn send(&self, bodies: Vec<Bytes>) -> Result<()> {
        let (table, now, count) = (self.table, self.now_ms(), bodies.len());
        let send = move |batch: &mut writer::Batch<'_>| statements::send(batch, table, &bodies, now);
        self.writer.run(format!("sending to {}", self.name), send).await?;
        self.bell.ring(count);
        Ok(())
    }

    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        self.receive_unless(&CancellationToken::new(), max, wait).await
    }

    async fn receive_unless(
        &self,
        stop: &CancellationToken,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Delivery>> {
        let deadline = Instant::now() + wait;
        let mut rings = 0;
        loop {
            let next = match self.look(max).await? {
                Look::Leased(leased) if !leased.is_empty() => {
                    self.bell.silence(leased.len().saturating_sub(rings));
                    return Ok(leased);
                }
                // Everything that was visible was dead.
                Look::Leased(_) => Some(Duration::ZERO),
                Look::Nothing(next) => next,
            };
            let now = Instant::now();
            if now >= deadline || stop.is_cancelled() {
                return Ok(Vec::new());
            }
            let look_again = now + next.unwrap_or(LOST_RING).min(LOST_RING);
            let heard = stop.run_until_cancelled(self.bell.heard(look_again.min(deadline))).await;
            rings = usize::from(heard.transpose()?.unwrap_or(false));
        }
    }

    async fn extend(&self, receipts: &[Receipt]) -> Result<Vec<Receipt>> {
        let (receipts, until) = (receipts.to_vec(), self.until(self.options.visibility));
        let extend = move |batch: &mut writer::Batch<'_>| statements::extend(batch, &receipts, until);
        self.writer.run(format!("extending leases of {}", self.name), extend).await
    }

    async fn ack(&self, receipts: &[Receipt]) -> Result<()> {
        let (table, receipts) = (self.table, receipts.to_vec());
        let ack = move |batch: &mut writer::Batch<'_>| statements::ack(batch, table, &receipts);
        self.writer.run(format!("acking to {}", self.name), ack).await
    }

    async fn release(&self, receipts: &[Receipt]) -> Result<()> {
        let (receipts, count) = (receipts.to_vec(), receipts.len());
        let release =
            move |batch: &mut writer::Batch<'_>| statements::extend(batch, &receipts, statements::AT_ONCE);
        self.writer.run(format!("releasing to {}", self.name), release).await?;
        self.bell.ring(count);
        Ok(())
    }

    async fn depth(&self) -> Result<Depth> {
        self.forget_expired().await?;
        let (table, now) = (self.table, self.now_ms());
        let depth = move |batch: &mut writer::Batch<'_>| statements::depth(batch.reader(), table, now);
        self.writer.run(format!("counting {}", self.name), depth).await
    }

    async fn purge(&self) -> Result<()> {
        let table = self.table;
        let purge = move |batch: &mut writer::Batch<'_>| statements::purge(batch, table);
        self.writer.run(format!("purging {}", self.name), purge).await
    }
}

#[cfg(test)]
mod tests;
