//! The webhook: sends every ended job to an address of the operator, so that nobody has to poll for
//! the result promised by a 202.
//!
//! The events to send are in a queue of the backend, which is durable and shared by all hosts. An
//! event is added before the worker's reply is acked, and removed once the receiver has accepted
//! it: a kill may send it twice, but never loses it. Answers to clients do not wait for this.

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

/// Maximum number of events in one request.
const BATCH: usize = 100;
/// The duration of a long poll.
const POLL: Duration = Duration::from_secs(20);
/// Timeout for counting the waiting events, and how long a count is used.
const COUNTING: Duration = Duration::from_secs(2);
const COUNTED_FOR: Duration = Duration::from_secs(5);
/// A batch that was not accepted is sent again after this time, which doubles up to the maximum.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(120);
/// Interval between renewals of a waiting batch's lease, which lasts a minute.
const RENEW: Duration = Duration::from_secs(20);
/// Minimum time between two log lines about dropped events.
const LOG_INTERVAL: Duration = Duration::from_secs(30);

/// The events to send, and the receiver.
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

/// The estimated number of waiting events.
#[derive(Debug, Default)]
struct Counting {
    events: u64,
    at: Option<Instant>,
    logged_at: Option<Instant>,
}

impl Webhook {
    /// Opens the queue of events.
    pub(crate) async fn open(
        config: Config,
        backend: &Backend,
        metrics: Arc<Metrics>,
        clock: SharedClock,
    ) -> Result<Self> {
        let list = backend.webhook().await?;
        let Config { keys, poster, most } = config;
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

    /// Returns what reads the file of the keys again when it changes.
    pub(crate) fn renewal(&self) -> Box<dyn Renewal> {
        self.keys.renewal()
    }

    /// Adds ended jobs to the events; once this returns, they survive a kill. Beyond the maximum
    /// they are dropped and counted.
    pub(crate) async fn note(&self, replies: &[Reply]) -> Result<()> {
        if replies.is_empty() {
            return Ok(());
        }
        self.count().await;
        let (noted, dropped) = replies.split_at(self.reserve(replies.len()));
        if !dropped.is_empty() {
            self.metrics.webhook(Counted::Dropped, dropped.len() as u64);
            self.log_dropped();
        }
        if noted.is_empty() {
            return Ok(());
        }
        let sent = self.list.send(noted.iter().map(event::encode).collect()).await;
        sent.inspect_err(|_not_sent| self.gone(noted.len()))
    }

    /// Reserves room for up to `events` more events; returns for how many.
    fn reserve(&self, events: usize) -> usize {
        let mut counting = self.counting();
        let room = usize::try_from(self.most.saturating_sub(counting.events)).unwrap_or(usize::MAX);
        let reserved = events.min(room);
        counting.events += reserved as u64;
        reserved
    }

    /// Counts `events` fewer events.
    fn gone(&self, events: usize) {
        let mut counting = self.counting();
        counting.events = counting.events.saturating_sub(events as u64);
    }

    /// Counts the events from time to time. If that fails, the last count and the changes since are
    /// the better estimate.
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

    /// Returns the number of waiting events.
    pub(crate) async fn waiting(&self) -> u64 {
        self.count().await;
        self.counting().events
    }

    fn counting(&self) -> MutexGuard<'_, Counting> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log_dropped(&self) {
        let mut counting = self.counting();
        if counting.logged_at.is_none_or(|at| at.elapsed() > LOG_INTERVAL) {
            counting.logged_at = Some(Instant::now());
            tracing::error!(
                "webhook: {} events wait to be taken, which is web.webhook.max_waiting; further ones are \
                 dropped, and their results stay where `GET /results/{{id}}` finds them",
                self.most
            );
        }
    }

    /// Sends the events until `stop`.
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

    /// Sends a batch until it is accepted. A batch that is refused for its content is halved, so
    /// that one bad event does not hold back others; that event is received again when its lease
    /// expires.
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
                    // Stopped: another host or the next process sends the rest.
                    for left in open.drain(..).chain([batch]) {
                        let receipts: Vec<_> = left.into_iter().map(|event| event.receipt).collect();
                        let _comes_again_anyway = self.list.release(&receipts).await;
                    }
                    return;
                }
            }
        }
    }

    /// Returns the receiver's decision, or `None` if `stop` comes first.
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
                    // At least half, because a wait of nearly zero would overload a receiver that
                    // is down.
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

    /// Waits, and keeps the lease of the batch meanwhile.
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

    /// Counts a failure, and logs the first of a series.
    fn failed(&self, why: &str) {
        self.metrics.webhook(Counted::Failed, 1);
        if !self.is_failing.swap(true, Ordering::Relaxed) {
            tracing::warn!("webhook: {} {why}; events are kept and sent again", self.poster.url());
        } else {
            tracing::debug!("webhook: {} {why}", self.poster.url());
        }
    }
}

/// The checked settings of the webhook.
#[derive(Debug)]
pub struct Config {
    keys: Watched<Keys>,
    poster: Poster,
    most: u64,
}

/// Reads the keys and checks the address. Returns `None` if no address is set. An error is a
/// sentence that begins with the setting.
pub fn check(settings: &settings::Webhook) -> std::result::Result<Option<Config>, String> {
    let (Some(url), Some(file)) = (&settings.url, &settings.key) else { return Ok(None) };
    let keys = keys(file).map_err(|why| format!("web.webhook.key: {why}"))?;
    let poster = Poster::to(url).map_err(|why| format!("web.webhook.url: {why}"))?;
    Ok(Some(Config { keys, poster, most: settings.max_waiting }))
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
