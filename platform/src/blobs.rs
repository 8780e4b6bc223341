//! The interface to an object store: small named blobs, written as a whole.

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

/// A shared handle of a store.
pub type SharedBlobs = Arc<dyn BlobStore>;

/// The operations of an object store. Keys are relative paths of letters, digits and `-_./`. No
/// reader sees an incomplete blob, and stored blobs survive a kill of every process.
#[async_trait]
pub trait BlobStore: Debug + Send + Sync {
    /// Stores a blob, replacing an existing one.
    async fn put(&self, key: &str, body: Bytes) -> Result<()>;

    /// Stores a blob unless the key exists; returns whether it was stored. Of many concurrent
    /// writers, exactly one gets true: this commits a result once.
    async fn put_new(&self, key: &str, body: Bytes) -> Result<bool>;

    /// Replaces a blob if it is still equal to `seen`; returns whether it was. Only for replacing
    /// broken blobs: if a store cannot compare and write atomically, two concurrent writers may
    /// both get true.
    async fn replace(&self, key: &str, seen: &Bytes, body: Bytes) -> Result<bool> {
        if self.get(key).await?.as_ref() != Some(seen) {
            return Ok(false);
        }
        self.put(key, body).await?;
        Ok(true)
    }

    /// Returns a blob, or `None` if there is none.
    async fn get(&self, key: &str) -> Result<Option<Bytes>>;

    /// Returns a blob, with the information whether it is as it was written, if the store knows. By
    /// default, it does not.
    async fn get_checked(&self, key: &str) -> Result<Option<Checked>> {
        Ok(self.get(key).await?.map(|bytes| Checked { bytes, is_whole: None }))
    }

    /// Returns whether there is a blob with this key.
    async fn exists(&self, key: &str) -> Result<bool>;

    /// Returns the size of a blob and when it was written, or `None` if there is none.
    async fn info(&self, key: &str) -> Result<Option<BlobInfo>> {
        let first = self.list(key, None, 1).await?.pop();
        Ok(first.filter(|blob| blob.key == key))
    }

    /// Returns whether there is an undamaged blob with this key and `bytes` bytes. By default, only
    /// compares the size.
    async fn has_whole(&self, key: &str, bytes: u64) -> Result<bool> {
        Ok(self.info(key).await?.is_some_and(|stored| stored.bytes == bytes))
    }

    /// Deletes a blob; succeeds if there is none.
    async fn delete(&self, key: &str) -> Result<()>;

    /// Lists the blobs whose key starts with `prefix`, in the order of their keys, at most `limit`
    /// after the key `after`.
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<BlobInfo>>;

    /// Writes a blob that a message needs; it becomes visible when the message is sent by
    /// [`Queue::send_with`]. By default, for stores that cannot do both in one transaction, stores
    /// it at once.
    ///
    /// [`Queue::send_with`]: crate::queue::Queue::send_with
    async fn stage(&self, key: &str, body: Pieces) -> Result<Staged> {
        self.put(key, body.read().await?).await.map(|()| Staged::stored())
    }

    /// Returns whether blobs in files are staged piece by piece, instead of being read into memory
    /// as a whole. False by default.
    fn stages_files(&self) -> bool {
        false
    }

    /// Returns a file of the store for a large blob that begins to arrive; a blob staged from it
    /// need not be copied. `None` by default.
    fn arriving(&self) -> Result<Option<Arriving>> {
        Ok(None)
    }

    /// Returns the database whose table of results holds the blobs, if there is one. `None` by
    /// default.
    #[doc(hidden)]
    fn in_database(&self) -> Option<InDatabase> {
        None
    }

    /// Keeps an existing blob from expiring while the message sent with the returned value exists.
    /// By default, does nothing.
    async fn keep_for(&self, _key: &str) -> Result<Staged> {
        Ok(Staged::stored())
    }
}

/// A blob, and whether it is undamaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The stored bytes.
    pub bytes: Bytes,
    /// True if they are as they were written; `None` if the store does not know.
    pub is_whole: Option<bool>,
}

/// Keeps what a job needs that is sent again: the image, and the note of the model for which it was
/// uploaded.
pub async fn keep_for_job(images: &dyn BlobStore, id: JobId, model: &str) -> Result<Staged> {
    Ok(images.keep_for(&id.image_key()).await?.and(images.keep_for(&id.asked_key(model)).await?))
}

/// A row of a listing.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct BlobInfo {
    /// The full key.
    pub key: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// When it was last written.
    pub modified: DateTime<Utc>,
}
