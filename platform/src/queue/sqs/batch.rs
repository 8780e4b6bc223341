//! Makes calls of single sends and acks that arrive together. `gather.rs` decides when a call
//! starts and with which entries.

use std::{sync::Arc, time::Duration};

use aws_sdk_sqs::{
    Client,
    types::{BatchResultErrorEntry, DeleteMessageBatchRequestEntry, SendMessageBatchRequestEntry},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{entry_failed, gather::gather};
use crate::{
    aws,
    backoff::Backoff,
    error::{Error, Result},
};

/// Maximum number of attempts at an entry that failed for a reason of SQS. SQS answers 200 to such
/// a batch and the SDK takes it for a success, so these entries are retried here.
const ATTEMPTS: usize = 3;

/// The operation of a batch.
#[derive(Debug, Clone, Copy)]
pub(super) enum Verb {
    /// Its entries are bodies.
    Send,
    /// Its entries are receipts.
    Ack,
}

/// Collects entries for one operation on one queue. Clones share their calls.
#[derive(Debug, Clone)]
pub(super) struct Batcher {
    entries: mpsc::UnboundedSender<Vec<Entry>>,
    what: String,
}

#[derive(Debug)]
struct Entry {
    text: String,
    /// The client whose message it is, if several share the queue.
    client: Option<String>,
    /// How long the entry may wait for others.
    patience: Duration,
    done: oneshot::Sender<Result<()>>,
}

#[derive(Debug)]
struct Calls {
    client: Client,
    url: String,
    verb: Verb,
    what: String,
}

impl Batcher {
    /// Starts the task that makes the calls. It ends when the last clone is dropped and all entries
    /// are done. Entries that arrive during a call may wait for others for `linger`.
    pub(super) fn start(client: Client, name: &str, url: &str, verb: Verb, linger: Duration) -> Self {
        let what = match verb {
            Verb::Send => format!("sending to {name}"),
            Verb::Ack => format!("acking to {name}"),
        };
        let (entries, received) = mpsc::unbounded_channel();
        let calls = Arc::new(Calls { client, url: url.to_owned(), verb, what: what.clone() });
        let carry_out = move |batch| {
            let calls = calls.clone();
            async move { calls.carry_out(batch).await }
        };
        let size = |entry: &Entry| entry.text.len();
        tokio::spawn(gather(received, linger, size, |entry| entry.patience, carry_out));
        Self { entries, what }
    }

    /// Adds entries, and waits until they are done. The entries are carried out even if the caller
    /// is dropped.
    ///
    /// # Errors
    ///
    /// Returns the error of the first entry that failed.
    pub(super) async fn add(
        &self,
        texts: impl IntoIterator<Item = String>,
        patience: Duration,
    ) -> Result<()> {
        self.add_for(None, texts, patience).await
    }

    /// Like [`add`](Self::add), for entries of this client.
    pub(super) async fn add_for(
        &self,
        client: Option<&str>,
        texts: impl IntoIterator<Item = String>,
        patience: Duration,
    ) -> Result<()> {
        let entry = |text| {
            let (done, answer) = oneshot::channel();
            (Entry { text, client: client.map(str::to_owned), patience, done }, answer)
        };
        let (entries, answers): (Vec<_>, Vec<_>) = texts.into_iter().map(entry).unzip();
        let ending = || Error::unavailable(self.what.clone(), "this process is ending");
        self.entries.send(entries).map_err(|_gone| ending())?;
        for answer in answers {
            answer.await.unwrap_or_else(|_gone| Err(ending()))?;
        }
        Ok(())
    }
}

impl Calls {
    /// Carries out a batch. Returns the duration of the call if it succeeded at the first attempt.
    async fn carry_out(&self, mut batch: Vec<Entry>) -> Option<Duration> {
        let began = Instant::now();
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        for attempt in 1..=ATTEMPTS {
            let failed = match self.call(&batch).await {
                Ok(failed) => failed,
                Err(error) => {
                    batch.into_iter().for_each(|entry| _ = entry.done.send(Err(error.clone())));
                    return None;
                }
            };
            let mut again = Vec::new();
            for (index, entry) in batch.into_iter().enumerate() {
                match failed.iter().find(|failed| failed.id() == index.to_string()) {
                    None => _ = entry.done.send(Ok(())),
                    // A receipt that is no longer valid deletes nothing, which is correct.
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
                return (attempt == 1).then(|| began.elapsed());
            }
            batch = again;
            backoff.wait().await;
        }
        None
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
            // A message group makes a standard queue a fair one (developer guide, "Amazon SQS fair
            // queues").
            built.message_body(&entry.text).set_message_group_id(entry.client.clone()).build()
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
