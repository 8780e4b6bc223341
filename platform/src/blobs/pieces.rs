//! A blob in pieces as they came over a network, without copying them together. The first part may
//! be in a file.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
    sync::Arc,
};

use bytes::{Bytes, BytesMut};

use super::Arriving;
use crate::error::{Error, Result};

/// Files are read in parts of this size in bytes, which fit into a processor's cache.
const PART_BYTES: usize = 256 * 1024;

/// Consecutive bytes in several pieces.
#[derive(Debug, Clone, Default)]
pub struct Pieces {
    /// The bytes before those in memory: a file and their number.
    file: Option<(Arc<Spool>, u64)>,
    memory: Vec<Bytes>,
}

/// A file for the first part of a blob that is too large for memory.
#[derive(Debug)]
pub enum Spool {
    /// A file without a name, which disappears with its last reader.
    Unnamed(File),
    /// A file of a store, in which the blob can stay.
    InStore(Arriving),
}

impl Spool {
    /// Appends the bytes that have arrived. After an error, the blob must be discarded.
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
    /// Creates pieces from the first `bytes` bytes of a file, which must not be written to by
    /// others, followed by `memory`.
    pub fn after_file(file: impl Into<Spool>, bytes: u64, memory: Self) -> Self {
        Self { file: Some((Arc::new(file.into()), bytes)), ..memory }
    }

    /// Returns the total number of bytes.
    pub fn len(&self) -> usize {
        let in_file =
            self.file.as_ref().map_or(0, |(_, bytes)| usize::try_from(*bytes).unwrap_or(usize::MAX));
        self.memory.iter().map(Bytes::len).fold(in_file, usize::saturating_add)
    }

    /// Returns whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends a piece.
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.memory.push(piece);
        }
    }

    /// Returns the file with the first part, and the length of that part.
    pub fn file(&self) -> Option<(&File, u64)> {
        self.file.as_ref().map(|(file, bytes)| match &**file {
            Spool::Unnamed(file) => (file, *bytes),
            Spool::InStore(arrived) => (arrived.file(), *bytes),
        })
    }

    /// Returns that file if it is one of a store.
    pub(crate) fn arriving(&self) -> Option<&Arriving> {
        match self.file.as_ref().map(|(file, _)| &**file) {
            Some(Spool::InStore(arrived)) => Some(arrived),
            Some(Spool::Unnamed(_)) | None => None,
        }
    }

    /// Returns the pieces in memory, in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.memory.iter().map(|piece| &piece[..])
    }

    /// Calls `see` with each part of the file, if there is one, and then with each piece in memory.
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

    /// Joins all bytes, which copies them if there is more than one piece. Reads the file, if there
    /// is one.
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

    /// Like [`joined`](Self::joined), on a blocking thread if there is a file.
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
    fn bytes_in_the_file_precede_those_in_memory() {
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
    fn a_file_that_is_too_short_is_an_error() {
        let pieces = Pieces::after_file(tempfile::tempfile().unwrap(), 10, Pieces::default());
        assert_eq!(pieces.joined().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
