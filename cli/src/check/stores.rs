//! What is stored: how many images and results, and the newest results. There is no way to count a store but to list it, so a
//! watch does not do it in every look.

use std::{
    ffi::OsStr,
    path::Path,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use eirs_platform::{
    blobs::{BlobInfo, SharedBlobs},
    job::NotAJobId,
    results,
};
use serde::Serialize;

use crate::{
    show::end,
    state::{Stored, stored},
};

/// So many of the newest results are shown.
const NEWEST: usize = 5;
/// Of the time of a watch, counting takes a tenth at most.
const REST: u32 = 10;

/// A store that can be counted.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) blobs: SharedBlobs,
    /// Where it is one of a cloud.
    pub(super) bucket: Option<String>,
}

/// The two stores, and what was in them when they were counted last.
#[derive(Debug)]
pub(super) struct Stores {
    images: Store,
    results: Store,
    /// The least time between two counts.
    pause: Duration,
    last: Option<(Instant, Counted)>,
}

/// What was in them.
#[derive(Debug, Clone, Default)]
pub(super) struct Counted {
    pub(super) images: Option<Contents>,
    pub(super) results: Option<Contents>,
    pub(super) newest: Vec<Newest>,
    /// What could not be looked at.
    pub(super) problems: Vec<String>,
}

/// How much is in a store.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Contents {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bucket: Option<String>,
    #[serde(flatten)]
    pub(super) stored: Stored,
    /// When it was counted.
    pub(super) at: DateTime<Utc>,
}

/// A result.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Newest {
    pub(super) name: String,
    /// The label, or why there is none.
    pub(super) label: String,
    pub(super) model: String,
    pub(super) at: DateTime<Utc>,
}

impl Stores {
    pub(super) fn new(images: Store, results: Store, pause: Duration) -> Self {
        Self { images, results, pause, last: None }
    }

    /// Counts them, or tells what was counted lately.
    pub(super) async fn look(&mut self) -> Counted {
        if let Some((until, counted)) = &self.last
            && Instant::now() < *until
        {
            return counted.clone();
        }
        let start = Instant::now();
        let counted = self.count().await;
        let pause = self.pause.max(start.elapsed() * REST);
        self.last = Some((Instant::now() + pause, counted.clone()));
        counted
    }

    async fn count(&self) -> Counted {
        let mut counted = Counted::default();
        match self.images.count("images/", |_| {}).await {
            Ok(contents) => counted.images = Some(contents),
            Err(error) => counted.problems.push(format!("the images cannot be counted: {error:#}")),
        }
        let mut newest = Vec::new();
        match self.results.count("results/", |blob| keep_newest(&mut newest, blob)).await {
            Ok(contents) => counted.results = Some(contents),
            Err(error) => counted.problems.push(format!("the results cannot be counted: {error:#}")),
        }
        match read(&self.results.blobs, newest, &mut counted.problems).await {
            Ok(newest) => counted.newest = newest,
            Err(error) => counted.problems.push(format!("the newest results cannot be read: {error}")),
        }
        counted
    }
}

impl Store {
    async fn count(&self, prefix: &str, look: impl FnMut(&BlobInfo)) -> anyhow::Result<Contents> {
        let stored = stored(&self.blobs, prefix, look).await?;
        Ok(Contents { bucket: self.bucket.clone(), stored, at: Utc::now() })
    }
}

fn keep_newest(newest: &mut Vec<BlobInfo>, blob: &BlobInfo) {
    newest.push(blob.clone());
    newest.sort_by(|a, b| b.modified.cmp(&a.modified).then_with(|| a.key.cmp(&b.key)));
    newest.truncate(NEWEST);
}

async fn read(
    store: &SharedBlobs,
    blobs: Vec<BlobInfo>,
    problems: &mut Vec<String>,
) -> eirs_platform::Result<Vec<Newest>> {
    let mut newest = Vec::new();
    for blob in blobs {
        let Some(body) = store.get(&blob.key).await? else { continue };
        let id = Path::new(&blob.key).file_stem().and_then(OsStr::to_str).unwrap_or_default();
        let reply = id.parse().map_err(|error: NotAJobId| error.to_string());
        newest.push(match reply.and_then(|id| results::read(id, &body)) {
            Ok(reply) => Newest { label: end(&reply), name: reply.name, model: reply.model, at: reply.at },
            Err(why) => {
                let key = &blob.key;
                problems.push(format!(
                    "the stored result {key} cannot be read: {why}; the next upload of its image replaces it"
                ));
                Newest {
                    name: id.to_owned(),
                    label: format!("unreadable: {why}"),
                    model: String::new(),
                    at: blob.modified,
                }
            }
        });
    }
    Ok(newest)
}
