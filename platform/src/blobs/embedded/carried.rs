//! Images and results of an earlier version of EIRS, each in its own file. They are read there
//! until they expire; nothing new is stored there.

use std::path::Path;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    blobs::{Arriving, BlobInfo, BlobStore, Checked, Pieces, SharedBlobs, Staged, dir::DirBlobs},
    database::InDatabase,
    error::Result,
};

/// A store whose older blobs are in files.
#[derive(Debug)]
pub(super) struct Carried {
    store: SharedBlobs,
    files: DirBlobs,
}

impl Carried {
    pub(super) fn new(store: SharedBlobs, files: &Path, sync: bool) -> Result<Self> {
        Ok(Self { store, files: DirBlobs::open(files, sync)? })
    }
}

#[async_trait]
impl BlobStore for Carried {
    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        self.store.put(key, body).await
    }

    async fn put_new(&self, key: &str, body: Bytes) -> Result<bool> {
        Ok(!self.files.exists(key).await? && self.store.put_new(key, body).await?)
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        match self.store.get(key).await? {
            None => self.files.get(key).await,
            found => Ok(found),
        }
    }

    async fn get_checked(&self, key: &str) -> Result<Option<Checked>> {
        match self.store.get_checked(key).await? {
            None => self.files.get_checked(key).await,
            found => Ok(found),
        }
    }

    async fn has_whole(&self, key: &str, bytes: u64) -> Result<bool> {
        match self.store.exists(key).await? {
            true => self.store.has_whole(key, bytes).await,
            false => self.files.has_whole(key, bytes).await,
        }
    }

    async fn exists(&self, key: &str) -> Result<bool> {
        Ok(self.store.exists(key).await? || self.files.exists(key).await?)
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.files.delete(key).await?;
        self.store.delete(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<BlobInfo>> {
        let mut all = self.store.list(prefix, after, limit).await?;
        all.extend(self.files.list(prefix, after, limit).await?);
        // Of two entries with the same key, the store's is newer. The sort is stable, so it stays
        // first.
        all.sort_by(|one, other| one.key.cmp(&other.key));
        all.dedup_by(|later, first| later.key == first.key);
        all.truncate(limit);
        Ok(all)
    }

    fn in_database(&self) -> Option<InDatabase> {
        // Transactions do not see results in files, but a worker has looked for one before.
        self.store.in_database()
    }

    fn stages_files(&self) -> bool {
        self.store.stages_files()
    }

    fn arriving(&self) -> Result<Option<Arriving>> {
        self.store.arriving()
    }

    async fn stage(&self, key: &str, body: Pieces) -> Result<Staged> {
        self.store.stage(key, body).await
    }

    async fn keep_for(&self, key: &str) -> Result<Staged> {
        if !self.store.exists(key).await?
            && let Some(image) = self.files.get(key).await?
        {
            return self.store.stage(key, image.into()).await;
        }
        self.store.keep_for(key).await
    }
}
