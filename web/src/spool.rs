//! The bytes of arriving bodies until their images are stored. They stay in memory while there is
//! plenty of it, and else go to a file. If the store of images has files for arriving images, one
//! of those is used, so that a complete image is already in place; otherwise an unnamed temporary
//! file, which disappears with its last reader, even if the process is killed.
//!
//! A body takes room only for the bytes that have arrived, and never waits for another body:
//! without memory, it continues in its file at once. One body may use a share of the *free* memory,
//! so that its limit shrinks as more bodies arrive slowly, and some memory is always left for
//! small, fast ones.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use eirs_platform::{
    Error, Result,
    blobs::{Pieces, SharedBlobs, Spool},
};
use tokio::{sync::Semaphore, task::spawn_blocking};

/// One body may use one part in this number of the free memory.
const SHARE: u64 = 8;
/// Bytes gathered in memory before they are appended to a file.
const WRITE_BYTES: u64 = 256 * 1024;
/// Maximum number of files that are copied to the store at once, so that reading one overlaps with
/// writing another.
const COPIED_AT_ONCE: usize = 4;
/// Smaller chunks are copied, because they may be part of a large buffer that they would keep
/// alive. In bytes.
const WORTH_KEEPING: usize = 8 * 1024;

/// The memory and disk shared by all arriving bodies.
#[derive(Debug)]
pub(crate) struct Room {
    memory: Arc<Pool>,
    disk: Arc<Pool>,
    folder: PathBuf,
    /// The store, if it has files for arriving images.
    store: Option<SharedBlobs>,
    /// Limits the files that are read into memory as a whole to store them. Waiting for a permit is
    /// waiting for the store, not for a client.
    storing: Arc<Semaphore>,
    /// Limits the files that are copied piece by piece.
    copying: Arc<Semaphore>,
}

/// The number of free bytes.
#[derive(Debug)]
struct Pool(AtomicU64);

/// Bytes reserved from a pool; dropping this returns them.
#[derive(Debug)]
pub(crate) struct Taken {
    pool: Arc<Pool>,
    bytes: u64,
}

impl Taken {
    fn none(pool: &Arc<Pool>) -> Self {
        Self { pool: pool.clone(), bytes: 0 }
    }

    /// Reserves `bytes` more; returns false if the pool does not have them.
    fn reserve(&mut self, bytes: u64) -> bool {
        let free = &self.pool.0;
        let taken =
            free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| free.checked_sub(bytes)).is_ok();
        self.bytes += if taken { bytes } else { 0 };
        taken
    }

    /// Changes the reservation to `bytes` in total; returns false if the pool does not have them.
    pub(crate) fn set(&mut self, bytes: u64) -> bool {
        if bytes > self.bytes {
            return self.reserve(bytes - self.bytes);
        }
        self.pool.0.fetch_add(self.bytes - bytes, Ordering::Relaxed);
        self.bytes = bytes;
        true
    }

    /// Returns the number of bytes that this body may have in total.
    fn most(&self) -> u64 {
        (self.pool.0.load(Ordering::Relaxed) + self.bytes) / SHARE
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.pool.0.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

impl Room {
    /// Creates the room with this number of bytes in memory and on disk. Files are in `folder`,
    /// which is created if missing, or in `store`. `largest` is the maximum size of a body.
    pub(crate) fn new(
        memory: u64,
        disk: u64,
        folder: &Path,
        store: Option<SharedBlobs>,
        largest: u64,
    ) -> Result<Arc<Self>> {
        std::fs::create_dir_all(folder)
            .map_err(|error| Error::from_io(format!("making the folder {}", folder.display()), &error))?;
        let at_once = usize::try_from(memory / largest.max(1)).unwrap_or(usize::MAX);
        Ok(Arc::new(Self {
            memory: Arc::new(Pool(AtomicU64::new(memory))),
            disk: Arc::new(Pool(AtomicU64::new(disk))),
            folder: folder.to_owned(),
            store,
            storing: Arc::new(Semaphore::new(at_once.clamp(1, Semaphore::MAX_PERMITS))),
            copying: Arc::new(Semaphore::new(COPIED_AT_ONCE)),
        }))
    }

    /// Returns the free bytes of memory and disk.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn free(&self) -> (u64, u64) {
        (self.memory.0.load(Ordering::Relaxed), self.disk.0.load(Ordering::Relaxed))
    }

    /// Returns an empty reservation of memory, for something else that grows with a body.
    pub(crate) fn memory(&self) -> Taken {
        Taken::none(&self.memory)
    }

    /// Creates a file for a body.
    fn file(&self) -> Result<Spool> {
        if let Some(store) = &self.store
            && let Some(arriving) = store.arriving()?
        {
            return Ok(arriving.into());
        }
        tempfile::tempfile_in(&self.folder).map(Spool::from).map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &io::Error) -> Error {
        Error::from_io(format!("keeping an upload in {}", self.folder.display()), error)
    }
}

/// The bytes of a body that have arrived.
#[derive(Debug)]
pub(crate) struct Held {
    room: Arc<Room>,
    /// Large chunks, which are not copied.
    pieces: Pieces,
    /// Small chunks after them, copied together.
    memory: BytesMut,
    taken: Taken,
    /// The part before them, if it is in a file.
    spooled: Option<Spooled>,
}

/// The part of a body in a file.
#[derive(Debug)]
struct Spooled {
    file: Spool,
    taken: Taken,
}

impl Held {
    pub(crate) fn new(room: &Arc<Room>) -> Self {
        Self {
            room: room.clone(),
            pieces: Pieces::default(),
            memory: BytesMut::new(),
            taken: Taken::none(&room.memory),
            spooled: None,
        }
    }

    /// Appends a chunk. Returns an error if the disk, or the part of it for uploads, is full.
    pub(crate) async fn add(&mut self, chunk: Bytes) -> Result<()> {
        let most = self.taken.most().min(if self.spooled.is_some() { WRITE_BYTES } else { u64::MAX });
        let bytes = chunk.len() as u64;
        if self.taken.bytes + bytes > most || !self.taken.reserve(bytes) {
            return self.write_out(chunk).await;
        }
        if chunk.len() >= WORTH_KEEPING {
            self.pieces.push(self.memory.split().freeze());
            self.pieces.push(chunk);
        } else {
            self.memory.extend_from_slice(&chunk);
        }
        Ok(())
    }

    /// Discards all bytes.
    pub(crate) fn clear(&mut self) {
        *self = Self::new(&self.room);
    }

    /// Moves the bytes in memory to the file, followed by this chunk.
    async fn write_out(&mut self, chunk: Bytes) -> Result<()> {
        let (file, mut on_disk) = match self.spooled.take() {
            Some(Spooled { file, taken }) => (Some(file), taken),
            None => (None, Taken::none(&self.room.disk)),
        };
        let mut pieces = std::mem::take(&mut self.pieces);
        pieces.extend([std::mem::take(&mut self.memory).freeze(), chunk]);
        let held = std::mem::replace(&mut self.taken, Taken::none(&self.room.memory));
        if !on_disk.reserve(pieces.len() as u64) {
            let full = "arriving uploads use all of web.upload_disk";
            return Err(Error::unavailable("receiving an upload", full));
        }
        // If the client disconnects meanwhile, the thread drops everything.
        let room = self.room.clone();
        let written = spawn_blocking(move || {
            let mut file = file.map_or_else(|| room.file(), Ok)?;
            file.write(&pieces).map_err(|error| room.failed(&error))?;
            drop(held);
            Ok(Spooled { file, taken: on_disk })
        });
        self.spooled = Some(joined(written.await)??);
        Ok(())
    }

    /// Completes the body.
    pub(crate) fn whole(mut self) -> Whole {
        self.pieces.push(self.memory.freeze());
        Whole { room: self.room, memory: self.pieces, taken: self.taken, spooled: self.spooled }
    }
}

/// A complete body.
#[derive(Debug)]
pub(crate) struct Whole {
    room: Arc<Room>,
    memory: Pieces,
    taken: Taken,
    spooled: Option<Spooled>,
}

impl Whole {
    pub(crate) fn len(&self) -> u64 {
        self.taken.bytes + self.spooled.as_ref().map_or(0, |spooled| spooled.taken.bytes)
    }

    /// Calls `work` with the bytes; limits the number of bodies from files that are worked on at
    /// once. Unless `takes_files`, all bytes are read into memory first.
    pub(crate) async fn read<T>(
        self,
        takes_files: bool,
        work: impl AsyncFnOnce(Pieces) -> Result<T>,
    ) -> Result<T> {
        let Self { room, memory, taken, spooled } = self;
        let Some(Spooled { file, taken: on_disk }) = spooled else { return work(memory).await };
        let pieces = Pieces::after_file(file, on_disk.bytes, memory);
        if takes_files {
            let _permit = room.copying.acquire().await;
            let worked = work(pieces).await;
            drop((taken, on_disk));
            return worked;
        }
        let _permit = room.storing.acquire().await;
        let all = pieces.read().await?;
        drop((taken, on_disk));
        work(all.into()).await
    }
}

fn joined<T>(ended: std::result::Result<T, tokio::task::JoinError>) -> Result<T> {
    ended.map_err(|panic| Error::broken("keeping an upload", panic))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn room(memory: u64, disk: u64) -> (tempfile::TempDir, Arc<Room>) {
        let folder = tempfile::tempdir().unwrap();
        let room = Room::new(memory, disk, folder.path(), None, 1000).unwrap();
        (folder, room)
    }

    fn wait<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
    }

    proptest! {
        #[test]
        fn a_body_is_read_as_it_was_written_and_its_room_is_returned(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20_000), 0..12),
            memory in 0u64..200_000,
            takes_files in any::<bool>(),
        ) {
            let (_folder, room) = room(memory, 1 << 20);
            let read = wait(async {
                let mut held = Held::new(&room);
                for chunk in &chunks {
                    held.add(chunk.clone().into()).await.unwrap();
                    assert!(room.memory.0.load(Ordering::Relaxed) >= memory - memory / SHARE);
                }
                held.whole().read(takes_files, async |pieces| Ok(pieces.joined().unwrap())).await.unwrap()
            });
            prop_assert_eq!(&read[..], &chunks.concat()[..]);
            prop_assert_eq!(room.free(), (memory, 1 << 20));
        }
    }

    #[test]
    fn a_small_body_finds_memory_even_among_many_large_ones() {
        let (_folder, room) = room(1 << 20, 1 << 30);
        wait(async {
            let mut slow = Vec::new();
            for _ in 0..100 {
                let mut held = Held::new(&room);
                for _ in 0..10 {
                    held.add(vec![7; 10_000].into()).await.unwrap();
                }
                slow.push(held);
            }
            let mut small = Held::new(&room);
            small.add(vec![7; 500].into()).await.unwrap();
            assert!(small.spooled.is_none());
        });
        assert_eq!(room.free(), (1 << 20, 1 << 30));
    }

    #[test]
    fn a_body_fails_and_returns_its_room_if_the_disk_space_is_used_up() {
        let (_folder, room) = room(0, 5000);
        wait(async {
            let mut held = Held::new(&room);
            held.add(vec![7; 4000].into()).await.unwrap();
            let error = held.add(vec![7; 4000].into()).await.unwrap_err();
            assert!(error.to_string().contains("web.upload_disk"), "{error}");
        });
        assert_eq!(room.free(), (0, 5000));
    }
}
