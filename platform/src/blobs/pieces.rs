//! A blob in pieces: as it came over a network, not copied together, the first of it perhaps in a
//! file.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
    sync::Arc,
};

use bytes::{Bytes, BytesMut};

use super::Arriving;
use crate::error::{Error, Result};

/// A file is read in parts of this size, which fit into a processor's cache.
const PART_BYTES: usize = 256 * 1024;

/// Bytes that stand one after the other.
#[derive(Debug, Clone, Default)]
pub struct Pieces {
    /// What stands before those in memory.
    file: Option<(Arc<Spool>, u64)>,
    memory: Vec<Bytes>,
}

/// A file for the first bytes of a blob that is too large for memory.
#[derive(Debug)]
pub enum Spool {
    /// It goes with its last reader.
    Unnamed(File),
    /// A file of a store, in which the blob can stay.
    InStore(Arriving),
}

impl Spool {
    /// Writes what has arrived after what has before. Where this fails, the blob has to be given
    /// up.
    pub fn write(&mut self, pieces: &Pieces) -> io::Result<()> {
        match self {
            Self::Unnamed(file) => pieces.iter().try_for_each(|piece| file.write_all(piece)),
            Self::InStore(arriving) => arriving.write(pieces),
        }
    }
}

impl From<File> for Spool {
    fn from(file: File) -> Self {
        Self::Unnamed(file)
    }
}

impl From<Arriving> for Spool {
    fn from(arriving: Arriving) -> Self {
        Self::InStore(arriving)
    }
}

impl Pieces {
    /// So many bytes from the beginning of a file, which nobody else writes to, and these after
    /// them.
    pub fn after_file(file: impl Into<Spool>, bytes: u64, memory: Self) -> Self {
        Self { file: Some((Arc::new(file.into()), bytes)), ..memory }
    }

    /// How many bytes there are in all.
    pub fn len(&self) -> usize {
        let in_file =
            self.file.as_ref().map_or(0, |(_, bytes)| usize::try_from(*bytes).unwrap_or(usize::MAX));
        self.memory.iter().map(Bytes::len).fold(in_file, usize::saturating_add)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds some at the end.
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.memory.push(piece);
        }
    }

    /// The part that is in a file, and stands before the others, with its length.
    pub fn file(&self) -> Option<(&File, u64)> {
        self.file.as_ref().map(|(file, bytes)| match &**file {
            Spool::Unnamed(file) => (file, *bytes),
            Spool::InStore(arrived) => (arrived.file(), *bytes),
        })
    }

    /// The same, where it is a file of a store.
    pub(crate) fn arriving(&self) -> Option<&Arriving> {
        match self.file.as_ref().map(|(file, _)| &**file) {
            Some(Spool::InStore(arrived)) => Some(arrived),
            Some(Spool::Unnamed(_)) | None => None,
        }
    }

    /// The pieces in memory, in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.memory.iter().map(|piece| &piece[..])
    }

    /// Shows the bytes of the file, if there is one, part by part, and then each piece in memory.
    pub fn each(&self, mut see: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        if let Some((file, bytes)) = self.file() {
            let (mut part, mut at) = (vec![0; PART_BYTES], 0);
            while at < bytes {
                let left = usize::try_from(bytes - at).unwrap_or(usize::MAX);
                let next = &mut part[..left.min(PART_BYTES)];
                file.read_exact_at(next, at)?;
                see(next)?;
                at += next.len() as u64;
            }
        }
        self.iter().try_for_each(see)
    }

    /// All of them in one; copied where there is more than one. Reads the file, if there is one.
    pub fn joined(mut self) -> io::Result<Bytes> {
        if self.file.is_none() && self.memory.len() <= 1 {
            return Ok(self.memory.pop().unwrap_or_default());
        }
        let mut all = BytesMut::with_capacity(self.len());
        self.each(|part| {
            all.extend_from_slice(part);
            Ok(())
        })?;
        Ok(all.freeze())
    }

    /// The same on a blocking thread, where there is a file to be read.
    pub async fn read(self) -> Result<Bytes> {
        const WHAT: &str = "reading the file of an upload";
        let joined = if self.file.is_some() {
            let joined = tokio::task::spawn_blocking(move || self.joined()).await;
            joined.map_err(|panic| Error::broken(WHAT, panic))?
        } else {
            self.joined()
        };
        joined.map_err(|error| Error::from_io(WHAT, &error))
    }
}

impl From<Bytes> for Pieces {
    fn from(bytes: Bytes) -> Self {
        let mut pieces = Self::default();
        pieces.push(bytes);
        pieces
    }
}

impl From<&'static str> for Pieces {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl Extend<Bytes> for Pieces {
    fn extend<T: IntoIterator<Item = Bytes>>(&mut self, pieces: T) {
        pieces.into_iter().for_each(|piece| self.push(piece));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_is_in_a_file_stands_before_what_is_in_memory() {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..PART_BYTES * 2 + 5).map(|n| n as u8).collect();
        file.write_all(&bytes).unwrap();
        let pieces = Pieces::after_file(file, bytes.len() as u64, Bytes::from_static(b"end").into());
        assert_eq!(pieces.len(), bytes.len() + 3);
        let mut longest = 0;
        pieces
            .each(|part| {
                longest = longest.max(part.len());
                Ok(())
            })
            .unwrap();
        assert_eq!(longest, PART_BYTES);
        assert_eq!(pieces.joined().unwrap(), [&bytes[..], b"end"].concat());
    }

    #[test]
    fn a_file_that_is_shorter_than_was_said_is_an_error() {
        let pieces = Pieces::after_file(tempfile::tempfile().unwrap(), 10, Pieces::default());
        assert_eq!(pieces.joined().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
