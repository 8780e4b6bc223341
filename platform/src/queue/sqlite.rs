//! The embedded queue: rows in the [database](crate::database) of this machine, shared by all its
//! processes.
//!
//! - **Durable.** Sent messages survive a kill of every process; with `sync`, also a power failure.
//! - **Independent of the wall clock.** Leases and ages use the machine's uptime.
//! - **No busy polling.** A receiver without messages waits on a named pipe to which senders write,
//!   or until the next lease expires.

mod statements;

use std::{
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::statements::{Now, Seen};
use super::{Delivery, Depth, Ending, Queue, QueueOptions, Receipt, SharedQueue};
use crate::{
    blobs::{
        Staged,
        embedded::{Entered, StagedImage, index},
    },
    clock::SharedClock,
    database::{Batch, Bell, InDatabase, Reader, Table, Writer, table},
    error::{Error, Result},
    state_folder,
};

/// Interval between looks, for a receiver whose wake-up was lost with a killed process.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// The queues in one file. Clones share its writer thread.
#[derive(Debug, Clone)]
pub struct SqliteQueues {
    folder: Arc<Path>,
    writer: Writer,
    clock: SharedClock,
}

impl SqliteQueues {
    /// Opens or creates `queue.db`, its lock and its bells in `folder`. With `sync`, every commit
    /// is written to the disk before it is confirmed.
    pub fn open(folder: &Path, sync: bool, clock: SharedClock) -> Result<Self> {
        let bells = folder.join(state_folder::BELLS);
        std::fs::create_dir_all(&bells)
            .map_err(|error| Error::from_io(format!("making the folder {}", bells.display()), &error))?;
        let writer = Writer::open(folder, sync, clock.now().timestamp_millis())?;
        Ok(Self { folder: folder.into(), writer, clock })
    }

    /// Returns the queue with this name, created if missing.
    pub async fn queue(&self, name: &str, options: QueueOptions) -> Result<SharedQueue> {
        let table = self.table(name).await?;
        let dead = match &options.dead_letters {
            Some(rule) => Some((self.table(&rule.queue).await?, rule.max_receives)),
            None => None,
        };
        let queue = SqliteQueue {
            name: name.to_owned(),
            bell: Arc::new(Bell::open(&self.folder.join(state_folder::BELLS).join(name))?),
            writer: self.writer.clone(),
            clock: self.clock.clone(),
            table,
            dead,
            options,
            folder: self.folder.clone(),
            reader: OnceLock::new(),
            seen: AtomicI64::new(0),
        };
        queue.expire().await?;
        Ok(Arc::new(queue))
    }

    /// Returns the names of all queues.
    pub async fn names(&self) -> Result<Vec<String>> {
        self.writer.run("listing the queues", |batch| table::names(batch.reader())).await
    }

    /// Returns access to the database, for other tables in it.
    pub(crate) fn database(&self) -> Result<(Writer, Reader)> {
        Ok((self.writer.clone(), Reader::open(&self.folder)?))
    }

    async fn table(&self, name: &str) -> Result<Table> {
        let wanted = name.to_owned();
        self.writer.run(format!("opening the queue {name}"), move |batch| table::table(batch, &wanted)).await
    }
}

/// A queue for sending within a transaction of its database.
#[derive(Debug, Clone)]
pub struct InTransaction {
    writer: Writer,
    table: Table,
    bell: Arc<Bell>,
}

#[derive(Debug)]
struct SqliteQueue {
    name: String,
    table: Table,
    dead: Option<(Table, u32)>,
    options: QueueOptions,
    writer: Writer,
    bell: Arc<Bell>,
    clock: SharedClock,
    /// The folder of the database, for the reader of `receive_alone`, ...
    folder: Arc<Path>,
    reader: OnceLock<Reader>,
    /// ... and the last message that it has returned.
    seen: AtomicI64,
}

/// The result of a look at the queue.
enum Look {
    Found(Vec<Delivery>),
    /// Nothing is visible; the time until the next lease expires, if there is one.
    Nothing(Option<Duration>),
}

impl SqliteQueue {
    fn now(&self) -> Now {
        Now { now: self.writer.time().now(), visibility: self.options.visibility.as_millis() as i64 }
    }

    /// Returns the time before which sent messages are too old.
    fn oldest(&self, now: Now) -> i64 {
        now.now.saturating_sub(i64::try_from(self.options.retention.as_millis()).unwrap_or(i64::MAX))
    }

    async fn lease(&self, max: usize) -> Result<Look> {
        let (table, dead, now) = (self.table, self.dead, self.now());
        let lease = move |batch: &mut Batch<'_>| {
            if !statements::anything_visible(batch.reader(), table, now)? {
                let next = statements::next_visible(batch.reader(), table, now)?;
                let wait = next.map(|at| Duration::from_millis((at - now.now).max(0) as u64));
                return Ok(Look::Nothing(wait));
            }
            let mut leased = statements::lease(batch, table, max, now)?;
            if let Some((dead, max_receives)) = dead {
                for spent in leased.extract_if(.., |delivery| delivery.receives > max_receives) {
                    statements::bury(batch, table, dead, &spent.receipt, now)?;
                }
            }
            Ok(Look::Found(leased))
        };
        self.writer.run(format!("receiving from {}", self.name), lease).await
    }

    /// Returns messages sent since the last such look, without leasing them.
    fn look(&self, max: usize) -> Result<Look> {
        let after = self.seen.load(Ordering::Relaxed);
        let what = format!("looking into {}", self.name);
        let found = self.reader()?.read(&what, |file| statements::look(file, self.table, after, max))?;
        let Some(last) = found.last() else { return Ok(Look::Nothing(None)) };
        self.seen.fetch_max(statements::row(&last.receipt), Ordering::Relaxed);
        Ok(Look::Found(found))
    }

    fn reader(&self) -> Result<&Reader> {
        if let Some(reader) = self.reader.get() {
            return Ok(reader);
        }
        let reader = Reader::open(&self.folder)?;
        Ok(self.reader.get_or_init(|| reader))
    }

    /// Waits until `look` finds messages. If it finds none, it returns when to look again.
    async fn receive_by<F: Future<Output = Result<Look>>>(
        &self,
        stop: &CancellationToken,
        wait: Duration,
        look: impl Fn() -> F,
    ) -> Result<Vec<Delivery>> {
        let deadline = Instant::now() + wait;
        let mut rings = 0;
        loop {
            let next = match look().await? {
                Look::Found(found) if !found.is_empty() => {
                    self.bell.silence(found.len().saturating_sub(rings));
                    return Ok(found);
                }
                // All visible messages were dead letters.
                Look::Found(_) => Some(Duration::ZERO),
                Look::Nothing(next) => next,
            };
            let now = Instant::now();
            if now >= deadline || stop.is_cancelled() {
                return Ok(Vec::new());
            }
            let look_again = now + next.unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP);
            let heard = stop.run_until_cancelled(self.bell.heard(look_again.min(deadline))).await;
            rings = usize::from(heard.transpose()?.unwrap_or(false));
        }
    }

    /// Returns the deletion of delivered messages, with its name for errors.
    fn acking(
        &self,
        receipts: &[Receipt],
    ) -> (String, impl FnOnce(&mut Batch<'_>) -> rusqlite::Result<()> + Send + use<>) {
        let (table, receipts) = (self.table, receipts.to_vec());
        let ack = move |batch: &mut Batch<'_>| statements::ack(batch, table, &receipts);
        (format!("acking to {}", self.name), ack)
    }

    /// Moves messages away that are too old.
    async fn expire(&self) -> Result<()> {
        let (table, dead, now) = (self.table, self.dead.map(|(dead, _)| dead), self.now());
        let since = self.oldest(now);
        loop {
            let expire = move |batch: &mut Batch<'_>| statements::expire(batch, table, dead, now, since);
            let expired = self.writer.run(format!("expiring messages of {}", self.name), expire).await?;
            if expired == 0 {
                return Ok(());
            }
            if let Some(rule) = &self.options.dead_letters {
                tracing::warn!(
                    "{expired} messages of {} waited for longer than {} and became dead letters, {}",
                    self.name,
                    humantime::format_duration(self.options.retention),
                    rule.queue
                );
            }
        }
    }
}

#[async_trait]
impl Queue for SqliteQueue {
    async fn send(&self, bodies: Vec<Bytes>) -> Result<()> {
        let (table, now, bell) = (self.table, self.now().now, self.bell.clone());
        let sent_at = self.clock.now().timestamp_millis();
        let send = move |batch: &mut Batch<'_>| {
            batch.ring(&bell, bodies.len());
            statements::send(batch, table, &bodies, now, sent_at).map(|_last| ())
        };
        self.writer.run(format!("sending to {}", self.name), send).await
    }

    async fn send_with(&self, body: Bytes, staged: Staged) -> Result<()> {
        let images = match staged.for_writer(&self.writer) {
            Ok(images) if images.is_empty() => return self.send(vec![body]).await,
            Ok(images) => images,
            Err(elsewhere) => {
                elsewhere.enter().await?;
                return self.send(vec![body]).await;
            }
        };
        let (table, now, bell) = (self.table, self.now().now, self.bell.clone());
        let sent_at = self.clock.now().timestamp_millis();
        let send = move |batch: &mut Batch<'_>| {
            batch.ring(&bell, 1);
            let message = statements::send(batch, table, &[body], now, sent_at)?;
            let enter = |image: StagedImage| image.enter(batch, message);
            images.into_iter().map(enter).collect::<rusqlite::Result<Vec<_>>>()
        };
        let entered = self.writer.run(format!("sending to {}", self.name), send).await?;
        entered.into_iter().for_each(Entered::finish);
        Ok(())
    }

    async fn has(&self, blob: &str) -> Result<Option<bool>> {
        let (table, now, blob) = (self.table, self.now(), blob.to_owned());
        let since = self.oldest(now);
        let find = move |batch: &mut Batch<'_>| {
            let Some(message) = index::message_of(batch.reader(), &blob)? else { return Ok(None) };
            statements::seen(batch.reader(), table, message, now, since).map(Some)
        };
        let found = self.writer.run(format!("looking for a job in {}", self.name), find).await?;
        if found == Some(Seen::Here { is_old: true }) {
            // It is too old, and will not be received.
            self.expire().await?;
        }
        Ok(found.map(|seen| seen == Seen::Here { is_old: false }))
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
        self.receive_by(stop, wait, || self.lease(max)).await
    }

    async fn receive_alone(
        &self,
        stop: &CancellationToken,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Delivery>> {
        // Dead letters require counting deliveries, which only a lease does.
        if self.dead.is_some() {
            return self.receive_unless(stop, max, wait).await;
        }
        self.receive_by(stop, wait, || std::future::ready(self.look(max))).await
    }

    async fn extend(&self, receipts: &[Receipt]) -> Result<Vec<Receipt>> {
        let (receipts, until) = (receipts.to_vec(), self.now().until());
        let extend = move |batch: &mut Batch<'_>| statements::extend(batch, &receipts, until);
        self.writer.run(format!("extending leases of {}", self.name), extend).await
    }

    async fn ack(&self, receipts: &[Receipt]) -> Result<()> {
        let (what, ack) = self.acking(receipts);
        self.writer.run(what, ack).await
    }

    async fn ack_unhurried(&self, receipts: &[Receipt]) -> Result<()> {
        let (what, ack) = self.acking(receipts);
        self.writer.run_unhurried(what, ack).await
    }

    async fn release(&self, receipts: &[Receipt]) -> Result<()> {
        let (receipts, bell) = (receipts.to_vec(), self.bell.clone());
        let release = move |batch: &mut Batch<'_>| {
            batch.ring(&bell, receipts.len());
            statements::extend(batch, &receipts, statements::AT_ONCE).map(|_lost| ())
        };
        self.writer.run(format!("releasing to {}", self.name), release).await
    }

    async fn end(&self, ending: &Ending<'_>) -> Result<bool> {
        let Some(InDatabase(results)) = ending.results.in_database() else { return Ok(false) };
        let Some(replies) = ending.replies.in_database() else { return Ok(false) };
        if !results.is(&self.writer) || !replies.writer.is(&self.writer) {
            return Ok(false);
        }
        let (jobs, now, sent_at) = (self.table, self.now().now, self.clock.now().timestamp_millis());
        let (key, result, receipt) = (ending.key.to_owned(), ending.result.clone(), ending.receipt.clone());
        let image = ending.image.to_owned();
        let end = move |batch: &mut Batch<'_>| {
            if !index::has_image(batch.reader(), &image)?
                || !index::enter_result(batch, &key, &result, sent_at)?
            {
                // Another worker was faster, or the image is gone: the caller decides.
                return Ok(false);
            }
            statements::send(batch, replies.table, &[result], now, sent_at)?;
            statements::ack(batch, jobs, &[receipt])?;
            batch.ring(&replies.bell, 1);
            Ok(true)
        };
        self.writer.run(format!("ending a job of {}", self.name), end).await
    }

    fn in_database(&self) -> Option<InTransaction> {
        Some(InTransaction { writer: self.writer.clone(), table: self.table, bell: self.bell.clone() })
    }

    async fn depth(&self) -> Result<Depth> {
        self.expire().await?;
        let (table, now) = (self.table, self.now());
        let depth = move |batch: &mut Batch<'_>| statements::depth(batch.reader(), table, now);
        self.writer.run(format!("counting {}", self.name), depth).await
    }

    async fn purge(&self) -> Result<()> {
        let (table, what) = (self.table, format!("purging {}", self.name));
        let newest = |batch: &mut Batch<'_>| statements::newest(batch.reader());
        let newest = self.writer.run(what.clone(), newest).await?;
        loop {
            let purge = move |batch: &mut Batch<'_>| statements::purge(batch, table, newest);
            if self.writer.run(what.clone(), purge).await? == 0 {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests;
