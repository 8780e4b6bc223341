//! Stores the outcome of a job under the version of the loaded model, once, and replies.

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use eirs_platform::{
    Result,
    blobs::Checked,
    job::{self, Job, JobId, Outcome, Reply},
    queue::{Ending, Receipt},
    results::{self, Stored},
};
use tokio::{sync::Mutex, time::Instant};

use crate::Worker;

/// The interval at which the note of the version is written again; it must not become older than
/// the results.
const NOTE_AGAIN: TimeDelta = TimeDelta::days(1);

/// Up to this many bytes are hashed on the current thread, which is faster than waking another one.
const QUICK_BYTES: usize = 64 * 1024;

/// The time of the last note that results of this version exist. A worker without results writes
/// none.
#[derive(Debug, Default)]
pub(crate) struct Noted(Mutex<Option<DateTime<Utc>>>);

/// Returns the bytes of an image if they are those that were uploaded. A file that a power cut left
/// empty or truncated says nothing about the image. If the store has no checksum, the id is
/// checked, which is the SHA-256 of the image.
pub(crate) async fn whole(id: JobId, stored: Option<Checked>) -> std::result::Result<Bytes, String> {
    let damaged = || Err("the stored image is damaged; upload it again".to_owned());
    let bytes = match stored {
        None => return Err("the image is no longer stored; upload it again".to_owned()),
        Some(Checked { bytes, is_whole: Some(true) }) => return Ok(bytes),
        Some(Checked { is_whole: Some(false), .. }) => return damaged(),
        Some(Checked { bytes, is_whole: None }) => bytes,
    };
    let hashed = bytes.clone();
    let is_whole = move || JobId::of(&hashed) == id;
    let is_whole = if bytes.len() <= QUICK_BYTES {
        is_whole()
    } else {
        // A panic of the hashing thread says nothing about the image, so the classifier gets it.
        tokio::task::spawn_blocking(is_whole).await.unwrap_or(true)
    };
    if is_whole { Ok(bytes) } else { damaged() }
}

/// Builds the reply for the outcome of a job. `began` is the time when a thread took the image.
pub(crate) fn reply(
    worker: &Worker,
    job: &Job,
    outcome: Outcome,
    received: Instant,
    began: Option<Instant>,
) -> Reply {
    let (now, taken) = (worker.clock.now(), received.elapsed());
    let classify_ms = taken.as_secs_f64() * 1e3;
    let since_upload_ms = (now - job.sent_at).num_microseconds().unwrap_or(0) as f64 / 1e3;
    Reply {
        v: job::VERSION,
        id: job.id,
        name: job.name.clone(),
        model: job.model.clone(),
        version: worker.version().to_owned(),
        outcome,
        worker: worker.identity.instance.clone(),
        at: now,
        sent_at: Some(job.sent_at),
        // The clocks of two machines differ; a negative time is zero.
        queued_ms: (since_upload_ms - classify_ms).max(0.0),
        classify_ms,
        waited_ms: began.map_or(0.0, |began| (began - received).as_secs_f64() * 1e3),
        trace: job.trace.clone(),
    }
}

/// Returns the stored result for this job, if any. A result from before the job was sent does not
/// count if the job asks for a fresh one, and the note that an earlier job was given up never
/// counts.
pub(crate) async fn stored(worker: &Worker, job: &Job) -> Result<Option<Bytes>> {
    let found = results::get(&*worker.results, job.id, &job.model, worker.version()).await?;
    Ok(match found {
        Stored::Result(reply, body) => {
            let is_of_this_job = reply.sent_at == Some(job.sent_at);
            let is_an_answer = reply.is_final() && (!job.fresh || reply.at >= job.sent_at);
            (is_of_this_job || is_an_answer).then_some(body)
        }
        _ => None,
    })
}

/// Stores the result once and returns the stored one, so that all workers that had the job send the
/// same reply.
pub(crate) async fn commit(worker: &Worker, job: &Job, reply: &Reply) -> Result<Bytes> {
    note(worker, reply.at).await?;
    results::put(&*worker.results, reply, job.fresh).await
}

/// Deletes a stored result if its image was erased meanwhile. An eraser deletes first the image,
/// then the results: either the eraser sees this result, or this worker sees that the image is
/// gone.
pub(crate) async fn forget_if_erased(worker: &Worker, job: &Job, stored: &Bytes) -> Result<()> {
    if !may_be_erased(worker, job.id).await? {
        return Ok(());
    }
    // A job given up because its image is missing has no final result.
    let is_final = job::decode::<Reply>(stored).is_ok_and(|reply| reply.is_final());
    if is_final && !worker.images.exists(&job.id.image_key()).await? {
        worker.results.delete(&job.id.result_key(&job.model, worker.version())).await?;
    }
    Ok(())
}

async fn may_be_erased(worker: &Worker, id: JobId) -> Result<bool> {
    // In a database this check is cheap, and erased images are not noted.
    if worker.results.in_database().is_some() {
        return Ok(true);
    }
    match worker.erased.may_be_erased(&*worker.images, id, worker.leases.all_ending()).await {
        Err(error) if !error.is_transient() => {
            // An IAM role from an older version may not be allowed to read the note; then the image
            // itself is checked.
            tracing::debug!(%error, "what was erased lately cannot be read");
            Ok(true)
        }
        known => known,
    }
}

/// Stores the result, sends the reply and acks the job in one transaction. Returns `false`, without
/// any effect, if that is not possible.
pub(crate) async fn end(worker: &Worker, job: &Job, reply: &Reply, receipt: &Receipt) -> Result<bool> {
    note(worker, reply.at).await?;
    let replies = worker.response_queue(&job.reply_to).await?;
    let key = job.id.result_key(&job.model, &reply.version);
    let result = job::encode(reply);
    let image = job.id.image_key();
    let ending =
        Ending { results: &worker.results, key: &key, result, image: &image, replies: &replies, receipt };
    worker.requests.end(&ending).await
}

/// Notes the version before its first result, so that the results can be found after the version
/// has been replaced.
async fn note(worker: &Worker, now: DateTime<Utc>) -> Result<()> {
    let mut noted = worker.noted.0.lock().await;
    if noted.is_none_or(|at| now - at >= NOTE_AGAIN) {
        match results::note_version(&*worker.results, &worker.identity.model, worker.version()).await {
            Err(error) if error.is_transient() => return Err(error),
            // An IAM role from an older version may not be allowed to write it; jobs work without
            // it.
            Err(error) => {
                tracing::warn!(%error, "results of this version could not be listed, and will not \
                    be found once it is an earlier one")
            }
            Ok(()) => {}
        }
        *noted = Some(now);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_bytes_that_were_uploaded_are_the_image() {
        for length in [11, 2 * QUICK_BYTES] {
            let image = Bytes::from(vec![7; length]);
            let id = JobId::of(&image);
            let of = |bytes: &Bytes, is_whole| Some(Checked { bytes: bytes.clone(), is_whole });
            assert_eq!(whole(id, of(&image, None)).await, Ok(image.clone()));
            assert_eq!(whole(id, of(&image, Some(true))).await, Ok(image.clone()));
            let torn = [Bytes::new(), image.slice(..length - 1), vec![0; length].into()];
            for damaged in torn.map(|torn| of(&torn, None)).into_iter().chain([of(&image, Some(false))]) {
                let why = whole(id, damaged).await.unwrap_err();
                assert_eq!(why, "the stored image is damaged; upload it again");
            }
            assert_eq!(whole(id, None).await.unwrap_err(), "the image is no longer stored; upload it again");
        }
    }
}
