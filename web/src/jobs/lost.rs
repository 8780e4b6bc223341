//! Finds jobs that will get no result, because they waited longer than the queue keeps them or were
//! purged. Uses the queue's knowledge of a single job if it has it; otherwise a job counts as lost
//! when its queue is empty.

use std::time::Duration;

use eirs_platform::Result;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Image, Jobs, Key, NoAnswer, Progress, Ticket};
use crate::metrics::Answered;

/// A job without a result is forgotten after this time; the next upload of its image sends another.
const FORGET_AFTER: Duration = Duration::from_secs(900);
/// Minimum age of a job before it is looked for, and the interval between two looks. If the job is
/// not lost after all, its image is classified twice.
const LOST_AFTER: Duration = Duration::from_secs(5);
/// If a client waits for a job, the job is looked for after this time even if the queue still keeps
/// it: it may have been purged.
const PURGED_AFTER: Duration = Duration::from_secs(30);

impl Jobs {
    /// Returns whether a job for the image is waiting or in flight, or `None` if the queue cannot
    /// tell.
    pub(crate) async fn has_job(&self, key: &Key) -> Option<bool> {
        let (id, model) = key;
        if self.lock().get(key).is_some_and(|job| matches!(*job.progress.borrow(), Progress::Sending)) {
            return Some(true);
        }
        // With several models, each has its own note of an uploaded image.
        let blob = if self.requests.len() > 1 { id.asked_key(model) } else { id.image_key() };
        match self.requests.get(model) {
            Some(queue) => queue.has(&blob).await.unwrap_or_default(),
            None => Some(false),
        }
    }

    /// Returns whether any job for this model is waiting or in flight; true if the queue does not
    /// say.
    pub(crate) async fn has_jobs(&self, model: &str) -> bool {
        match self.requests.get(model) {
            Some(queue) => queue.depth().await.map_or(true, |depth| depth.backlog() > 0),
            None => false,
        }
    }

    /// Marks a job as lost if it is no longer in its queue and has no result. Ends a job that was
    /// already marked.
    pub(super) async fn look_for_lost(&self, key: &Key) {
        {
            let mut in_flight = self.lock();
            let Some(job) = in_flight.get_mut(key) else { return };
            let is_sent = matches!(*job.progress.borrow(), Progress::Sent);
            if !is_sent || job.seen.elapsed() < LOST_AFTER {
                return;
            }
            job.seen = Instant::now();
        }
        let known = self.has_job(key).await;
        let may_come = match known {
            Some(is_there) => is_there,
            None => self.has_jobs(&key.1).await,
        };
        if may_come || !matches!(self.stored(key).await, Ok(None)) {
            return;
        }
        let mut in_flight = self.lock();
        let is_sent = |progress: &Progress| matches!(progress, Progress::Sent);
        let Some(job) = in_flight.get_mut(key).filter(|job| is_sent(&job.progress.borrow())) else { return };
        if !job.is_lost {
            tracing::warn!(id = %key.0, model = %key.1, "a job is no longer in its queue and has \
                no result: the next upload sends it again");
            job.is_lost = true;
            return;
        }
        // If there were a reply, it would have arrived by now.
        if known == Some(false)
            && let Some(dropped) = in_flight.remove(key)
        {
            drop(in_flight);
            self.services.admission.given_up(&key.1);
            for _ in 0..dropped.promised {
                self.services.metrics.answered(Answered::Pending);
            }
            dropped.progress.send_replace(Progress::Over(NoAnswer::Dropped));
        }
    }

    /// Looks for a job that a client waits for, if it is old enough; ends the wait if it was
    /// dropped.
    pub(super) async fn look_for_dropped(&self, key: &Key) {
        let age = self.lock().get(key).map(|job| job.since.elapsed());
        if age.is_some_and(|age| age >= self.retention.min(PURGED_AFTER)) {
            self.look_for_lost(key).await;
        }
    }

    /// Looks for all jobs that are older than the queue keeps them.
    pub(super) async fn look_for_all_dropped(&self) {
        let is_old = |age: Duration| age >= self.retention;
        let old: Vec<Key> = {
            let in_flight = self.lock();
            let old = in_flight.iter().filter(|(_, job)| is_old(job.since.elapsed()));
            old.map(|(key, _)| key.clone()).collect()
        };
        for key in old {
            self.look_for_lost(&key).await;
        }
    }

    /// Returns whether the image of the joined job is stored completely, or is being stored.
    pub(crate) async fn has_image(&self, ticket: &Ticket, image: &Image) -> Result<bool> {
        if matches!(*ticket.progress.borrow(), Progress::Sending) {
            return Ok(true);
        }
        self.images.has_whole(&ticket.key.0.image_key(), image.content.len()).await
    }

    /// Marks a job as lost because its image is not stored completely: it may have failed already,
    /// so the upload sends another.
    pub(crate) fn lacks_image(&self, ticket: &Ticket) {
        tracing::warn!(
            id = %ticket.key.0,
            "the image of a job in flight is no longer stored whole; it is stored and sent again"
        );
        if let Some(job) = self.lock().get_mut(&ticket.key) {
            job.is_lost |= matches!(*job.progress.borrow(), Progress::Sent);
        }
    }

    /// Every minute, forgets jobs that have had no result for a long time.
    pub(crate) async fn forget_old(&self, stop: &CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(Duration::from_secs(60))).await.is_some() {
            self.look_for_all_dropped().await;
            self.lock().retain(|(_, model), job| {
                let is_young = job.since.elapsed() < FORGET_AFTER;
                if !is_young {
                    self.services.admission.given_up(model);
                    for _ in 0..job.promised {
                        self.services.metrics.answered(Answered::Pending);
                    }
                }
                is_young
            });
        }
    }
}
