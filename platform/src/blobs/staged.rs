//! Blobs that were written and that become visible with a message: one transaction instead of
//! several, where store and queue are in the same database.

use super::embedded::StagedImage;
use crate::{database::Writer, error::Result};

/// What [`BlobStore::stage`](super::BlobStore::stage) returns. A store that cannot wait for the
/// message has stored the blob already.
#[derive(Debug)]
#[must_use = "what is not sent or entered is not stored"]
pub struct Staged(Vec<StagedImage>);

impl Staged {
    /// It is stored already.
    pub fn stored() -> Self {
        Self(Vec::new())
    }

    pub(super) fn image(image: StagedImage) -> Self {
        Self(vec![image])
    }

    /// These and the others, with one message.
    pub fn and(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }

    /// Makes them visible now.
    pub async fn enter(self) -> Result<()> {
        for image in self.0 {
            image.enter_alone().await?;
        }
        Ok(())
    }

    /// What can be entered in a transaction of this writer; `Err` is what cannot.
    pub(crate) fn for_writer(self, writer: &Writer) -> std::result::Result<Vec<StagedImage>, Self> {
        if self.0.iter().all(|image| image.writer().is(writer)) { Ok(self.0) } else { Err(self) }
    }
}
