//! The end of a job as it is stored and answered: under the version of the model that this worker
//! has loaded, once.

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

/// The note that there are results of this version is written again after so long: it must not grow
/// older than they do.
const NOTE_AGAIN: TimeDelta = TimeDelta::days(1);

/// The number of bytes that are hashed sooner than another thread is woken.
const QUICK_BYTES: usize = 64 * 1024;

/// When it was noted last that there are results of this version. A worker that stores none notes
/// nothing.
#[derive(Debug, Default)]
pub(crate) struct Noted(Mutex<Option<DateTime<Utc>>>);

/// The bytes of an image, if they are those that were uploaded. A file that a power cut left empty,
/// or half of one, is none, and says nothing about the image. Where the store cannot tell, the name
/// of the image does, which is its digest.
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
        // A panic of a thread says nothing about the image; the classifier looks at it all the
        // same.
        tokio::task::spawn_blocking(is_whole).await.unwrap_or(true)
    };
    if is_whole { Ok(bytes) } else { damaged() }
}

/// The end of a job in the words that are stored and sent; `began` is when a thread took it.
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
        // Two machines' clocks differ: less than nothing is nothing.
        queued_ms: (since_upload_ms - classify_ms).max(0.0),
        classify_ms,
        waited_ms: began.map_or(0.0, |began| (began - received).as_secs_f64() * 1e3),
        trace: job.trace.clone(),
    }
}

/// What is stored for this job already. A result from before the job was sent is no answer to who
/// asked for a fresh one, and that an earlier job was given up is no answer to anybody.
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

/// Stores the result, once; answers what is stored then, and all workers that had the job tell that
/// one.
pub(crate) async fn commit(worker: &Worker, job: &Job, reply: &Reply) -> Result<Bytes> {
    note(worker, reply.at).await?;
    results::put(&*worker.results, reply, job.fresh).await
}

/// Takes a stored result away whose image was erased meanwhile, by any web host: first the image
/// and then the results, so that either that host saw this result, or we see that there is no
/// image.
pub(crate) async fn forget_if_erased(worker: &Worker, job: &Job, stored: &Bytes) -> Result<()> {
    if !may_be_erased(worker, job.id).await? {
        return Ok(());
    }
    // A job that was given up for want of its image says so.
    let is_final = job::decode::<Reply>(stored).is_ok_and(|reply| reply.is_final());
    if is_final && !worker.images.exists(&job.id.image_key()).await? {
        worker.results.delete(&job.id.result_key(&job.model, worker.version())).await?;
    }
    Ok(())
}

async fn may_be_erased(worker: &Worker, id: JobId) -> Result<bool> {
    // In a database a look costs nothing, and nobody notes what is erased.
    if worker.results.in_database().is_some() {
        return Ok(true);
    }
    match worker.erased.may_be_erased(&*worker.images, id, worker.leases.all_ending()).await {
        Err(error) if !error.is_transient() => {
            // A role from before there was this note may not read it. The image itself tells as
            // well.
            tracing::debug!(%error, "what was erased lately cannot be read");
            Ok(true)
        }
        known => known,
    }
}

/// Stores the result, sends the reply and acks the job in one transaction; `false` where that
/// cannot be, and nothing has been done.
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

/// Before the first result of a version, so that each is found also when the version is no longer
/// in force.
async fn note(worker: &Worker, now: DateTime<Utc>) -> Result<()> {
    let mut noted = worker.noted.0.lock().await;
    if noted.is_none_or(|at| now - at >= NOTE_AGAIN) {
        match results::note_version(&*worker.results, &worker.identity.model, worker.version()).await {
            Err(error) if error.is_transient() => return Err(error),
            // A role from before there were versions may not write it. That costs a job nothing.
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
