//! Counts images and results, and lists the newest results. A store can only be counted by listing
//! it, so a watch does not count at every inspection.

use std::{
    ffi::OsStr,
    path::Path,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use eirs_platform::{
    blobs::{BlobInfo, SharedBlobs},
    job::{NotAJobId, Reply},
    results,
};
use serde::Serialize;

use crate::{
    show::end,
    state::{PAGE, Stored, stored},
};

/// Number of newest results to show.
const NEWEST: usize = 5;
/// Time limit for reading results to see whether they are readable: about ten thousand.
const READ_FOR: Duration = Duration::from_secs(2);
/// A watch spends at most one in this many parts of its time on counting.
const REST: u32 = 10;

/// A store that can be counted.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) blobs: SharedBlobs,
    /// The name of the bucket, in a cloud.
    pub(super) bucket: Option<String>,
}

/// Both stores, and their contents at the last count.
#[derive(Debug)]
pub(super) struct Stores {
    images: Store,
    results: Store,
    /// Minimum time between two counts.
    pause: Duration,
    last: Option<(Instant, Counted)>,
}

/// The contents of the stores.
#[derive(Debug, Clone, Default)]
pub(super) struct Counted {
    pub(super) images: Option<Contents>,
    pub(super) results: Option<Contents>,
    pub(super) newest: Vec<Newest>,
    /// Parts that could not be inspected.
    pub(super) problems: Vec<String>,
}

/// The contents of one store.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Contents {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bucket: Option<String>,
    #[serde(flatten)]
    pub(super) stored: Stored,
    /// The time of the count.
    pub(super) at: DateTime<Utc>,
}

/// A result.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Newest {
    pub(super) name: String,
    /// The label, or the reason why there is none.
    pub(super) label: String,
    pub(super) model: String,
    pub(super) at: DateTime<Utc>,
}

impl Stores {
    pub(super) fn new(images: Store, results: Store, pause: Duration) -> Self {
        Self { images, results, pause, last: None }
    }

    /// Counts the contents, or returns the last count if it is recent.
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
        match read(&self.results.blobs, newest).await {
            Ok(newest) => counted.newest = newest,
            Err(error) => counted.problems.push(format!("the newest results cannot be read: {error}")),
        }
        // In a cloud, each read costs money.
        let limit = if self.results.bucket.is_none() { READ_FOR } else { Duration::ZERO };
        match Unreadable::among(&self.results.blobs, limit).await {
            Ok(unreadable) => counted.problems.extend(unreadable.said()),
            Err(error) => counted.problems.push(format!("the results cannot be read: {error}")),
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

/// Unreadable results.
#[derive(Debug, Default)]
struct Unreadable {
    read: u64,
    is_all: bool,
    count: u64,
    /// The first one, with its error.
    example: Option<(String, String)>,
}

impl Unreadable {
    /// Reads results in the order of their keys, which is unrelated to time, until the end or the
    /// time limit; always the first page.
    async fn among(store: &SharedBlobs, limit: Duration) -> eirs_platform::Result<Self> {
        let (mut seen, mut after, start) = (Self::default(), None::<String>, Instant::now());
        loop {
            let page =
                store.list("results/", after.as_deref(), if limit.is_zero() { NEWEST } else { PAGE }).await?;
            seen.is_all = page.is_empty();
            for blob in &page {
                let Some(body) = store.get(&blob.key).await? else { continue };
                seen.read += 1;
                if let Err(why) = parsed(&blob.key, &body) {
                    seen.count += 1;
                    seen.example.get_or_insert_with(|| (blob.key.clone(), why));
                }
            }
            match page.last() {
                Some(last) if start.elapsed() < limit => after = Some(last.key.clone()),
                _ => return Ok(seen),
            }
        }
    }

    fn said(&self) -> Option<String> {
        let (key, why) = self.example.as_ref()?;
        let of = if self.is_all {
            format!("all {}", self.read)
        } else {
            format!("the {} that were read", self.read)
        };
        Some(match self.count {
            1 => format!(
                "the stored result {key} cannot be read: {why}; the next upload of its image replaces it"
            ),
            count => format!(
                "{count} of {of} stored results cannot be read, such as {key}: {why}; the next upload of \
                 each image replaces its result"
            ),
        })
    }
}

/// Parses a result that is stored under this key.
fn parsed(key: &str, body: &[u8]) -> Result<Reply, String> {
    let id = Path::new(key).file_stem().and_then(OsStr::to_str).unwrap_or_default();
    results::read(id.parse().map_err(|error: NotAJobId| error.to_string())?, body)
}

async fn read(store: &SharedBlobs, blobs: Vec<BlobInfo>) -> eirs_platform::Result<Vec<Newest>> {
    let mut newest = Vec::new();
    for blob in blobs {
        let Some(body) = store.get(&blob.key).await? else { continue };
        newest.push(match parsed(&blob.key, &body) {
            Ok(reply) => Newest { label: end(&reply), name: reply.name, model: reply.model, at: reply.at },
            Err(why) => Newest {
                name: Path::new(&blob.key).file_stem().and_then(OsStr::to_str).unwrap_or_default().to_owned(),
                label: format!("unreadable: {why}"),
                model: String::new(),
                at: blob.modified,
            },
        });
    }
    Ok(newest)
}
