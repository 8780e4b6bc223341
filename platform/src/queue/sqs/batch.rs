//! Single sends and acks that come together make one call, as `gather.rs` decides; here is what
//! such a call is.

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

/// SQS answers 200 to a batch of which some entries failed for its own reasons, and the SDK takes
/// that for a success: those entries are tried again here, so often in all.
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
    entries: mpsc::UnboundedSender<Vec<Entry>>,
    what: String,
}

#[derive(Debug)]
struct Entry {
    text: String,
    /// Whose message it is, where several clients share the queue.
    client: Option<String>,
    /// For how long it may wait for company.
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
    /// Its task ends when the last clone is gone and everything that was added is done. What comes
    /// while a call is under way may wait for company for `linger`.
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

    /// Adds entries; answers how they went, by the first that failed if one did. What was added is
    /// done even if nobody waits for the answer.
    pub(super) async fn add(
        &self,
        texts: impl IntoIterator<Item = String>,
        patience: Duration,
    ) -> Result<()> {
        self.add_for(None, texts, patience).await
    }

    /// The same, of this client.
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
    /// Answers what the call took, if it went well at once.
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
            // With it, a standard queue is a fair one ("Amazon SQS fair queues" in the developer
            // guide).
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
