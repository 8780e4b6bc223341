//! The loop: takes jobs as long as it may, each in a slot of its own, and drains on request.

use std::{sync::Arc, time::Duration};

use eirs_platform::{backoff::Backoff, job::Phase, lifecycle, queue::Delivery};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{Worker, lease::Lease, process::process, report};

/// What may be done beside a thread that does not come back.
const STUCK_PATIENCE: Duration = Duration::from_secs(1);

/// Serves until `drain` is cancelled and everything held is done or given back. Answers whether all
/// of it was done.
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
    // A thread that does not come back from an image does not do so while others wait for it,
    // either.
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
    // After a job of more than one delivery another one may be next: both would be held by a worker
    // that dies.
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
        // It may be what its last worker died of: it runs when nothing else does.
        let lease = worker.leases.hold(alone.receipt.clone());
        drop(slots);
        match drain.run_until_cancelled(all_slots(worker)).await.flatten() {
            Some(slots) => start_held(worker, jobs, alone, lease, slots, drain),
            None => return release(worker, vec![alone]).await,
        }
    }
}

/// Waits until a job can be started that is asked for now: a lease must not age in a buffer.
/// Answers the free slots, and how many of them must stay free; nothing where the worker drains.
async fn free_slots(
    worker: &Worker,
    is_deep: bool,
    drain: &CancellationToken,
) -> Option<(OwnedSemaphorePermit, usize)> {
    if worker.health.failing().is_some() {
        // One job at a time, and a pause before each.
        let slots = drain.run_until_cancelled(all_slots(worker)).await.flatten()?;
        drain.run_until_cancelled(tokio::time::sleep(worker.health.pause())).await?;
        return Some((slots, 0));
    }
    // A job more than can be worked on is fetched while another is looked at; that pays where jobs
    // are short. Where they are long, it would only be kept from workers that have nothing to do.
    let reserve = if worker.activity.jobs_are_short() {
        0
    } else {
        worker.slot_count.saturating_sub(worker.pool.at_once())
    };
    // A queue that bills calls is asked for several at once where it has them, and where slots
    // become free quickly.
    let is_billed = worker.requests.in_database().is_none();
    let several =
        if is_deep && is_billed && worker.activity.jobs_are_short() { worker.slot_count / 8 } else { 1 };
    let first = worker.slots.clone().acquire_many_owned(several.clamp(1, 10) + reserve);
    let mut slots = drain.run_until_cancelled(first).await.and_then(Result::ok)?;
    // Those that became free while the last question was asked: nobody waits for more.
    while let Ok(slot) = worker.slots.clone().try_acquire_owned() {
        slots.merge(slot);
    }
    Some((slots, reserve as usize))
}

async fn all_slots(worker: &Worker) -> Option<OwnedSemaphorePermit> {
    worker.slots.clone().acquire_many_owned(worker.slot_count).await.ok()
}

/// Gives back what was received and not begun.
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

/// The deadline of the drain has passed.
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
    // What still runs must not start another job with a slot that becomes free.
    Semaphore::close(&worker.slots);
}
