//! What a PNG file says of its orientation, anywhere: the decoder of the `image` crate (0.25.10)
//! sees only the chunks in front of the pixels, and ImageMagick writes EXIF after them.

use miniz_oxide::inflate::decompress_to_vec_zlib_with_limit;

use super::{Orientation, turned};

/// A text is read up to this size. EXIF with a preview image has some ten thousand bytes.
const TEXT_MAX_BYTES: usize = 1 << 20;

/// The name of the text that EXIF was kept in before it had a chunk of its own, in hexadecimal
/// digits.
const RAW_PROFILE: &[u8] = b"Raw profile type exif";

/// The name of the text that XMP is kept in.
const XMP: &[u8] = b"XML:com.adobe.xmp";

/// The first chunk that is wrong, and where it begins.
pub(super) fn damage(file: &[u8]) -> Option<String> {
    let mut at = 8;
    for (kind, chunk) in chunks(file) {
        let sum = file.get(at + 8 + chunk.len()..)?.first_chunk()?;
        let right = crc32fast::hash(file.get(at + 4..at + 8 + chunk.len())?);
        let name = String::from_utf8_lossy(&kind);
        if u32::from_be_bytes(*sum) != right {
            return Some(format!("the check sum of its chunk {name} at byte {at} is wrong"));
        }
        // A chunk whose name begins with a capital letter must be understood.
        if kind[0].is_ascii_uppercase() && ![*b"IHDR", *b"PLTE", *b"IDAT", *b"IEND"].contains(&kind) {
            return Some(format!("its chunk {name} at byte {at} is not known"));
        }
        at += chunk.len() + 12;
    }
    None
}

/// Where the chunk with the first pixels begins.
pub(super) fn pixels(file: &[u8]) -> Option<usize> {
    let before = chunks(file).take_while(|(kind, _)| kind != b"IDAT").map(|(_, chunk)| chunk.len() + 12);
    Some(8 + before.sum::<usize>()).filter(|at| *at < file.len())
}

/// The chunks of a file that are there in full, each with its name.
pub(super) fn chunks(file: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    let mut rest = file.get(8..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (head, body) = rest.split_at_checked(8)?;
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let chunk = body.get(..length)?;
        // After the chunk comes its check sum.
        rest = body.get(length + 4..).unwrap_or_default();
        Some(([head[4], head[5], head[6], head[7]], chunk))
    })
}

pub(super) fn orientation(file: &[u8]) -> Orientation {
    let (mut exif, mut raw_profile, mut xmp) = (None, None, None);
    for (kind, chunk) in chunks(file) {
        match &kind {
            b"eXIf" => exif = Some(chunk.to_vec()),
            // Any kind of text, as for Pillow, whatever is usual.
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

/// The text of a chunk with this name.
fn text(chunk: &[u8], name: &[u8], kind: &[u8]) -> Option<Vec<u8>> {
    let rest = chunk.strip_prefix(name)?.strip_prefix(b"\0")?;
    let (compressed, text) = match kind {
        b"tEXt" => (false, rest),
        b"zTXt" => (true, rest.strip_prefix(b"\0")?),
        // Language and translated name, both ended by a zero, come before the text.
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

/// An empty line, the name and the length come first.
fn from_hexadecimal(text: &[u8]) -> Option<Vec<u8>> {
    let digits = text.splitn(4, |byte| *byte == b'\n').nth(3)?;
    let digits: Vec<u8> = digits
        .iter()
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(|byte| char::from(*byte).to_digit(16).map(|digit| digit as u8))
        .collect::<Option<_>>()?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}
