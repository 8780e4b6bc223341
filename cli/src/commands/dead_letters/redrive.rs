//! Requeues dead letters. The order keeps jobs safe: the result "given up" is deleted first, or the
//! worker would return it again; then the job is sent, and only then the letter is deleted. After a
//! crash in between, the letter can be requeued again; running a job twice is safe.

use eirs_platform::{Result, backend::Backend, blobs::keep_for_job, job, queue::SharedQueue, results};
use futures::{StreamExt, stream};
use indicatif::ProgressBar;
use serde::Serialize;

use super::{
    AT_ONCE, ROUND,
    desk::{Desk, Pile},
    held::Held,
    letter::{self, Letter},
};
use crate::show::{self, Voice, end};

/// Requeues a whole pile. Letters that must stay are held until the end, so that they are not
/// received again.
pub(super) async fn redrive_all(desk: &Desk, pile: &Pile, tally: &mut Tally) -> anyhow::Result<()> {
    let held = desk.hold(pile);
    let mut spinner: Option<ProgressBar> = None;
    let mut done = Ok(());
    while done.is_ok() && !desk.stop.is_cancelled() {
        let received = match held.receive(ROUND).await {
            Ok(received) if received.is_empty() => break,
            Ok(received) => received,
            Err(error) => {
                done = Err(error.into());
                break;
            }
        };
        let mut letters = letter::Sorter::new(&pile.model);
        letters.take(received);
        // Messages about letters need lines of their own.
        spinner.take().inspect(ProgressBar::finish_and_clear);
        done = redrive_some(desk, pile, &held, &letters.sorted(), tally).await;
        let now = spinner.insert(ProgressBar::new_spinner());
        now.set_message(tally.sentence());
        now.tick();
    }
    spinner.take().inspect(ProgressBar::finish_and_clear);
    held.give_back().await;
    done
}

/// Requeues these letters and reports those that could not be. Stops at the first error.
pub(super) async fn redrive_some(
    desk: &Desk,
    pile: &Pile,
    held: &Held,
    letters: &[Letter],
    tally: &mut Tally,
) -> anyhow::Result<()> {
    let requests = desk.backend.requests(&pile.model).await?;
    let attempts = stream::iter(letters).map(async |letter| {
        // An attempt that has started is completed.
        if desk.stop.is_cancelled() {
            return Ok(None);
        }
        redrive(&desk.backend, &requests, held, letter).await.map(|how| Some((letter, how)))
    });
    let mut attempts = std::pin::pin!(attempts.buffer_unordered(AT_ONCE));
    let mut failed = None;
    while let Some(attempt) = attempts.next().await {
        match attempt {
            Ok(Some((letter, how))) => tally.count(letter, &how, desk.voice),
            Ok(None) => {}
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(()), |error| {
        Err(anyhow::Error::from(error).context(format!("stopped after {}", tally.sentence())))
    })
}

/// The outcomes of letters.
#[derive(Debug, Default, Serialize)]
pub(super) struct Tally {
    redriven: u64,
    settled: u64,
    pub(super) left: u64,
}

impl Tally {
    fn count(&mut self, letter: &Letter, how: &Redriven, voice: Voice) {
        let (id, name) = (letter.short_id(), show::plain(letter.name()));
        match how {
            Redriven::Sent => self.redriven += 1,
            Redriven::Settled(end) => {
                self.settled += 1;
                voice.say(format_args!("{id} {name}: it has a result ({end}); the letter is deleted"));
            }
            Redriven::NoImage => {
                self.left += 1;
                voice.say(format_args!(
                    "{id} {name}: its image is no longer stored; the letter \
                    stays"
                ));
            }
            Redriven::Unreadable(why) => {
                self.left += 1;
                voice.say(format_args!("{id}: {why}; the letter stays"));
            }
        }
    }

    pub(super) fn sentence(&self) -> String {
        let mut parts = vec![format!("{} redriven", self.redriven)];
        if self.settled > 0 {
            parts.push(format!("{} had a result", self.settled));
        }
        if self.left > 0 {
            parts.push(format!("{} left", self.left));
        }
        parts.join(", ")
    }
}

/// The outcome of one letter.
#[derive(Debug, PartialEq, Eq)]
enum Redriven {
    /// The job was sent again.
    Sent,
    /// The job has a result since then, so the letter was deleted.
    Settled(String),
    /// The image is no longer stored, so a worker would only give up again. The letter stays.
    NoImage,
    /// The letter cannot be parsed, and stays.
    Unreadable(String),
}

/// Requeues one letter; after an error, the letter stays.
async fn redrive(
    backend: &Backend,
    requests: &SharedQueue,
    held: &Held,
    letter: &Letter,
) -> Result<Redriven> {
    let job = match &letter.job {
        Ok(job) => job,
        Err(why) => return Ok(Redriven::Unreadable(why.clone())),
    };
    let stored = results::all(&**backend.results(), job.id, &job.model).await?;
    // A result from before the upload, of an earlier version of the model, does not belong to this
    // job.
    if let Some(reply) = stored.iter().find(|reply| reply.is_final() && reply.at >= job.sent_at) {
        held.ack(&letter.receipts).await?;
        return Ok(Redriven::Settled(end(reply)));
    }
    if !backend.images().exists(&job.id.image_key()).await? {
        return Ok(Redriven::NoImage);
    }
    for given_up in stored.iter().filter(|reply| !reply.is_final()) {
        backend.results().delete(&job.id.result_key(&job.model, &given_up.version)).await?;
    }
    // The web host may have ended; then the stored result serves any client that asks. The job
    // needs its image as long as it waits, however old the image is.
    let kept = keep_for_job(&**backend.images(), job.id, &job.model).await?;
    requests.send_with(job::encode(job), kept).await?;
    held.ack(&letter.receipts).await?;
    Ok(Redriven::Sent)
}
