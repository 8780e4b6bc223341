//! A blob that was written and that becomes visible with a message: one transaction instead of two, where store and queue are in
//! the same database.

use super::embedded::StagedImage;
use crate::{error::Result, queue::sqlite::Writer};

/// What [`BlobStore::stage`](super::BlobStore::stage) answers. A store that cannot wait for the message has stored the blob already.
#[derive(Debug)]
#[must_use = "what is not sent or entered is not stored"]
pub struct Staged(Option<StagedImage>);

impl Staged {
    /// It is stored already.
    pub fn stored() -> Self {
        Self(None)
    }

    pub(super) fn image(image: StagedImage) -> Self {
        Self(Some(image))
    }

    /// Makes it visible now.
    pub async fn enter(self) -> Result<()> {
        match self.0 {
            Some(image) => image.enter_alone().await,
            None => Ok(()),
        }
    }

    /// Parts those that can be entered in a transaction of this writer from others.
    pub(crate) fn for_writer(self, writer: &Writer) -> std::result::Result<Option<StagedImage>, Self> {
        match self.0 {
            Some(image) if !image.writer().is(writer) => Err(Self(Some(image))),
            image => Ok(image),
        }
    }
}
