//! A note of recently erased images: a small blob beside the images, for stores that bill every
//! request.
//!
//! A worker may be classifying an image while it is erased, and the result that it stores
//! afterwards must be deleted as well. Checking whether the image still exists would cost a request
//! per result; this note is read once for all results stored meanwhile. An eraser first writes the
//! note, then deletes the image, then its results. A worker reads the note after storing a result:
//! either the eraser has seen the result, or the worker sees the note and checks the image.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep_until, timeout_at},
};

use crate::{
    backoff::Backoff,
    blobs::BlobStore,
    error::{Error, Result},
    job::JobId,
};

/// The key of the note, in the store of images.
pub const KEY: &str = "control/erased";
/// Longer than a job can be with a worker: SQS ends a lease after twelve hours.
const KEPT: TimeDelta = TimeDelta::hours(13);
/// Number of digits of an id in the note. A collision only costs a check of an image.
const DIGITS: usize = 16;
/// Minimum time between two reads; results stored meanwhile are checked together.
const EVERY: Duration = Duration::from_millis(500);
/// The same while the worker is busy with other jobs: a result that waits for the check only delays
/// deleting its message.
const EVERY_WHEN_BUSY: Duration = Duration::from_secs(2);
/// Maximum number of attempts to write the note while others write it.
const ATTEMPTS: u32 = 20;

/// The recently erased images, with the time as Unix seconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Erased(BTreeMap<String, i64>);

impl Erased {
    /// Ignores lines that cannot be parsed, such as those of a newer version.
    fn read(body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        let line = |line: &str| {
            let (id, at_s) = line.split_once(' ')?;
            Some((id.to_owned(), at_s.parse().ok()?))
        };
        Self(text.lines().filter_map(line).collect())
    }

    fn written(&self) -> Bytes {
        self.0.iter().map(|(id, at_s)| format!("{id} {at_s}\n")).collect::<String>().into()
    }

    fn note(&mut self, id: JobId, now: DateTime<Utc>) {
        let oldest_s = (now - KEPT).timestamp();
        self.0.retain(|_, at_s| *at_s >= oldest_s);
        self.0.insert(start_of(id), now.timestamp());
    }

    fn may_have(&self, id: JobId) -> bool {
        self.0.contains_key(&start_of(id))
    }
}

fn start_of(id: JobId) -> String {
    let mut id = id.to_string();
    id.truncate(DIGITS);
    id
}

/// Notes that an image is being erased. Call it before deleting the image and its results.
pub async fn note(images: &dyn BlobStore, id: JobId, now: DateTime<Utc>) -> Result<()> {
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
    for _ in 0..ATTEMPTS {
        let before = images.get(KEY).await?;
        let mut erased = before.as_deref().map(Erased::read).unwrap_or_default();
        erased.note(id, now);
        let is_written = match &before {
            None => images.put_new(KEY, erased.written()).await?,
            Some(before) => images.replace(KEY, before, erased.written()).await?,
        };
        if is_written {
            return Ok(());
        }
        backoff.wait().await;
    }
    Err(Error::unavailable("noting that an image is erased", "other images are being erased all the time"))
}

/// The worker's view of the note.
#[derive(Debug, Default)]
pub struct Watch(Mutex<Option<(Instant, Erased)>>);

impl Watch {
    /// Returns whether this image may have been erased before now. Delays the answer, so no one
    /// should be waiting for it: calls during a read share the next one. `quiet` completes when the
    /// worker has nothing else to do.
    pub async fn may_be_erased(
        &self,
        images: &dyn BlobStore,
        id: JobId,
        quiet: impl Future<Output = ()>,
    ) -> Result<bool> {
        let asked = Instant::now();
        let mut last = self.0.lock().await;
        if let Some((began, erased)) = &*last
            && *began >= asked
        {
            return Ok(erased.may_have(id));
        }
        if let Some((began, _)) = &*last {
            sleep_until(*began + EVERY).await;
            let _quiet_or_due = timeout_at(*began + EVERY_WHEN_BUSY, quiet).await;
        }
        let began = Instant::now();
        let erased = images.get(KEY).await?.as_deref().map(Erased::read).unwrap_or_default();
        let may_have = erased.may_have(id);
        *last = Some((began, erased));
        Ok(may_have)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use async_trait::async_trait;
    use futures::future::join_all;

    use super::*;
    use crate::{
        blobs::{BlobInfo, memory::MemoryBlobs},
        clock::SystemClock,
    };

    fn store() -> MemoryBlobs {
        MemoryBlobs::new(Arc::new(SystemClock))
    }

    fn id(n: u32) -> JobId {
        JobId::of(&n.to_le_bytes())
    }

    #[tokio::test]
    async fn an_erased_image_is_noted_as_long_as_a_worker_can_have_its_job() {
        let (images, watch) = (store(), Watch::default());
        assert!(!watch.may_be_erased(&images, id(1), ready(())).await.unwrap());
        let now = Utc::now();
        note(&images, id(1), now).await.unwrap();
        assert!(watch.may_be_erased(&images, id(1), ready(())).await.unwrap(), "the note is read again");
        assert!(!watch.may_be_erased(&images, id(2), ready(())).await.unwrap());
        note(&images, id(2), now + TimeDelta::hours(12)).await.unwrap();
        assert!(watch.may_be_erased(&images, id(1), ready(())).await.unwrap());
        note(&images, id(3), now + TimeDelta::hours(14)).await.unwrap();
        assert!(!watch.may_be_erased(&images, id(1), ready(())).await.unwrap());
        assert!(watch.may_be_erased(&images, id(2), ready(())).await.unwrap());
    }

    #[tokio::test]
    async fn images_erased_concurrently_are_all_noted() {
        let images = store();
        let noted = join_all((0..16).map(|n| note(&images, id(n), Utc::now()))).await;
        assert!(noted.iter().all(Result::is_ok), "{noted:?}");
        let erased = Erased::read(&images.get(KEY).await.unwrap().unwrap());
        assert!((0..16).all(|n| erased.may_have(id(n))));
    }

    /// Counts reads, each of which takes a while.
    #[derive(Debug)]
    struct Counted(MemoryBlobs, AtomicUsize);

    #[async_trait]
    impl BlobStore for Counted {
        async fn get(&self, key: &str) -> Result<Option<Bytes>> {
            self.1.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            self.0.get(key).await
        }
        async fn put(&self, key: &str, body: Bytes) -> Result<()> {
            self.0.put(key, body).await
        }
        async fn put_new(&self, key: &str, body: Bytes) -> Result<bool> {
            self.0.put_new(key, body).await
        }
        async fn exists(&self, key: &str) -> Result<bool> {
            self.0.exists(key).await
        }
        async fn delete(&self, key: &str) -> Result<()> {
            self.0.delete(key).await
        }
        async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<BlobInfo>> {
            self.0.list(prefix, after, limit).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn calls_during_a_read_share_one_further_read() {
        let images = Counted(store(), AtomicUsize::new(0));
        let watch = Watch::default();
        let all = join_all((0..50).map(|n| watch.may_be_erased(&images, id(n), ready(())))).await;
        assert!(all.into_iter().all(|erased| !erased.unwrap()));
        assert!(images.1.load(Ordering::SeqCst) <= 2, "{images:?}");
        // The next call sees a note written in between.
        note(&images.0, id(7), Utc::now()).await.unwrap();
        assert!(watch.may_be_erased(&images, id(7), ready(())).await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn the_note_is_read_every_two_seconds_or_sooner_without_other_work() {
        let (images, watch) = (store(), Watch::default());
        let begun = Instant::now();
        for busy_s in [0, 2, 4] {
            watch.may_be_erased(&images, id(1), pending()).await.unwrap();
            assert_eq!(begun.elapsed().as_secs(), busy_s);
            // A call at the time of the last read would use its result.
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        let last = tokio::time::sleep(Duration::from_millis(800));
        watch.may_be_erased(&images, id(1), last).await.unwrap();
        let took = begun.elapsed() - Duration::from_secs(4);
        assert!((Duration::from_millis(790)..Duration::from_millis(810)).contains(&took), "{took:?}");
        tokio::time::advance(Duration::from_millis(1)).await;
        watch.may_be_erased(&images, id(1), ready(())).await.unwrap();
        let took = begun.elapsed() - Duration::from_secs(4) - took;
        assert!((EVERY..EVERY + Duration::from_millis(10)).contains(&took), "{took:?}");
    }

    #[tokio::test]
    async fn a_dropped_call_does_not_block_others() {
        let (images, watch) = (Counted(store(), AtomicUsize::new(0)), Watch::default());
        {
            let asking = watch.may_be_erased(&images, id(1), ready(()));
            tokio::pin!(asking);
            assert!(futures::poll!(&mut asking).is_pending());
        }
        assert!(!watch.may_be_erased(&images, id(1), ready(())).await.unwrap());
    }
}
