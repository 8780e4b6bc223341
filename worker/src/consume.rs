//! The main loop: receives jobs, runs each in its own slot, and drains on request.

use std::{sync::Arc, time::Duration};

use eirs_platform::{backoff::Backoff, job::Phase, lifecycle, queue::Delivery};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{Worker, lease::Lease, process::process, report};

/// The drain deadline if a thread hangs.
const STUCK_PATIENCE: Duration = Duration::from_secs(1);

/// Serves until `drain` is cancelled and every job is done or given back. Returns whether all jobs
/// were done.
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
    // A hanging thread will not finish within the drain deadline either, so the jobs that wait for
    // it need not wait for long.
    let deadline =
        if worker.pool.is_stuck() { STUCK_PATIENCE } else { worker.settings.worker.drain_deadline };
    tracing::info!(held, "draining: no new jobs; {held} jobs in flight may take {deadline:?}");
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
    // The next job may be a redelivered one, too. A worker must not hold two of them, since both
    // would be affected if it dies.
    let mut one_by_one = false;
    let mut is_deep = false;
    loop {
        let Some((mut slots, reserve)) = free_slots(worker, is_deep, drain).await else { return };
        let wanted =
            if one_by_one || worker.health.failing().is_some() { 1 } else { slots.num_permits() - reserve };
        let received = match worker.requests.receive_unless(drain, wanted, worker.settings.worker.poll).await
        {
            Ok(received) => received,
            Err(error) => {
                tracing::warn!(%error, "jobs cannot be received");
                drop(slots);
                drain.run_until_cancelled(backoff.wait()).await;
                continue;
            }
        };
        backoff.reset();
        is_deep = received.len() >= wanted;
        if drain.is_cancelled() {
            return release(worker, received).await;
        }
        let (fresh, mut again): (Vec<_>, Vec<_>) = received.into_iter().partition(|it| it.receives == 1);
        one_by_one = !again.is_empty();
        for delivery in fresh {
            if let Some(slot) = slots.split(1) {
                start(worker, jobs, delivery, slot, drain);
            }
        }
        again.sort_by_key(|delivery| std::cmp::Reverse(delivery.receives));
        let Some(alone) = again.pop() else { continue };
        release(worker, again).await;
        // It may have killed its last worker, so it runs alone.
        let lease = worker.leases.hold(alone.receipt.clone());
        drop(slots);
        match drain.run_until_cancelled(all_slots(worker)).await.flatten() {
            Some(slots) => start_held(worker, jobs, alone, lease, slots, drain),
            None => return release(worker, vec![alone]).await,
        }
    }
}

/// Waits until a job can start as soon as it is received, since a lease must not run out in a
/// buffer. Returns the free slots and the number of them that must stay free, or `None` when the
/// worker drains.
async fn free_slots(
    worker: &Worker,
    is_deep: bool,
    drain: &CancellationToken,
) -> Option<(OwnedSemaphorePermit, usize)> {
    if worker.health.failing().is_some() {
        // One job at a time, with a pause before each.
        let slots = drain.run_until_cancelled(all_slots(worker)).await.flatten()?;
        drain.run_until_cancelled(tokio::time::sleep(worker.health.pause())).await?;
        return Some((slots, 0));
    }
    // While jobs are being classified, the next one is fetched. That pays if jobs are short; a long
    // job would only be kept from idle workers.
    let reserve = if worker.activity.jobs_are_short() {
        0
    } else {
        worker.slot_count.saturating_sub(worker.pool.at_once())
    };
    // If the queue bills each call, the worker asks for several jobs at once if the queue has many
    // and slots become free quickly.
    let is_billed = worker.requests.in_database().is_none();
    let several =
        if is_deep && is_billed && worker.activity.jobs_are_short() { worker.slot_count / 8 } else { 1 };
    let first = worker.slots.clone().acquire_many_owned(several.clamp(1, 10) + reserve);
    let mut slots = drain.run_until_cancelled(first).await.and_then(Result::ok)?;
    // Also takes the slots that became free during the last call, without waiting for more.
    while let Ok(slot) = worker.slots.clone().try_acquire_owned() {
        slots.merge(slot);
    }
    Some((slots, reserve as usize))
}

async fn all_slots(worker: &Worker) -> Option<OwnedSemaphorePermit> {
    worker.slots.clone().acquire_many_owned(worker.slot_count).await.ok()
}

/// Gives back jobs that were received but not started.
async fn release(worker: &Worker, deliveries: Vec<Delivery>) {
    if deliveries.is_empty() {
        return;
    }
    let receipts: Vec<_> = deliveries.into_iter().map(|delivery| delivery.receipt).collect();
    if let Err(error) = worker.requests.release(&receipts).await {
        tracing::warn!(%error, "jobs could not be given back; they return when their leases expire");
    }
}

fn start(
    worker: &Arc<Worker>,
    jobs: &TaskTracker,
    delivery: Delivery,
    slot: OwnedSemaphorePermit,
    drain: &CancellationToken,
) {
    let lease = worker.leases.hold(delivery.receipt.clone());
    start_held(worker, jobs, delivery, lease, slot, drain);
}

fn start_held(
    worker: &Arc<Worker>,
    jobs: &TaskTracker,
    delivery: Delivery,
    lease: Lease,
    slot: OwnedSemaphorePermit,
    drain: &CancellationToken,
) {
    worker.activity.busy();
    let (worker, drain) = (worker.clone(), drain.clone());
    jobs.spawn(async move {
        process(&worker, delivery, lease, slot, &drain).await;
        if worker.in_flight() == 0 {
            worker.activity.idle(worker.clock.now());
        }
    });
}

/// Gives back all jobs after the drain deadline.
async fn give_back(worker: &Worker) {
    let receipts = worker.leases.held();
    if let Some(note) = worker.note_begun(None) {
        note.taken_back(worker).await;
    }
    tracing::warn!(
        jobs = receipts.len(),
        "the drain deadline has passed: giving back {} jobs",
        receipts.len()
    );
    if let Err(error) = worker.requests.release(&receipts).await {
        tracing::warn!(%error, "jobs could not be given back; they return when their leases expire");
    }
    // A running job must not start another one when its slot becomes free.
    Semaphore::close(&worker.slots);
}
