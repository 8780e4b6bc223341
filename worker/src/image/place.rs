//! Finds the offset of the pixels in a file, so that an error can name it: a client can look at
//! that place with another program.

use super::{Format, png, tiff, webp};

/// Returns the place of the pixels, for an error without an offset. Errors about JPEG have their
/// own.
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

/// Returns the offset of the first frame of a GIF, after the extensions.
fn gif(file: &[u8]) -> Option<usize> {
    // The global palette has 2, 4, 8, ... 256 colours.
    let table = |flags: u8| if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) };
    let mut at = 13 + table(*file.get(10)?);
    loop {
        match file.get(at)? {
            0x2c => return Some(at),
            0x21 => {
                at += 2;
                // Blocks with a length prefix, up to an empty one.
                while let length @ 1.. = *file.get(at)? {
                    at += 1 + usize::from(length);
                }
                at += 1;
            }
            _ => return None,
        }
    }
}
