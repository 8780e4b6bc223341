//! Detects image formats by their first bytes. The web role, workers and the load generator share
//! this table, so that they accept the same formats.

pub mod heif;
pub mod mistaken;

use std::fmt;

/// Number of bytes at the start of a file that detection needs at most.
pub const HEAD_BYTES: usize = 64;

/// The supported formats, in words.
pub const READ_IN_WORDS: &str =
    "JPEG, PNG, WebP, GIF, BMP, TIFF, ICO, PNM and QOI, and with libheif HEIC and AVIF";

/// A supported image format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Baseline and progressive; grey, colour and CMYK.
    Jpeg,
    /// Of animated files, the default image.
    Png,
    /// Lossy, lossless and animated.
    WebP,
    /// The first frame.
    Gif,
    /// Of Windows and OS/2, including run-length encoding.
    Bmp,
    /// The first page.
    Tiff,
    /// The largest image of the file.
    Ico,
    /// PBM, PGM, PPM and PAM.
    Pnm,
    /// The "quite OK" format.
    Qoi,
    /// Photos of phones (HEVC); needs libheif.
    Heic,
    /// The same container with AV1; needs libheif.
    Avif,
}

/// The type of a file, judged by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A supported image.
    Read(Format),
    /// An image of an unsupported format, with its name.
    NotRead(&'static str),
    /// Anything else.
    NoImage,
}

impl Kind {
    /// Detects the type of these bytes; the first [`HEAD_BYTES`] of a file suffice.
    pub fn of(bytes: &[u8]) -> Self {
        let format = match bytes {
            [0xff, 0xd8, 0xff, ..] => Format::Jpeg,
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Format::Png,
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Format::WebP,
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Format::Gif,
            // The two letters are a weak signature, so the size of the second header is checked,
            // too: 12 bytes (OS/2) to 124 (version 5).
            [b'B', b'M', ..] if matches!(bytes.get(14..18), Some([12..=124, 0, 0, 0])) => Format::Bmp,
            [b'I', b'I', 0x2a | 0x2b, 0, ..] | [b'M', b'M', 0, 0x2a | 0x2b, ..] => Format::Tiff,
            // Zeros are a weak signature, so the first entry must have a zero, and at most one
            // plane.
            [0, 0, 1, 0, 1..=255, 0, _, _, _, 0, 0 | 1, 0, ..] => Format::Ico,
            [
                b'P',
                b'1'..=b'7',
                b' ' | b'\t' | b'\r' | b'\n',
                b'0'..=b'9' | b'#' | b'W' | b'H' | b'D',
                ..,
            ] => Format::Pnm,
            [b'q', b'o', b'i', b'f', ..] => Format::Qoi,
            [_, _, _, _, b'f', b't', b'y', b'p', brands @ ..] => return of_brands(brands),
            _ => return not_read(bytes).map_or(Self::NoImage, Self::NotRead),
        };
        Self::Read(format)
    }

    /// Returns a sentence with the reason why this type is refused; `None` for a supported one.
    pub fn refusal(self) -> Option<String> {
        match self {
            Self::Read(format @ (Format::Heic | Format::Avif)) if !heif::is_there() => {
                Some(heif::missing(format))
            }
            Self::Read(_) => None,
            Self::NotRead(name) => Some(format!(
                "{name} is not supported; convert it to JPEG or PNG (EIRS reads \
                    {READ_IN_WORDS})"
            )),
            Self::NoImage => Some(format!("this is not an image of a type that EIRS reads: {READ_IN_WORDS}")),
        }
    }
}

/// Detects formats of the MP4 family: the main brand comes first, then a version, then the
/// compatible brands.
fn of_brands(brands: &[u8]) -> Kind {
    let brands = brands.chunks_exact(4).enumerate().filter(|(place, _)| *place != 1);
    let known = |(_, brand): (usize, &[u8])| match brand {
        b"avif" | b"avis" => Some(Kind::Read(Format::Avif)),
        b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" => Some(Kind::Read(Format::Heic)),
        b"crx " => Some(Kind::NotRead("a raw photo of Canon (CR3)")),
        b"j2ki" | b"j2is" | b"avci" | b"avcs" | b"jpeg" | b"vvic" => {
            Some(Kind::NotRead("HEIF with another code than HEVC and AV1"))
        }
        _ => None,
    };
    brands.into_iter().find_map(known).unwrap_or(Kind::NoImage)
}

/// Returns the name of a known but unsupported image format.
fn not_read(bytes: &[u8]) -> Option<&'static str> {
    const STARTS: [(&[u8], &str); 31] = [
        (b"\xff\x0a", "JPEG XL"),
        (b"\0\0\0\x0cJXL ", "JPEG XL"),
        (b"\0\0\0\x0cjP  ", "JPEG 2000"),
        (b"\xff\x4f\xff\x51", "JPEG 2000"),
        (b"II\xbc", "JPEG XR"),
        (b"8BPS", "a Photoshop document"),
        (b"gimp xcf ", "a GIMP document"),
        (b"FUJIFILMCCD-RAW", "a raw photo of Fujifilm"),
        (b"IIRO", "a raw photo of Olympus"),
        (b"IIRS", "a raw photo of Olympus"),
        (b"MMOR", "a raw photo of Olympus"),
        (b"IIU\0", "a raw photo of Panasonic"),
        (b"II\x1a\0\0\0HEAPCCDR", "a raw photo of Canon (CRW)"),
        (b"<svg", "SVG"),
        (b"<!DOCTYPE svg", "SVG"),
        (b"\0\0\x02\0\x01\0", "a cursor"),
        (b"icns", "an icon of macOS"),
        (b"DDS ", "a DirectDraw surface (DDS)"),
        (b"\x01\xda", "SGI"),
        (b"\x59\xa6\x6a\x95", "Sun raster"),
        (b"\x76\x2f\x31\x01", "OpenEXR"),
        (b"#?RADIANCE", "Radiance HDR"),
        (b"#?RGBE", "Radiance HDR"),
        (b"/* XPM */", "XPM"),
        (b"SIMPLE  =", "FITS"),
        (b"SDPX", "DPX"),
        (b"XPDS", "DPX"),
        (b"Pf\n", "PFM"),
        (b"PF\n", "PFM"),
        (b"AT&TFORM", "DjVu"),
        (b"BPG\xfb", "BPG"),
    ];
    match bytes {
        // Most SVG files start as XML; the first element may come late.
        [b'<', b'?', b'x', b'm', b'l', ..] if has(bytes, b"<svg") || has(bytes, b"DOCTYPE svg") => {
            Some("SVG")
        }
        [0x0a, 0 | 2..=5, 0 | 1, 1 | 2 | 4 | 8, ..] => Some("PCX"),
        _ if is_targa(bytes) => Some("Targa (TGA)"),
        _ => STARTS.into_iter().find(|(start, _)| bytes.starts_with(start)).map(|(_, name)| name),
    }
}

/// Targa has no signature: this checks for no palette, and a valid number of bits.
fn is_targa(bytes: &[u8]) -> bool {
    let has_no_palette = matches!(bytes, [_, 0, 2 | 3 | 10 | 11, 0, 0, 0, 0, 0, ..]);
    let pixels = bytes.get(16..18);
    has_no_palette && matches!(pixels, Some([8 | 16 | 24 | 32, flags]) if flags & 0xc0 == 0)
}

fn has(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

impl Format {
    /// All supported formats.
    pub const ALL: [Self; 11] = [
        Self::Jpeg,
        Self::Png,
        Self::WebP,
        Self::Gif,
        Self::Bmp,
        Self::Tiff,
        Self::Ico,
        Self::Pnm,
        Self::Qoi,
        Self::Heic,
        Self::Avif,
    ];

    /// Detects the format of these bytes; the file name does not matter.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        match Kind::of(bytes) {
            Kind::Read(format) => Some(format),
            _ => None,
        }
    }

    /// Returns the media type for `Content-Type`.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::WebP => "image/webp",
            Self::Gif => "image/gif",
            Self::Bmp => "image/bmp",
            Self::Tiff => "image/tiff",
            Self::Ico => "image/vnd.microsoft.icon",
            Self::Pnm => "image/x-portable-anymap",
            Self::Qoi => "image/qoi",
            Self::Heic => "image/heic",
            Self::Avif => "image/avif",
        }
    }

    /// Returns the usual file extensions, preferred one first.
    pub fn extensions(self) -> &'static [&'static str] {
        match self {
            Self::Jpeg => &["jpg", "jpeg", "jpe", "jfif"],
            Self::Png => &["png", "apng"],
            Self::WebP => &["webp"],
            Self::Gif => &["gif"],
            Self::Bmp => &["bmp", "dib"],
            Self::Tiff => &["tif", "tiff"],
            Self::Ico => &["ico"],
            Self::Pnm => &["pnm", "pbm", "pgm", "ppm", "pam"],
            Self::Qoi => &["qoi"],
            Self::Heic => &["heic", "heif", "hif"],
            Self::Avif => &["avif"],
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Gif => "GIF",
            Self::Bmp => "BMP",
            Self::Tiff => "TIFF",
            Self::Ico => "ICO",
            Self::Pnm => "PNM",
            Self::Qoi => "QOI",
            Self::Heic => "HEIC",
            Self::Avif => "AVIF",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_detected_by_their_first_bytes() {
        let heads: [(&[u8], Format); 17] = [
            (b"\xFF\xD8\xFF\xE0..JFIF", Format::Jpeg),
            (b"\x89PNG\r\n\x1A\n....", Format::Png),
            (b"GIF89a", Format::Gif),
            (b"GIF87a", Format::Gif),
            (b"BM\x9a\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0", Format::Bmp),
            (b"RIFF\x01\x02\x03\x04WEBPVP8 ", Format::WebP),
            (b"II\x2a\0\x08\0\0\0", Format::Tiff),
            (b"MM\0\x2a\0\0\0\x08", Format::Tiff),
            (b"\0\0\x01\0\x01\0\x10\x10\0\0\x01\0\x20\0", Format::Ico),
            (b"P6\n3 2\n255\n", Format::Pnm),
            (b"P1 # a comment", Format::Pnm),
            (b"P7\nWIDTH 3\n", Format::Pnm),
            (b"qoif\0\0\0\x01", Format::Qoi),
            (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", Format::Heic),
            (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", Format::Heic),
            (b"\0\0\0\x1cftypmif1\0\0\0\0avifmif1", Format::Avif),
            (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", Format::Avif),
        ];
        for (head, format) in heads {
            assert_eq!(Kind::of(head), Kind::Read(format), "{head:?}");
        }
        for format in Format::ALL {
            assert!(READ_IN_WORDS.contains(&format.to_string()), "{format}");
        }
    }

    #[test]
    fn unsupported_formats_are_named() {
        let heads: [(&[u8], &str); 11] = [
            (b"\0\0\0\x18ftypmif1\0\0\0\0mif1j2ki", "HEIF with another code than HEVC and AV1"),
            (b"\x0a\x05\x01\x08\0\0\0\0\x60\0\x46\0", "PCX"),
            (b"\0\0\x02\0\0\0\0\0\0\0\0\0\x61\0\x47\0\x18\x20", "Targa (TGA)"),
            (b"\x0d\0\x0a\0\0\0\0\0\0\0\0\0\x61\0\x47\0\x20\x08", "Targa (TGA)"),
            (b"\0\0\x02\0\x01\0\x10\x10\0\0\x01\0\x01\0\0\0\0\0", "a cursor"),
            (b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=", "SVG"),
            (b"DDS \x7c\0\0\0", "a DirectDraw surface (DDS)"),
            (b"\0\0\0\x18ftypcrx \0\0\0\0crx isom", "a raw photo of Canon (CR3)"),
            (b"\xff\x0a\xfa", "JPEG XL"),
            (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
            (b"8BPS\0\x01", "a Photoshop document"),
        ];
        for (head, name) in heads {
            let refusal = Kind::of(head).refusal().unwrap();
            assert!(
                refusal.starts_with(&format!("{name} is not supported; convert it to JPEG")),
                "{refusal}"
            );
        }
    }

    #[test]
    fn other_files_are_not_images() {
        let others: [&[u8]; 12] = [
            b"<?xml version=\"1.0\"?>\n<rss>",
            b"",
            b"hello",
            b"\xFF\xD8",
            b"RIFF\x01\x02\x03\x04WAVE",
            b"%PDF-1.7",
            b"BMW, Audi and other labels",
            b"PK\x03\x04",
            b"P1 is a plan",
            b"\0\0\x01\0",
            b"\0\0\0\x18ftypmp42\0\0\0\0isom",
            b"Pnm",
        ];
        for other in others {
            assert_eq!(Kind::of(other), Kind::NoImage, "{other:?}");
        }
    }
}
