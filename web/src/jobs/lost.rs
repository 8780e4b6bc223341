//! Jobs that will not be answered: they waited for longer than the queue keeps them, or were
//! purged. A queue that knows of each image whether its job is still there is asked for that; of
//! another one, jobs count as lost when it is empty.

use std::time::Duration;

use eirs_platform::Result;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Image, Jobs, Key, NoAnswer, Progress, Ticket};
use crate::metrics::Answered;

/// A job that was not answered for so long is not waited for; the next upload of its image sends
/// another.
const FORGET_AFTER: Duration = Duration::from_secs(900);
/// A younger job is not looked for, and an older one so often. Where it was not lost after all, its
/// image is classified twice.
const LOST_AFTER: Duration = Duration::from_secs(5);
/// While a client waits for a job that cannot be too old yet, it is looked for after so long: it
/// may have been purged.
const PURGED_AFTER: Duration = Duration::from_secs(30);

impl Jobs {
    /// Whether a job for the image is on its way; `None` where the queue cannot say.
    pub(crate) async fn has_job(&self, key: &Key) -> Option<bool> {
        let (id, model) = key;
        if self.lock().get(key).is_some_and(|job| matches!(*job.progress.borrow(), Progress::Sending)) {
            return Some(true);
        }
        // Of an image that several models had, each has a note of its own.
        let blob = if self.requests.len() > 1 { id.asked_key(model) } else { id.image_key() };
        match self.requests.get(model) {
            Some(queue) => queue.has(&blob).await.unwrap_or_default(),
            None => Some(false),
        }
    }

    /// Whether any job for this model waits or is being worked on; a queue that does not say has
    /// some.
    pub(crate) async fn has_jobs(&self, model: &str) -> bool {
        match self.requests.get(model) {
            Some(queue) => queue.depth().await.map_or(true, |depth| depth.backlog() > 0),
            None => false,
        }
    }

    /// Notes that a job is lost that is not on its way any more and has no result.
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
        // Its reply, if it had one, would have come by now.
        if known == Some(false)
            && let Some(dropped) = in_flight.remove(key)
        {
            drop(in_flight);
            self.beside.admission.given_up(&key.1);
            for _ in 0..dropped.promised {
                self.beside.metrics.answered(Answered::Pending);
            }
            dropped.progress.send_replace(Progress::Over(NoAnswer::Dropped));
        }
    }

    /// The same for a job that a client waits for: nobody waits for what was dropped.
    pub(super) async fn look_for_dropped(&self, key: &Key) {
        let age = self.lock().get(key).map(|job| job.since.elapsed());
        if age.is_some_and(|age| age >= self.retention.min(PURGED_AFTER)) {
            self.look_for_lost(key).await;
        }
    }

    /// The same for all jobs that are older than the queue keeps them.
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

    /// Whether the image of the job that was joined is stored whole, or about to be.
    pub(crate) async fn has_image(&self, ticket: &Ticket, image: &Image) -> Result<bool> {
        if matches!(*ticket.progress.borrow(), Progress::Sending) {
            return Ok(true);
        }
        self.images.has_whole(&ticket.key.0.image_key(), image.content.len()).await
    }

    /// A job whose image is not stored whole counts as lost: it may have failed already, and the
    /// upload sends another.
    pub(crate) fn lacks_image(&self, ticket: &Ticket) {
        tracing::warn!(
            id = %ticket.key.0,
            "the image of a job in flight is no longer stored whole; it is stored and sent again"
        );
        if let Some(job) = self.lock().get_mut(&ticket.key) {
            job.is_lost |= matches!(*job.progress.borrow(), Progress::Sent);
        }
    }

    /// Drops jobs that were not answered for a long time, every minute.
    pub(crate) async fn forget_old(&self, stop: &CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(Duration::from_secs(60))).await.is_some() {
            self.look_for_all_dropped().await;
            self.lock().retain(|(_, model), job| {
                let is_young = job.since.elapsed() < FORGET_AFTER;
                if !is_young {
                    self.beside.admission.given_up(model);
                    for _ in 0..job.promised {
                        self.beside.metrics.answered(Answered::Pending);
                    }
                }
                is_young
            });
        }
    }
}
