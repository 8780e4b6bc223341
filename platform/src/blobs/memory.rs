//! A store in the memory of this process: the fast reference for tests.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::{BlobInfo, BlobStore};
use crate::{clock::SharedClock, error::Result};

/// Blobs by key.
#[derive(Debug)]
pub struct MemoryBlobs {
    clock: SharedClock,
    blobs: Mutex<BTreeMap<String, (Bytes, DateTime<Utc>)>>,
}

impl MemoryBlobs {
    /// Creates an empty store.
    pub fn new(clock: SharedClock) -> Self {
        Self { clock, blobs: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, (Bytes, DateTime<Utc>)>> {
        self.blobs.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[async_trait]
impl BlobStore for MemoryBlobs {
    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        self.lock().insert(key.to_owned(), (body, self.clock.now()));
        Ok(())
    }

    async fn put_new(&self, key: &str, body: Bytes) -> Result<bool> {
        let mut blobs = self.lock();
        let free = !blobs.contains_key(key);
        if free {
            blobs.insert(key.to_owned(), (body, self.clock.now()));
        }
        Ok(free)
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        Ok(self.lock().get(key).map(|(body, _)| body.clone()))
    }

    async fn exists(&self, key: &str) -> Result<bool> {
        Ok(self.lock().contains_key(key))
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.lock().remove(key);
        Ok(())
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<BlobInfo>> {
        let blobs = self.lock();
        let matching = blobs
            .iter()
            .filter(|(key, _)| key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after));
        let info = |(key, (body, modified)): (&String, &(Bytes, _))| BlobInfo {
            key: key.clone(),
            bytes: body.len() as u64,
            modified: *modified,
        };
        Ok(matching.take(limit).map(info).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{blobs::contract, clock::SystemClock};

    #[tokio::test]
    async fn the_memory_store_keeps_the_contract() {
        contract::suite(&(Arc::new(MemoryBlobs::new(Arc::new(SystemClock))) as _)).await;
    }
}
