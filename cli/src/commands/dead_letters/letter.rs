//! What a dead letter is, and what is known of the job in it.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use eirs_platform::{
    backend,
    job::{self, Job, JobId, Outcome, Reply},
    queue::{Delivery, Receipt},
    results,
};
use serde::Serialize;

use super::desk::Desk;
use crate::show::{end, span};

/// A job that was given up. The same image may be there several times: a worker that died while it
/// put a job away did it twice, or its next upload failed as well. Together they are one.
#[derive(Debug, Clone)]
pub(super) struct Letter {
    /// Of the image; of the letter's own bytes where it cannot be read.
    pub(super) id: JobId,
    /// The model whose dead letters it was among.
    pub(super) model: String,
    /// The job, or why there is none that can be read.
    pub(super) job: Result<Job, String>,
    /// When it was sent first.
    pub(super) sent_at: DateTime<Utc>,
    /// Of each of its messages.
    pub(super) receipts: Vec<Receipt>,
}

/// How many digits of an id are shown: enough for any list that a person reads.
const DIGITS: usize = 12;

impl Letter {
    fn of(model: &str, delivery: Delivery) -> Self {
        let job = job::decode::<Job>(&delivery.body).map_err(|error| error.to_string());
        let id = job.as_ref().map_or_else(|_| JobId::of(&delivery.body), |job| job.id);
        let receipts = vec![delivery.receipt];
        let sent_at = job.as_ref().map_or(delivery.sent_at, |job| job.sent_at);
        Self { id, model: model.to_owned(), job, sent_at, receipts }
    }

    /// The name under which the image was uploaded.
    pub(super) fn name(&self) -> &str {
        self.job.as_ref().map_or("", |job| job.name.as_str())
    }

    /// The beginning of its id.
    pub(super) fn short_id(&self) -> String {
        self.id.to_string()[..DIGITS].to_owned()
    }
}

/// Puts messages together that are about the same job.
pub(super) struct Sorter {
    model: String,
    letters: HashMap<JobId, Letter>,
}

impl Sorter {
    pub(super) fn new(model: &str) -> Self {
        Self { model: model.to_owned(), letters: HashMap::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.letters.len()
    }

    pub(super) fn take(&mut self, received: Vec<Delivery>) {
        for delivery in received {
            let mut letter = Letter::of(&self.model, delivery);
            if let Some(known) = self.letters.get_mut(&letter.id) {
                known.receipts.append(&mut letter.receipts);
                // The last upload is the one that somebody may still wait for.
                if letter.sent_at > known.sent_at {
                    (known.job, known.sent_at) = (letter.job, letter.sent_at);
                }
            } else {
                self.letters.insert(letter.id, letter);
            }
        }
    }

    /// The oldest first.
    pub(super) fn sorted(self) -> Vec<Letter> {
        let mut letters: Vec<_> = self.letters.into_values().collect();
        letters.sort_by_key(|letter| (letter.sent_at, letter.id));
        letters
    }
}

/// A letter as it is shown.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    pub(super) id: String,
    pub(super) model: String,
    /// Null where the letter cannot be read.
    pub(super) name: Option<String>,
    /// When the image was uploaded; of a letter that cannot be read, when it was sent.
    pub(super) uploaded_at: DateTime<Utc>,
    /// When a worker gave it up; null where none could say.
    pub(super) given_up_at: Option<DateTime<Utc>>,
    /// Why it is here, in a sentence.
    pub(super) why: String,
    /// Whether its image is stored, so that it can be redriven; null where that is not known.
    pub(super) image_stored: Option<bool>,
    /// How many messages are about this job.
    pub(super) messages: usize,
}

impl Shown {
    /// With what the stores know of it.
    pub(super) async fn of(letter: Letter, desk: &Desk) -> Self {
        let mut shown = Self {
            id: letter.id.to_string(),
            model: letter.model.clone(),
            name: None,
            uploaded_at: letter.sent_at,
            given_up_at: None,
            why: String::new(),
            image_stored: None,
            messages: letter.receipts.len(),
        };
        let job = match letter.job {
            Ok(job) => job,
            Err(why) => return Self { why, ..shown },
        };
        let (images, results) = (desk.backend.images(), desk.backend.results());
        let image_key = job.id.image_key();
        let newest = results::newest(&**results, job.id, &job.model);
        let (image, result) = tokio::join!(images.exists(&image_key), newest);
        // What an earlier version of the model said before the upload is no end of this job.
        let since = |reply: &Reply| !reply.is_final() || reply.at >= job.sent_at;
        shown.why = match result.map(|reply| reply.filter(since)) {
            Ok(Some(Reply { at, outcome: Outcome::GaveUp { reason }, .. })) => {
                shown.given_up_at = Some(at);
                reason
            }
            Ok(Some(reply)) => format!("it has a result: {}", end(&reply)),
            Ok(None) => desk.no_result(&letter.model, letter.sent_at),
            Err(error) => format!("its result could not be read: {error}"),
        };
        Self { name: Some(job.name), image_stored: image.ok(), ..shown }
    }
}

impl Desk {
    /// Why a letter without a result may be here, the likeliest cause first.
    fn no_result(&self, model: &str, sent_at: DateTime<Utc>) -> String {
        let queue = &self.settings.queue;
        let rule = backend::requests_options(queue, model).dead_letters;
        let receives = rule.map_or(0, |rule| rule.max_receives);
        let age = (Utc::now() - sent_at).to_std().unwrap_or_default();
        let too_old = if age < queue.retention {
            String::new()
        } else {
            format!("no worker took it within `queue.retention` ({}); or ", span(queue.retention))
        };
        format!(
            "{too_old}delivered {receives} times without a reported cause; or a new upload is being tried"
        )
    }
}
