//! Where in a file the pixels are, so that a refusal can name a byte: an uploader who looks into a
//! file with another program finds the place.

use super::{Format, png, tiff, webp};

/// Where the pixels begin that could not be decoded, for a refusal that names no byte itself. JPEG
/// names its own.
pub(super) fn of(format: Format, file: &[u8]) -> Option<String> {
    let from = |at: usize| format!(", in the pixels from byte {at}");
    match format {
        Format::Png => png::pixels(file).map(from),
        Format::Gif => gif(file).map(from),
        Format::WebP => webp::pixels(file).map(from),
        Format::Tiff => tiff::pixels(file).map(from),
        Format::Bmp => {
            let at = file.get(10..14)?;
            Some(from(u32::from_le_bytes([at[0], at[1], at[2], at[3]]) as usize))
        }
        _ => None,
    }
}

/// The first frame of a GIF, past the extensions before it.
fn gif(file: &[u8]) -> Option<usize> {
    // The palette of all frames has 2, 4, 8 ... colours.
    let table = |flags: u8| if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) };
    let mut at = 13 + table(*file.get(10)?);
    loop {
        match file.get(at)? {
            0x2c => return Some(at),
            0x21 => {
                at += 2;
                // Blocks, each after its length, up to one of nothing.
                while let length @ 1.. = *file.get(at)? {
                    at += 1 + usize::from(length);
                }
                at += 1;
            }
            _ => return None,
        }
    }
}
