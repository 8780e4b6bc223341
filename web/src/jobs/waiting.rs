//! Waiting for a job.

use std::{sync::Arc, time::Duration};

use eirs_platform::{
    Result,
    job::{JobId, Reply},
};
use tokio::time::Instant;

use super::{Jobs, Key, NoAnswer, Progress, Ticket};

/// Interval between looks into the store: the reply may have gone to a host that has ended.
const LOOK_IN_STORE: Duration = Duration::from_secs(5);
/// Interval between looks for the result of another host's job.
const LOOK_FOR_OTHERS: Duration = Duration::from_secs(1);

/// The result of a wait.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The result of the job that was sent.
    New(Arc<Reply>),
    /// A stored result; no job was sent.
    Known(Arc<Reply>),
}

impl Jobs {
    /// Joins the job in flight for this image, if there is one.
    pub(super) fn join(&self, key: &Key) -> Option<Ticket> {
        let in_flight = self.lock();
        let job = in_flight.get(key).filter(|job| !job.is_lost)?;
        Some(Ticket { key: key.clone(), progress: job.progress.subscribe(), first: false })
    }

    /// Completes when there may be news of an image, at the latest after `within`.
    pub(crate) async fn news_of(&self, id: &str, within: Duration) {
        let Ok(id) = id.parse::<JobId>() else { return };
        let tickets: Vec<_> =
            self.requests.keys().filter_map(|model| self.join(&(id, model.clone()))).collect();
        if tickets.is_empty() {
            // The job is another host's.
            return tokio::time::sleep(within.min(LOOK_FOR_OTHERS)).await;
        }
        let ends = tickets.into_iter().map(|mut ticket| {
            Box::pin(async move {
                let is_over = |progress: &Progress| {
                    matches!(progress, Progress::Done(_) | Progress::Known(_) | Progress::Over(_))
                };
                let _over_or_forgotten = ticket.progress.wait_for(is_over).await;
            })
        });
        // The reply may have gone elsewhere, so look into the store from time to time.
        let _in_time =
            tokio::time::timeout(within.min(LOOK_IN_STORE), futures::future::select_all(ends)).await;
    }

    /// Waits until the job has ended. Returns `None` if `until` completes first.
    pub(crate) async fn wait(
        &self,
        ticket: &mut Ticket,
        until: impl Future<Output = ()>,
    ) -> Option<std::result::Result<Answer, NoAnswer>> {
        tokio::pin!(until);
        let mut next_look = Instant::now() + LOOK_IN_STORE;
        loop {
            match &*ticket.progress.borrow_and_update() {
                Progress::Done(reply) => return Some(Ok(Answer::New(reply.clone()))),
                Progress::Known(reply) => return Some(Ok(Answer::Known(reply.clone()))),
                Progress::Over(why) => return Some(Err(why.clone())),
                Progress::Sending | Progress::Sent => {}
            }
            if self.lock().get(&ticket.key).is_some_and(|job| job.is_erased) {
                return Some(Err(NoAnswer::Erased));
            }
            tokio::select! {
                changed = ticket.progress.changed() => if changed.is_err() {
                    // The job was forgotten; only the store may have a result.
                    let stored = self.stored(&ticket.key).await.map_err(NoAnswer::Failed);
                    return stored.map(|found| found.map(Answer::New)).transpose();
                },
                () = &mut until => return None,
                () = tokio::time::sleep_until(next_look) => {
                    next_look += LOOK_IN_STORE;
                    match self.stored(&ticket.key).await {
                        Ok(Some(reply)) => {
                            if self.answered((*reply).clone())
                                && let Some(webhook) = self.services.webhook.clone()
                            {
                                // The reply went to a host that is gone, so hand it to the webhook
                                // here.
                                tokio::spawn(async move { webhook.note(&[(*reply).clone()]).await });
                            }
                        }
                        Ok(None) => self.look_for_dropped(&ticket.key).await,
                        Err(_) => {}
                    }
                }
            }
        }
    }

    /// Counts an upload that is answered 202. Returns whether the job is still in flight.
    pub(crate) fn promise(&self, key: &Key) -> bool {
        self.lock().get_mut(key).map(|job| job.promised += 1).is_some()
    }

    /// Waits until the job is in the queue, which a 202 promises, or has ended. Returns the stored
    /// result if there was one.
    pub(crate) async fn wait_until_sent(&self, ticket: &mut Ticket) -> Result<Option<Arc<Reply>>> {
        let sent = ticket.progress.wait_for(|progress| !matches!(progress, Progress::Sending)).await;
        match sent.as_deref() {
            Ok(Progress::Over(NoAnswer::Failed(error))) => Err(error.clone()),
            Ok(Progress::Known(reply)) => Ok(Some(reply.clone())),
            _ => Ok(None),
        }
    }
}
