//! A dead letter, and the known facts about its job.

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

/// A job that was given up. There may be several messages for one image, if a worker died while it
/// moved the job, or if the next upload failed, too. They are combined into one letter.
#[derive(Debug, Clone)]
pub(super) struct Letter {
    /// The id of the image, or of the message itself if that cannot be parsed.
    pub(super) id: JobId,
    /// The model in whose queue the letter is.
    pub(super) model: String,
    /// The job, or the reason why it cannot be parsed.
    pub(super) job: Result<Job, String>,
    /// The time when the job was first sent.
    pub(super) sent_at: DateTime<Utc>,
    /// The receipts of all its messages.
    pub(super) receipts: Vec<Receipt>,
}

/// Number of digits of an id that are shown, enough for any list.
const DIGITS: usize = 12;

impl Letter {
    fn of(model: &str, delivery: Delivery) -> Self {
        let job = job::decode::<Job>(&delivery.body).map_err(|error| error.to_string());
        let id = job.as_ref().map_or_else(|_| JobId::of(&delivery.body), |job| job.id);
        let receipts = vec![delivery.receipt];
        let sent_at = job.as_ref().map_or(delivery.sent_at, |job| job.sent_at);
        Self { id, model: model.to_owned(), job, sent_at, receipts }
    }

    /// Returns the name of the uploaded image.
    pub(super) fn name(&self) -> &str {
        self.job.as_ref().map_or("", |job| job.name.as_str())
    }

    /// Returns the start of the id.
    pub(super) fn short_id(&self) -> String {
        self.id.to_string()[..DIGITS].to_owned()
    }
}

/// Combines messages about the same job.
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
                // Keeps the last upload, for which a client may still be waiting.
                if letter.sent_at > known.sent_at {
                    (known.job, known.sent_at) = (letter.job, letter.sent_at);
                }
            } else {
                self.letters.insert(letter.id, letter);
            }
        }
    }

    /// Returns the letters, oldest first.
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
    /// Null if the letter cannot be parsed.
    pub(super) name: Option<String>,
    /// The time of the upload, or the time of sending if the letter cannot be parsed.
    pub(super) uploaded_at: DateTime<Utc>,
    /// The time when a worker gave the job up; null if unknown.
    pub(super) given_up_at: Option<DateTime<Utc>>,
    /// The reason, as a sentence.
    pub(super) why: String,
    /// Whether the image is stored, so that the job can be requeued; null if unknown.
    pub(super) image_stored: Option<bool>,
    /// Number of messages about this job.
    pub(super) messages: usize,
}

impl Shown {
    /// Completes a letter with information from the stores.
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
        // A result from before the upload, of an earlier version of the model, does not belong to
        // this job.
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
    /// Returns the most likely reason for a letter without a result.
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
