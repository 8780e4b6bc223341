//! The loop: takes jobs as long as it may, each in a slot of its own, and drains when told to.

use std::{sync::Arc, time::Duration};

use eirs_platform::{backoff::Backoff, job::Phase, lifecycle, queue::Delivery};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{Worker, process::process, report};

/// Serves until `drain` is cancelled and everything held is done or given back. Answers whether all of it was done.
pub async fn serve(worker: Arc<Worker>, drain: &CancellationToken) -> bool {
    let stop = CancellationToken::new();
    let heartbeat = tokio::spawn({
        let (worker, stop) = (worker.clone(), stop.clone());
        async move { worker.leases.keep_alive(&stop).await }
    });
    let reports = tokio::spawn(report::send_reports(worker.clone(), stop.clone()));
    worker.activity.set_phase(Phase::Ready);

    let jobs = TaskTracker::new();
    take_jobs(&worker, &jobs, drain).await;
    jobs.close();

    worker.activity.set_phase(Phase::Draining);
    let held = worker.in_flight();
    let deadline = worker.settings.worker.drain_deadline;
    tracing::info!(held, "draining: no new jobs; {held} held jobs may take {deadline:?}");
    let finished = lifecycle::finish_within(deadline, jobs.wait()).await;
    if !finished {
        give_back(&worker).await;
    }
    worker.activity.set_phase(Phase::Drained);
    stop.cancel();
    let _ended = tokio::join!(heartbeat, reports);
    finished
}

async fn take_jobs(worker: &Arc<Worker>, jobs: &TaskTracker, drain: &CancellationToken) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
    loop {
        // A job is asked for when it can be started: a lease must not age in a buffer.
        let Some(first) =
            drain.run_until_cancelled(worker.slots.clone().acquire_owned()).await.and_then(Result::ok)
        else {
            return;
        };
        let mut slots = vec![first];
        // Those that became free while the last question was asked: nobody waits for more.
        slots.extend(std::iter::from_fn(|| worker.slots.clone().try_acquire_owned().ok()));
        let received = worker.requests.receive_unless(drain, slots.len(), worker.settings.worker.poll).await;
        match received {
            Ok(deliveries) if drain.is_cancelled() => {
                let receipts: Vec<_> = deliveries.into_iter().map(|delivery| delivery.receipt).collect();
                if let Err(error) = worker.requests.release(&receipts).await {
                    tracing::warn!(%error, "jobs that came while draining could not be given back; their leases run out");
                }
                return;
            }
            Ok(deliveries) => {
                backoff.reset();
                for (delivery, slot) in deliveries.into_iter().zip(slots) {
                    start(worker, jobs, delivery, slot, drain);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "jobs cannot be received");
                drop(slots);
                drain.run_until_cancelled(backoff.wait()).await;
            }
        }
    }
}

fn start(
    worker: &Arc<Worker>,
    jobs: &TaskTracker,
    delivery: Delivery,
    slot: OwnedSemaphorePermit,
    drain: &CancellationToken,
) {
    worker.activity.busy();
    let (worker, drain) = (worker.clone(), drain.clone());
    jobs.spawn(async move {
        process(&worker, delivery, slot, &drain).await;
        if worker.in_flight() == 0 {
            worker.activity.idle(worker.clock.now());
        }
    });
}

/// The deadline of the drain has passed.
async fn give_back(worker: &Worker) {
    let receipts = worker.leases.held();
    tracing::warn!(
        jobs = receipts.len(),
        "the drain deadline has passed: {} jobs are given back",
        receipts.len()
    );
    if let Err(error) = worker.requests.release(&receipts).await {
        tracing::warn!(%error, "they could not be given back; their leases run out");
    }
    // What still runs must not start another job with a slot that becomes free.
    Semaphore::close(&worker.slots);
}
