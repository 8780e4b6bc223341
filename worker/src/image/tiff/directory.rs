//! What the first directory of a TIFF file says of its pixels, read before any decoder, and the file
//! as the `tiff` crate (0.11.3) can read it.

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
const FILL_ORDER: u64 = 266;
const SAMPLES: u64 = 277;
const PLANES: u64 = 284;
/// Where strips and tiles begin and how long they are.
const PARTS: [(u64, u64); 2] = [(273, 279), (324, 325)];

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

    /// Whether the colours of a picture are apart from each other.
    pub(super) fn is_in_planes(&self) -> bool {
        self.first(PLANES, 1) == 2
    }

    /// What the numbers beside those of the colours are: 1 for an alpha that the colours were
    /// multiplied with, 2 for one that they were not, 0 for anything else.
    pub(super) fn extra(&self) -> Option<u64> {
        self.numbers(338).next()
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

    /// What the picture is made of that is not read, in words, with the place of the tag that says so.
    pub(super) fn unsupported(&self) -> Option<String> {
        const BITS: u64 = 258;
        const SAMPLE_FORMAT: u64 = 339;
        let compression = match self.compression() {
            2..=3 => "the fax code of group 3",
            6 => "the old kind of JPEG",
            34925 => "LZMA",
            50000 => "Zstandard",
            50001 => "WebP",
            _ => "",
        };
        let bits = self.first(BITS, 1);
        let (tag, what) = match (compression, self.first(SAMPLE_FORMAT, 1), self.meaning()) {
            (code, ..) if !code.is_empty() => (COMPRESSION, format!("is compressed with {code}")),
            (_, 2, _) => (SAMPLE_FORMAT, format!("has signed samples of {bits} bits")),
            (_, 3, _) => (SAMPLE_FORMAT, format!("has samples of {bits} bits that are fractions")),
            (_, _, YCBCR) if self.compression() != 7 => {
                (PHOTOMETRIC, "has YCbCr colours outside of JPEG".to_owned())
            }
            (_, _, 8..=10) => (PHOTOMETRIC, "has the colours of CIE Lab".to_owned()),
            (_, _, BLACK_IS_ZERO | WHITE_IS_ZERO | PALETTE | INKS)
                if self.is_in_planes() && self.first(SAMPLES, 1) > 1 =>
            {
                (PLANES, "has each of its inks, or its alpha, in a plane of its own".to_owned())
            }
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

    /// The same with palettes, and with grey in which zero is white, as grey in which zero is black:
    /// `tiff` then gives the numbers as they are.
    pub(super) fn as_grey<'a>(&self, file: &'a [u8]) -> Cow<'a, [u8]> {
        let mut copy = Cow::Borrowed(file);
        let is_one = matches!(self.meaning(), WHITE_IS_ZERO | PALETTE);
        if let Some((at, length @ 2.., _)) = self.place(PHOTOMETRIC).filter(|_| is_one) {
            let low = if self.is_little { at } else { at + length - 1 };
            copy.to_mut()[at..at + length].fill(0);
            copy.to_mut()[low] = BLACK_IS_ZERO as u8;
        }
        copy
    }
}
