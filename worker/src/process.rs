//! One job, from its receipt to its end. The order is the safety argument: result before reply, reply before ack. A crash
//! between any two of these makes a second delivery, which finds the stored result and says it again.

use std::time::Duration;

use bytes::Bytes;
use eirs_platform::{
    Result,
    backoff::Backoff,
    job::{self, Job, Outcome},
    queue::Delivery,
    trace::{Scope, TARGET},
};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug_span};

use crate::{
    Worker,
    classify::{Failure, Image},
    lease::Lease,
    outcome,
};

/// How often a store or a queue is asked before the job is given back.
const ATTEMPTS: u32 = 4;
/// A job whose classification failed rests so long before the first further attempt, then twice as long, and so on.
const FIRST_REST: Duration = Duration::from_millis(250);
const LONGEST_REST: Duration = Duration::from_secs(20);

/// How an attempt at a job ended.
enum Attempt {
    /// With this; it must be stored and told.
    Ended(Outcome),
    /// It had been stored before.
    Stored(Bytes),
    /// It did not; somebody shall try again.
    Failed(String),
}

/// Takes a job to its end, or gives it back.
pub(crate) async fn process(
    worker: &Worker,
    delivery: Delivery,
    slot: OwnedSemaphorePermit,
    drain: &CancellationToken,
) {
    let received = Instant::now();
    let mut job = match job::decode::<Job>(&delivery.body) {
        Ok(job) => job,
        Err(error) => {
            tracing::error!(%error, "a job that cannot be read goes to the dead letters");
            return bury_unreadable(worker, delivery).await;
        }
    };
    let scope = scope(worker, &job, &delivery);
    if let Some(sender) = job.trace.replace(scope.context().clone()) {
        sender.add_past_span("queue", job.sent_at, worker.clock.now(), &job.id.to_string());
    }
    scope.run(take(worker, &job, delivery, slot, drain, received, &scope)).await;
}

/// In the trace of the upload, or in a new one if the upload was of a time without.
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
    job: &Job,
    delivery: Delivery,
    slot: OwnedSemaphorePermit,
    drain: &CancellationToken,
    received: Instant,
    scope: &Scope,
) {
    let lease = worker.leases.hold(delivery.receipt.clone());
    let mut waited = Duration::ZERO;
    let stored = match attempt(worker, job, &delivery, &mut waited, scope).await {
        Attempt::Failed(why) => Err(why),
        Attempt::Stored(reply) => Ok((reply, false)),
        Attempt::Ended(outcome) => {
            let gave_up = matches!(outcome, Outcome::GaveUp { .. });
            let reply = outcome::reply(worker, job, outcome, received);
            let storing = debug_span!(target: TARGET, "store");
            let stored = retry(|| outcome::commit(worker, job, &reply)).instrument(storing).await;
            stored.map(|stored| (stored, gave_up)).map_err(|error| error.to_string())
        }
    };
    let taken = received.elapsed();
    // What is left to do is to wait for the queue's answers: the next job may begin.
    drop(slot);
    let ended = match stored {
        Ok((reply, gave_up)) => {
            finish(worker, job, &lease, reply, &delivery, gave_up).await.map_err(|error| error.to_string())
        }
        Err(why) => Err(why),
    };
    match ended {
        Ok(()) => {
            worker.activity.done(taken.saturating_sub(waited));
            tell_log(worker, job, taken, waited);
        }
        Err(why) => {
            let attempt = delivery.receives;
            tracing::warn!(attempt, why, "job {} is given back after attempt {attempt}: {why}", job.id);
            give_back(worker, lease, attempt, drain).instrument(debug_span!(target: TARGET, "rest")).await;
        }
    }
}

/// Tries a job; says how long it waited for its turn, too.
async fn attempt(
    worker: &Worker,
    job: &Job,
    delivery: &Delivery,
    waited: &mut Duration,
    scope: &Scope,
) -> Attempt {
    let most = worker.settings.queue.max_receives;
    if delivery.receives > 1 {
        // Whoever had it before may have stored its result, and died before the ack.
        let looking = debug_span!(target: TARGET, "look");
        match retry(|| outcome::stored(worker, job)).instrument(looking).await {
            Ok(Some(stored)) => return Attempt::Stored(stored),
            Ok(None) => {}
            Err(error) => return Attempt::Failed(error.to_string()),
        }
    }
    if delivery.receives > most {
        let reason = format!("it was tried {most} times without an answer");
        return Attempt::Ended(Outcome::GaveUp { reason });
    }
    let key = job.id.image_key();
    let fetching = debug_span!(target: TARGET, "fetch");
    let image = match retry(|| worker.images.get(&key)).instrument(fetching).await {
        Ok(bytes) => match outcome::whole(job.id, bytes).await {
            Ok(bytes) => Image { name: job.name.clone(), bytes },
            // To try again would find the same; the next upload of the image brings it.
            Err(reason) => return Attempt::Ended(Outcome::GaveUp { reason }),
        },
        Err(error) => return Attempt::Failed(error.to_string()),
    };
    let classifying = scope.part(debug_span!(target: TARGET, "classify", engine = worker.engine()));
    let began = worker.clock.now();
    let (answer, waiting) = classifying.run(worker.pool.classify(image, &classifying)).await;
    classifying.context().add_past_span("turn", began, began + waiting, &job.id.to_string());
    *waited = waiting;
    match answer {
        Ok(top) => Attempt::Ended(Outcome::Classified { top }),
        Err(Failure::Rejected(reason)) => Attempt::Ended(Outcome::Rejected { reason }),
        Err(Failure::Failed(why) | Failure::Later(why)) => Attempt::Failed(why),
    }
}

/// What the log has of every job, and of a slow one at the usual level.
fn tell_log(worker: &Worker, job: &Job, taken: Duration, waited: Duration) {
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

/// Tells web, and then the queue. A job that was given up goes to the dead letters in between.
async fn finish(
    worker: &Worker,
    job: &Job,
    lease: &Lease,
    reply: Bytes,
    delivery: &Delivery,
    gave_up: bool,
) -> Result<()> {
    if gave_up {
        tracing::error!(name = job.name, "job {} is given up and goes to the dead letters", job.id);
        retry(|| worker.dead_letters.send(vec![delivery.body.clone()])).await?;
    }
    let replying = debug_span!(target: TARGET, "reply", otel.kind = "producer");
    tell(worker, &job.reply_to, reply).instrument(replying).await?;
    if lease.is_lost() {
        // The other delivery finds the stored result and acks.
        return Ok(());
    }
    let acking = debug_span!(target: TARGET, "ack");
    retry(|| worker.requests.ack(std::slice::from_ref(&lease.receipt))).instrument(acking).await
}

/// Answers the web host that sent the job. One that has left has taken its queue with it, and nobody waits there any more:
/// the stored result is the answer to whoever asks again.
async fn tell(worker: &Worker, reply_to: &str, reply: Bytes) -> Result<()> {
    let told = match retry(|| worker.response_queue(reply_to)).await {
        Ok(responses) => retry(|| responses.send(vec![reply.clone()])).await,
        Err(error) => Err(error),
    };
    match told {
        Err(error) if error.is_missing() => {
            tracing::debug!(reply_to, %error, "nobody waits at {reply_to} any more");
            worker.forget_response_queue(reply_to).await;
            Ok(())
        }
        told => told,
    }
}

/// Rests, so that a job that fails at once does not use up its attempts at once, and lets go of the lease. While resting it
/// takes no slot; a drain does not wait for it.
async fn give_back(worker: &Worker, lease: Lease, attempt: u32, drain: &CancellationToken) {
    let rest = FIRST_REST.saturating_mul(1 << attempt.min(10)).min(LONGEST_REST);
    drain.run_until_cancelled(tokio::time::sleep(rest)).await;
    if let Err(error) = worker.requests.release(std::slice::from_ref(&lease.receipt)).await {
        tracing::warn!(%error, "a job could not be given back; its lease runs out");
    }
}

async fn bury_unreadable(worker: &Worker, delivery: Delivery) {
    let sent = retry(|| worker.dead_letters.send(vec![delivery.body.clone()])).await;
    let acked = match sent {
        Ok(()) => retry(|| worker.requests.ack(std::slice::from_ref(&delivery.receipt))).await,
        Err(error) => Err(error),
    };
    if let Err(error) = acked {
        tracing::warn!(%error, "it could not be put there; its lease runs out");
    }
}

/// Asks again, a little later each time, while the error may pass.
async fn retry<T, F: Future<Output = Result<T>>>(call: impl Fn() -> F) -> Result<T> {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    for _ in 1..ATTEMPTS {
        match call().await {
            Err(error) if error.is_transient() => backoff.wait().await,
            ended => return ended,
        }
    }
    call().await
}
