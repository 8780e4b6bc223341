//! Receives the replies for this host and passes them to the waiting clients.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use eirs_platform::{
    backoff::Backoff,
    job::{self, Outcome, Reply},
    queue::{Receipt, SharedQueue},
    trace::TraceContext,
};
use tokio_util::sync::CancellationToken;

use super::{Jobs, Key, Progress, eta::Done, set};
use crate::{metrics::Answered, webhook::Webhook};

/// Maximum number of replies received at once.
const BATCH: usize = 128;
/// Number of attempts to hand replies to the webhook.
const NOTES: u32 = 20;
/// The duration of a long poll.
const POLL: Duration = Duration::from_secs(20);

/// Consumes replies until `stop`.
pub(crate) async fn consume(jobs: &Jobs, stop: &CancellationToken) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
    while !stop.is_cancelled() {
        let responses = jobs.services.responses.current().queue;
        // A poll in progress is dropped at `stop`, because no client waits any more.
        let received = stop.run_until_cancelled(responses.receive_alone(stop, BATCH, POLL)).await;
        match received.unwrap_or(Ok(Vec::new())) {
            Ok(deliveries) => {
                backoff.reset();
                let mut receipts = Vec::with_capacity(deliveries.len());
                let mut ended = Vec::new();
                for delivery in deliveries {
                    receipts.push(delivery.receipt);
                    ended.extend(answer(jobs, &delivery.body));
                }
                if !receipts.is_empty() {
                    tokio::spawn(end(jobs.services.webhook.clone(), ended, responses, receipts));
                }
            }
            Err(error) if error.is_missing() => {
                if let Err(error) = jobs.services.responses.reopen().await {
                    tracing::warn!(%error, "the response queue is gone and could not be created \
                        again");
                    backoff.wait().await;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "replies cannot be received; waiting requests poll the \
                    store meanwhile");
                backoff.wait().await;
            }
        }
    }
}

/// Hands the replies to the webhook before they leave the queue. If it cannot take them, they stay
/// there for the next process.
async fn end(
    webhook: Option<Arc<Webhook>>,
    ended: Vec<Reply>,
    responses: SharedQueue,
    receipts: Vec<Receipt>,
) {
    if let Some(webhook) = webhook {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        for attempt in 1..=NOTES {
            match webhook.note(&ended).await {
                Ok(()) => break,
                Err(error) => {
                    tracing::warn!(%error, "webhook: replies cannot be noted");
                    if attempt == NOTES {
                        return;
                    }
                    backoff.wait().await;
                }
            }
        }
    }
    // If the ack fails, the replies are received again, which does no harm.
    let _looked_at_again = responses.ack_unhurried(&receipts).await;
}

/// Passes a reply to the waiting clients. Returns it if the webhook needs it.
fn answer(jobs: &Jobs, body: &[u8]) -> Option<Reply> {
    match job::decode::<Reply>(body) {
        Ok(reply) => {
            jobs.services.metrics.replies.inc();
            // A job that was given up says nothing about a worker's times.
            let is_done = !matches!(reply.outcome, Outcome::GaveUp { .. });
            if is_done && jobs.model(&reply.model).is_some() {
                jobs.services.metrics.replied(&reply.model, reply.queued_ms, reply.classify_ms);
            }
            let (id, trace) = (reply.id, reply.trace.clone());
            if let Some(trace) = &trace {
                trace.add_past_span("answer", reply.at, jobs.services.clock.now(), &id.to_string());
            }
            let is_for_webhook = jobs.services.webhook.is_some() && !jobs.is_erased(id);
            let for_webhook = is_for_webhook.then(|| reply.clone());
            if !jobs.answered(reply) {
                let trace_id = trace.as_ref().map(TraceContext::trace_id);
                tracing::debug!(%id, trace_id, "no client waits for this reply");
            }
            for_webhook
        }
        Err(error) => {
            tracing::error!(%error, "a reply that cannot be read was dropped");
            None
        }
    }
}

/// Returns whether the reply gives up another job of the image than the one sent at `sent_at`. The
/// image may have been damaged then, and has been stored again since. A label is valid for both
/// jobs.
fn is_of_another_job(reply: &Reply, sent_at: Option<DateTime<Utc>>) -> bool {
    !reply.is_final() && reply.sent_at.is_some() && reply.sent_at != sent_at
}

impl Jobs {
    /// Handles a reply: passes it to the waiting clients. Returns whether this host had the job in
    /// flight.
    ///
    /// The reply may have another version than the one in force, from a worker that was not
    /// replaced yet or from elsewhere. It answers these clients, but not later uploads.
    pub(crate) fn answered(&self, reply: Reply) -> bool {
        self.services.versions.learn(&reply.model, &reply.version);
        self.log_other_version(&reply);
        let key: Key = (reply.id, reply.model.as_str().into());
        let job = {
            let mut in_flight = self.lock();
            if in_flight.get(&key).is_some_and(|job| is_of_another_job(&reply, job.sent_at)) {
                return false;
            }
            let job = in_flight.remove(&key);
            if job.as_ref().is_some_and(|job| job.is_erased) {
                set(&self.erasing).insert(key.clone());
            }
            job
        };
        // A reply without a job here may be of an erased image; only the store knows, so do not
        // cache it.
        let is_kept = job.as_ref().is_some_and(|job| !job.is_erased);
        let reply = if is_kept { self.remember(&key, reply) } else { Arc::new(reply) };
        if job.is_some() {
            // A job that was given up says nothing about the time of the next one.
            let is_done = reply.is_final();
            let done = Done {
                worker: &reply.worker,
                took_s: reply.classify_ms / 1e3,
                busy_s: (reply.classify_ms - reply.waited_ms).max(0.0) / 1e3,
                ago_s: (self.services.clock.now() - reply.at).as_seconds_f64(),
            };
            self.services.admission.ended(&key.1, is_done.then_some(done));
        }
        for _ in 0..job.as_ref().map_or(0, |job| job.promised) {
            self.services.metrics.answered(Answered::of(&reply.outcome, false));
        }
        if job.as_ref().is_some_and(|job| job.is_erased) {
            self.cache.remove(&key);
            let (results, erasing) = (self.results.clone(), self.erasing.clone());
            let result_key = key.0.result_key(&key.1, &reply.version);
            tokio::spawn(async move {
                if let Err(error) = results.delete(&result_key).await {
                    tracing::error!(%error, "{result_key} could not be erased");
                }
                set(&erasing).remove(&key);
            });
        }
        job.map(|job| job.progress.send_replace(Progress::Done(reply))).is_some()
    }

    /// Logs a foreign version once. For a few seconds after a change it is normal; later it means
    /// that workers load other files than this host.
    fn log_other_version(&self, reply: &Reply) {
        let Some(in_force) = self.services.versions.current(&reply.model) else { return };
        if *in_force == *reply.version {
            return;
        }
        let (model, version) = (reply.model.clone(), reply.version.clone());
        let mut logged = self.other_versions.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.insert((model, version)) {
            let Reply { worker, model, version, .. } = reply;
            tracing::info!(
                worker,
                model,
                version,
                "{worker} has version {version} of {model}, but {in_force} is in force here: its \
                results are returned once, and not for later uploads"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::webhook::event::tests::reply;

    #[test]
    fn a_job_does_not_end_because_another_job_of_its_image_was_given_up() {
        let sent = DateTime::UNIX_EPOCH + TimeDelta::seconds(7);
        let gave_up = |sent_at| {
            let outcome = Outcome::GaveUp { reason: "the stored image is damaged".to_owned() };
            Reply { outcome, sent_at, ..reply("a") }
        };
        let earlier = gave_up(Some(DateTime::UNIX_EPOCH));
        assert!(is_of_another_job(&earlier, Some(sent)));
        assert!(is_of_another_job(&earlier, None), "it is not sent yet");
        assert!(!is_of_another_job(&gave_up(Some(sent)), Some(sent)));
        assert!(!is_of_another_job(&gave_up(None), Some(sent)), "a worker that does not send it");
        let label = Reply { sent_at: Some(DateTime::UNIX_EPOCH), ..reply("a") };
        assert!(!is_of_another_job(&label, Some(sent)));
    }
}
