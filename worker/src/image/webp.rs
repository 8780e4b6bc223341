//! Reads the properties of a WebP file before it is decoded. The decoder compares the frame with
//! the canvas only after decoding the frame, and trusts the announced length of metadata chunks;
//! this code does neither.

use std::borrow::Cow;

use super::{Orientation, turned};

/// The largest announced size in the file, and the orientation.
pub(super) struct Survey {
    /// The number of columns; 1 if none is announced, which the decoder refuses.
    pub(super) width: u32,
    /// The number of rows.
    pub(super) height: u32,
    /// From the EXIF and XMP chunks, at any position.
    pub(super) orientation: Orientation,
}

/// The results of a walk.
#[derive(Default)]
struct Found<'a> {
    width: u32,
    height: u32,
    exif: Option<&'a [u8]>,
    xmp: Option<&'a [u8]>,
    profile: Option<&'a [u8]>,
    pixels: Option<&'a [u8]>,
}

fn find(file: &[u8]) -> Found<'_> {
    let mut found = Found { width: 1, height: 1, ..Found::default() };
    walk(file.get(12..).unwrap_or_default(), false, &mut found);
    found
}

/// Returns the colour profile.
pub(super) fn profile(file: &[u8]) -> Option<&[u8]> {
    find(file).profile
}

/// Returns the offset of the first image.
pub(super) fn pixels(file: &[u8]) -> Option<usize> {
    // The name and length of the chunk precede it.
    Some(find(file).pixels?.as_ptr() as usize - file.as_ptr() as usize - 8)
}

/// Walks the chunks of the file.
pub(super) fn survey(file: &[u8]) -> Survey {
    let Found { width, height, exif, xmp, .. } = find(file);
    Survey { width, height, orientation: turned::orientation(exif, xmp) }
}

/// Returns the file without blending of the first frame: libwebp does not blend it with the empty
/// canvas, which would remove the colours of nearly transparent pixels.
pub(super) fn unblended(file: &[u8]) -> Cow<'_, [u8]> {
    const NO_BLENDING: u8 = 2;
    let flags = first_frame(file).map(|frame| frame + 8 + 15);
    match flags.and_then(|at| Some((at, *file.get(at)?))) {
        Some((at, flags)) if flags & NO_BLENDING == 0 => {
            let mut copy = file.to_vec();
            copy[at] = flags | NO_BLENDING;
            copy.into()
        }
        _ => file.into(),
    }
}

/// Returns the offset of the chunk of an animation's first frame.
fn first_frame(file: &[u8]) -> Option<usize> {
    let mut at = 12;
    loop {
        let header = file.get(at..at + 8)?;
        if header.starts_with(b"ANMF") {
            return Some(at);
        }
        let length = int(header, 4, 4) as usize;
        at = at.checked_add(8)?.checked_add(length)?.checked_add(length & 1)?;
    }
}

/// Walks chunks. Frames of an animation contain chunks, but no frames, so the depth is limited.
fn walk<'a>(mut rest: &'a [u8], in_frame: bool, found: &mut Found<'a>) {
    while let Some((header, body)) = rest.split_at_checked(8) {
        let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        let chunk = &body[..length.min(body.len())];
        if matches!(&header[..4], b"VP8 " | b"VP8L") {
            found.pixels.get_or_insert(chunk);
        }
        match &header[..4] {
            b"VP8X" => announce(found, int(chunk, 4, 3) + 1, int(chunk, 7, 3) + 1),
            b"VP8 " => announce(found, int(chunk, 6, 2) & 0x3fff, int(chunk, 8, 2) & 0x3fff),
            b"VP8L" => {
                let bits = int(chunk, 1, 4);
                announce(found, (bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1);
            }
            b"ANMF" if !in_frame => {
                announce(found, int(chunk, 6, 3) + 1, int(chunk, 9, 3) + 1);
                walk(chunk.get(16..).unwrap_or_default(), true, found);
            }
            b"EXIF" => found.exif = Some(chunk),
            b"XMP " => found.xmp = Some(chunk),
            b"ICCP" => found.profile = Some(chunk),
            _ => {}
        }
        // Chunks are padded to an even length.
        rest = body.get(length.saturating_add(length & 1)..).unwrap_or_default();
    }
}

fn announce(found: &mut Found, width: u32, height: u32) {
    if u64::from(width) * u64::from(height) > u64::from(found.width) * u64::from(found.height) {
        (found.width, found.height) = (width, height);
    }
}

/// Returns a little-endian number of up to four bytes; bytes past the end are zero.
fn int(chunk: &[u8], at: usize, bytes: usize) -> u32 {
    (0..bytes).map(|byte| u32::from(chunk.get(at + byte).copied().unwrap_or(0)) << (8 * byte)).sum()
}
