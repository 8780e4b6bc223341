//! Images from strangers: recognised by content, judged by their header before memory is taken, decoded to 8 bits a
//! sample and resized to the square that a model sees.
//!
//! What is read follows Pillow's `convert("RGB")`, since models are trained on what Pillow reads: alpha is dropped and
//! not blended, samples of 16 bits keep their high byte, CMYK is taken as Adobe writes it (inverted), colour profiles
//! are ignored, an animation is its first frame. The orientation that EXIF or XMP gives is applied, as torchvision users do
//! by hand.
//!
//! Who changes the pixels of any image raises `DECODER` in `platform/src/version.rs`: stored results are of the pixels of before.

mod bmp;
mod gif;
mod jpeg;
mod png;
mod resize;
mod turned;
mod webp;

use std::{
    fmt,
    io::Cursor,
    panic::{AssertUnwindSafe, catch_unwind},
};

use image::{
    ColorType, ImageDecoder,
    codecs::{png::PngDecoder, webp::WebPDecoder},
};

pub use image::metadata::Orientation;
pub use resize::Resizer;

/// What an uploader is told of bytes that are no image, or of a kind that is not read.
pub const NOT_AN_IMAGE: &str = "not an image type that EIRS reads (JPEG, PNG, WebP, GIF, BMP)";

/// What a decoder may take for chunks beside the pixels (colour profiles, texts), in bytes.
const SIDE_CHUNKS_MAX_BYTES: u64 = 64 << 20;

/// A buffer above this is given back after use, so that one huge image does not hold its memory for ever, in bytes.
const KEPT_BUFFER_MAX_BYTES: usize = 64 << 20;

/// A kind of image that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Baseline and progressive, grey, colour and CMYK.
    Jpeg,
    /// Also animated ones, of which the default image is taken.
    Png,
    /// Lossy, lossless and animated.
    WebP,
    /// The first frame.
    Gif,
    /// Also run-length encoded.
    Bmp,
}

impl Format {
    /// The format of these bytes, whatever the file is called.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        // Two letters are a weak sign: a BMP must also give its header one of the lengths that were ever in use.
        let is_bmp = |bytes: &[u8]| {
            bytes.starts_with(b"BM") && matches!(bytes.get(14), Some(12 | 16 | 40 | 52 | 56 | 64 | 108 | 124))
        };
        match bytes {
            [0xff, 0xd8, 0xff, ..] => Some(Self::Jpeg),
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some(Self::Png),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Self::WebP),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Self::Gif),
            _ if is_bmp(bytes) => Some(Self::Bmp),
            _ => None,
        }
    }

    /// The usual ends of file names, the first one preferred.
    pub fn extensions(self) -> &'static [&'static str] {
        match self {
            Self::Jpeg => &["jpg", "jpeg", "jpe", "jfif"],
            Self::Png => &["png", "apng"],
            Self::WebP => &["webp"],
            Self::Gif => &["gif"],
            Self::Bmp => &["bmp", "dib"],
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
        })
    }
}

/// Why an image gives no pixels, as a sentence for the uploader where it is the image's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It never will.
    #[error("{0}")]
    Never(String),
    /// This machine is short of memory; another attempt may work.
    #[error("no memory for an image of {0} bytes")]
    NoMemory(usize),
}

/// What may be decoded, and how large.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The most pixels of an image.
    pub max_pixels: u64,
    /// The short side that will be needed, in pixels: a JPEG is decoded at an eighth, a quarter or a half of its size if
    /// its short side stays at least twice as long. `None` decodes everything in full.
    pub scale_to: Option<u32>,
}

/// Decoded pixels: rows from the top, samples of 8 bits, interleaved, no padding.
#[derive(Debug)]
pub struct Pixels {
    width: u32,
    height: u32,
    channels: usize,
    orientation: Orientation,
    samples: Vec<u8>,
}

impl Default for Pixels {
    fn default() -> Self {
        Self { width: 0, height: 0, channels: 3, orientation: Orientation::NoTransforms, samples: Vec::new() }
    }
}

impl Pixels {
    /// Columns as stored, before the orientation is applied.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Rows as stored, before the orientation is applied.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// Samples of one pixel: grey, grey and alpha, red green blue, or those and alpha.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// How the stored pixels must be turned to be seen upright.
    pub fn orientation(&self) -> Orientation {
        self.orientation
    }

    /// The samples.
    pub fn samples(&self) -> &[u8] {
        &self.samples
    }

    /// Forgets an image and gives an unusually large buffer back to the system.
    pub fn recycle(&mut self) {
        if self.samples.capacity() > KEPT_BUFFER_MAX_BYTES {
            self.samples = Vec::new();
        }
    }

    /// Describes a new image and makes room for its samples, or says that there is none.
    fn start(
        &mut self,
        width: u32,
        height: u32,
        channels: usize,
        orientation: Orientation,
        bytes_each: usize,
    ) -> Result<&mut [u8], Unreadable> {
        let bytes = width as usize * height as usize * channels * bytes_each;
        (self.width, self.height, self.channels, self.orientation) = (width, height, channels, orientation);
        self.samples.clear();
        self.samples.try_reserve_exact(bytes).map_err(|_| Unreadable::NoMemory(bytes))?;
        self.samples.resize(bytes, 0);
        Ok(&mut self.samples)
    }
}

/// Decodes an image into `pixels`, whose buffer is used again. Bytes from strangers may do anything here but harm: a
/// decoder that panics has met an image that cannot be read.
pub fn decode(bytes: &[u8], limits: Limits, pixels: &mut Pixels) -> Result<(), Unreadable> {
    let format = Format::of(bytes).ok_or_else(|| Unreadable::Never(NOT_AN_IMAGE.to_owned()))?;
    let decoded = catch_unwind(AssertUnwindSafe(|| match format {
        Format::Jpeg => jpeg::decode(bytes, limits, pixels),
        Format::Png => {
            let decoder = PngDecoder::with_limits(Cursor::new(bytes), png_room())
                .map_err(|error| broken(format, error))?;
            read(format, decoder, limits, pixels)?;
            pixels.orientation = png::orientation(bytes);
            Ok(())
        }
        Format::WebP => {
            let survey = webp::survey(bytes);
            check_size(survey.width, survey.height, limits.max_pixels)?;
            let decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(|error| broken(format, error))?;
            read(format, decoder, limits, pixels)?;
            pixels.orientation = survey.orientation;
            Ok(())
        }
        Format::Gif => gif::decode(bytes, limits, pixels),
        Format::Bmp => bmp::decode(bytes, limits, pixels),
    }));
    decoded.unwrap_or_else(|_| Err(Unreadable::Never(format!("the {format} image is damaged"))))
}

/// Refuses an image with more pixels than allowed. `decode` does this by itself; this is for those who do not decode.
pub fn check_pixels(bytes: &[u8], max_pixels: u64) -> Result<(), Unreadable> {
    let size = catch_unwind(|| match Format::of(bytes)? {
        Format::Jpeg => jpeg::dimensions(bytes),
        Format::Png => {
            PngDecoder::with_limits(Cursor::new(bytes), png_room()).ok().map(|png| png.dimensions())
        }
        Format::WebP => Some(webp::survey(bytes)).map(|survey| (survey.width, survey.height)),
        Format::Gif => gif::dimensions(bytes),
        Format::Bmp => bmp::dimensions(bytes),
    });
    match size {
        Ok(Some((width, height))) => check_size(width, height, max_pixels),
        Ok(None) | Err(_) => Ok(()),
    }
}

/// Colour profiles and texts of a PNG are compressed, and can be bombs of their own.
fn png_room() -> image::Limits {
    let mut room = image::Limits::no_limits();
    room.max_alloc = Some(SIDE_CHUNKS_MAX_BYTES);
    room
}

/// Decodes with one of the decoders of the `image` crate.
fn read(
    format: Format,
    decoder: impl ImageDecoder,
    limits: Limits,
    pixels: &mut Pixels,
) -> Result<(), Unreadable> {
    let (width, height) = decoder.dimensions();
    check_size(width, height, limits.max_pixels)?;
    let (channels, bytes_each) = match decoder.color_type() {
        ColorType::L8 => (1, 1),
        ColorType::La8 => (2, 1),
        ColorType::Rgb8 => (3, 1),
        ColorType::Rgba8 => (4, 1),
        ColorType::L16 => (1, 2),
        ColorType::La16 => (2, 2),
        ColorType::Rgb16 => (3, 2),
        ColorType::Rgba16 => (4, 2),
        other => {
            return Err(Unreadable::Never(format!(
                "the {format} image has samples of a kind that is not read ({other:?})"
            )));
        }
    };
    let samples = pixels.start(width, height, channels, Orientation::NoTransforms, bytes_each)?;
    decoder.read_image(samples).map_err(|error| broken(format, error))?;
    if bytes_each == 2 {
        keep_high_bytes(&mut pixels.samples);
    }
    Ok(())
}

/// Turns native-endian samples of 16 bits into their high bytes, in place.
fn keep_high_bytes(samples: &mut Vec<u8>) {
    let half = samples.len() / 2;
    for index in 0..half {
        samples[index] = (u16::from_ne_bytes([samples[2 * index], samples[2 * index + 1]]) >> 8) as u8;
    }
    samples.truncate(half);
}

/// Refuses an empty or too large image, naming its size and the limit.
fn check_size(width: u32, height: u32, max_pixels: u64) -> Result<(), Unreadable> {
    let has = u64::from(width) * u64::from(height);
    if has == 0 {
        return Err(Unreadable::Never("the image has no pixels".to_owned()));
    }
    if has > max_pixels {
        return Err(Unreadable::Never(format!(
            "the image has {width} x {height} = {has} pixels, more than the limit of {max_pixels}"
        )));
    }
    Ok(())
}

/// What an uploader is told when a decoder gives up.
fn broken(format: Format, error: image::ImageError) -> Unreadable {
    use std::error::Error;

    // A decoder that runs out of bytes says so in many ways, none of which means much to somebody who sent a photo.
    let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
    while let Some(inner) = cause {
        let ends = inner
            .downcast_ref::<std::io::Error>()
            .is_some_and(|e| e.kind() == std::io::ErrorKind::UnexpectedEof);
        if ends || inner.to_string().contains("unexpected end of file") {
            return cut_short(format);
        }
        cause = inner.source();
    }
    Unreadable::Never(format!("the {format} image cannot be decoded: {error}"))
}

/// What an uploader is told of an image whose end is missing.
fn cut_short(format: Format) -> Unreadable {
    Unreadable::Never(format!("the {format} image is cut short"))
}
