//! Single sends and acks that come together make one call: SQS bills and throttles calls, and takes ten entries in one.
//!
//! The first entry waits a little for others. A full one waits for nobody, and nobody waits behind a call that is under way.

use std::{sync::Arc, time::Duration};

use aws_sdk_sqs::{
    Client,
    types::{BatchResultErrorEntry, DeleteMessageBatchRequestEntry, SendMessageBatchRequestEntry},
};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::{Instant, timeout_at},
};

use super::{BATCH, entry_failed, pace::Pace};
use crate::{
    aws,
    backoff::Backoff,
    error::{Error, Result},
};

/// How long an entry waits for company, ...
const LINGER: Duration = Duration::from_millis(3);
/// ... but under load, each would be a call for one or two.
const LINGER_UNDER_LOAD: Duration = Duration::from_millis(100);
/// The largest call that every queue takes: older ones are made for 256 KiB.
const CALL_BYTES: usize = 256 * 1024;
/// Calls at the same time, for each queue and verb.
const CALLS: usize = 16;
/// SQS answers 200 to a batch of which some entries failed for its own reasons, and the SDK takes that for a success: those
/// entries are tried again here, so often in all.
const ATTEMPTS: usize = 3;

/// What a batch is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Verb {
    /// Its entries are bodies.
    Send,
    /// Its entries are receipts.
    Ack,
}

/// Collects entries for one verb on one queue. Clones collect together.
#[derive(Debug, Clone)]
pub(super) struct Batcher {
    entries: mpsc::UnboundedSender<Entry>,
    what: String,
}

#[derive(Debug)]
struct Entry {
    text: String,
    done: oneshot::Sender<Result<()>>,
}

#[derive(Debug)]
struct Calls {
    client: Client,
    url: String,
    verb: Verb,
    what: String,
    at_once: Arc<Semaphore>,
}

impl Batcher {
    /// Its task ends when the last clone is gone and everything that was added is done.
    pub(super) fn start(client: Client, name: &str, url: &str, verb: Verb) -> Self {
        let what = match verb {
            Verb::Send => format!("sending to {name}"),
            Verb::Ack => format!("acking to {name}"),
        };
        let (entries, received) = mpsc::unbounded_channel();
        let at_once = Arc::new(Semaphore::new(CALLS));
        let calls = Arc::new(Calls { client, url: url.to_owned(), verb, what: what.clone(), at_once });
        tokio::spawn(collect(calls, received));
        Self { entries, what }
    }

    /// Adds an entry; answers how it went. What was added is done even if nobody waits for the answer.
    pub(super) async fn add(&self, text: String) -> Result<()> {
        let (done, answer) = oneshot::channel();
        let ended = |()| Err(Error::unavailable(self.what.clone(), "this process is ending"));
        if self.entries.send(Entry { text, done }).is_err() {
            return ended(());
        }
        match answer.await {
            Ok(answer) => answer,
            Err(_gone) => ended(()),
        }
    }
}

async fn collect(calls: Arc<Calls>, mut received: mpsc::UnboundedReceiver<Entry>) {
    let (mut next, mut pace) = (None, Pace::default());
    while let Some(first) = match next.take() {
        Some(first) => Some(first),
        None => received.recv().await,
    } {
        let until = Instant::now() + if pace.is_load() { LINGER_UNDER_LOAD } else { LINGER };
        let mut bytes = first.text.len();
        let mut batch = vec![first];
        while batch.len() < BATCH {
            let Ok(Some(entry)) = timeout_at(until, received.recv()).await else { break };
            bytes += entry.text.len();
            if bytes > CALL_BYTES {
                next = Some(entry);
                break;
            }
            batch.push(entry);
        }
        pace.note(batch.len());
        let permit = calls.at_once.clone().acquire_owned().await.expect("nobody closes it");
        let calls = calls.clone();
        tokio::spawn(async move {
            calls.carry_out(batch).await;
            drop(permit);
        });
    }
}

impl Calls {
    async fn carry_out(&self, mut batch: Vec<Entry>) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        for attempt in 1..=ATTEMPTS {
            let failed = match self.call(&batch).await {
                Ok(failed) => failed,
                Err(error) => {
                    batch.into_iter().for_each(|entry| _ = entry.done.send(Err(error.clone())));
                    return;
                }
            };
            let mut again = Vec::new();
            for (index, entry) in batch.into_iter().enumerate() {
                match failed.iter().find(|failed| failed.id() == index.to_string()) {
                    None => _ = entry.done.send(Ok(())),
                    // A receipt of which nobody knows any more deletes nothing, and that is right.
                    Some(failed) if failed.sender_fault() && matches!(self.verb, Verb::Ack) => {
                        _ = entry.done.send(Ok(()));
                    }
                    Some(failed) if failed.sender_fault() || attempt == ATTEMPTS => {
                        _ = entry.done.send(Err(entry_failed(self.what.clone(), failed)));
                    }
                    Some(_) => again.push(entry),
                }
            }
            if again.is_empty() {
                return;
            }
            batch = again;
            backoff.wait().await;
        }
    }

    async fn call(&self, batch: &[Entry]) -> Result<Vec<BatchResultErrorEntry>> {
        match self.verb {
            Verb::Send => self.send(batch).await,
            Verb::Ack => self.delete(batch).await,
        }
    }

    async fn send(&self, batch: &[Entry]) -> Result<Vec<BatchResultErrorEntry>> {
        let entry = |(index, entry): (usize, &Entry)| {
            let built = SendMessageBatchRequestEntry::builder().id(index.to_string());
            built.message_body(&entry.text).build()
        };
        let entries: Result<Vec<_>, _> = batch.iter().enumerate().map(entry).collect();
        let entries = entries.map_err(|error| Error::broken(self.what.clone(), error))?;
        let call = self.client.send_message_batch().queue_url(&self.url).set_entries(Some(entries));
        let answer = call.send().await.map_err(|error| aws::error(self.what.clone(), &error))?;
        Ok(answer.failed)
    }

    async fn delete(&self, batch: &[Entry]) -> Result<Vec<BatchResultErrorEntry>> {
        let entry = |(index, entry): (usize, &Entry)| {
            let built = DeleteMessageBatchRequestEntry::builder().id(index.to_string());
            built.receipt_handle(&entry.text).build()
        };
        let entries: Result<Vec<_>, _> = batch.iter().enumerate().map(entry).collect();
        let entries = entries.map_err(|error| Error::broken(self.what.clone(), error))?;
        let call = self.client.delete_message_batch().queue_url(&self.url).set_entries(Some(entries));
        let answer = call.send().await.map_err(|error| aws::error(self.what.clone(), &error))?;
        Ok(answer.failed)
    }
}
