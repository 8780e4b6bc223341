//! Queues of SQS.
//!
//! SQS differs from the other backends: a call takes up to ten messages, a batch of which some
//! entries failed is answered 200, a poll may wait for up to 20 seconds, and messages are leased to
//! a poll even if its caller is gone. So concurrent single sends and acks share a call
//! (`sqs/gather.rs`, `sqs/batch.rs`), and a poll is a task of its own that is never dropped
//! (`sqs/poll.rs`). `sqs/manage.rs` creates and deletes queues.

mod batch;
mod body;
mod gather;
mod manage;
mod poll;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_sqs::{
    Client,
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
    types::{
        BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, QueueAttributeName as Attribute,
    },
};
use bytes::Bytes;
use futures::future::try_join_all;
use tokio::time::Instant;

use self::batch::{Batcher, Verb};
pub use self::manage::{Difference, attributes};
use super::{Delivery, Depth, Queue, QueueOptions, Receipt, SharedQueue};
use crate::{
    aws::{self, Service},
    blobs::Staged,
    error::{Error, Result},
    settings::Aws,
};

/// Maximum number of messages per call; a limit of SQS.
const BATCH: usize = 10;

/// The queues of an installation: those whose names begin with its prefix. Clones share them.
#[derive(Debug, Clone)]
pub struct SqsQueues {
    client: Client,
    prefix: String,
    linger: Linger,
}

/// How long an entry waits for others, so that they share a call. Only while other calls are in
/// progress.
#[derive(Debug, Clone, Copy, Default)]
struct Linger {
    sends: Duration,
    acks: Duration,
    polls: Duration,
}

/// One queue.
#[derive(Debug, Clone)]
pub struct SqsQueue {
    /// Without the prefix, as in the rest of the code.
    name: String,
    url: String,
    client: Client,
    options: QueueOptions,
    sends: Batcher,
    acks: Batcher,
    linger: Linger,
    /// When messages were last received.
    answered: Arc<Mutex<Instant>>,
}

/// Creates a client of SQS from the settings.
pub fn client(config: &SdkConfig, settings: &Aws) -> Client {
    let mut builder = aws_sdk_sqs::config::Builder::from(config);
    if let Some(endpoint) = aws::endpoint(settings, Service::Sqs) {
        builder = builder.endpoint_url(endpoint);
    }
    // A long poll looks like a stalled stream, on purpose (aws-sdk-rust, issue 1148).
    let patience = aws_sdk_sqs::config::StalledStreamProtectionConfig::disabled();
    Client::from_conf(builder.stalled_stream_protection(patience).build())
}

impl SqsQueues {
    /// The queues of the installation with this prefix, without any linger.
    pub fn new(client: Client, prefix: &str) -> Self {
        Self { client, prefix: prefix.to_owned(), linger: Linger::default() }
    }

    /// The queues of the installation that the settings describe.
    pub fn of_settings(config: &SdkConfig, settings: &Aws) -> Self {
        let linger = Linger { sends: settings.linger, acks: settings.ack_linger, polls: settings.linger };
        Self { linger, ..Self::new(client(config, settings), &settings.prefix) }
    }

    /// Opens a queue. If it does not exist, returns an error and does not create it.
    pub async fn open(&self, name: &str, options: QueueOptions) -> Result<SharedQueue> {
        let url = self.url(name).await?;
        Ok(Arc::new(SqsQueue::new(self, name, url, options)))
    }
}

impl SqsQueue {
    fn new(queues: &SqsQueues, name: &str, url: String, options: QueueOptions) -> Self {
        let SqsQueues { client, linger, .. } = queues;
        Self {
            sends: Batcher::start(client.clone(), name, &url, Verb::Send, linger.sends),
            acks: Batcher::start(client.clone(), name, &url, Verb::Ack, linger.acks),
            linger: *linger,
            answered: Arc::new(Mutex::new(Instant::now())),
            name: name.to_owned(),
            client: client.clone(),
            url,
            options,
        }
    }

    fn answered(&self) -> Instant {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_answer(&self) {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn failed<E>(&self, verb: &str, error: &SdkError<E, HttpResponse>) -> Error
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        aws::error(format!("{verb} {}", self.name), error)
    }

    /// Hides messages for `time` from now on. Returns the receipts that are no longer valid.
    async fn hide_for(&self, verb: &str, receipts: &[Receipt], time: Duration) -> Result<Vec<Receipt>> {
        let seconds = i32::try_from(time.as_secs()).unwrap_or(i32::MAX);
        let calls = receipts.chunks(BATCH).map(|chunk| self.hide_chunk(verb, chunk, seconds));
        Ok(try_join_all(calls).await?.concat())
    }

    async fn hide_chunk(&self, verb: &str, receipts: &[Receipt], seconds: i32) -> Result<Vec<Receipt>> {
        let entry = |(index, receipt): (usize, &Receipt)| {
            let entry = ChangeMessageVisibilityBatchRequestEntry::builder().id(index.to_string());
            entry.receipt_handle(&receipt.0).visibility_timeout(seconds).build()
        };
        let entries: Result<Vec<_>, _> = receipts.iter().enumerate().map(entry).collect();
        let entries = entries.map_err(|error| Error::broken(format!("{verb} {}", self.name), error))?;
        let call = self.client.change_message_visibility_batch().queue_url(&self.url);
        let answer = call.set_entries(Some(entries)).send().await;
        let answer = answer.map_err(|error| self.failed(verb, &error))?;
        let mut lost = Vec::new();
        for failed in answer.failed() {
            // If the entry itself is wrong, its lease is over; any other failure may pass.
            match failed.id().parse::<usize>().ok().and_then(|index| receipts.get(index)) {
                Some(receipt) if is_beyond_twelve_hours(failed) => {
                    tracing::warn!(
                        receipt = receipt.0,
                        "a job has been in flight for so long that SQS no longer renews its lease"
                    );
                }
                Some(receipt) if failed.sender_fault() => lost.push(receipt.clone()),
                _ => return Err(entry_failed(format!("{verb} {}", self.name), failed)),
            }
        }
        Ok(lost)
    }
}

/// Returns whether an extension was refused because the lease would last too long. The code is not
/// enough: an expired lease has the same one, with "Message does not exist or is not available for
/// visibility timeout change" (seen in AWS's responses as reported in localstack, issue 3956, and
/// aws-sdk-net, issue 794).
fn is_beyond_twelve_hours(failed: &BatchResultErrorEntry) -> bool {
    failed.sender_fault() && failed.message().is_some_and(|why| why.contains("beyond the limit"))
}

/// Converts a failed entry of a response.
fn entry_failed(what: String, failed: &BatchResultErrorEntry) -> Error {
    let status = if failed.sender_fault() { 400 } else { 500 };
    aws::sorted(what, failed.code(), failed.message().unwrap_or_default(), status)
}

#[async_trait]
impl Queue for SqsQueue {
    async fn send(&self, bodies: Vec<Bytes>) -> Result<()> {
        self.send_within(bodies, Duration::ZERO).await
    }

    async fn send_within(&self, bodies: Vec<Bytes>, patience: Duration) -> Result<()> {
        self.sends.add(bodies.iter().map(|body| body::to_text(body)), patience).await
    }

    async fn send_for(&self, client: &str, body: Bytes, staged: Staged, patience: Duration) -> Result<()> {
        staged.enter().await?;
        self.sends.add_for(Some(client), [body::to_text(&body)], patience).await
    }

    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        poll::receive(self, max, wait).await
    }

    /// SQS limits a lease to twelve hours from the receive. An extension beyond that is refused and
    /// changes nothing: the lease lasts until its end, and until then no other worker gets the job.
    async fn extend(&self, receipts: &[Receipt]) -> Result<Vec<Receipt>> {
        self.hide_for("extending leases of", receipts, self.options.visibility).await
    }

    /// Not retried beyond the SDK's own attempts: a message that was not deleted is delivered
    /// again, which does no harm.
    async fn ack(&self, receipts: &[Receipt]) -> Result<()> {
        self.acks.add(receipts.iter().map(|receipt| receipt.0.clone()), Duration::ZERO).await
    }

    async fn ack_unhurried(&self, receipts: &[Receipt]) -> Result<()> {
        self.acks.add(receipts.iter().map(|receipt| receipt.0.clone()), self.linger.acks).await
    }

    async fn release(&self, receipts: &[Receipt]) -> Result<()> {
        self.hide_for("releasing to", receipts, Duration::ZERO).await.map(|_stale| ())
    }

    /// Approximate, and up to a minute late after traffic stops (developer guide, "Available
    /// CloudWatch metrics").
    async fn depth(&self) -> Result<Depth> {
        let names = [
            Attribute::ApproximateNumberOfMessages,
            Attribute::ApproximateNumberOfMessagesDelayed,
            Attribute::ApproximateNumberOfMessagesNotVisible,
        ];
        let call = self.client.get_queue_attributes().queue_url(&self.url);
        let answer = call.set_attribute_names(Some(names.to_vec())).send().await;
        let answer = answer.map_err(|error| self.failed("counting", &error))?;
        let attributes: HashMap<_, _> = answer.attributes.unwrap_or_default();
        let count = |name: &Attribute| {
            let count = attributes.get(name).and_then(|text| text.parse::<u64>().ok());
            // A missing number is not zero.
            count.ok_or_else(|| Error::unavailable(format!("counting {}", self.name), format!("no {name}")))
        };
        Ok(Depth { visible: count(&names[0])? + count(&names[1])?, in_flight: count(&names[2])? })
    }

    /// Takes up to a minute; messages that are sent meanwhile may be deleted too.
    async fn purge(&self) -> Result<()> {
        match self.client.purge_queue().queue_url(&self.url).send().await {
            Ok(_) => Ok(()),
            // The queue was purged within the last minute, and that purge is still in progress.
            Err(error)
                if error.as_service_error().is_some_and(|error| error.is_purge_queue_in_progress()) =>
            {
                Ok(())
            }
            Err(error) => Err(self.failed("purging", &error)),
        }
    }
}

#[cfg(test)]
mod tests;
