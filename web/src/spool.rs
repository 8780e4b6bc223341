//! Where the bytes of arriving bodies are until their images are stored: in memory as long as there
//! is plenty of it, else in a file: one of the store of images, where that has such, for then the
//! image is where it belongs when all of it has arrived; or else one without a name, which goes
//! when its last reader goes, also in a kill.
//!
//! A body takes what has arrived of it and no more, and nobody waits for anybody's bytes: one that
//! finds no memory goes on in its file at once. What a single body may have in memory is a share of
//! what is *free*, so that it shrinks as more of them arrive slowly, and there is always some left
//! for one that is small and quick.

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

/// A body may have this part of the free memory.
const SHARE: u64 = 8;
/// What is gathered in memory before a file is written on.
const WRITE_BYTES: u64 = 256 * 1024;
/// So many files are copied to the store at once: a processor has the next while another is
/// written.
const COPIED_AT_ONCE: usize = 4;
/// A chunk that is smaller is copied: it may be a few bytes of a large buffer, which it would keep.
const WORTH_KEEPING: usize = 8 * 1024;

/// The memory and the disk that all arriving bodies share.
#[derive(Debug)]
pub(crate) struct Room {
    memory: Arc<Pool>,
    disk: Arc<Pool>,
    folder: PathBuf,
    /// The store that may have files for what arrives, instead of that folder.
    store: Option<SharedBlobs>,
    /// Files that are in memory as a whole, on their way to the store. Who waits here waits for the
    /// store, not for a client.
    storing: Arc<Semaphore>,
    /// The same of those that are copied part by part.
    copying: Arc<Semaphore>,
}

/// Bytes that are free.
#[derive(Debug)]
struct Pool(AtomicU64);

/// Bytes of a pool, which get free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    pool: Arc<Pool>,
    bytes: u64,
}

impl Taken {
    fn none(pool: &Arc<Pool>) -> Self {
        Self { pool: pool.clone(), bytes: 0 }
    }

    /// Takes so many more, if there are so many.
    fn more(&mut self, bytes: u64) -> bool {
        let free = &self.pool.0;
        let taken =
            free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| free.checked_sub(bytes)).is_ok();
        self.bytes += if taken { bytes } else { 0 };
        taken
    }

    /// Takes so many in all, if there are so many.
    pub(crate) fn set(&mut self, bytes: u64) -> bool {
        if bytes > self.bytes {
            return self.more(bytes - self.bytes);
        }
        self.pool.0.fetch_add(self.bytes - bytes, Ordering::Relaxed);
        self.bytes = bytes;
        true
    }

    /// What a single body may have now.
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
    /// So many bytes of memory, and so many in files in this folder, which is made if it is
    /// missing, or in this store. `largest` is the largest body.
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

    /// The memory and the disk that are free.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn free(&self) -> (u64, u64) {
        (self.memory.0.load(Ordering::Relaxed), self.disk.0.load(Ordering::Relaxed))
    }

    /// None of the memory yet, for something else that grows with what arrives.
    pub(crate) fn memory(&self) -> Taken {
        Taken::none(&self.memory)
    }

    /// A file for a body.
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

/// The bytes of a body so far.
#[derive(Debug)]
pub(crate) struct Held {
    room: Arc<Room>,
    /// What came in large pieces is not copied.
    pieces: Pieces,
    /// Small ones that came after them.
    memory: BytesMut,
    taken: Taken,
    /// What came before that.
    spooled: Option<Spooled>,
}

/// The part of a body that is in a file.
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

    /// Takes in what has arrived. It fails where the disk is full, or that part of it which uploads
    /// may have.
    pub(crate) async fn add(&mut self, chunk: Bytes) -> Result<()> {
        let most = self.taken.most().min(if self.spooled.is_some() { WRITE_BYTES } else { u64::MAX });
        let bytes = chunk.len() as u64;
        if self.taken.bytes + bytes > most || !self.taken.more(bytes) {
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

    /// Lets go of all of it.
    pub(crate) fn clear(&mut self) {
        *self = Self::new(&self.room);
    }

    /// Moves what is in memory to the file, and this chunk after it.
    async fn write_out(&mut self, chunk: Bytes) -> Result<()> {
        let (file, mut on_disk) = match self.spooled.take() {
            Some(Spooled { file, taken }) => (Some(file), taken),
            None => (None, Taken::none(&self.room.disk)),
        };
        let mut pieces = std::mem::take(&mut self.pieces);
        pieces.extend([std::mem::take(&mut self.memory).freeze(), chunk]);
        let held = std::mem::replace(&mut self.taken, Taken::none(&self.room.memory));
        if !on_disk.more(pieces.len() as u64) {
            let full = "arriving uploads use all of web.upload_disk";
            return Err(Error::unavailable("receiving an upload", full));
        }
        // Where the client leaves meanwhile, the thread drops all of it.
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

    /// All of it is there.
    pub(crate) fn whole(mut self) -> Whole {
        self.pieces.push(self.memory.freeze());
        Whole { room: self.room, memory: self.pieces, taken: self.taken, spooled: self.spooled }
    }
}

/// A body of which all has arrived.
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

    /// Has the work done with the bytes, of few bodies that are in files at once. Where the work
    /// does not take files, all bytes are in memory then.
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
        fn what_comes_out_is_what_went_in_and_everything_gets_free_again(
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
    fn a_small_body_finds_memory_however_many_large_ones_are_there() {
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
    fn where_the_disk_space_is_used_up_the_body_fails_and_gives_back_what_it_had() {
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
