//! Receives messages in a task of its own. SQS leases messages to a poll even if its caller is
//! gone, so a dropped poll would strand them for a whole visibility timeout. Here the task runs to
//! its end, and what its caller has not taken is released ([`Untaken`]).

use std::{mem, time::Duration};

use aws_sdk_sqs::{
    config::timeout::TimeoutConfig,
    types::{Message, MessageSystemAttributeName as Attribute},
};
use chrono::{DateTime, Utc};
use futures::future::join_all;
use tokio::{runtime::Handle, sync::oneshot, time::sleep_until};

use super::{BATCH, SqsQueue, body};
use crate::{
    error::{Error, Result},
    queue::{Delivery, Queue, Receipt},
};

/// Maximum time of a long poll; a limit of SQS.
const LONGEST: Duration = Duration::from_secs(20);
/// Maximum time that a receive may exceed its wait before it counts as lost (aws-sdk-rust, issue
/// 1094).
const GRACE: Duration = Duration::from_secs(10);
/// Maximum number of concurrent calls.
const MOST_CALLS: usize = 12;

/// Leased messages that nobody has taken yet; dropping them releases them. They are in the channel
/// to the caller for a while, which drops them if the caller goes in that while.
struct Untaken {
    queue: SqsQueue,
    deliveries: Vec<Delivery>,
}

impl Untaken {
    fn take(mut self) -> Vec<Delivery> {
        mem::take(&mut self.deliveries)
    }
}

impl Drop for Untaken {
    fn drop(&mut self) {
        let receipts: Vec<_> = self.deliveries.drain(..).map(|delivery| delivery.receipt).collect();
        // Without a runtime this process is ending, and so is the client.
        if let (false, Ok(runtime)) = (receipts.is_empty(), Handle::try_current()) {
            runtime.spawn(give_back(self.queue.clone(), receipts));
        }
    }
}

/// Leases up to `max` messages; waits up to `wait` for the first one. Safe to drop.
pub(super) async fn receive(queue: &SqsQueue, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
    let (mut answer, received) = oneshot::channel();
    let queue_of_task = queue.clone();
    tokio::spawn(async move {
        let queue = queue_of_task;
        // A poll ends with the first message. A caller that wants many waits until more have
        // arrived.
        if max >= BATCH {
            tokio::select! {
                () = sleep_until(queue.answered() + queue.linger.polls) => (),
                () = answer.closed() => return,
            }
        }
        let polled = poll(&queue, max, wait, &answer).await;
        // If the caller is gone, the messages come back, and are dropped here.
        drop(answer.send(polled.map(|deliveries| Untaken { queue, deliveries })));
    });
    let ended = || Error::unavailable(format!("receiving from {}", queue.name), "this process is ending");
    received.await.unwrap_or_else(|_gone| Err(ended())).map(Untaken::take)
}

async fn give_back(queue: SqsQueue, receipts: Vec<Receipt>) {
    if let Err(error) = queue.release(&receipts).await {
        tracing::warn!(%error, "unwanted messages could not be given back; they return when their \
            leases expire");
    }
}

/// Calls until a response is not full, there are `max` messages, or the caller is gone.
async fn poll(
    queue: &SqsQueue,
    max: usize,
    wait: Duration,
    caller: &oneshot::Sender<Result<Untaken>>,
) -> Result<Vec<Delivery>> {
    let mut deliveries = call(queue, max.min(BATCH), wait).await?;
    // A full call suggests that there are more messages: twice as many calls look for them, as long
    // as all are full.
    let (mut wanted, mut calls) = (max.min(BATCH), 1);
    while deliveries.len() == wanted && wanted < max && !caller.is_closed() {
        let sizes = (wanted..max).step_by(BATCH).map(|had| (max - had).min(BATCH)).take(calls);
        let sizes: Vec<_> = sizes.collect();
        wanted += sizes.iter().sum::<usize>();
        calls = (2 * calls).min(MOST_CALLS);
        let more = join_all(sizes.into_iter().map(|size| call(queue, size, Duration::ZERO))).await;
        // A failed call loses nothing: its messages stay in the queue.
        deliveries.extend(more.into_iter().flatten().flatten());
    }
    if !deliveries.is_empty() {
        queue.note_answer();
    }
    Ok(deliveries)
}

/// Not retried by the SDK: if the response was lost, another attempt would lease more messages. The
/// caller polls again anyway.
async fn call(queue: &SqsQueue, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
    let wait = wait.min(LONGEST);
    let whole_seconds = |duration: Duration| i32::try_from(duration.as_secs()).unwrap_or(i32::MAX);
    let time_out = TimeoutConfig::builder()
        .operation_timeout(wait + GRACE)
        .operation_attempt_timeout(wait + GRACE)
        .read_timeout(wait + GRACE)
        .build();
    let call = queue
        .client
        .receive_message()
        .queue_url(&queue.url)
        .max_number_of_messages(i32::try_from(max.max(1)).unwrap_or(10))
        .wait_time_seconds(whole_seconds(wait))
        .visibility_timeout(whole_seconds(queue.options.visibility))
        .message_system_attribute_names(Attribute::ApproximateReceiveCount)
        .message_system_attribute_names(Attribute::SentTimestamp)
        .customize()
        .config_override(
            aws_sdk_sqs::config::Builder::new()
                .timeout_config(time_out)
                .retry_config(aws_sdk_sqs::config::retry::RetryConfig::disabled()),
        );
    let answer = call.send().await.map_err(|error| queue.failed("receiving from", &error))?;
    Ok(answer.messages.unwrap_or_default().into_iter().filter_map(delivery).collect())
}

fn delivery(message: Message) -> Option<Delivery> {
    let attributes = message.attributes.unwrap_or_default();
    let number = |name| attributes.get(&name).and_then(|text| text.parse::<i64>().ok());
    let sent_at = number(Attribute::SentTimestamp).and_then(DateTime::from_timestamp_millis);
    Some(Delivery {
        body: body::from_text(message.body.unwrap_or_default()),
        receipt: Receipt(message.receipt_handle?),
        receives: number(Attribute::ApproximateReceiveCount).and_then(|n| u32::try_from(n).ok()).unwrap_or(1),
        sent_at: sent_at.unwrap_or_else(Utc::now),
    })
}
