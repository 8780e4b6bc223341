//! What several machines write to, one after the other.

use std::fmt::Debug;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::Result;

/// A small blob that is only replaced by who knows what it says now.
#[async_trait]
pub trait Slot: Debug + Send + Sync {
    /// What it says, and the version of that; nothing where it does not exist.
    async fn read(&self) -> Result<Option<(Bytes, String)>>;

    /// Has it say something else, if it is of this version still, or does not exist still where
    /// that is `None`. Answers the new version, or nothing where somebody else was first.
    async fn write(&self, body: Bytes, was: Option<&str>) -> Result<Option<String>>;
}
