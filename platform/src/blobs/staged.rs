//! Blobs that were written and become visible together with a message: one transaction instead of
//! several if store and queue share a database.

use super::embedded::StagedImage;
use crate::{database::Writer, error::Result};

/// The result of [`BlobStore::stage`](super::BlobStore::stage). A store that cannot wait for the
/// message has already stored the blob.
#[derive(Debug)]
#[must_use = "staged blobs are not stored until they are sent or entered"]
pub struct Staged(Vec<StagedImage>);

impl Staged {
    /// Nothing left to do: the blob is stored.
    pub fn stored() -> Self {
        Self(Vec::new())
    }

    pub(super) fn image(image: StagedImage) -> Self {
        Self(vec![image])
    }

    /// Combines staged blobs for one message.
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

    /// Returns the images that can be added in a transaction of this writer; `Err` returns them if
    /// they cannot.
    pub(crate) fn for_writer(self, writer: &Writer) -> std::result::Result<Vec<StagedImage>, Self> {
        if self.0.iter().all(|image| image.writer().is(writer)) { Ok(self.0) } else { Err(self) }
    }
}
