//! Jobs that nobody will answer any more.

use std::time::Duration;

use eirs_platform::Result;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Image, Jobs, Key, Progress, Ticket};
use crate::metrics::Answered;

/// A job that was not answered for so long is not waited for; the next upload of its image sends another.
const FORGET_AFTER: Duration = Duration::from_secs(900);
/// A job that is older, and whose queue is empty, was lost on the way: it was dropped for its age, or purged. It is looked for so
/// often, and where it was not lost after all, its image is classified twice.
const LOST_AFTER: Duration = Duration::from_secs(5);

impl Jobs {
    /// Notes that a job is lost whose queue is empty, and that has no result.
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
        if self.has_jobs(&key.1).await || !matches!(self.stored(key).await, Ok(None)) {
            return;
        }
        if let Some(job) =
            self.lock().get_mut(key).filter(|job| matches!(*job.progress.borrow(), Progress::Sent))
        {
            tracing::warn!(id = %key.0, model = %key.1, "a job is no longer in its queue and has \
                no result: the next upload sends it again");
            job.is_lost = true;
        }
    }

    /// Whether any job for this model waits or is being worked on; a queue that does not say has some.
    pub(crate) async fn has_jobs(&self, model: &str) -> bool {
        match self.requests.get(model) {
            Some(queue) => queue.depth().await.map_or(true, |depth| depth.backlog() > 0),
            None => false,
        }
    }

    /// Stores an image again whose job is in flight, if what is stored is not all of it: the job needs it.
    pub(crate) async fn keep_whole(&self, ticket: &Ticket, image: Image) -> Result<()> {
        if matches!(*ticket.progress.borrow(), Progress::Sending) {
            return Ok(());
        }
        let key = ticket.key.0.image_key();
        let stored = self.images.info(&key).await?;
        if stored.is_some_and(|stored| stored.bytes == image.content.len()) {
            return Ok(());
        }
        tracing::warn!(id = %ticket.key.0, "the image of a job in flight was no longer stored whole; it is stored again");
        image.content.read(async |image| self.images.put(&key, image.joined()).await).await
    }

    /// Drops jobs that were not answered for a long time, every minute.
    pub(crate) async fn forget_old(&self, stop: &CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(Duration::from_secs(60))).await.is_some() {
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
