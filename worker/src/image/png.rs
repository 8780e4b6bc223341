//! Reads the orientation from a PNG file. The decoder of the `image` crate (0.25.10) only reads
//! chunks before the pixels, but ImageMagick writes EXIF after them.

use miniz_oxide::inflate::decompress_to_vec_zlib_with_limit;

use super::{Orientation, turned};

/// Maximum size of a text, in bytes. EXIF with a preview image has some ten thousand.
const TEXT_MAX_BYTES: usize = 1 << 20;

/// The name of the text with hexadecimal EXIF, from before EXIF had its own chunk.
const RAW_PROFILE: &[u8] = b"Raw profile type exif";

/// The name of the text with XMP.
const XMP: &[u8] = b"XML:com.adobe.xmp";

/// Describes the first damaged chunk, with its offset.
pub(super) fn damage(file: &[u8]) -> Option<String> {
    let mut at = 8;
    for (kind, chunk) in chunks(file) {
        let sum = file.get(at + 8 + chunk.len()..)?.first_chunk()?;
        let right = crc32fast::hash(file.get(at + 4..at + 8 + chunk.len())?);
        let name = String::from_utf8_lossy(&kind);
        if u32::from_be_bytes(*sum) != right {
            return Some(format!("the check sum of its chunk {name} at byte {at} is wrong"));
        }
        // A chunk whose name starts with a capital letter is critical.
        if kind[0].is_ascii_uppercase() && ![*b"IHDR", *b"PLTE", *b"IDAT", *b"IEND"].contains(&kind) {
            return Some(format!("its chunk {name} at byte {at} is not known"));
        }
        at += chunk.len() + 12;
    }
    None
}

/// Returns the offset of the first chunk with pixels.
pub(super) fn pixels(file: &[u8]) -> Option<usize> {
    let before = chunks(file).take_while(|(kind, _)| kind != b"IDAT").map(|(_, chunk)| chunk.len() + 12);
    Some(8 + before.sum::<usize>()).filter(|at| *at < file.len())
}

/// Iterates over the complete chunks of a file, with their names.
pub(super) fn chunks(file: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    let mut rest = file.get(8..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (head, body) = rest.split_at_checked(8)?;
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let chunk = body.get(..length)?;
        // The check sum follows the chunk.
        rest = body.get(length + 4..).unwrap_or_default();
        Some(([head[4], head[5], head[6], head[7]], chunk))
    })
}

pub(super) fn orientation(file: &[u8]) -> Orientation {
    let (mut exif, mut raw_profile, mut xmp) = (None, None, None);
    for (kind, chunk) in chunks(file) {
        match &kind {
            b"eXIf" => exif = Some(chunk.to_vec()),
            // Any kind of text chunk, as in Pillow.
            b"tEXt" | b"zTXt" | b"iTXt" if chunk.starts_with(RAW_PROFILE) => {
                raw_profile =
                    text(chunk, RAW_PROFILE, &kind).and_then(|text| from_hexadecimal(&text)).or(raw_profile);
            }
            b"tEXt" | b"zTXt" | b"iTXt" if chunk.starts_with(XMP) => {
                xmp = text(chunk, XMP, &kind).or(xmp);
            }
            _ => {}
        }
    }
    turned::orientation(exif.or(raw_profile).as_deref(), xmp.as_deref())
}

/// Returns the text of a chunk with this name.
fn text(chunk: &[u8], name: &[u8], kind: &[u8]) -> Option<Vec<u8>> {
    let rest = chunk.strip_prefix(name)?.strip_prefix(b"\0")?;
    let (compressed, text) = match kind {
        b"tEXt" => (false, rest),
        b"zTXt" => (true, rest.strip_prefix(b"\0")?),
        // The language and the translated name, both zero-terminated, precede the text.
        _ => {
            let [compressed, _method, rest @ ..] = rest else { return None };
            (*compressed == 1, rest.splitn(3, |byte| *byte == 0).nth(2)?)
        }
    };
    if compressed {
        decompress_to_vec_zlib_with_limit(text, TEXT_MAX_BYTES).ok()
    } else {
        Some(text.get(..TEXT_MAX_BYTES).unwrap_or(text).to_vec())
    }
}

/// Decodes the text, after an empty line, the name and the length.
fn from_hexadecimal(text: &[u8]) -> Option<Vec<u8>> {
    let digits = text.splitn(4, |byte| *byte == b'\n').nth(3)?;
    let digits: Vec<u8> = digits
        .iter()
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(|byte| char::from(*byte).to_digit(16).map(|digit| digit as u8))
        .collect::<Option<_>>()?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}
