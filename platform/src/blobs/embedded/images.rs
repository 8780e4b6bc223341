//! Images: bytes in segments, with a row for each in the database.

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    index::{self, Entry, Listed, Place},
    room::Room,
    segments::{Arriving, Segments, Written},
};
use crate::{
    blobs::{BlobInfo, BlobStore, Checked, Pieces, Staged},
    clock::SharedClock,
    database::{Batch, Reader, Writer},
    error::{Error, Result},
};

/// Up to this size in bytes, reading or writing an image is faster than waking another thread.
const QUICK_BYTES: u64 = 1024 * 1024;

#[derive(Debug, Clone)]
pub(super) struct Images {
    segments: Segments,
    writer: Writer,
    reader: Reader,
    clock: SharedClock,
    room: Room,
    sync: bool,
}

/// An image whose bytes are written, and whose row is added together with its job.
#[derive(Debug)]
pub(crate) struct StagedImage {
    images: Images,
    key: String,
    /// `None` if an existing image is kept.
    written: Option<Written>,
}

/// The work that remains after the commit. While this exists, the image's segment is kept.
#[derive(Debug)]
pub(crate) struct Entered {
    segments: Segments,
    replaced: Option<Place>,
    _written: Option<Written>,
}

impl StagedImage {
    /// The database of its row.
    pub(crate) fn writer(&self) -> &Writer {
        &self.images.writer
    }

    /// Adds the row of the image, for the job in this message.
    pub(crate) fn enter(self, batch: &mut Batch<'_>, message: Option<i64>) -> rusqlite::Result<Entered> {
        let replaced = match &self.written {
            Some(written) => {
                let stored_at = self.images.clock.now().timestamp_millis();
                index::enter_image(batch, &self.key, written.entry, stored_at, message)?
            }
            None => {
                index::keep_image(batch, &self.key, message)?;
                None
            }
        };
        Ok(Entered { segments: self.images.segments, replaced, _written: self.written })
    }

    /// Adds the row in a transaction of its own.
    pub(crate) async fn enter_alone(self) -> Result<()> {
        let (writer, what) = (self.images.writer.clone(), format!("storing {}", self.key));
        writer.run(what, |batch| self.enter(batch, None)).await.map(Entered::finish)
    }
}

impl Entered {
    /// Call after the commit: frees the space of the replaced image.
    pub(crate) fn finish(self) {
        if let Some(place) = self.replaced {
            self.segments.free(&[place]);
        }
    }
}

impl Images {
    pub(super) fn new(
        segments: Segments,
        writer: Writer,
        reader: Reader,
        clock: SharedClock,
        room: Room,
        sync: bool,
    ) -> Self {
        Self { segments, writer, reader, clock, room, sync }
    }

    /// Runs file operations, on a blocking thread unless they are quick.
    async fn run<T: Send + 'static>(
        &self,
        quick: bool,
        work: impl FnOnce(&Segments) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if quick {
            return work(&self.segments);
        }
        let segments = self.segments.clone();
        let worked = tokio::task::spawn_blocking(move || work(&segments)).await;
        worked.unwrap_or_else(|panic| Err(Error::broken("working on an image", panic)))
    }

    async fn write(&self, key: &str, body: Pieces) -> Result<StagedImage> {
        self.room.for_an_image()?;
        let quick = !self.sync && body.len() as u64 <= QUICK_BYTES;
        let written = self.run(quick, move |segments| segments.append(&body)).await?;
        Ok(StagedImage { images: self.clone(), key: key.to_owned(), written: Some(written) })
    }

    fn find(&self, key: &str) -> Result<Option<Entry>> {
        self.reader.read("looking for an image", |connection| index::find_image(connection, key))
    }
}

#[async_trait]
impl BlobStore for Images {
    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        self.write(key, body.into()).await?.enter_alone().await
    }

    async fn put_new(&self, key: &str, body: Bytes) -> Result<bool> {
        if self.find(key)?.is_some() {
            return Ok(false);
        }
        let staged = self.write(key, body.into()).await?;
        let place = staged.written.as_ref().map(|written| written.entry.place);
        let enter = move |batch: &mut Batch<'_>| match index::find_image(batch.writer()?, &staged.key)? {
            Some(_) => Ok(None),
            None => staged.enter(batch, None).map(Some),
        };
        let entered = self.writer.run(format!("storing {key}"), enter).await?;
        if entered.is_none() {
            self.segments.free(place.as_slice());
        }
        Ok(entered.is_some())
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        Ok(self.get_checked(key).await?.map(|image| image.bytes))
    }

    async fn get_checked(&self, key: &str) -> Result<Option<Checked>> {
        let mut found = self.find(key)?;
        while let Some(entry) = found {
            let quick = u64::from(entry.place.bytes) <= QUICK_BYTES;
            let read = self.run(quick, move |segments| segments.read_checked(entry)).await?;
            let image = read.map(|(image, is_whole)| Checked { bytes: image.into(), is_whole });
            if image.as_ref().is_some_and(|image| image.is_whole == Some(true)) {
                return Ok(image);
            }
            // An image that was deleted or replaced meanwhile may have been read partially.
            let now = self.find(key)?;
            if now == found {
                if image.is_none() {
                    tracing::error!(
                        "{key} is in the index, but not in its segment {:?}; it counts as missing",
                        entry.place
                    );
                }
                return Ok(image);
            }
            found = now;
        }
        Ok(None)
    }

    async fn has_whole(&self, key: &str, bytes: u64) -> Result<bool> {
        let image = self.get_checked(key).await?;
        Ok(image.is_some_and(|image| image.bytes.len() as u64 == bytes && image.is_whole != Some(false)))
    }

    async fn exists(&self, key: &str) -> Result<bool> {
        Ok(self.find(key)?.is_some())
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let name = key.to_owned();
        let delete = move |batch: &mut Batch<'_>| index::delete_image(batch, &name);
        let Some(place) = self.writer.run(format!("deleting {key}"), delete).await? else { return Ok(()) };
        self.segments.free(&[place]);
        let end = |connection: &_| index::end_of_segment(connection, place.segment);
        if self.reader.read("looking into a segment", end)?.is_none() {
            let is_empty = || Ok(self.reader.read("looking into a segment", end)?.is_none());
            self.segments.delete_if(place.segment, is_empty)?;
        }
        Ok(())
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<BlobInfo>> {
        self.reader.read("listing images", |connection| {
            index::list(connection, Listed::Images, prefix, after, limit)
        })
    }

    fn stages_files(&self) -> bool {
        true
    }

    fn arriving(&self) -> Result<Option<Arriving>> {
        self.segments.arriving().map(Some)
    }

    async fn stage(&self, key: &str, body: Pieces) -> Result<Staged> {
        self.write(key, body).await.map(Staged::image)
    }

    async fn keep_for(&self, key: &str) -> Result<Staged> {
        Ok(Staged::image(StagedImage { images: self.clone(), key: key.to_owned(), written: None }))
    }
}
