//! The processing of one job. The order keeps jobs safe: store the result, then reply, then ack. A
//! crash in between causes a second delivery, which finds the stored result and replies with it.

use std::time::Duration;

use bytes::Bytes;
use eirs_platform::{
    Result,
    blobs::keep_for_job,
    job::{self, Job, Outcome, Reply},
    queue::{self, Delivery},
    trace::{Scope, TARGET},
};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug_span};

use crate::{
    Worker, begun,
    classify::{Failure, Image},
    failures::Failures,
    lease::Lease,
    outcome,
    pool::Answer,
    retry::retry,
};

/// The outcome of one attempt at a job.
enum Attempt {
    /// The job has this outcome, which must be stored and sent.
    Ended(Outcome),
    /// The result was stored before.
    Stored(Bytes),
    /// The attempt failed and is repeated.
    Failed {
        why: String,
        /// Whether this worker ends because of it.
        is_fatal: bool,
    },
    /// The image was not started, and another worker can start it sooner.
    LeftAlone,
}

impl Attempt {
    fn failed(why: impl ToString) -> Self {
        Self::Failed { why: why.to_string(), is_fatal: false }
    }
}

/// A job that this worker holds, with its delivery.
struct Held<'a> {
    job: &'a Job,
    delivery: &'a Delivery,
    lease: Lease,
    received: Instant,
}

/// The wait of a job for a thread.
#[derive(Default)]
struct Turn {
    /// How long no thread was free.
    waited: Duration,
    began: Option<Instant>,
}

/// Runs a job to its end, or gives it back. It may use the CPU while `slot` is held.
pub(crate) async fn process(
    worker: &Worker,
    delivery: Delivery,
    lease: Lease,
    slot: OwnedSemaphorePermit,
    drain: &CancellationToken,
) {
    let received = Instant::now();
    let mut job = match job::decode::<Job>(&delivery.body) {
        Ok(job) => job,
        Err(error) => {
            tracing::error!(%error, "a job that cannot be read becomes a dead letter");
            return bury_unreadable(worker, delivery).await;
        }
    };
    let scope = scope(worker, &job, &delivery);
    if let Some(sender) = job.trace.replace(scope.context().clone()) {
        sender.add_past_span("queue", job.sent_at, worker.clock.now(), &job.id.to_string());
    }
    let held = Held { job: &job, delivery: &delivery, lease, received };
    scope.run(take(worker, &held, slot, drain, &scope)).await;
}

/// Opens the scope of the job in the trace of the upload, or in a new trace if the message has
/// none.
fn scope(worker: &Worker, job: &Job, delivery: &Delivery) -> Scope {
    let span = debug_span!(
        target: TARGET,
        parent: None,
        "job",
        otel.kind = "consumer",
        image.id = %job.id,
        model = job.model,
        worker = worker.identity.instance,
        attempt = delivery.receives,
    );
    Scope::begin(
        span,
        job.trace.as_ref(),
        |trace| tracing::error_span!(parent: None, "job", trace_id = trace.trace_id(), id = %job.id),
    )
}

async fn take(
    worker: &Worker,
    held: &Held<'_>,
    slot: OwnedSemaphorePermit,
    drain: &CancellationToken,
    scope: &Scope,
) {
    let Held { job, received, delivery, .. } = held;
    let mut turn = Turn::default();
    let mut slot = Some(slot);
    let attempted = attempt(worker, held, &mut turn, scope).await;
    let Turn { waited, began } = turn;
    let stored = match attempted {
        Attempt::LeftAlone => {
            drop(slot);
            return leave_to_others(worker, held).await;
        }
        Attempt::Failed { why, is_fatal } => {
            drop(slot);
            return fail(worker, held, &why, is_fatal, drain).await;
        }
        Attempt::Stored(stored) => Ok((stored, false)),
        Attempt::Ended(outcome) => {
            let reply = outcome::reply(worker, job, outcome, *received, began);
            let taken = received.elapsed();
            // The transaction that ends this job may overlap with asking for the next one. While a
            // redelivered job runs alone, no other one may start.
            if ends_at_once(worker, held, &reply) && delivery.receives == 1 {
                slot = None;
            }
            if end_at_once(worker, held, &reply).await {
                drop(slot);
                worker.activity.done(taken.saturating_sub(waited));
                return log_times(worker, job, taken, waited);
            }
            store(worker, job, &reply).await
        }
    };
    let taken = received.elapsed();
    // Only calls to the queue remain, so the next job may start.
    drop(slot);
    match stored {
        Ok((reply, gave_up)) => match finish(worker, held, reply, gave_up).await {
            Ok(()) => {
                worker.activity.done(taken.saturating_sub(waited));
                log_times(worker, job, taken, waited);
            }
            // The result is stored, so the next delivery replies with it.
            Err(error) => {
                tracing::warn!(%error, "job {} has a result, but could not be ended; giving it back", job.id);
                release(worker, held).await;
            }
        },
        Err(error) => fail(worker, held, &error.to_string(), false, drain).await,
    }
}

/// Returns whether a job can be ended in one transaction.
fn ends_at_once(worker: &Worker, held: &Held<'_>, reply: &Reply) -> bool {
    // A job that is given up must go to the dead letters first, and a fresh result replaces another
    // one.
    worker.requests.in_database().is_some() && reply.is_final() && !held.job.fresh && !held.lease.is_lost()
}

/// Stores the result, sends the reply and acks in one transaction, if all three are in one
/// database. Returns `false`, without any effect, if they are not, if a result exists already, or
/// after an error.
async fn end_at_once(worker: &Worker, held: &Held<'_>, reply: &Reply) -> bool {
    if !ends_at_once(worker, held, reply) {
        return false;
    }
    let ending = debug_span!(target: TARGET, "end", otel.kind = "producer");
    let ended = outcome::end(worker, held.job, reply, &held.lease.receipt).instrument(ending).await;
    ended.unwrap_or_else(|error| {
        tracing::debug!(%error, "job {} could not be ended in one transaction; ending it step by \
            step", held.job.id);
        false
    })
}

/// Stores the outcome of a job; returns the stored result and whether the job was given up.
async fn store(worker: &Worker, job: &Job, reply: &Reply) -> Result<(Bytes, bool)> {
    let gave_up = matches!(reply.outcome, Outcome::GaveUp { .. });
    let storing = debug_span!(target: TARGET, "store");
    let stored = retry(|| outcome::commit(worker, job, reply)).instrument(storing).await?;
    Ok((stored, gave_up))
}

/// Tries a job; sets `turn` to its wait for a thread.
async fn attempt(worker: &Worker, held: &Held<'_>, turn: &mut Turn, scope: &Scope) -> Attempt {
    let Held { job, delivery, .. } = held;
    if delivery.receives == 1 {
        return classify(worker, job, turn, scope).await;
    }
    // The previous worker may have stored the result and died before the ack.
    let looking = debug_span!(target: TARGET, "look");
    match retry(|| outcome::stored(worker, job)).instrument(looking).await {
        Ok(Some(stored)) => return Attempt::Stored(stored),
        Ok(None) => {}
        Err(error) => return Attempt::failed(error),
    }
    let note = match begun::begin(worker, job).await {
        Ok(Ok(note)) => note,
        Ok(Err(reason)) => return Attempt::Ended(Outcome::GaveUp { reason }),
        Err(error) => return Attempt::failed(error),
    };
    worker.note_begun(Some(note.clone()));
    let attempt = classify(worker, job, turn, scope).await;
    worker.note_begun(None);
    note.ended(worker).await;
    attempt
}

async fn classify(worker: &Worker, job: &Job, turn: &mut Turn, scope: &Scope) -> Attempt {
    let key = job.id.image_key();
    let fetching = debug_span!(target: TARGET, "fetch");
    let image = match retry(|| worker.images.get_checked(&key)).instrument(fetching).await {
        Ok(stored) => match outcome::whole(job.id, stored).await {
            Ok(bytes) => Image { name: job.name.clone(), bytes },
            // Another attempt would find the same; the next upload stores the image again.
            Err(reason) => return Attempt::Ended(Outcome::GaveUp { reason }),
        },
        Err(error) => return Attempt::failed(error),
    };
    let classifying = scope.part(debug_span!(target: TARGET, "classify", engine = worker.engine()));
    let (since, asked) = (worker.clock.now(), Instant::now());
    let classified = worker.pool.classify(image, &classifying, Some(&worker.requests));
    let (answer, waiting) = classifying.run(classified).await;
    classifying.context().add_past_span("turn", since, since + waiting, &job.id.to_string());
    *turn = Turn { waited: waiting, began: Some(asked + waiting) };
    if matches!(answer, Answer::Given(Ok(_) | Err(Failure::Rejected(_)))) && worker.health.works() {
        tracing::info!("jobs succeed again");
    }
    match answer {
        Answer::Given(Ok(top)) => Attempt::Ended(Outcome::Classified { top }),
        Answer::Given(Err(Failure::Rejected(reason))) => Attempt::Ended(Outcome::Rejected { reason }),
        Answer::Given(Err(Failure::Failed(why) | Failure::Later(why))) => Attempt::failed(why),
        Answer::Stuck(why) => Attempt::Failed { why, is_fatal: true },
        Answer::LeftAlone => Attempt::LeftAlone,
    }
}

/// Logs the times of a job: at level info if it was slow, else at debug.
fn log_times(worker: &Worker, job: &Job, taken: Duration, waited: Duration) {
    let (service_ms, waited_ms) = (taken.as_secs_f64() * 1e3, waited.as_secs_f64() * 1e3);
    let slow_after = worker.settings.worker.slow_after;
    if !slow_after.is_zero() && taken > slow_after {
        tracing::info!(
            name = job.name,
            service_ms,
            waited_ms,
            "job {} was slow: it took {taken:.1?}",
            job.id
        );
    } else {
        tracing::debug!(name = job.name, service_ms, waited_ms, "job {} took {taken:.1?}", job.id);
    }
}

/// Replies, then acks. A job that was given up is sent to the dead letters first.
async fn finish(worker: &Worker, held: &Held<'_>, reply: Bytes, gave_up: bool) -> Result<()> {
    let Held { job, delivery, lease, .. } = held;
    let _ending = lease.ending();
    if gave_up {
        tracing::error!(name = job.name, "job {} is given up and becomes a dead letter", job.id);
        // The image must be kept as long as the dead letter, so that the job can be requeued.
        let bury = || async {
            let kept = keep_for_job(&*worker.images, job.id, &job.model).await?;
            worker.dead_letters.send_with(delivery.body.clone(), kept).await
        };
        retry(bury).await?;
    }
    let replying = debug_span!(target: TARGET, "reply", otel.kind = "producer");
    // Before the ack, so that the next delivery repeats the check if this worker dies. No client
    // waits for it.
    let (sent, forgotten) = tokio::join!(
        send_reply(worker, job, reply.clone()).instrument(replying),
        retry(|| outcome::forget_if_erased(worker, job, &reply)),
    );
    sent.and(forgotten)?;
    if lease.is_lost() {
        // The other delivery finds the stored result and acks.
        return Ok(());
    }
    let acking = debug_span!(target: TARGET, "ack");
    retry(|| worker.requests.ack_unhurried(std::slice::from_ref(&lease.receipt))).instrument(acking).await
}

/// Replies to the web host that sent the job. If that host has ended, its queue is gone and nothing
/// waits there; the stored result serves a client that asks again.
async fn send_reply(worker: &Worker, job: &Job, reply: Bytes) -> Result<()> {
    let reply_to = &job.reply_to;
    // Without other jobs, there are no other replies to combine this one with.
    let since = (worker.clock.now() - job.sent_at).to_std().unwrap_or_default();
    let patience = if worker.leases.under_way() > 0 { queue::patience(since) } else { Duration::ZERO };
    let sent = match retry(|| worker.response_queue(reply_to)).await {
        Ok(responses) => retry(|| responses.send_within(vec![reply.clone()], patience)).await,
        Err(error) => Err(error),
    };
    match sent {
        Err(error) if error.is_missing() => {
            tracing::debug!(reply_to, %error, "the response queue {reply_to} is gone");
            worker.forget_response_queue(reply_to).await;
            Ok(())
        }
        sent => sent,
    }
}

/// Handles a failed attempt: the job is sent again after a wait, for any worker, or given up if it
/// has failed for too long. Meanwhile it takes no slot. A drain, and a worker on which every job
/// fails, do not wait for it.
async fn fail(worker: &Worker, held: &Held<'_>, why: &str, is_fatal: bool, drain: &CancellationToken) {
    let Held { job, delivery, received, .. } = held;
    let queue = &worker.settings.queue;
    let now = worker.clock.now();
    let (failures, body) = Failures::one_more(&delivery.body, now, why, is_fatal);
    let attempt = failures.count;
    tracing::warn!(attempt, why, "job {} failed in attempt {attempt} and is given back: {why}", job.id);
    if worker.health.fails(why) {
        tracing::error!(
            "every job fails here; from now on this worker tries one job at a time, and leaves the \
            others to other workers"
        );
    }
    if let Some(reason) = failures.verdict(now, queue.retry_for, queue.max_receives) {
        let reply = outcome::reply(worker, job, Outcome::GaveUp { reason }, *received, None);
        let ended = match store(worker, job, &reply).await {
            Ok((reply, gave_up)) => finish(worker, held, reply, gave_up).await,
            Err(error) => Err(error),
        };
        match ended {
            Ok(()) => return worker.activity.done(received.elapsed()),
            Err(error) => tracing::warn!(%error, "job {} could not be given up; it will be retried", job.id),
        }
    }
    let rest = failures.rest(now, queue.retry_for);
    if let Ok(_one_of_few) = worker.resting.try_acquire() {
        let resting = debug_span!(target: TARGET, "rest");
        drain.run_until_cancelled(worker.health.rest(rest)).instrument(resting).await;
    }
    send_once_more(worker, held, body).await;
}

/// Leaves a job that was not started here to idle workers.
async fn leave_to_others(worker: &Worker, held: &Held<'_>) {
    tracing::debug!("job {} has not begun; giving it back", held.job.id);
    send_once_more(worker, held, held.delivery.body.clone()).await;
}

/// Sends the job again, to the end of the queue, in a new message whose delivery count starts at
/// one. If that fails, the lease is released.
async fn send_once_more(worker: &Worker, held: &Held<'_>, body: Bytes) {
    if held.lease.is_lost() {
        return;
    }
    let receipt = std::slice::from_ref(&held.lease.receipt);
    let send = async || {
        let kept = keep_for_job(&*worker.images, held.job.id, &held.job.model).await?;
        worker.requests.send_with(body.clone(), kept).await
    };
    let sent = match retry(send).await {
        // A crash before this ack duplicates the job, which is harmless.
        Ok(()) => retry(|| worker.requests.ack(receipt)).await,
        Err(error) => Err(error),
    };
    if let Err(error) = sent {
        tracing::warn!(%error, "job {} could not be sent again", held.job.id);
        release(worker, held).await;
    }
}

async fn release(worker: &Worker, held: &Held<'_>) {
    if let Err(error) = worker.requests.release(std::slice::from_ref(&held.lease.receipt)).await {
        tracing::warn!(%error, "job {} could not be given back; it returns when its lease \
            expires", held.job.id);
    }
}

async fn bury_unreadable(worker: &Worker, delivery: Delivery) {
    let sent = retry(|| worker.dead_letters.send(vec![delivery.body.clone()])).await;
    let acked = match sent {
        Ok(()) => retry(|| worker.requests.ack(std::slice::from_ref(&delivery.receipt))).await,
        Err(error) => Err(error),
    };
    if let Err(error) = acked {
        tracing::warn!(%error, "a job could not become a dead letter; it returns when its lease \
            expires");
    }
}
