//! A small blob that several machines write to, one after the other.

use std::fmt::Debug;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::Result;

/// A small blob that can only be replaced by a writer that knows its current version.
#[async_trait]
pub trait Slot: Debug + Send + Sync {
    /// Returns the content and its version, or `None` if it does not exist.
    async fn read(&self) -> Result<Option<(Bytes, String)>>;

    /// Replaces the content if it still has the version `was`, or does not exist if that is `None`.
    /// Returns the new version, or `None` if another writer was faster.
    async fn write(&self, body: Bytes, was: Option<&str>) -> Result<Option<String>>;
}
