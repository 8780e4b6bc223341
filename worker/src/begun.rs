//! Finds jobs that kill their workers. A job that is delivered again may have killed its worker, or
//! may only have been held by a worker that another job killed; the queue's delivery count does not
//! distinguish the two. Therefore a redelivered job runs alone in its worker, and the worker stores
//! a note before it starts. A note that remains means that the job killed the worker.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use eirs_platform::{
    Result,
    job::{self, Job},
};
use serde::{Deserialize, Serialize};

use crate::{Worker, retry::retry};

/// The recorded starts of a redelivered job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Begun {
    /// When the job was sent; a later upload of the image starts at zero.
    sent_at: DateTime<Utc>,
    count: u32,
    /// The worker that started it last, and when.
    worker: String,
    at: DateTime<Utc>,
}

/// A note that exists while the job runs.
#[derive(Debug, Clone)]
pub(crate) struct Note {
    key: String,
    before: Option<Begun>,
}

/// Stores the note before a job starts. The inner error is the reason why the job must not start.
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

/// Returns whether a job with `begun` notes is given up. The first delivery leaves no note, but is
/// assumed to have been started.
fn is_too_many(begun: u32, most: u32) -> bool {
    begun >= most.saturating_sub(1).max(1)
}

fn read(body: &Bytes, job: &Job) -> Option<Begun> {
    serde_json::from_slice(body).ok().filter(|begun: &Begun| begun.sent_at == job.sent_at)
}

impl Note {
    /// Deletes the note: the job has ended, with any outcome.
    pub(crate) async fn ended(self, worker: &Worker) {
        // In a cloud, a worker may write but not delete, so it overwrites the note with an empty
        // object.
        if worker.results.delete(&self.key).await.is_err() {
            let _the_note_remains = worker.results.put(&self.key, Bytes::from_static(b"{}")).await;
        }
    }

    /// Restores the previous note: the job is given back, through no fault of its own.
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
    fn a_job_starts_at_most_max_receives_times_and_at_least_once_alone() {
        let runs = |most| 1 + (0..).take_while(|begun| !is_too_many(*begun, most)).count();
        assert_eq!([1, 2, 3, 5, 100].map(runs), [2, 2, 3, 5, 100]);
    }
}
