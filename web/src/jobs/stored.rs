//! The stored results of images, by version, and how an image is erased.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use eirs_platform::{
    Error, Result, erased,
    job::{JobId, Reply},
    results,
};
use tokio::time::Instant;

use super::{Cached, Jobs, Key, set};

/// Maximum age of a cached result before it is read again.
const READ_AGAIN: Duration = Duration::from_secs(60);

impl Jobs {
    /// Returns the stored result of an image by the version in force. Includes jobs that were given
    /// up, although those do not answer a new upload. While a fresh result is pending, older ones
    /// do not count.
    pub(crate) async fn stored(&self, key: &Key) -> Result<Option<Arc<Reply>>> {
        if let Some(reply) = self.in_memory(key) {
            return Ok(Some(reply));
        }
        let Some(version) = self.services.versions.current(&key.1) else { return Ok(None) };
        let found = results::get(&*self.results, key.0, &key.1, &version).await?.reply();
        Ok(found.map(|reply| self.remember(key, reply)).filter(|reply| self.is_answer(key, reply)))
    }

    /// Like [`stored`](Self::stored), but only from the cache.
    pub(super) fn in_memory(&self, key: &Key) -> Option<Arc<Reply>> {
        let cached = self.cache.get(key).filter(|cached| cached.read.elapsed() < READ_AGAIN);
        cached.map(|cached| cached.reply).filter(|reply| self.is_answer(key, reply))
    }

    fn is_answer(&self, key: &Key, reply: &Reply) -> bool {
        let fresh_since = self.lock().get(key).and_then(|job| job.fresh_since);
        let in_force = self.services.versions.current(&key.1);
        in_force.is_some_and(|version| *reply.version == *version)
            && fresh_since.is_none_or(|since| reply.at >= since)
    }

    /// Returns the result of an image by one version of a model.
    pub(crate) async fn of_version(&self, key: &Key, version: &str) -> Result<Option<Reply>> {
        Ok(results::get(&*self.results, key.0, &key.1, version).await?.reply())
    }

    /// Returns the newest result of an image by any version of a model.
    pub(crate) async fn newest(&self, key: &Key) -> Result<Option<Reply>> {
        results::newest(&*self.results, key.0, &key.1).await
    }

    /// Returns when the image was last uploaded for this model, or `None` if it was not. With a
    /// single model, every image was.
    pub(crate) async fn asked_at(&self, key: &Key) -> Result<Option<DateTime<Utc>>> {
        let (id, model) = key;
        let mut is_asked_for_any = false;
        if self.requests.len() > 1 {
            for other in self.requests.keys() {
                let Some(asked) = self.images.info(&id.asked_key(other)).await? else { continue };
                if other == model {
                    return Ok(Some(asked.modified));
                }
                is_asked_for_any = true;
            }
        }
        let image = if is_asked_for_any { None } else { self.images.info(&id.image_key()).await? };
        Ok(image.map(|image| image.modified))
    }

    pub(super) fn remember(&self, key: &Key, reply: Reply) -> Arc<Reply> {
        let reply = Arc::new(reply);
        let in_force = self.services.versions.current(&key.1);
        if reply.is_final() && in_force.as_deref() == Some(&*reply.version) {
            self.cache.insert(key.clone(), Cached { reply: reply.clone(), read: Instant::now() });
        }
        reply
    }

    /// Erases an image and all its results. Returns whether there was anything.
    pub(crate) async fn erase(&self, id: JobId) -> Result<bool> {
        let mut was_there = self.images.exists(&id.image_key()).await?;
        for model in self.requests.keys() {
            if let Some(job) = self.lock().get_mut(&(id, model.clone())) {
                job.is_erased = true;
                was_there = true;
                // Wake the waiting clients.
                job.progress.send_modify(|_| ());
            }
        }
        if self.results.in_database().is_none() {
            erased::note(&*self.images, id, self.services.clock.now()).await?;
        }
        // The image first: from then on no worker stores a result of it, or each deletes what it
        // stored.
        self.images.delete(&id.image_key()).await?;
        for model in self.requests.keys() {
            was_there |= self.erase_results(&(id, model.clone())).await?;
        }
        Ok(was_there)
    }

    /// Returns whether the image was erased while a job for it was in flight, so that a result may
    /// exist for a moment.
    pub(crate) fn is_erased(&self, id: JobId) -> bool {
        self.requests.keys().any(|model| {
            let key: Key = (id, model.clone());
            let is_so = self.lock().get(&key).is_some_and(|job| job.is_erased);
            is_so || set(&self.erasing).contains(&key)
        })
    }

    async fn erase_results(&self, key: &Key) -> Result<bool> {
        let (id, model) = key;
        let all = results::all(&*self.results, *id, model).await?;
        for reply in &all {
            self.results.delete(&id.result_key(model, &reply.version)).await?;
        }
        self.images.delete(&id.asked_key(model)).await?;
        // Only now, because the cache can no longer be filled from the store.
        self.cache.remove(key);
        Ok(!all.is_empty())
    }

    /// Checks that the queues and the store can be reached; `Err` says which cannot.
    pub(crate) async fn reach(&self) -> std::result::Result<(), &'static str> {
        let failed = |what: &'static str| {
            move |error: Error| {
                tracing::debug!(%error, "{what}");
                what
            }
        };
        let probe = JobId::of(b"");
        self.images.exists(&probe.image_key()).await.map_err(failed("the store cannot be reached"))?;
        for queue in self.requests.values() {
            queue.depth().await.map_err(failed("the queue cannot be reached"))?;
        }
        Ok(())
    }
}
