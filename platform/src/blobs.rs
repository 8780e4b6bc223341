//! The seam to an object store: small named byte strings, written whole.

#[cfg(any(test, feature = "testing"))]
pub mod contract;
pub mod dir;
pub mod memory;
#[cfg(feature = "aws")]
pub mod s3;

use std::{fmt::Debug, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};

use crate::error::Result;

/// A store that can be handed around.
pub type SharedBlobs = Arc<dyn BlobStore>;

/// What EIRS asks of an object store. Keys are relative paths of letters, digits and `-_./`; no reader ever sees
/// half a blob, and what was put survives a kill of every process.
#[async_trait]
pub trait BlobStore: Debug + Send + Sync {
    /// Writes a blob, replacing one that is there.
    async fn put(&self, key: &str, body: Bytes) -> Result<()>;

    /// Writes a blob unless the key is taken; answers whether it was written. Of many racing writers exactly one is
    /// told `true`: this is how a result is committed once.
    async fn put_new(&self, key: &str, body: Bytes) -> Result<bool>;

    /// Reads a blob; `None` if there is none.
    async fn get(&self, key: &str) -> Result<Option<Bytes>>;

    /// Whether there is a blob of this name.
    async fn exists(&self, key: &str) -> Result<bool>;

    /// Deletes a blob; deleting what is not there is fine.
    async fn delete(&self, key: &str) -> Result<()>;

    /// The blobs whose key starts with `prefix`, in the order of their keys, from the first key after `after`,
    /// at most `limit` of them.
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<BlobInfo>>;
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
