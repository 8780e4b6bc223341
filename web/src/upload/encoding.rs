//! `Content-Encoding`: decompresses bodies as they arrive, at most one buffer ahead of the reader.
//! A small body that expands to a huge one takes no more memory than another and ends at the limit
//! for images.

use std::{
    io::{self, BufRead, ErrorKind, Read},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use flate2::bufread::{DeflateDecoder, GzDecoder, ZlibDecoder};
use futures::{Stream, StreamExt, stream::BoxStream};

/// Bytes decompressed at once.
const BUFFER: usize = 32 * 1024;

/// The compression of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Gzip,
    Deflate,
}

impl Encoding {
    /// Parses the values of the header; `Err` holds the encodings that are not supported.
    pub(super) fn of<'a>(headers: impl IntoIterator<Item = &'a str>) -> Result<Option<Self>, String> {
        let names = headers.into_iter().flat_map(|value| value.split(','));
        let names = names.map(|name| name.trim().to_ascii_lowercase());
        let names: Vec<_> = names.filter(|name| !matches!(&**name, "" | "identity")).collect();
        match &names[..] {
            [] => Ok(None),
            [one] if matches!(&**one, "gzip" | "x-gzip") => Ok(Some(Self::Gzip)),
            [one] if one == "deflate" => Ok(Some(Self::Deflate)),
            others => Err(others.join(", ").chars().take(100).collect()),
        }
    }
}

/// Bytes that arrived and are not decompressed yet.
#[derive(Debug, Default)]
struct Feed {
    chunk: Bytes,
    is_whole: bool,
}

impl BufRead for Feed {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.chunk.is_empty() && !self.is_whole {
            Err(ErrorKind::WouldBlock.into())
        } else {
            Ok(&self.chunk)
        }
    }

    fn consume(&mut self, bytes: usize) {
        self.chunk.advance(bytes);
    }
}

impl Read for Feed {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?.read(buf)?;
        self.consume(bytes);
        Ok(bytes)
    }
}

enum Unpacker {
    /// `deflate` means zlib (RFC 9110, 8.4.1.2), but some clients send raw deflate: the first byte
    /// decides.
    Unknown(Feed),
    Gzip(GzDecoder<Feed>),
    /// A gzip member has ended. Another member may follow, or zeros up to the end if whole blocks
    /// were written: gzip(1) reads both.
    AfterMember(Feed),
    Padding(Feed),
    Zlib(ZlibDecoder<Feed>),
    Deflate(DeflateDecoder<Feed>),
}

impl Unpacker {
    fn feed(&mut self) -> &mut Feed {
        match self {
            Self::Unknown(feed) | Self::AfterMember(feed) | Self::Padding(feed) => feed,
            Self::Gzip(unpacker) => unpacker.get_mut(),
            Self::Zlib(unpacker) => unpacker.get_mut(),
            Self::Deflate(unpacker) => unpacker.get_mut(),
        }
    }

    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if let Self::Unknown(feed) = self {
            // The low half of zlib's first byte is 8. A deflate stream with that byte would begin
            // with a stored block with an invalid header.
            let is_zlib = feed.fill_buf()?.first().is_none_or(|first| first & 0x0f == 8);
            let feed = std::mem::take(feed);
            *self = if is_zlib {
                Self::Zlib(ZlibDecoder::new(feed))
            } else {
                Self::Deflate(DeflateDecoder::new(feed))
            };
        }
        match self {
            Self::Unknown(_) => Err(ErrorKind::WouldBlock.into()),
            Self::Gzip(_) | Self::AfterMember(_) | Self::Padding(_) => self.read_gzip(buf),
            Self::Zlib(unpacker) => unpacker.read(buf),
            Self::Deflate(unpacker) => unpacker.read(buf),
        }
    }

    fn read_gzip(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self {
                Self::Gzip(unpacker) => match unpacker.read(buf)? {
                    0 => *self = Self::AfterMember(std::mem::take(unpacker.get_mut())),
                    bytes => return Ok(bytes),
                },
                Self::AfterMember(feed) => match feed.fill_buf()?.first() {
                    None => return Ok(0),
                    Some(0) => *self = Self::Padding(std::mem::take(feed)),
                    Some(_) => *self = Self::Gzip(GzDecoder::new(std::mem::take(feed))),
                },
                Self::Padding(feed) => {
                    let zeros = feed.fill_buf()?;
                    let bytes = zeros.len();
                    if bytes == 0 {
                        return Ok(0);
                    }
                    if zeros.iter().any(|byte| *byte != 0) {
                        let what = "something follows the zeros after its end";
                        return Err(io::Error::new(ErrorKind::InvalidData, what));
                    }
                    feed.consume(bytes);
                }
                _ => return Ok(0),
            }
        }
    }
}

/// A decompressed body.
pub(super) struct Unpacked {
    body: BoxStream<'static, io::Result<Bytes>>,
    unpacker: Unpacker,
    buffer: Vec<u8>,
    is_over: bool,
}

impl Unpacked {
    pub(super) fn of(
        body: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
        encoding: Encoding,
    ) -> Self {
        let feed = Feed::default();
        let unpacker = match encoding {
            Encoding::Gzip => Unpacker::Gzip(GzDecoder::new(feed)),
            Encoding::Deflate => Unpacker::Unknown(feed),
        };
        Self { body: body.boxed(), unpacker, buffer: vec![0; BUFFER], is_over: false }
    }
}

impl Stream for Unpacked {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        while !this.is_over {
            match this.unpacker.read(&mut this.buffer) {
                Ok(0) => this.is_over = true,
                Ok(bytes) => return Poll::Ready(Some(Ok(Bytes::copy_from_slice(&this.buffer[..bytes])))),
                Err(error) if error.kind() == ErrorKind::WouldBlock => match this.body.poll_next_unpin(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Some(Ok(chunk))) => this.unpacker.feed().chunk = chunk,
                    Poll::Ready(Some(Err(error))) => {
                        this.is_over = true;
                        return Poll::Ready(Some(Err(error)));
                    }
                    Poll::Ready(None) => this.unpacker.feed().is_whole = true,
                },
                Err(error) => {
                    this.is_over = true;
                    let why = format!("the body does not match its Content-Encoding: {error}");
                    return Poll::Ready(Some(Err(io::Error::new(ErrorKind::InvalidData, why))));
                }
            }
        }
        Poll::Ready(None)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write};
    use proptest::prelude::*;

    use super::*;

    fn unpacked(encoding: Encoding, chunks: Vec<Vec<u8>>) -> io::Result<Vec<u8>> {
        let body = futures::stream::iter(chunks.into_iter().map(|chunk| Ok(Bytes::from(chunk))));
        let mut all = Vec::new();
        for chunk in futures::executor::block_on_stream(Unpacked::of(body, encoding)) {
            let chunk = chunk?;
            assert!(chunk.len() <= BUFFER);
            all.extend(chunk);
        }
        Ok(all)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packer = write::GzEncoder::new(Vec::new(), Compression::default());
        packer.write_all(bytes).unwrap();
        packer.finish().unwrap()
    }

    #[test]
    fn gzip_and_deflate_are_supported_and_other_encodings_are_refused() {
        assert_eq!(Encoding::of([]), Ok(None));
        assert_eq!(Encoding::of(["identity", ""]), Ok(None));
        assert_eq!(Encoding::of(["X-GZip"]), Ok(Some(Encoding::Gzip)));
        assert_eq!(Encoding::of(["identity, deflate"]), Ok(Some(Encoding::Deflate)));
        assert_eq!(Encoding::of(["br"]), Err("br".to_owned()));
        assert_eq!(Encoding::of(["gzip", "gzip"]), Err("gzip, gzip".to_owned()), "nested encodings");
    }

    proptest! {
        #[test]
        fn a_compressed_body_is_restored_however_it_is_split(
            bytes in prop::collection::vec(0u8..4, 0..100_000),
            size in 1usize..5000,
            zeros in 0usize..3000,
        ) {
            let chunks = |packed: &[u8]| packed.chunks(size).map(<[u8]>::to_vec).collect();
            prop_assert_eq!(&unpacked(Encoding::Gzip, chunks(&gzip(&bytes))).unwrap(), &bytes);
            let twice = [gzip(&bytes), gzip(b"more")].concat();
            prop_assert_eq!(unpacked(Encoding::Gzip, chunks(&twice)).unwrap(),
                [&bytes[..], b"more"].concat());
            let padded = [twice, vec![0; zeros]].concat();
            prop_assert_eq!(unpacked(Encoding::Gzip, chunks(&padded)).unwrap(),
                [&bytes[..], b"more"].concat());
            let mut zlib = write::ZlibEncoder::new(Vec::new(), Compression::fast());
            zlib.write_all(&bytes).unwrap();
            prop_assert_eq!(&unpacked(Encoding::Deflate, chunks(&zlib.finish().unwrap())).unwrap(), &bytes);
            let mut deflate = write::DeflateEncoder::new(Vec::new(), Compression::fast());
            deflate.write_all(&bytes).unwrap();
            prop_assert_eq!(&unpacked(Encoding::Deflate, chunks(&deflate.finish().unwrap())).unwrap(),
                &bytes);
        }

        #[test]
        fn an_uncompressed_body_is_an_error_and_no_panic(
            bytes in prop::collection::vec(any::<u8>(), 1..300),
        ) {
            prop_assert!(unpacked(Encoding::Gzip, vec![bytes.clone()]).is_err());
            let _either = unpacked(Encoding::Deflate, vec![bytes]);
        }
    }

    #[test]
    fn only_a_gzip_member_or_zeros_may_follow_a_gzip_member() {
        for after in [&b"x"[..], b"\0x", &[&[0; 5000][..], &gzip(b"more")].concat(), b"\x1f"] {
            let body = [gzip(b"image"), after.to_vec()].concat();
            for chunks in [vec![body.clone()], body.iter().map(|byte| vec![*byte]).collect()] {
                let error = unpacked(Encoding::Gzip, chunks).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::InvalidData, "{after:?}");
            }
        }
    }

    #[test]
    fn a_body_that_ends_early_is_an_error() {
        let mut packed = gzip(&[7; 1000]);
        packed.truncate(packed.len() - 3);
        assert_eq!(unpacked(Encoding::Gzip, vec![packed]).unwrap_err().kind(), ErrorKind::InvalidData);
    }
}
