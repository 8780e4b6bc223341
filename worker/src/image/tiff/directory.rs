//! Reads the first directory of a TIFF file before any decoder, and rewrites the file so that the
//! `tiff` crate (0.11.3) can read it.

use std::borrow::Cow;

/// Values of the photometric interpretation.
pub(super) const WHITE_IS_ZERO: u64 = 0;
pub(super) const BLACK_IS_ZERO: u64 = 1;
pub(super) const RGB: u64 = 2;
pub(super) const PALETTE: u64 = 3;
pub(super) const INKS: u64 = 5;
pub(super) const YCBCR: u64 = 6;

pub(super) const COMPRESSION: u64 = 259;
const PHOTOMETRIC: u64 = 262;
const BITS: u64 = 258;
const FILL_ORDER: u64 = 266;
const ORIENTATION: u64 = 274;
const PREDICTOR: u64 = 317;
const EXTRA: u64 = 338;
/// A tag that no reader knows.
const UNKNOWN: u64 = 65000;
const SAMPLES: u64 = 277;
const PLANES: u64 = 284;
/// The tags with offsets and lengths of strips and of tiles.
const PARTS: [(u64, u64); 2] = [(273, 279), (324, 325)];

/// LZW and two codes of deflate: of the supported compressions, those with which libtiff allows a
/// predictor.
const PREDICTED: [u64; 3] = [5, 8, 32946];

/// Old and new JPEG, to which the fill order does not apply.
const JPEGS: [u64; 2] = [6, 7];

/// The first directory of a file.
pub(super) struct Directory<'f> {
    file: &'f [u8],
    is_little: bool,
    pub(super) is_big: bool,
    /// The offsets of the entries.
    entries: Vec<usize>,
}

impl<'f> Directory<'f> {
    /// Reads the directory; it is empty if there is none.
    pub(super) fn read(file: &'f [u8]) -> Self {
        let mut read = Self { file, is_little: file.starts_with(b"II"), is_big: false, entries: Vec::new() };
        // BigTIFF has wider fields.
        read.is_big = read.number(2, 2) == Some(43);
        let (start, width, count, each) = if read.is_big { (8, 8, 8, 20) } else { (4, 4, 2, 12) };
        let directory = read.number(start, width).and_then(|at| usize::try_from(at).ok());
        let Some(directory) = directory else { return read };
        let entries = read.number(directory, count).map_or(0, |entries| entries.min(1000) as usize);
        if let Some(first) = directory.checked_add(count) {
            read.entries = (0..entries).map(|entry| first + entry * each).collect();
        }
        read
    }

    fn number(&self, at: usize, length: usize) -> Option<u64> {
        let bytes = self.file.get(at..at.checked_add(length)?)?.iter();
        let add = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        Some(if self.is_little { bytes.rev().fold(0, add) } else { bytes.fold(0, add) })
    }

    /// Returns the offset of a tag's entry.
    pub(super) fn entry(&self, tag: u64) -> Option<usize> {
        self.entries.iter().copied().find(|at| self.number(*at, 2) == Some(tag))
    }

    /// Returns the offset of a tag's numbers, the length of each, and their count.
    fn place(&self, tag: u64) -> Option<(usize, usize, usize)> {
        let at = self.entry(tag)?;
        let length = match self.number(at + 2, 2)? {
            1 | 7 => 1,
            3 => 2,
            4 | 13 => 4,
            16 | 18 => 8,
            _ => return None,
        };
        let (count, value, room) = if self.is_big { (8, 12, 8) } else { (4, 8, 4) };
        let count = usize::try_from(self.number(at + 4, count)?).ok()?;
        if count.checked_mul(length)? <= room {
            return Some((at + value, length, count));
        }
        Some((usize::try_from(self.number(at + value, room)?).ok()?, length, count))
    }

    /// Returns the numbers of a tag, as far as they are within the file.
    pub(super) fn numbers(&self, tag: u64) -> impl Iterator<Item = u64> {
        let (at, length, count) = self.place(tag).unwrap_or((0, 1, 0));
        (0..count).map_while(move |index| self.number(at.checked_add(index * length)?, length))
    }

    /// Returns the first number of a tag.
    pub(super) fn first(&self, tag: u64, usual: u64) -> u64 {
        self.numbers(tag).next().unwrap_or(usual)
    }

    /// Returns the photometric interpretation.
    pub(super) fn meaning(&self) -> u64 {
        self.first(PHOTOMETRIC, BLACK_IS_ZERO)
    }

    pub(super) fn compression(&self) -> u64 {
        self.first(COMPRESSION, 1)
    }

    /// Returns the number of bits per sample.
    pub(super) fn bits(&self) -> u64 {
        self.first(BITS, 1)
    }

    /// Returns the number of samples per pixel, at least 1.
    pub(super) fn samples(&self) -> u64 {
        self.first(SAMPLES, 1).clamp(1, 65535)
    }

    /// Returns whether each sample of the pixels is stored in its own plane.
    pub(super) fn is_in_planes(&self) -> bool {
        self.first(PLANES, 1) == 2
    }

    /// Returns the meaning of an additional sample: 1 for alpha by which the colours were
    /// multiplied, 2 for other alpha, 0 for anything else.
    pub(super) fn extra(&self) -> Option<u64> {
        self.numbers(EXTRA).next()
    }

    /// Returns the orientation.
    pub(super) fn orientation(&self) -> Option<u32> {
        Some(u32::try_from(self.numbers(ORIENTATION).next()?).unwrap_or(0))
    }

    /// Returns the byte ranges of strips or tiles, in order, as far as they are within the file.
    pub(super) fn parts(&self) -> Vec<std::ops::Range<usize>> {
        let (starts, lengths) =
            PARTS.into_iter().find(|(starts, _)| self.place(*starts).is_some()).unwrap_or(PARTS[0]);
        let part = |(start, length): (u64, u64)| {
            let start = usize::try_from(start).ok()?;
            let end = start.checked_add(usize::try_from(length).ok()?)?;
            (end <= self.file.len()).then_some(start..end)
        };
        self.numbers(starts).zip(self.numbers(lengths)).map_while(part).collect()
    }

    /// Describes an unsupported property of the image, with the offset of its tag.
    pub(super) fn unsupported(&self) -> Option<String> {
        const SAMPLE_FORMAT: u64 = 339;
        let compression = match self.compression() {
            2..=3 => "the fax code of group 3",
            6 => "the old kind of JPEG",
            34925 => "LZMA",
            50000 => "Zstandard",
            50001 => "WebP",
            _ => "",
        };
        let bits = self.bits();
        let (tag, what) = match (compression, self.first(SAMPLE_FORMAT, 1), self.meaning()) {
            (code, ..) if !code.is_empty() => (COMPRESSION, format!("is compressed with {code}")),
            (_, 2, _) => (SAMPLE_FORMAT, format!("has signed samples of {bits} bits")),
            (_, 3, _) => (SAMPLE_FORMAT, format!("has samples of {bits} bits that are fractions")),
            (_, _, YCBCR) if self.compression() != 7 => {
                (PHOTOMETRIC, "has YCbCr colours outside of JPEG".to_owned())
            }
            // With two components per pixel, `tiff` would read the wrong ones.
            _ if self.compression() == 7 && !self.is_in_planes() && !matches!(self.samples(), 1 | 3 | 4) => {
                (SAMPLES, format!("has JPEGs of {} components", self.samples()))
            }
            (_, _, 8..=10) => (PHOTOMETRIC, "has the colours of CIE Lab".to_owned()),
            _ if !matches!(bits, 1 | 2 | 4 | 8 | 16) => (BITS, format!("has samples of {bits} bits")),
            _ => return None,
        };
        let at = self.entry(tag).map_or(String::new(), |at| format!(" (byte {at})"));
        Some(format!("{what}{at}"))
    }

    /// Returns the file with the most significant bit of each byte first, as `tiff` expects it.
    pub(super) fn in_order(&self) -> Cow<'f, [u8]> {
        let mut copy = Cow::Borrowed(self.file);
        let parts = self.parts();
        // Overlapping parts are damage, and could make this slow.
        let is_whole = || parts.iter().map(ExactSizeIterator::len).sum::<usize>() <= self.file.len();
        if self.first(FILL_ORDER, 1) == 2 && !JPEGS.contains(&self.compression()) && is_whole() {
            let bytes = copy.to_mut();
            for part in parts {
                bytes[part].iter_mut().for_each(|byte| *byte = byte.reverse_bits());
            }
        }
        copy
    }

    /// Returns the file in a form that the `tiff` crate reads correctly: plain numbers, no
    /// predictor where libtiff has none, no further images, and optionally only one plane.
    pub(super) fn as_numbers<'a>(&self, file: &'a [u8], plane: Option<usize>) -> Cow<'a, [u8]> {
        let mut copy = Cow::Borrowed(file);
        if matches!(self.meaning(), WHITE_IS_ZERO | RGB | PALETTE | INKS) {
            self.set(copy.to_mut(), PHOTOMETRIC, BLACK_IS_ZERO);
        }
        if self.first(PREDICTOR, 1) != 1 && !PREDICTED.contains(&self.compression()) {
            self.set(copy.to_mut(), PREDICTOR, 1);
        }
        let next = self.entries.last().map(|last| last + if self.is_big { 20 } else { 12 });
        if let Some(next) = next.filter(|next| self.number(*next, 4).is_some_and(|next| next != 0)) {
            copy.to_mut()[next..next + 4].fill(0);
        }
        if let Some(plane) = plane {
            let samples = self.samples() as usize;
            let copy = copy.to_mut();
            self.set(copy, SAMPLES, 1);
            self.set(copy, PLANES, 1);
            self.narrow(copy, BITS, 0, 1);
            for tag in PARTS.into_iter().flat_map(|(starts, lengths)| [starts, lengths]) {
                let count = self.place(tag).map_or(0, |(.., count)| count) / samples;
                self.narrow(copy, tag, plane * count, count);
            }
            if let Some(extra) = self.entry(EXTRA) {
                self.write(copy, extra, 2, UNKNOWN);
            }
        }
        copy
    }

    /// Writes a number of `length` bytes.
    pub(super) fn write(&self, copy: &mut [u8], at: usize, length: usize, number: u64) {
        let Some(bytes) = at.checked_add(length).and_then(|end| copy.get_mut(at..end)) else { return };
        for (index, byte) in bytes.iter_mut().enumerate() {
            let place = if self.is_little { index } else { length - 1 - index };
            *byte = (number >> (8 * place)) as u8;
        }
    }

    /// Replaces the first number of a tag.
    pub(super) fn set(&self, copy: &mut [u8], tag: u64, number: u64) {
        if let Some((at, length, _)) = self.place(tag) {
            self.write(copy, at, length, number);
        }
    }

    /// Reduces a tag to `count` of its numbers, starting at `first`.
    fn narrow(&self, copy: &mut [u8], tag: u64, first: usize, count: usize) {
        let (Some(entry), Some((at, length, _))) = (self.entry(tag), self.place(tag)) else { return };
        let (value, room) = if self.is_big { (12, 8) } else { (8, 4) };
        let at = at + first * length;
        let kept: Vec<u64> = (0..count).map_while(|index| self.number(at + index * length, length)).collect();
        self.write(copy, entry + 4, room, count as u64);
        if count * length <= room {
            for (index, number) in kept.into_iter().enumerate() {
                self.write(copy, entry + value + index * length, length, number);
            }
        } else {
            self.write(copy, entry + value, room, at as u64);
        }
    }
}
