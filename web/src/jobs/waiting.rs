//! Who waits for a job, and how long.

use std::{sync::Arc, time::Duration};

use eirs_platform::{
    Result,
    job::{JobId, Reply},
};
use tokio::time::Instant;

use super::{Jobs, Key, NoAnswer, Progress, Ticket};

/// A waiter looks into the store now and then: the answer may have gone to a neighbour that was
/// killed.
const LOOK_IN_STORE: Duration = Duration::from_secs(5);
/// A job of another host is looked for so often by who waits for it here.
const LOOK_FOR_OTHERS: Duration = Duration::from_secs(1);

/// The result for which somebody waited.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Of the job that was sent.
    New(Arc<Reply>),
    /// Of an earlier one: nothing was sent.
    Known(Arc<Reply>),
}

impl Jobs {
    /// Joins the job in flight for this image, if there is one.
    pub(super) fn join(&self, key: &Key) -> Option<Ticket> {
        let in_flight = self.lock();
        let job = in_flight.get(key).filter(|job| !job.is_lost)?;
        Some(Ticket { key: key.clone(), progress: job.progress.subscribe(), first: false })
    }

    /// Ends when there may be news of an image, and after this time at the latest.
    pub(crate) async fn news_of(&self, id: &str, within: Duration) {
        let Ok(id) = id.parse::<JobId>() else { return };
        let tickets: Vec<_> =
            self.requests.keys().filter_map(|model| self.join(&(id, model.clone()))).collect();
        if tickets.is_empty() {
            // It is another host's.
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
        // The answer may have gone elsewhere: the store is looked into now and then.
        let _in_time =
            tokio::time::timeout(within.min(LOOK_IN_STORE), futures::future::select_all(ends)).await;
    }

    /// Waits until the job is over, at most until `until` ends; `None` if it is not over by then.
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
                    // Forgotten: the store is all there is.
                    let stored = self.stored(&ticket.key).await.map_err(NoAnswer::Failed);
                    return stored.map(|found| found.map(Answer::New)).transpose();
                },
                () = &mut until => return None,
                () = tokio::time::sleep_until(next_look) => {
                    next_look += LOOK_IN_STORE;
                    match self.stored(&ticket.key).await {
                        Ok(Some(reply)) => {
                            if self.answered((*reply).clone())
                                && let Some(webhook) = self.beside.webhook.clone()
                            {
                                // Its answer went to a host that is gone.
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

    /// An upload of it is answered 202. Answers whether the job is still under way.
    pub(crate) fn promise(&self, key: &Key) -> bool {
        self.lock().get_mut(key).map(|job| job.promised += 1).is_some()
    }

    /// Waits until the job is safely in the queue, or over: what a 202 promises. Answers the
    /// result, where there was one before.
    pub(crate) async fn wait_until_sent(&self, ticket: &mut Ticket) -> Result<Option<Arc<Reply>>> {
        let sent = ticket.progress.wait_for(|progress| !matches!(progress, Progress::Sending)).await;
        match sent.as_deref() {
            Ok(Progress::Over(NoAnswer::Failed(error))) => Err(error.clone()),
            Ok(Progress::Known(reply)) => Ok(Some(reply.clone())),
            _ => Ok(None),
        }
    }
}
