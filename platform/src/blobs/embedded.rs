//! The stores of one machine. Images are in a few large files, the segments ([`segments`]), with a
//! row for each in the queue's database ([`images`]). Results are small and are rows themselves
//! ([`results`]). So an image and its job become visible in one transaction, and likewise a result
//! and the end of its job.
//!
//! For reasons and measurements, see docs/decisions/0016-images-in-segments.md.

mod carried;
mod expiry;
mod images;
pub(crate) mod index;
mod results;
mod room;
mod segments;

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

pub(crate) use self::images::{Entered, StagedImage};
use self::{carried::Carried, expiry::Expiry, images::Images, results::Results, segments::Segments};
pub use self::{
    room::{Room, RoomSeen},
    segments::Arriving,
};
use super::SharedBlobs;
use crate::{
    clock::SharedClock,
    database::{Reader, Writer},
    error::Result,
    settings::Local,
    state_folder::{IMAGES, OLD_FILES},
};

/// The stores of images and results in a state folder. Clones share them.
#[derive(Debug, Clone)]
pub struct EmbeddedStores {
    images: SharedBlobs,
    results: SharedBlobs,
    room: Room,
    expiry: Arc<Expiry>,
}

impl EmbeddedStores {
    /// Opens or creates the stores in the state folder, in the database of the queues.
    pub(crate) async fn open(
        settings: &Local,
        writer: Writer,
        reader: Reader,
        clock: SharedClock,
    ) -> Result<Self> {
        let state = settings.state.as_path();
        writer.run("making the tables of images and results", index::make_tables).await?;
        let room = Room::new(state, settings.keep_free);
        let last = reader.read("looking for the last image", index::last_segment)?;
        let segments = Segments::open(&state.join(IMAGES), last, settings.sync)?;
        let images = Images::new(
            segments.clone(),
            writer.clone(),
            reader.clone(),
            clock.clone(),
            room.clone(),
            settings.sync,
        );
        let results = Results::new(writer.clone(), reader.clone(), clock.clone());
        let (mut images, mut results): (SharedBlobs, SharedBlobs) = (Arc::new(images), Arc::new(results));
        let old = state.join(OLD_FILES);
        if old.is_dir() {
            images = Arc::new(Carried::new(images, &old, settings.sync)?);
            results = Arc::new(Carried::new(results, &old, settings.sync)?);
        }
        let expiry = Arc::new(Expiry::new(settings, segments, writer, reader, clock));
        Ok(Self { images, results, room, expiry })
    }

    /// The store of images.
    pub fn images(&self) -> &SharedBlobs {
        &self.images
    }

    /// The store of results.
    pub fn results(&self) -> &SharedBlobs {
        &self.results
    }

    /// Returns the room on the disk.
    pub fn room(&self) -> &Room {
        &self.room
    }

    /// Deletes expired blobs, a few at a time, until `stop`. Only one process of an installation
    /// does this.
    pub async fn keep(&self, stop: &CancellationToken, every: Duration) {
        self.expiry.run(stop, every).await;
    }
}

#[cfg(test)]
mod tests;
