//! Reads the orientation of an image from EXIF, else from XMP, like Pillow's `exif_transpose`. If
//! neither can be read, the image stays as it is stored.

use super::Orientation;

/// The tag of the orientation.
const ORIENTATION: u16 = 0x0112;

/// An orientation tag without a valid value.
const NONE: u32 = 0;

/// Returns the orientation from EXIF, else from XMP.
pub(super) fn orientation(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> Orientation {
    of(exif.and_then(of_exif), xmp)
}

/// Returns the orientation for the value in EXIF, else from XMP.
pub(super) fn of(exif: Option<u32>, xmp: Option<&[u8]>) -> Orientation {
    let said = exif.or_else(|| xmp.and_then(of_xmp));
    said.and_then(|value| Orientation::from_exif(u8::try_from(value).ok()?))
        .unwrap_or(Orientation::NoTransforms)
}

/// Returns the orientation from XMP, unless EXIF has a value, which itself is ignored.
pub(super) fn by_xmp_alone(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> Orientation {
    of(exif.and_then(of_exif).map(|_| 1), xmp)
}

/// Returns the value in the first directory of EXIF data, which is a TIFF file. Some writers repeat
/// the prefix.
fn of_exif(mut exif: &[u8]) -> Option<u32> {
    while let Some(rest) = exif.strip_prefix(b"Exif\0\0") {
        exif = rest;
    }
    let little = match exif.get(..4)? {
        b"II\x2a\0" => true,
        b"MM\0\x2a" => false,
        _ => return None,
    };
    let number = |at: usize, length: usize| {
        let bytes = exif.get(at..at.checked_add(length)?)?.iter();
        let add = |number: u32, byte: &u8| number << 8 | u32::from(*byte);
        Some(if little { bytes.rev().fold(0, add) } else { bytes.fold(0, add) })
    };
    let directory = number(4, 4)? as usize;
    let entries = number(directory, 2)? as usize;
    (0..entries).find_map(|entry| {
        let at = directory.checked_add(2 + entry * 12)?;
        if number(at, 2)? != u32::from(ORIENTATION) {
            return None;
        }
        // Integers of the types that Pillow accepts, so no unsigned byte. The first number counts.
        let length = match number(at + 2, 2)? {
            6 => 1,
            3 | 8 => 2,
            4 | 9 | 13 => 4,
            _ => return Some(NONE),
        };
        match number(at + 4, 4)? as usize {
            0 => Some(NONE),
            count if count.saturating_mul(length) <= 4 => number(at + 8, length),
            _ => number(number(at + 8, 4)? as usize, length),
        }
    })
}

/// Returns the value in XMP, an attribute (`tiff:Orientation="6"`) or an element
/// (`<tiff:Orientation>6</tiff:Orientation>`). In all encodings of Unicode these letters have the
/// same bytes, apart from zeros.
fn of_xmp(xmp: &[u8]) -> Option<u32> {
    const NAME: &[u8] = b"tiff:Orientation";
    let text: Vec<u8> = xmp.iter().copied().filter(|byte| *byte != 0).collect();
    let mut rest = text.as_slice();
    while let Some(at) = rest.windows(NAME.len()).position(|window| window == NAME) {
        rest = &rest[at + NAME.len()..];
        let value = match rest.trim_ascii_start() {
            [b'=', value @ ..] => match value.trim_ascii_start() {
                [b'"' | b'\'', value @ ..] => value,
                _ => continue,
            },
            [b'>', value @ ..] => value,
            _ => continue,
        };
        if let [digit @ b'0'..=b'9', ..] = value.trim_ascii_start() {
            return Some(u32::from(digit - b'0'));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xmp_is_read_from_attributes_and_elements_in_any_encoding() {
        let texts = [
            r#"<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>"#,
            "<rdf:Description tiff:Orientation = '6'>",
            "<tiff:Orientation>6</tiff:Orientation>",
            "<tiff:Orientation>\n  6\n</tiff:Orientation>",
            r#"<x note="tiff:Orientation"/><tiff:Orientation>6</tiff:Orientation>"#,
        ];
        for text in texts {
            assert_eq!(of_xmp(text.as_bytes()), Some(6), "{text}");
            let wide = |bytes: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
            assert_eq!(of_xmp(&wide(u16::to_be_bytes)), Some(6), "{text}");
            assert_eq!(of_xmp(&wide(u16::to_le_bytes)), Some(6), "{text}");
        }
        for text in
            ["", "tiff:Orientation", "tiff:Orientation=6", "<tiff:Orientation/>", "<exif:Orientation>6"]
        {
            assert_eq!(of_xmp(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn exif_is_read_in_both_byte_orders_and_has_precedence_over_xmp() {
        let xmp = Some(&b"tiff:Orientation=\"3\""[..]);
        let little = b"II\x2a\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        let big = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        for exif in
            [&little[..], big, &[b"Exif\0\0", &big[..]].concat(), &[b"Exif\0\0Exif\0\0", &big[..]].concat()]
        {
            assert_eq!(orientation(Some(exif), xmp), Orientation::Rotate90);
            // A tag without a value has no orientation.
            assert_eq!(orientation(Some(&exif[..exif.len() - 18]), xmp), Orientation::Rotate180);
        }
        let nonsense = b"II\x2a\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0\0\0\0\0";
        assert_eq!(orientation(Some(nonsense), xmp), Orientation::NoTransforms);
        assert_eq!(orientation(None, xmp), Orientation::Rotate180);
        assert_eq!(orientation(None, None), Orientation::NoTransforms);
    }
}
