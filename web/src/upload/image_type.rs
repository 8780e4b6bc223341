//! Tells an image from something else by its first bytes, before anything is stored. The worker looks closer.

/// What they are called in a `Content-Type`.
pub(crate) const TYPES: [&str; 5] = ["image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp"];

/// What of an image must be there to tell.
pub(crate) const HEAD_BYTES: usize = 64;

/// Whether these bytes begin like an image of a type that the workers read.
pub(crate) fn is_image(bytes: &[u8]) -> bool {
    let webp = bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP");
    webp || [&b"\xFF\xD8\xFF"[..], b"\x89PNG\r\n\x1A\n", b"GIF87a", b"GIF89a", b"BM"]
        .iter()
        .any(|magic| bytes.starts_with(magic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_five_types_are_images_and_others_are_not() {
        for image in [
            &b"\xFF\xD8\xFF\xE0..JFIF"[..],
            b"\x89PNG\r\n\x1A\n....",
            b"GIF89a",
            b"GIF87a",
            b"BM....",
            b"RIFF\x01\x02\x03\x04WEBPVP8 ",
        ] {
            assert!(is_image(image), "{image:?}");
        }
        for other in [
            &b""[..],
            b"hello",
            b"\xFF\xD8",
            b"RIFF\x01\x02\x03\x04WAVE",
            b"%PDF-1.7",
            b"<svg>",
            b"PK\x03\x04",
        ] {
            assert!(!is_image(other), "{other:?}");
        }
    }
}
