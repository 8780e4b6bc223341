//! Receives the workers' answers for this host and tells who waits.

use std::time::Duration;

use eirs_platform::{
    backoff::Backoff,
    job::{self, Outcome, Reply},
    trace::TraceContext,
};
use tokio_util::sync::CancellationToken;

use crate::App;

/// Answers that are taken from the queue at once.
const BATCH: usize = 128;
/// The length of a poll.
const POLL: Duration = Duration::from_secs(20);

/// Runs until `stop`.
pub(crate) async fn consume(app: &App, stop: &CancellationToken) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
    while !stop.is_cancelled() {
        let responses = app.responses.current().queue;
        // Dropped at the end: nobody waits for what a poll under way may still bring.
        let received = stop.run_until_cancelled(responses.receive_unless(stop, BATCH, POLL)).await;
        match received.unwrap_or(Ok(Vec::new())) {
            Ok(deliveries) => {
                backoff.reset();
                let mut receipts = Vec::with_capacity(deliveries.len());
                for delivery in deliveries {
                    receipts.push(delivery.receipt);
                    answer(app, &delivery.body);
                }
                if !receipts.is_empty() {
                    // An ack that fails costs a second look at an answer, which does no harm.
                    tokio::spawn(async move { responses.ack(&receipts).await });
                }
            }
            Err(error) if error.is_missing() => {
                if let Err(error) = app.responses.reopen().await {
                    tracing::warn!(%error, "the response queue is gone and could not be made anew");
                    backoff.wait().await;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "answers cannot be received; held requests look into the store meanwhile");
                backoff.wait().await;
            }
        }
    }
}

fn answer(app: &App, body: &[u8]) {
    match job::decode::<Reply>(body) {
        Ok(reply) => {
            app.metrics.replies.inc();
            // A job that was given up was with nobody when that was said.
            let is_done = !matches!(reply.outcome, Outcome::GaveUp { .. });
            if is_done && app.jobs.model(&reply.model).is_some() {
                app.metrics.replied(&reply.model, reply.queued_ms, reply.classify_ms);
            }
            let (id, trace) = (reply.id, reply.trace.clone());
            if let Some(trace) = &trace {
                trace.add_past_span("answer", reply.at, app.clock.now(), &id.to_string());
            }
            if !app.jobs.answered(reply) {
                let trace_id = trace.as_ref().map(TraceContext::trace_id);
                tracing::debug!(%id, trace_id, "an answer nobody here waits for");
            }
        }
        Err(error) => tracing::error!(%error, "an answer that cannot be read was dropped"),
    }
}
