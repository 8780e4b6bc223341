//! The webhook: each job that ends is sent to one address of the operator, so that nobody has to
//! poll for what a 202 promised.
//!
//! The list of what is to be sent is a queue of the backend, durable and shared by all hosts. An
//! event is in it before the worker's answer is acked, and leaves it when the receiver has taken
//! it: a kill at any moment sends it twice, never not at all. No answer to a client waits for any
//! of that.

pub(crate) mod event;

use std::{
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use eirs_platform::{
    Result,
    backend::Backend,
    backoff::Backoff,
    clock::SharedClock,
    job::Reply,
    queue::{Delivery, Receipt, SharedQueue},
    settings,
    webhook::{Ended, Keys, Message, Poster},
};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    metrics::{Metrics, Webhook as Counted},
    renewal::{Renewal, Watched},
};

/// Events in one request.
const BATCH: usize = 100;
/// The length of a poll.
const POLL: Duration = Duration::from_secs(20);
/// How long the list may take to say how much is in it, and how old what it said may be.
const COUNTING: Duration = Duration::from_secs(2);
const COUNTED_FOR: Duration = Duration::from_secs(5);
/// A receiver that does not take a batch gets it again after a while, which doubles up to this.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(120);
/// How often the lease of a batch is renewed while it waits; it lasts a minute.
const RENEW: Duration = Duration::from_secs(20);
/// How often it is said that events are dropped.
const TELL: Duration = Duration::from_secs(30);

/// The list of what is to be sent, and where to.
#[derive(Debug)]
pub(crate) struct Webhook {
    list: SharedQueue,
    most: u64,
    poster: Poster,
    keys: Watched<Keys>,
    metrics: Arc<Metrics>,
    clock: SharedClock,
    counted: Mutex<Counting>,
    is_failing: AtomicBool,
}

/// How long the list is.
#[derive(Debug, Default)]
struct Counting {
    events: u64,
    at: Option<Instant>,
    told_at: Option<Instant>,
}

impl Webhook {
    /// Opens the list.
    pub(crate) async fn open(
        door: Door,
        backend: &Backend,
        metrics: Arc<Metrics>,
        clock: SharedClock,
    ) -> Result<Self> {
        let list = backend.webhook().await?;
        let Door { keys, poster, most } = door;
        Ok(Self {
            list,
            most,
            poster,
            keys,
            metrics,
            clock,
            counted: Mutex::default(),
            is_failing: AtomicBool::new(false),
        })
    }

    /// What reads the file of the keys again when it changes.
    pub(crate) fn renewal(&self) -> Box<dyn Renewal> {
        self.keys.renewal()
    }

    /// Puts ended jobs on the list; when this returns, they survive a kill. Where the list is as
    /// long as it may be, they are dropped, and counted.
    pub(crate) async fn note(&self, replies: &[Reply]) -> Result<()> {
        if replies.is_empty() {
            return Ok(());
        }
        self.count().await;
        let (noted, dropped) = replies.split_at(self.reserve(replies.len()));
        if !dropped.is_empty() {
            self.metrics.webhook(Counted::Dropped, dropped.len() as u64);
            self.tell_of_dropped();
        }
        if noted.is_empty() {
            return Ok(());
        }
        let sent = self.list.send(noted.iter().map(event::encode).collect()).await;
        sent.inspect_err(|_not_sent| self.gone(noted.len()))
    }

    /// How many of so many more events there is room for; they count from now on.
    fn reserve(&self, events: usize) -> usize {
        let mut counting = self.counting();
        let room = usize::try_from(self.most.saturating_sub(counting.events)).unwrap_or(usize::MAX);
        let reserved = events.min(room);
        counting.events += reserved as u64;
        reserved
    }

    /// So many are not on the list any more.
    fn gone(&self, events: usize) {
        let mut counting = self.counting();
        counting.events = counting.events.saturating_sub(events as u64);
    }

    /// Has the list say now and then how long it is. Where it does not, what was sent and taken
    /// since is the better guess.
    async fn count(&self) {
        if self.counting().at.is_some_and(|at| at.elapsed() < COUNTED_FOR) {
            return;
        }
        let depth = timeout(COUNTING, self.list.depth()).await;
        let mut counting = self.counting();
        counting.at = Some(Instant::now());
        if let Ok(Ok(depth)) = depth {
            counting.events = depth.backlog();
        }
    }

    /// How many events wait.
    pub(crate) async fn waiting(&self) -> u64 {
        self.count().await;
        self.counting().events
    }

    fn counting(&self) -> MutexGuard<'_, Counting> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_of_dropped(&self) {
        let mut counting = self.counting();
        if counting.told_at.is_none_or(|at| at.elapsed() > TELL) {
            counting.told_at = Some(Instant::now());
            tracing::error!(
                "webhook: {} events wait to be taken, which is web.webhook.max_waiting; further ones are dropped, and their \
                 results stay where `GET /results/{{id}}` finds them",
                self.most
            );
        }
    }

    /// Sends what is on the list, until `stop`.
    pub(crate) async fn keep(&self, stop: &CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        while !stop.is_cancelled() {
            match self.list.receive_unless(stop, BATCH, POLL).await {
                Ok(batch) => {
                    backoff.reset();
                    self.deliver(batch, stop).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "webhook: the list of events cannot be read");
                    let _stopped = stop.run_until_cancelled(backoff.wait()).await;
                }
            }
        }
    }

    /// Sends a batch until it is taken. One that the receiver refuses for what is in it is halved,
    /// so that a single event which it cannot read keeps no other back; that event comes again when
    /// its lease has run out.
    async fn deliver(&self, batch: Vec<Delivery>, stop: &CancellationToken) {
        let mut open = vec![batch];
        while let Some(mut batch) = open.pop() {
            if batch.is_empty() {
                continue;
            }
            let receipts: Vec<_> = batch.iter().map(|event| event.receipt.clone()).collect();
            match self.until_taken(&batch, &receipts, stop).await {
                Some(Ended::Taken) => {
                    self.metrics.webhook(Counted::Taken, batch.len() as u64);
                    self.forget(&receipts).await;
                }
                Some(Ended::Refused(_)) if batch.len() > 1 => {
                    let rest = batch.split_off(batch.len() / 2);
                    open.extend([rest, batch]);
                }
                Some(_) => {}
                None => {
                    // Told to stop: another host, or the next process, sends what is left.
                    for left in open.drain(..).chain([batch]) {
                        let receipts: Vec<_> = left.into_iter().map(|event| event.receipt).collect();
                        let _comes_again_anyway = self.list.release(&receipts).await;
                    }
                    return;
                }
            }
        }
    }

    /// `None` where it was told to stop before the receiver had decided.
    async fn until_taken(
        &self,
        batch: &[Delivery],
        receipts: &[Receipt],
        stop: &CancellationToken,
    ) -> Option<Ended> {
        let message = event::message(batch);
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            let ended = stop.run_until_cancelled(self.post(&message)).await?;
            let wait = match &ended {
                Ended::Taken => {
                    if self.is_failing.swap(false, Ordering::Relaxed) {
                        tracing::info!("webhook: {} takes events again", self.poster.url());
                    }
                    return Some(ended);
                }
                Ended::Refused(why) => {
                    self.failed(why);
                    return Some(ended);
                }
                Ended::Later { why, after } => {
                    self.failed(why);
                    // Half of it at least: a draw of nothing would hammer a receiver that is down.
                    let drawn = backoff.next_wait().max(FIRST_WAIT / 2);
                    after.map_or(drawn, |after| after.min(LONGEST_WAIT).max(drawn))
                }
            };
            stop.run_until_cancelled(self.hold(receipts, wait)).await?;
        }
    }

    async fn post(&self, message: &Message) -> Ended {
        let now: DateTime<Utc> = self.clock.now();
        let signature = self.keys.get().sign(&message.id, now.timestamp(), &message.body);
        self.poster.post(message, now.timestamp(), signature).await
    }

    /// Keeps the lease of a batch that waits.
    async fn hold(&self, receipts: &[Receipt], wait: Duration) {
        let until = Instant::now() + wait;
        loop {
            let _may_come_twice = self.list.extend(receipts).await;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(RENEW)).await;
        }
    }

    async fn forget(&self, receipts: &[Receipt]) {
        match self.list.ack(receipts).await {
            Ok(()) => self.gone(receipts.len()),
            Err(error) => tracing::warn!(%error, "webhook: events that were taken are sent again"),
        }
    }

    /// Says once that the receiver does not take events, and counts it each time.
    fn failed(&self, why: &str) {
        self.metrics.webhook(Counted::Failed, 1);
        if !self.is_failing.swap(true, Ordering::Relaxed) {
            tracing::warn!("webhook: {} {why}; events are kept and sent again", self.poster.url());
        } else {
            tracing::debug!("webhook: {} {why}", self.poster.url());
        }
    }
}

/// What the settings say of the webhook, read and found good.
#[derive(Debug)]
pub struct Door {
    keys: Watched<Keys>,
    poster: Poster,
    most: u64,
}

/// Reads the keys; what is wrong with them, or with the address, is a sentence that begins with the
/// setting. `None` where the settings name no address.
pub fn check(settings: &settings::Webhook) -> std::result::Result<Option<Door>, String> {
    let (Some(url), Some(file)) = (&settings.url, &settings.key) else { return Ok(None) };
    let keys = keys(file).map_err(|why| format!("web.webhook.key: {why}"))?;
    let poster = Poster::to(url).map_err(|why| format!("web.webhook.url: {why}"))?;
    Ok(Some(Door { keys, poster, most: settings.max_waiting }))
}

fn keys(file: &Path) -> std::result::Result<Watched<Keys>, String> {
    let shown = file.display().to_string();
    let read = move |_: Option<&Keys>, files: &[Vec<u8>]| {
        let text = files.first().map(Vec::as_slice).unwrap_or_default();
        Keys::parse(text).map_err(|why| format!("{shown}: {why}"))
    };
    Watched::open("web.webhook.key", &[file], read)
}

#[cfg(test)]
mod tests;
