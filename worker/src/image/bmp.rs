//! Decodes bitmaps of Windows and OS/2, with every header since 1988. The decoder of the `image`
//! crate (0.25.10) refuses those of OS/2 2.x, and takes twice the memory.

use super::{Format, Limits, Orientation, Pixels, Unreadable, check_size, cut_short};

/// Size of the file header, which precedes the bitmap header, in bytes.
const FILE_HEADER: usize = 14;

/// The storage format of the pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stored {
    /// Palette indices of 1, 2, 4 or 8 bits.
    Indices,
    /// Run-length encoded indices of 8 or 4 bits.
    Runs,
    /// Colours with a bit mask per sample.
    Masks([u32; 3]),
    /// Bytes in the order blue, green, red.
    Bytes,
}

struct Header {
    width: u32,
    height: u32,
    top_down: bool,
    bits: u32,
    stored: Stored,
    palette: Box<[[u8; 3]; 256]>,
    /// The offset of the pixels.
    pixels: usize,
}

/// Returns whether the file is a bitmap. Its two-letter signature is weak, so the header must also
/// have a known length.
pub(super) fn is_one(file: &[u8]) -> bool {
    matches!(file.get(14..18), Some([12 | 16 | 40 | 52 | 56 | 64 | 108 | 124, 0, 0, 0]))
}

/// Returns the width and height from the header.
pub(super) fn dimensions(file: &[u8]) -> Option<(u32, u32)> {
    Header::read(file).ok().map(|header| (header.width, header.height))
}

pub(super) fn decode(file: &[u8], limits: Limits, pixels: &mut Pixels) -> Result<(), Unreadable> {
    let header = Header::read(file)?;
    let Header { width, height, top_down, bits, stored, ref palette, .. } = header;
    check_size(width, height, limits.max_pixels)?;
    let (columns, rows) = (width as usize, height as usize);
    let data = file.get(header.pixels..).unwrap_or_default();
    // Rows are padded to four bytes.
    let stride = (columns * bits as usize).div_ceil(32) * 4;
    let last = (columns * bits as usize).div_ceil(8);
    if stored != Stored::Runs && data.len() < stride * (rows - 1) + last {
        return Err(cut_short(Format::Bmp));
    }
    let samples = pixels.start(width, height, 3, Orientation::NoTransforms, 1, 0)?;
    let mut out: Vec<&mut [u8]> = samples.chunks_exact_mut(columns * 3).collect();
    if !top_down {
        out.reverse();
    }
    if stored == Stored::Runs {
        return runs(data, bits, palette, columns, &mut out);
    }
    for (row, out) in data.chunks(stride).zip(out) {
        let out = out.chunks_exact_mut(3);
        match stored {
            Stored::Bytes => {
                let bytes = bits as usize / 8;
                for (pixel, stored) in out.zip(row.chunks_exact(bytes)) {
                    (pixel[0], pixel[1], pixel[2]) = (stored[2], stored[1], stored[0]);
                }
            }
            Stored::Masks(masks) => {
                let masks = masks.map(Mask::new);
                for (pixel, stored) in out.zip(row.chunks_exact(bits as usize / 8)) {
                    let stored = stored.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte));
                    for (sample, mask) in pixel.iter_mut().zip(&masks) {
                        *sample = mask.sample(stored);
                    }
                }
            }
            _ => {
                for (column, pixel) in out.enumerate() {
                    let bit = column * bits as usize;
                    let index = row[bit / 8] >> (8 - bits as usize - bit % 8) & (0xff >> (8 - bits));
                    pixel.copy_from_slice(&palette[usize::from(index)]);
                }
            }
        }
    }
    Ok(())
}

/// The position and the maximum of a sample in a pixel.
struct Mask {
    shift: u32,
    most: u64,
}

impl Mask {
    fn new(mask: u32) -> Self {
        let shift = mask.trailing_zeros() & 31;
        Self { shift, most: u64::from(mask >> shift).max(1) }
    }

    fn sample(&self, pixel: u32) -> u8 {
        ((u64::from(pixel >> self.shift) & self.most) * 255 / self.most) as u8
    }
}

/// Decodes run-length encoded pixels. Omitted pixels have the first colour.
fn runs(
    data: &[u8],
    bits: u32,
    palette: &[[u8; 3]; 256],
    columns: usize,
    rows: &mut [&mut [u8]],
) -> Result<(), Unreadable> {
    for row in rows.iter_mut() {
        row.chunks_exact_mut(3).for_each(|pixel| pixel.copy_from_slice(&palette[0]));
    }
    let height = rows.len();
    let (mut x, mut y) = (0, 0);
    let mut rest = data;
    // Pixels beyond a row or the image are ignored.
    let mut put = |x: usize, y: usize, index: u8| {
        if x < columns
            && let Some(row) = rows.get_mut(y)
        {
            row[x * 3..x * 3 + 3].copy_from_slice(&palette[usize::from(index)]);
        }
    };
    // Returns one of the two indices in a byte.
    let nibble = |byte: u8, place: usize| if place.is_multiple_of(2) { byte >> 4 } else { byte & 15 };
    let end = cut_short(Format::Bmp);
    // Some writers omit the end marker.
    while y + 1 < height || (y < height && x < columns) {
        let [first, second, after @ ..] = rest else { return Err(end) };
        rest = after;
        match (*first, *second) {
            (0, 0) => (x, y) = (0, y + 1),
            (0, 1) => return Ok(()),
            (0, 2) => {
                let [right, up, after @ ..] = rest else { return Err(end) };
                rest = after;
                (x, y) = (x + usize::from(*right), y + usize::from(*up));
                if x > columns && y < height {
                    return Err(Unreadable::Never(format!(
                        "the BMP image jumps to column {x}, where its row of {columns} pixels ends"
                    )));
                }
            }
            (0, count) => {
                let count = usize::from(count);
                // One pixel beyond the end of a row may be padding.
                if x + count > columns + 1 {
                    return Err(Unreadable::Never(format!(
                        "the BMP image has a list of {count} pixels at column {x}, where its row of \
                         {columns} ends"
                    )));
                }
                let bytes = if bits == 4 { count.div_ceil(2) } else { count };
                let Some((listed, after)) = rest.split_at_checked(bytes) else { return Err(end) };
                for place in 0..count {
                    let index = if bits == 4 { nibble(listed[place / 2], place) } else { listed[place] };
                    put(x + place, y, index);
                }
                x += count;
                // Lists are padded to two bytes.
                rest = after.get(bytes % 2..).unwrap_or_default();
            }
            (count, value) => {
                for place in 0..usize::from(count) {
                    put(x + place, y, if bits == 4 { nibble(value, place) } else { value });
                }
                x += usize::from(count);
            }
        }
    }
    Ok(())
}

impl Header {
    fn read(file: &[u8]) -> Result<Self, Unreadable> {
        let number = |at: usize, bytes: usize| -> Result<u32, Unreadable> {
            let bytes = file.get(at..at + bytes).ok_or_else(|| cut_short(Format::Bmp))?;
            Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte)))
        };
        let refused = |why: String| Err(Unreadable::Never(format!("the BMP image {why}")));
        let length = number(FILE_HEADER, 4)? as usize;
        let at = |place: usize| FILE_HEADER + place;
        let (width, height, bits);
        // The shortest header has a size of half as many bytes. Headers of OS/2 2.x may end
        // anywhere after the size.
        let (mut compression, mut colours) = (0, 0);
        if length == 12 {
            (width, height, bits) = (number(at(4), 2)? as i32, number(at(6), 2)? as i32, number(at(10), 2)?);
        } else {
            (width, height, bits) = (number(at(4), 4)? as i32, number(at(8), 4)? as i32, number(at(14), 2)?);
            if length >= 20 {
                compression = number(at(16), 4)?;
            }
            if length >= 36 {
                colours = number(at(32), 4)?;
            }
        }
        if width <= 0 || height == 0 {
            return refused(format!(
                "has a width of {width} and a height of {height} pixels, at byte {}",
                at(4)
            ));
        }
        let is_os2 = matches!(length, 16..=39 | 41..=51 | 64);
        let mut after = at(length);
        let stored = match (compression, bits) {
            (0, 1 | 2 | 4 | 8) => Stored::Indices,
            (0, 16) => Stored::Masks([0x7c00, 0x3e0, 0x1f]),
            (0, 24 | 32) => Stored::Bytes,
            (1, 8) | (2, 4) => Stored::Runs,
            (3 | 6, 16 | 32) if !is_os2 => {
                // Part of the longer headers; after the shortest one.
                let masks = [number(at(40), 4)?, number(at(44), 4)?, number(at(48), 4)?];
                if length == 40 {
                    after += if compression == 6 { 16 } else { 12 };
                }
                let contiguous = |mask: &u32| {
                    let ones = mask >> (mask.trailing_zeros() & 31);
                    ones != 0 && ones & ones.wrapping_add(1) == 0
                };
                match masks {
                    [0, 0, 0] if bits == 32 => Stored::Bytes,
                    masks if masks.iter().all(contiguous) => Stored::Masks(masks),
                    masks => return refused(format!("has unsupported masks {masks:x?}, at byte {}", at(40))),
                }
            }
            (3, 1) if is_os2 => return refused("has fax compression, which is not supported".to_owned()),
            (4, 24) if is_os2 => {
                return refused(
                    "has runs of 24-bit colours, which are not \
                supported"
                        .to_owned(),
                );
            }
            (4, _) => return refused("contains a JPEG, which is not supported".to_owned()),
            (5, _) => return refused("contains a PNG, which is not supported".to_owned()),
            _ => {
                return refused(format!(
                    "has {bits} bits a pixel in compression {compression}, which is not supported, at byte \
                     {}",
                    if length == 12 { at(10) } else { at(14) }
                ));
            }
        };
        let mut palette = Box::new([[0; 3]; 256]);
        let mut count = 0;
        if bits <= 8 {
            let each = if length == 12 { 3 } else { 4 };
            count = if colours == 0 { 1 << bits } else { (colours as usize).min(1 << 16) };
            // The pixels may begin before the end of the full table. Like Pillow, this reads the
            // colours beyond from there.
            let table = file.get(after..).unwrap_or_default();
            for (colour, entry) in palette.iter_mut().zip(table.chunks_exact(each)).take(count) {
                *colour = [entry[2], entry[1], entry[0]];
            }
            count *= each;
        }
        let offset = number(10, 4)? as usize;
        // An offset of zero, an invalid one, or that of the colour table means: right after the
        // table.
        let is_table = bits <= 8 && offset == after;
        let pixels = if offset < FILE_HEADER + 12 || is_table { after + count } else { offset };
        Ok(Self {
            width: width as u32,
            height: height.unsigned_abs(),
            top_down: height < 0,
            bits,
            stored,
            palette,
            pixels,
        })
    }
}
