//! Who is to blame when a worker dies. A delivery that is not the first may be of a job that kills
//! its workers, or of one that was only held beside it: the queue's count does not distinguish
//! them, and so it accuses nobody. Such a job is run alone in its worker, and before it begins this
//! is written down. What was written down and never ended has killed its worker.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use eirs_platform::{
    Result,
    job::{self, Job},
};
use serde::{Deserialize, Serialize};

use crate::{Worker, retry::retry};

/// How often a job of more than one delivery was begun.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Begun {
    /// Which sending of the image this is about: a later one starts at nothing.
    sent_at: DateTime<Utc>,
    count: u32,
    /// Who began it last, and when.
    worker: String,
    at: DateTime<Utc>,
}

/// A note that is there as long as the job runs.
#[derive(Debug, Clone)]
pub(crate) struct Note {
    key: String,
    before: Option<Begun>,
}

/// Notes that the job begins; or answers why it must not.
pub(crate) async fn begin(worker: &Worker, job: &Job) -> Result<std::result::Result<Note, String>> {
    let key = format!("attempts/{}/{}.json", job.model, job.id);
    let before = retry(|| worker.results.get(&key)).await?.and_then(|body| read(&body, job));
    if let Some(before) = before.as_ref()
        && is_too_many(before.count, worker.settings.queue.max_receives)
    {
        // A requeued dead letter starts at zero.
        Note { key, before: None }.ended(worker).await;
        return Ok(Err(format!(
            "it killed its workers: begun {} times, never ended; the last time on {} at {}",
            before.count + 1,
            before.worker,
            before.at.format("%Y-%m-%d %H:%M:%S UTC")
        )));
    }
    let now = Begun {
        sent_at: job.sent_at,
        count: before.as_ref().map_or(0, |before| before.count) + 1,
        worker: worker.identity.instance.clone(),
        at: worker.clock.now(),
    };
    let body = job::encode(&now);
    retry(|| worker.results.put(&key, body.clone())).await?;
    Ok(Ok(Note { key, before }))
}

/// Whether a job that was begun so often is given up. Its first delivery is not counted here, but
/// was most probably begun.
fn is_too_many(begun: u32, most: u32) -> bool {
    begun >= most.saturating_sub(1).max(1)
}

fn read(body: &Bytes, job: &Job) -> Option<Begun> {
    serde_json::from_slice(body).ok().filter(|begun: &Begun| begun.sent_at == job.sent_at)
}

impl Note {
    /// The job has ended, whatever came of it: nothing is held against it.
    pub(crate) async fn ended(self, worker: &Worker) {
        // In a cloud a worker may write but not delete; then it notes that nothing was begun.
        if worker.results.delete(&self.key).await.is_err() {
            let _it_counts_once_more = worker.results.put(&self.key, Bytes::from_static(b"{}")).await;
        }
    }

    /// The job was begun and is given back, by no fault of its own.
    pub(crate) async fn taken_back(self, worker: &Worker) {
        match &self.before {
            Some(before) => drop(worker.results.put(&self.key, job::encode(before)).await),
            None => self.ended(worker).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_begun_as_often_as_the_settings_say_counting_its_first_delivery_and_alone_at_least_once() {
        let runs = |most| 1 + (0..).take_while(|begun| !is_too_many(*begun, most)).count();
        assert_eq!([1, 2, 3, 5, 100].map(runs), [2, 2, 3, 5, 100]);
    }
}
