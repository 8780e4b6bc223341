//! The seam to an object store: small named byte strings, written whole.

#[cfg(any(test, feature = "testing"))]
pub mod contract;
pub mod dir;
pub mod embedded;
pub mod memory;
mod pieces;
#[cfg(feature = "aws")]
pub mod s3;
mod slot;
mod staged;

use std::{fmt::Debug, sync::Arc};

pub use self::{
    embedded::Arriving,
    pieces::{Pieces, Spool},
    slot::Slot,
    staged::Staged,
};
use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};

use crate::{database::InDatabase, error::Result, job::JobId};

/// A store that can be handed around.
pub type SharedBlobs = Arc<dyn BlobStore>;

/// What EIRS asks of an object store. Keys are relative paths of letters, digits and `-_./`; no
/// reader ever sees half a blob, and what was put survives a kill of every process.
#[async_trait]
pub trait BlobStore: Debug + Send + Sync {
    /// Writes a blob, replacing one that is there.
    async fn put(&self, key: &str, body: Bytes) -> Result<()>;

    /// Writes a blob unless the key is taken; answers whether it was written. Of many racing
    /// writers exactly one is told `true`: this is how a result is committed once.
    async fn put_new(&self, key: &str, body: Bytes) -> Result<bool>;

    /// Replaces a blob that still is as it was seen; answers whether it was. Only what is broken is
    /// replaced by this: where a store cannot compare and write in one step, two writers at the
    /// same moment may both be told `true`.
    async fn replace(&self, key: &str, seen: &Bytes, body: Bytes) -> Result<bool> {
        if self.get(key).await?.as_ref() != Some(seen) {
            return Ok(false);
        }
        self.put(key, body).await?;
        Ok(true)
    }

    /// Reads a blob; `None` if there is none.
    async fn get(&self, key: &str) -> Result<Option<Bytes>>;

    /// Reads a blob, and says whether it is as it was written, where the store knows. Unless
    /// overridden, it does not.
    async fn get_checked(&self, key: &str) -> Result<Option<Checked>> {
        Ok(self.get(key).await?.map(|bytes| Checked { bytes, is_whole: None }))
    }

    /// Whether there is a blob of this name.
    async fn exists(&self, key: &str) -> Result<bool>;

    /// How large a blob is, and when it was written; `None` if there is none.
    async fn info(&self, key: &str) -> Result<Option<BlobInfo>> {
        let first = self.list(key, None, 1).await?.pop();
        Ok(first.filter(|blob| blob.key == key))
    }

    /// Whether there is a blob of this name that is as it was written, of `bytes` bytes. Unless
    /// overridden, its length decides.
    async fn has_whole(&self, key: &str, bytes: u64) -> Result<bool> {
        Ok(self.info(key).await?.is_some_and(|stored| stored.bytes == bytes))
    }

    /// Deletes a blob; deleting what is not there is fine.
    async fn delete(&self, key: &str) -> Result<()>;

    /// The blobs whose key starts with `prefix`, in the order of their keys, from the first key
    /// after `after`, at most `limit` of them.
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<BlobInfo>>;

    /// Writes a blob that a message needs, and makes it visible when that is sent, by
    /// [`Queue::send_with`]. A store for which that is not the same transaction puts the blob now;
    /// that is what this does unless overridden.
    ///
    /// [`Queue::send_with`]: crate::queue::Queue::send_with
    async fn stage(&self, key: &str, body: Pieces) -> Result<Staged> {
        self.put(key, body.read().await?).await.map(|()| Staged::stored())
    }

    /// Whether what is in a file is staged part by part, and not read into memory as a whole. It is
    /// read unless this is overridden.
    fn stages_files(&self) -> bool {
        false
    }

    /// A file of the store's for a blob that begins to arrive and is too large for memory: what is
    /// staged from there need not be copied. There is none unless this is overridden.
    fn arriving(&self) -> Result<Option<Arriving>> {
        Ok(None)
    }

    /// The database that the blobs are rows of, if they are, in the table of results. Nothing
    /// unless overridden.
    #[doc(hidden)]
    fn in_database(&self) -> Option<InDatabase> {
        None
    }

    /// Keeps a blob that is there as long as the message that is sent with it, where blobs expire.
    /// Does nothing unless overridden.
    async fn keep_for(&self, _key: &str) -> Result<Staged> {
        Ok(Staged::stored())
    }
}

/// A blob, and whether it is what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The bytes that are stored.
    pub bytes: Bytes,
    /// Whether all of them are as they were written; `None` where the store does not know.
    pub is_whole: Option<bool>,
}

/// Keeps what a job needs that is sent once more: its image, and the note of the model for which
/// that was uploaded.
pub async fn keep_for_job(images: &dyn BlobStore, id: JobId, model: &str) -> Result<Staged> {
    Ok(images.keep_for(&id.image_key()).await?.and(images.keep_for(&id.asked_key(model)).await?))
}

/// A row of a listing.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct BlobInfo {
    /// The whole key.
    pub key: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// When it was last written.
    pub modified: DateTime<Utc>,
}
