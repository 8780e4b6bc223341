//! Segments: files to which a process appends images. The index says which image is where; bytes
//! that it does not name, such as the end of a file whose process was killed, are free.
//!
//! A file belongs to the process that created it. The process holds a lock on it while it writes
//! there, or has written images that are not in the index yet. No process writes to the file of
//! another; but deleting images frees their space with a hole, and deletes a file that has no
//! images left and is not locked.

mod arriving;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, ErrorKind, IoSlice},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use rustix::{
    buffer::spare_capacity,
    fs::{FallocateFlags, FlockOperation, fallocate, flock},
    io::{Errno, pread, pwritev},
};

pub use self::arriving::Arriving;
use super::index::{Entry, Place};
use crate::{
    blobs::Pieces,
    error::{Error, Result},
};

/// A segment of at least this size takes no further image, in bytes.
const LONGEST: u64 = 64 * 1024 * 1024;
/// Images begin at multiples of this, the usual block size of a file system, so that the space of
/// each can be freed separately.
const ALIGNED_TO: u64 = 4096;
/// Maximum number of pieces in one system call (`IOV_MAX`).
const PIECES: usize = 1024;
/// Maximum number of files kept open for reading.
const OPEN_AT_MOST: usize = 8;

/// The segments in a folder. Clones share the file that is written to.
#[derive(Debug, Clone)]
pub(super) struct Segments(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    sync: bool,
    /// The highest number known to this process. Numbers are not reused, because another process
    /// may still refer to the old file.
    last: AtomicU32,
    active: Mutex<Option<Active>>,
    open: Mutex<BTreeMap<u32, Arc<File>>>,
    /// The operations on the disk, for the tests of power failures.
    #[cfg(test)]
    record: Mutex<Vec<power_cut::Done>>,
}

/// The file to which this process appends.
#[derive(Debug)]
struct Active {
    file: Arc<Own>,
    end: u64,
}

/// A file of this process, locked until the last reference is dropped.
#[derive(Debug)]
struct Own {
    number: u32,
    file: File,
    /// Identifies the file even if it was moved.
    identity: (u64, u64),
    /// Number of images written, ...
    written: AtomicU64,
    /// ... and number of them that are on the disk.
    synced: Mutex<u64>,
}

/// Written bytes that the index does not name yet. Holding this keeps their file from being
/// deleted.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) entry: Entry,
    _held: Arc<Own>,
}

impl Segments {
    /// Opens the folder, or creates it. `last` is the highest segment number in the index.
    pub(super) fn open(folder: &Path, last: u32, sync: bool) -> Result<Self> {
        fs::create_dir_all(folder)
            .map_err(|error| Error::from_io(format!("making the folder {}", folder.display()), &error))?;
        Ok(Self(Arc::new(Inner {
            folder: folder.to_owned(),
            sync,
            last: AtomicU32::new(last),
            active: Mutex::default(),
            open: Mutex::default(),
            #[cfg(test)]
            record: Mutex::default(),
        })))
    }

    fn path(&self, number: u32) -> PathBuf {
        self.0.folder.join(format!("{number:010}.segment"))
    }

    /// Appends an image to this process's segment, or leaves it in the file in which it arrived.
    /// With `sync`, waits until it is on the disk.
    pub(super) fn append(&self, image: &Pieces) -> Result<Written> {
        let failed = |error: &io::Error| {
            Error::from_io(format!("writing an image to {}", self.0.folder.display()), error)
        };
        if let Some(placed) = self.place(image).map_err(|error| failed(&error))? {
            return Ok(placed);
        }
        let bytes = u32::try_from(image.len())
            .map_err(|_| Error::broken("writing an image", "it is larger than 4 GiB"))?;
        let (own, offset) = self.reserve(u64::from(bytes)).map_err(|error| failed(&error))?;
        let written = write_at(&own.file, image, offset);
        #[cfg(test)]
        lock(&self.0.record).push(power_cut::Done::Wrote(
            own.number,
            offset,
            image.clone().joined().unwrap_or_default().to_vec(),
        ));
        let synced = |sum| if self.0.sync { self.sync(&own).map(|()| sum) } else { Ok(sum) };
        let written = written.and_then(synced);
        let offset = u32::try_from(offset).unwrap_or(u32::MAX);
        let place = Place { segment: own.number, offset, bytes };
        match written {
            Ok(sum) => Ok(Written { entry: Entry { place, sum: Some(sum) }, _held: own }),
            Err(error) => {
                // An incomplete image must not take space on a full disk.
                give_back(&own.file, place);
                Err(failed(&error))
            }
        }
    }

    /// Waits until the caller's image is on the disk; one caller syncs for all that wait.
    fn sync(&self, own: &Own) -> io::Result<()> {
        let number = own.written.fetch_add(1, Ordering::SeqCst) + 1;
        let mut synced = lock(&own.synced);
        if *synced < number {
            // Everyone counted by now has finished writing.
            let all = own.written.load(Ordering::SeqCst);
            #[cfg(test)]
            let began = lock(&self.0.record).len();
            own.file.sync_data()?;
            #[cfg(test)]
            lock(&self.0.record).push(power_cut::Done::Synced(own.number, began));
            *synced = all;
        }
        Ok(())
    }

    /// Reserves the next free place in this process's segment. Writers then write concurrently.
    fn reserve(&self, bytes: u64) -> io::Result<(Arc<Own>, u64)> {
        let mut active = lock(&self.0.active);
        // A file that was deleted or moved by hand is no longer at its path, where readers look for
        // it.
        let usable = |active: &Active| {
            active.end + bytes <= LONGEST && active.file.is_at(&self.path(active.file.number))
        };
        if !active.as_ref().is_some_and(usable) {
            *active = Some(Active { file: Arc::new(self.make()?), end: 0 });
        }
        let active = active.as_mut().ok_or(ErrorKind::NotFound)?;
        let offset = active.end;
        // No two images begin at the same place, even if one is empty.
        active.end = (offset + bytes.max(1)).next_multiple_of(ALIGNED_TO);
        Ok((active.file.clone(), offset))
    }

    /// Creates the file after the last one.
    fn make(&self) -> io::Result<Own> {
        fs::create_dir_all(&self.0.folder)?;
        self.make_after(self.numbers()?.max().unwrap_or(0).max(self.0.last.load(Ordering::Relaxed)))
    }

    /// Creates the first file after `number` that does not exist.
    fn make_after(&self, mut number: u32) -> io::Result<Own> {
        loop {
            number += 1;
            self.0.last.fetch_max(number, Ordering::Relaxed);
            let path = self.path(number);
            let made = File::options().read(true).write(true).create_new(true).open(&path);
            let file = match made {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                made => made?,
            };
            flock(&file, FlockOperation::LockExclusive)?;
            // Another process may have deleted the file before it was locked.
            let data = file.metadata()?;
            if data.nlink() == 0 {
                continue;
            }
            if self.0.sync {
                File::open(&self.0.folder)?.sync_all()?;
            }
            let identity = identity(&data);
            return Ok(Own { number, file, identity, written: AtomicU64::new(0), synced: Mutex::default() });
        }
    }

    /// Returns the numbers of all segments, in no particular order.
    pub(super) fn numbers(&self) -> io::Result<impl Iterator<Item = u32> + use<>> {
        let number =
            |entry: fs::DirEntry| entry.file_name().to_str()?.strip_suffix(".segment")?.parse::<u32>().ok();
        Ok(fs::read_dir(&self.0.folder)?.flatten().filter_map(number))
    }

    /// Reads an image, and compares its checksum if it has one. `None` if the file is missing or
    /// too short.
    pub(super) fn read_checked(&self, entry: Entry) -> Result<Option<(Vec<u8>, Option<bool>)>> {
        let image = self.read(entry.place)?;
        Ok(image.map(|image| {
            let is_whole = entry.sum.map(|written| written == sum([&image[..]]));
            (image, is_whole)
        }))
    }

    /// Reads the bytes at a place. `None` if the file is missing or too short.
    pub(super) fn read(&self, place: Place) -> Result<Option<Vec<u8>>> {
        let failed = |error: io::Error| {
            Error::from_io(format!("reading {}", self.path(place.segment).display()), &error)
        };
        let was_open = lock(&self.0.open).get(&place.segment).cloned();
        if let Some(file) = was_open {
            if let Some(image) = read_at(&file, place).map_err(failed)? {
                return Ok(Some(image));
            }
            // The number may have been reused for another file.
            lock(&self.0.open).remove(&place.segment);
        }
        let file = match File::open(self.path(place.segment)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => Arc::new(file.map_err(failed)?),
        };
        let image = read_at(&file, place).map_err(failed)?;
        let mut open = lock(&self.0.open);
        if open.len() >= OPEN_AT_MOST {
            open.pop_first();
        }
        open.insert(place.segment, file);
        Ok(image)
    }

    /// Frees the space of images that the index no longer names.
    pub(super) fn free(&self, places: &[Place]) {
        let mut file: Option<(u32, File)> = None;
        for place in places {
            if file.as_ref().is_none_or(|(number, _)| *number != place.segment) {
                let opened = File::options().write(true).open(self.path(place.segment));
                file = opened.ok().map(|opened| (place.segment, opened));
            }
            if let Some((_, file)) = &file {
                give_back(file, *place);
            }
        }
    }

    /// Deletes an empty segment unless it is locked; returns whether it did. Calls `is_empty` with
    /// the lock held, so that no image can be added.
    pub(super) fn delete_if(&self, number: u32, is_empty: impl FnOnce() -> Result<bool>) -> Result<bool> {
        let path = self.path(number);
        let Ok(file) = File::options().write(true).open(&path) else { return Ok(false) };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() || !is_empty()? {
            return Ok(false);
        }
        let failed = |error: io::Error| Error::from_io(format!("deleting {}", path.display()), &error);
        // Readers may have it open, which would keep its space.
        file.set_len(0).map_err(failed)?;
        fs::remove_file(&path).map_err(failed)?;
        lock(&self.0.open).remove(&number);
        Ok(true)
    }

    /// Cuts off the bytes after the last image of a segment, unless it is locked: a killed process
    /// left them.
    pub(super) fn cut_tail(&self, number: u32, end: u64) {
        let Ok(file) = File::options().write(true).open(self.path(number)) else { return };
        let is_longer = file.metadata().is_ok_and(|data| data.len() > end);
        if is_longer && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            // If this fails, the next start repeats it.
            let _longer = file.set_len(end);
        }
    }
}

/// The checksum that detects bytes damaged by a power failure or a broken disk.
fn sum<'a>(image: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    image.into_iter().for_each(|piece| sum.update(piece));
    sum.finalize()
}

fn identity(data: &fs::Metadata) -> (u64, u64) {
    (data.dev(), data.ino())
}

impl Own {
    /// Returns whether it is still the file at this path.
    fn is_at(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|data| identity(&data) == self.identity)
    }
}

/// Writes an image at an offset; pieces in memory with as few system calls as possible. Returns its
/// checksum.
fn write_at(file: &File, image: &Pieces, offset: u64) -> io::Result<u32> {
    if image.file().is_some() {
        // Checksum and write each part while it is in the processor's cache.
        let (mut sum, mut at) = (crc32fast::Hasher::new(), offset);
        image.each(|part| {
            sum.update(part);
            write_pieces(file, &mut [IoSlice::new(part)], at)?;
            at += part.len() as u64;
            Ok(())
        })?;
        return Ok(sum.finalize());
    }
    write_pieces(file, &mut image.iter().map(IoSlice::new).collect::<Vec<_>>(), offset)?;
    Ok(sum(image.iter()))
}

fn write_pieces(file: &File, mut left: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
    while !left.is_empty() {
        match pwritev(file, &left[..left.len().min(PIECES)], offset) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => {
                offset += written as u64;
                IoSlice::advance_slices(&mut left, written);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Reads the bytes at a place; `None` if there are fewer.
fn read_at(file: &File, place: Place) -> io::Result<Option<Vec<u8>>> {
    let wanted = place.bytes as usize;
    let mut image = Vec::with_capacity(wanted);
    while image.len() < wanted {
        let at = u64::from(place.offset) + image.len() as u64;
        let before = image.len();
        match pread(file, spare_capacity(&mut image), at) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if image.len() == before {
            return Ok(None);
        }
        image.truncate(wanted);
    }
    Ok(Some(image))
}

/// Punches a hole in place of an image. On a file system without holes, the space is freed with the
/// whole file.
fn give_back(file: &File, place: Place) {
    let bytes = u64::from(place.bytes).next_multiple_of(ALIGNED_TO);
    if bytes > 0 {
        let _kept = fallocate(
            file,
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            u64::from(place.offset),
            bytes,
        );
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod power_cut;

#[cfg(test)]
mod tests;
