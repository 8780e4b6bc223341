//! What the first directory of a TIFF file says of its pixels, read before any decoder, and the
//! file as the `tiff` crate (0.11.3) can read it.

use std::borrow::Cow;

/// What the tag that says how numbers make colours has.
pub(super) const WHITE_IS_ZERO: u64 = 0;
pub(super) const BLACK_IS_ZERO: u64 = 1;
pub(super) const RGB: u64 = 2;
pub(super) const PALETTE: u64 = 3;
pub(super) const INKS: u64 = 5;
pub(super) const YCBCR: u64 = 6;

const COMPRESSION: u64 = 259;
const PHOTOMETRIC: u64 = 262;
const BITS: u64 = 258;
const FILL_ORDER: u64 = 266;
const ORIENTATION: u64 = 274;
const PREDICTOR: u64 = 317;
const EXTRA: u64 = 338;
/// A tag that nobody reads.
const UNKNOWN: u64 = 65000;
const SAMPLES: u64 = 277;
const PLANES: u64 = 284;
/// Where strips and tiles begin and how long they are.
const PARTS: [(u64, u64); 2] = [(273, 279), (324, 325)];

/// LZW and two names of deflate: what libtiff knows a predictor for, of what is read here.
const PREDICTED: [u64; 3] = [5, 8, 32946];

/// Old and new JPEG, whose bits have an order of their own.
const JPEGS: [u64; 2] = [6, 7];

/// The first directory of a file.
pub(super) struct Directory<'f> {
    file: &'f [u8],
    is_little: bool,
    is_big: bool,
    /// Where its entries begin.
    entries: Vec<usize>,
}

impl<'f> Directory<'f> {
    /// An empty one where there is none.
    pub(super) fn read(file: &'f [u8]) -> Self {
        let mut read = Self { file, is_little: file.starts_with(b"II"), is_big: false, entries: Vec::new() };
        // The larger kind has a wider everything.
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

    /// Where the entry of a tag is.
    fn entry(&self, tag: u64) -> Option<usize> {
        self.entries.iter().copied().find(|at| self.number(*at, 2) == Some(tag))
    }

    /// Where the numbers of a tag are: their place, the length of each, and how many they are.
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

    /// The numbers of a tag, as far as they are within the file.
    pub(super) fn numbers(&self, tag: u64) -> impl Iterator<Item = u64> {
        let (at, length, count) = self.place(tag).unwrap_or((0, 1, 0));
        (0..count).map_while(move |index| self.number(at.checked_add(index * length)?, length))
    }

    fn first(&self, tag: u64, usual: u64) -> u64 {
        self.numbers(tag).next().unwrap_or(usual)
    }

    /// How numbers make colours.
    pub(super) fn meaning(&self) -> u64 {
        self.first(PHOTOMETRIC, BLACK_IS_ZERO)
    }

    pub(super) fn compression(&self) -> u64 {
        self.first(COMPRESSION, 1)
    }

    /// Bits of each number.
    pub(super) fn bits(&self) -> u64 {
        self.first(BITS, 1)
    }

    /// Numbers of a pixel; not none.
    pub(super) fn samples(&self) -> u64 {
        self.first(SAMPLES, 1).clamp(1, 65535)
    }

    /// Whether the colours of a picture are apart from each other.
    pub(super) fn is_in_planes(&self) -> bool {
        self.first(PLANES, 1) == 2
    }

    /// What the numbers beside those of the colours are: 1 for an alpha that the colours were
    /// multiplied with, 2 for one that they were not, 0 for anything else.
    pub(super) fn extra(&self) -> Option<u64> {
        self.numbers(EXTRA).next()
    }

    /// How the picture must be turned.
    pub(super) fn orientation(&self) -> Option<u32> {
        Some(u32::try_from(self.numbers(ORIENTATION).next()?).unwrap_or(0))
    }

    /// The bytes of strips or tiles, in their order, as far as they are within the file.
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

    /// What the picture is made of that is not read, in words, with the place of the tag that says
    /// so.
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
            // Where each pixel has two, `tiff` takes others for them.
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

    /// The file with the highest bit of each byte first, which is how `tiff` takes it.
    pub(super) fn in_order(&self) -> Cow<'f, [u8]> {
        let mut copy = Cow::Borrowed(self.file);
        let parts = self.parts();
        // Parts that overlap are damage, and could make this take long.
        let is_whole = || parts.iter().map(ExactSizeIterator::len).sum::<usize>() <= self.file.len();
        if self.first(FILL_ORDER, 1) == 2 && !JPEGS.contains(&self.compression()) && is_whole() {
            let bytes = copy.to_mut();
            for part in parts {
                bytes[part].iter_mut().for_each(|byte| *byte = byte.reverse_bits());
            }
        }
        copy
    }

    /// The file as the `tiff` crate reads it right: the numbers as they are, without a predictor
    /// where libtiff has none, without further pictures, and of one plane only if wished.
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

    fn write(&self, copy: &mut [u8], at: usize, length: usize, number: u64) {
        let Some(bytes) = at.checked_add(length).and_then(|end| copy.get_mut(at..end)) else { return };
        for (index, byte) in bytes.iter_mut().enumerate() {
            let place = if self.is_little { index } else { length - 1 - index };
            *byte = (number >> (8 * place)) as u8;
        }
    }

    /// Makes another number of the first one of a tag.
    fn set(&self, copy: &mut [u8], tag: u64, number: u64) {
        if let Some((at, length, _)) = self.place(tag) {
            self.write(copy, at, length, number);
        }
    }

    /// Leaves a tag only this number of its numbers, from `first`.
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
