//! A large image that is written to its own segment while it arrives, so that the complete image
//! need not be copied.

use std::{
    fs,
    io::{self, IoSlice},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{Own, Segments, Written, write_pieces};
use crate::{
    blobs::{
        Pieces,
        embedded::index::{Entry, Place},
    },
    error::{Error, Result},
};

/// Smaller images are copied to the shared segment, to limit the number of files. In bytes.
const ALONE_FROM: usize = 4 * 1024 * 1024;

/// The start of an image, in a file of the store. Dropping it deletes the file unless the image was
/// staged; a file left by a kill is deleted after the next start.
#[derive(Debug)]
pub struct Arriving {
    segments: Segments,
    own: Arc<Own>,
    bytes: u64,
    /// The checksum of these bytes.
    sum: u32,
    is_placed: AtomicBool,
}

impl Arriving {
    /// Returns the file; the bytes are at its start.
    pub(crate) fn file(&self) -> &fs::File {
        &self.own.file
    }

    /// Appends the bytes that have arrived. After an error, the image must be discarded.
    pub fn write(&mut self, pieces: &Pieces) -> io::Result<()> {
        write_pieces(&self.own.file, &mut pieces.iter().map(IoSlice::new).collect::<Vec<_>>(), self.bytes)?;
        self.sum = self.sum_with(pieces);
        self.bytes += pieces.len() as u64;
        Ok(())
    }

    /// Returns the checksum of the bytes so far followed by these pieces.
    fn sum_with(&self, pieces: &Pieces) -> u32 {
        let mut sum = crc32fast::Hasher::new_with_initial(self.sum);
        pieces.iter().for_each(|piece| sum.update(piece));
        sum.finalize()
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        let path = self.segments.path(self.own.number);
        // This process has the lock, and the index does not name the file.
        if !*self.is_placed.get_mut() && self.own.is_at(&path) {
            let _after_the_next_start = self.own.file.set_len(0).and_then(|()| fs::remove_file(&path));
        }
    }
}

impl Segments {
    /// Creates a file for an image that begins to arrive.
    pub(in crate::blobs::embedded) fn arriving(&self) -> Result<Arriving> {
        let folder = &self.0.folder;
        // Listing many files costs more than trying a number that exists.
        let own = match self.0.last.load(Ordering::Relaxed) {
            0 => self.make(),
            last => fs::create_dir_all(folder).and_then(|()| self.make_after(last)),
        };
        let own = own
            .map_err(|error| Error::from_io(format!("beginning an image in {}", folder.display()), &error))?;
        let (segments, own) = (self.clone(), Arc::new(own));
        Ok(Arriving { segments, own, bytes: 0, sum: 0, is_placed: AtomicBool::new(false) })
    }

    /// Appends the remaining pieces of an image to the file in which it arrived. `None` if the
    /// image must be copied instead.
    pub(super) fn place(&self, image: &Pieces) -> io::Result<Option<Written>> {
        let Some(arrived) = image.arriving() else { return Ok(None) };
        let (own, path) = (&arrived.own, self.path(arrived.own.number));
        let is_of_this_folder = Arc::ptr_eq(&self.0, &arrived.segments.0);
        let Ok(bytes) = u32::try_from(image.len()) else { return Ok(None) };
        if image.len() < ALONE_FROM || !is_of_this_folder || !own.is_at(&path) {
            return Ok(None);
        }
        // Two images at one place would be deleted together.
        if arrived.is_placed.swap(true, Ordering::Relaxed) {
            return Ok(None);
        }
        let written = self.finish(arrived, image);
        if written.is_err() {
            arrived.is_placed.store(false, Ordering::Relaxed);
        }
        let place = Place { segment: own.number, offset: 0, bytes };
        written.map(|sum| Some(Written { entry: Entry { place, sum: Some(sum) }, _held: own.clone() }))
    }

    fn finish(&self, arrived: &Arriving, image: &Pieces) -> io::Result<u32> {
        let mut rest: Vec<_> = image.iter().map(IoSlice::new).collect();
        write_pieces(&arrived.own.file, &mut rest, arrived.bytes)?;
        #[cfg(test)]
        super::lock(&self.0.record).push(super::power_cut::Done::Wrote(
            arrived.own.number,
            0,
            image.clone().joined()?.to_vec(),
        ));
        if self.0.sync {
            self.sync(&arrived.own)?;
        }
        Ok(arrived.sum_with(image))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn segments(folder: &std::path::Path) -> Segments {
        Segments::open(folder, 0, false).unwrap()
    }

    /// An image of which all but the last piece has arrived in a file.
    fn arrived(segments: &Segments, pieces: &[&[u8]]) -> Pieces {
        let (last, first) = pieces.split_last().unwrap();
        let mut arriving = segments.arriving().unwrap();
        for piece in first {
            arriving.write(&Bytes::copy_from_slice(piece).into()).unwrap();
        }
        let bytes = arriving.bytes;
        Pieces::after_file(arriving, bytes, Bytes::copy_from_slice(last).into())
    }

    fn files(segments: &Segments) -> usize {
        segments.numbers().unwrap().count()
    }

    #[test]
    fn a_large_image_stays_in_its_file_and_a_small_one_is_copied() {
        let folder = tempfile::tempdir().unwrap();
        let segments = segments(folder.path());
        let large = [&vec![1; ALONE_FROM / 2][..], &vec![2; ALONE_FROM / 2], b"end"];
        for (pieces, is_alone) in [(&large[..], true), (&[&b"small"[..], b"end"], false), (&[b""], false)] {
            let image = arrived(&segments, pieces);
            let before = image.arriving().map(|arriving| arriving.own.number).unwrap();
            let entry = segments.append(&image).unwrap().entry;
            drop(image);
            assert_eq!(entry.place.segment == before, is_alone, "{} bytes", entry.place.bytes);
            assert_eq!(segments.read_checked(entry).unwrap(), Some((pieces.concat(), Some(true))));
        }
        assert_eq!(files(&segments), 2);
    }

    #[test]
    fn an_incomplete_image_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let segments = segments(folder.path());
        let mut arriving = segments.arriving().unwrap();
        arriving.write(&Bytes::from(vec![7; 100_000]).into()).unwrap();
        assert_eq!(files(&segments), 1);
        drop(arriving);
        assert_eq!(files(&segments), 0);
    }

    #[test]
    fn an_image_that_arrives_or_is_not_in_the_index_yet_is_not_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let (writer, other) = (segments(folder.path()), segments(folder.path()));
        let image = arrived(&writer, &[&vec![1; ALONE_FROM][..], b"end"]);
        assert!(!other.delete_if(1, || Ok(true)).unwrap());
        let written = writer.append(&image).unwrap();
        drop(image);
        assert!(!other.delete_if(1, || Ok(true)).unwrap());
        drop(written);
        assert!(other.delete_if(1, || Ok(true)).unwrap());
    }

    #[test]
    fn an_image_staged_twice_or_in_another_folder_is_copied() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (segments(&folder.path().join("one")), segments(&folder.path().join("other")));
        let image = arrived(&one, &[&vec![1; ALONE_FROM][..], b"end"]);
        let entries = [&one, &one, &other].map(|segments| (segments, segments.append(&image).unwrap().entry));
        assert_ne!(entries[0].1.place, entries[1].1.place);
        let whole = image.joined().unwrap();
        for (segments, entry) in entries {
            assert_eq!(segments.read_checked(entry).unwrap(), Some((whole.to_vec(), Some(true))));
        }
    }

    #[test]
    fn an_image_whose_file_was_moved_is_copied_and_a_file_in_its_place_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let segments = segments(folder.path());
        let image = arrived(&segments, &[&vec![1; ALONE_FROM][..], b"end"]);
        let number = image.arriving().unwrap().own.number;
        fs::rename(segments.path(number), folder.path().join("aside")).unwrap();
        fs::write(segments.path(number), "another").unwrap();
        let entry = segments.append(&image).unwrap().entry;
        assert_ne!(entry.place.segment, number);
        drop(image);
        assert_eq!(fs::read(segments.path(number)).unwrap(), b"another");
        assert_eq!(segments.read_checked(entry).unwrap().unwrap().1, Some(true));
    }
}
