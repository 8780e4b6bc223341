//! Decodes images from untrusted sources: detects the format by content, checks the size in the
//! header before allocating memory, decodes to 8 bits per sample and resizes to the square input of
//! a model.
//!
//! Pixels are those of Pillow's `convert("RGB")`, since models are trained on what Pillow reads:
//! alpha is dropped and not blended, samples of 16 bits keep their high byte, CMYK is read as Adobe
//! writes it (inverted), colour profiles are ignored unless a setting asks for sRGB, and an
//! animation is its first frame. In addition, the orientation from EXIF or XMP is applied, as users
//! of torchvision do in their own code.
//!
//! After a change that affects the pixels of any image, increase `DECODER` in
//! `platform/src/version.rs`: stored results belong to the old pixels.

mod bmp;
mod colour;
mod fast;
pub mod geometry;
mod gif;
mod heif;
mod ico;
mod jpeg;
pub mod memory;
mod place;
mod png;
mod resize;
mod sample;
mod scale;
mod tiff;
mod turned;
mod view;
mod webp;

use std::{
    io::Cursor,
    panic::{AssertUnwindSafe, catch_unwind},
};

use eirs_platform::{
    formats::Kind,
    settings::{Alpha, Colour},
};
use image::{
    ColorType, ImageDecoder,
    codecs::{png::PngDecoder, pnm::PnmDecoder, qoi::QoiDecoder, webp::WebPDecoder},
};

pub use eirs_platform::formats::Format;
pub use image::metadata::Orientation;
pub use resize::Resizer;
pub use view::View;

/// Maximum memory of a decoder for chunks other than pixels (colour profiles, texts), in bytes.
const SIDE_CHUNKS_MAX_BYTES: u64 = 64 << 20;

const CUT_SHORT: &str = "is cut short";

/// A larger buffer is freed after use, so that one huge image does not keep its memory, in bytes.
const KEPT_BUFFER_MAX_BYTES: usize = 16 << 20;

/// The reason why an image cannot be decoded; a sentence for the client if it is the image's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The image is invalid.
    #[error("{0}")]
    Never(String),
    /// This machine is short of memory; another attempt may succeed.
    #[error("no memory for an image of {0} bytes")]
    NoMemory(usize),
}

/// What to decode, and the maximum size.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Maximum number of pixels of an image.
    pub max_pixels: u64,
    /// The part that the model sees, so that the rest need not be decoded. `None` decodes
    /// everything in full.
    pub view: Option<View>,
    /// The background of transparent pixels.
    pub alpha: Alpha,
    /// The handling of colour profiles.
    pub colour: Colour,
}

/// Decoded pixels: rows from the top, 8 bits per sample, interleaved, no padding.
#[derive(Debug)]
pub struct Pixels {
    width: u32,
    height: u32,
    channels: usize,
    orientation: Orientation,
    place: Place,
    samples: Vec<u8>,
    /// Whether the samples are amounts of cyan, magenta, yellow and black, until `colour` converts
    /// them.
    are_inks: bool,
    /// The memory reserved for the image, until it is recycled.
    part: Option<memory::Part>,
    /// Whether these pixels are part of a larger image, which has reserved the memory.
    is_within: bool,
}

/// The position of decoded pixels in the stored image.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    /// The first column and row.
    left: u32,
    top: u32,
    /// Each sample is the mean of a square of this width and height.
    fraction: u32,
    /// The width and height of the full image.
    whole: (u32, u32),
}

impl Default for Pixels {
    fn default() -> Self {
        Self {
            width: 0,
            height: 0,
            channels: 3,
            orientation: Orientation::NoTransforms,
            place: Place::default(),
            samples: Vec::new(),
            are_inks: false,
            part: None,
            is_within: false,
        }
    }
}

impl Pixels {
    /// Returns the number of decoded columns, as stored, before the orientation is applied.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Returns the number of decoded rows, as stored, before the orientation is applied.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// Returns the number of samples per pixel: 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Returns the transformation that turns the stored pixels upright.
    pub fn orientation(&self) -> Orientation {
        self.orientation
    }

    /// Returns the width and height of the full image when it is upright.
    pub fn upright(&self) -> (f64, f64) {
        let (width, height) = self.place.whole;
        let (width, height) =
            if view::is_lying(self.orientation) { (height, width) } else { (width, height) };
        (width.into(), height.into())
    }

    /// Overrides the orientation of the file.
    pub fn turn(&mut self, orientation: Orientation) {
        self.orientation = orientation;
    }

    /// Returns the samples.
    pub fn samples(&self) -> &[u8] {
        &self.samples
    }

    /// Releases the image: its reserved memory is free for others, and an unusually large buffer is
    /// freed.
    pub fn recycle(&mut self) {
        self.part = None;
        if self.samples.capacity() > KEPT_BUFFER_MAX_BYTES {
            self.samples = Vec::new();
        }
    }

    /// Starts a new image and allocates its samples, or fails if there is no memory. `beside` is
    /// the number of bytes that decoding needs in addition.
    fn start(
        &mut self,
        width: u32,
        height: u32,
        channels: usize,
        orientation: Orientation,
        bytes_each: usize,
        beside: u64,
    ) -> Result<&mut [u8], Unreadable> {
        let bytes = width as usize * height as usize * channels * bytes_each;
        self.part = None;
        self.part = (!self.is_within).then(|| memory::take((bytes as u64).saturating_add(beside)));
        (self.width, self.height, self.channels, self.orientation) = (width, height, channels, orientation);
        self.place = Place { left: 0, top: 0, fraction: 1, whole: (width, height) };
        self.are_inks = false;
        self.samples.clear();
        self.samples.try_reserve_exact(bytes).map_err(|_| Unreadable::NoMemory(bytes))?;
        self.samples.resize(bytes, 0);
        Ok(&mut self.samples)
    }
}

/// Decodes an image into `pixels`, whose buffer is reused. Input is untrusted: if a decoder panics,
/// the image is reported as damaged.
pub fn decode(bytes: &[u8], limits: Limits, pixels: &mut Pixels) -> Result<(), Unreadable> {
    let kind = Kind::of(bytes);
    let Kind::Read(format) = kind else { return Err(not_read(kind)) };
    let file = Cursor::new(bytes);
    let read_as_stored = |pixels: &mut Pixels| match format {
        Format::Jpeg => jpeg::decode(bytes, limits, pixels),
        Format::Png => {
            let decoder = PngDecoder::with_limits(file, png_room()).map_err(|error| broken(format, error))?;
            read(format, decoder, limits, pixels)?;
            pixels.orientation = png::orientation(bytes);
            Ok(())
        }
        Format::WebP => {
            let survey = webp::survey(bytes);
            check_size(survey.width, survey.height, limits.max_pixels)?;
            let file = Cursor::new(webp::unblended(bytes));
            let decoder = WebPDecoder::new(file).map_err(|error| broken(format, error))?;
            read(format, decoder, limits, pixels)?;
            pixels.orientation = survey.orientation;
            Ok(())
        }
        Format::Gif => gif::decode(bytes, limits, pixels),
        Format::Bmp if bmp::is_one(bytes) => bmp::decode(bytes, limits, pixels),
        Format::Bmp => Err(not_read(Kind::NoImage)),
        Format::Tiff => tiff::decode(bytes, limits, pixels),
        Format::Ico => ico::decode(bytes, limits, pixels),
        Format::Pnm => {
            read(format, PnmDecoder::new(file).map_err(|error| broken(format, error))?, limits, pixels)
        }
        Format::Qoi => {
            read(format, QoiDecoder::new(file).map_err(|error| broken(format, error))?, limits, pixels)
        }
        Format::Heic | Format::Avif => heif::decode(format, bytes, limits, pixels),
    };
    let decoded = catch_unwind(AssertUnwindSafe(|| {
        read_as_stored(pixels)?;
        colour::convert(format, bytes, limits.colour, pixels);
        Ok(())
    }));
    let decoded =
        decoded.unwrap_or_else(|_| Err(Unreadable::Never(format!("the {format} image is damaged"))));
    match decoded {
        Ok(()) => {
            if format != Format::Jpeg {
                lay_on_ground(pixels, limits.alpha);
            }
            Ok(())
        }
        Err(error) => {
            pixels.recycle();
            Err(with_size(format, bytes, error))
        }
    }
}

/// Refuses an image with more than `max_pixels` pixels. `decode` includes this check; this is for
/// callers that do not decode.
pub fn check_pixels(bytes: &[u8], max_pixels: u64) -> Result<(), Unreadable> {
    match Format::of(bytes).and_then(|format| dimensions(format, bytes)) {
        Some((width, height)) => check_size(width, height, max_pixels),
        None => Ok(()),
    }
}

/// Returns the width and height from the header.
fn dimensions(format: Format, bytes: &[u8]) -> Option<(u32, u32)> {
    let file = Cursor::new(bytes);
    let size = catch_unwind(|| match format {
        Format::Jpeg => jpeg::dimensions(bytes),
        Format::Png => PngDecoder::with_limits(file, png_room()).ok().map(|png| png.dimensions()),
        // 1 x 1 is the default of a file that announces no size.
        Format::WebP => Some(webp::survey(bytes))
            .map(|survey| (survey.width, survey.height))
            .filter(|size| *size != (1, 1)),
        Format::Gif => gif::dimensions(bytes),
        Format::Bmp => bmp::dimensions(bytes),
        Format::Tiff => tiff::dimensions(bytes),
        Format::Ico => ico::dimensions(bytes),
        Format::Pnm => PnmDecoder::new(file).ok().map(|pnm| pnm.dimensions()),
        Format::Qoi => QoiDecoder::new(file).ok().map(|qoi| qoi.dimensions()),
        Format::Heic | Format::Avif => heif::dimensions(format, bytes),
    });
    size.ok().flatten()
}

/// Blends transparent pixels with white or black. The alpha samples remain, and are ignored.
fn lay_on_ground(pixels: &mut Pixels, alpha: Alpha) {
    let ground = match alpha {
        Alpha::Drop => return,
        Alpha::White => 255,
        Alpha::Black => 0,
    };
    if !matches!(pixels.channels, 2 | 4) {
        return;
    }
    for pixel in pixels.samples.chunks_exact_mut(pixels.channels) {
        if let [colours @ .., alpha] = pixel {
            let alpha = u32::from(*alpha);
            for colour in colours {
                *colour = ((u32::from(*colour) * alpha + ground * (255 - alpha) + 127) / 255) as u8;
            }
        }
    }
}

/// Refuses bytes that are not an image, or of an unsupported format.
fn not_read(kind: Kind) -> Unreadable {
    Unreadable::Never(kind.refusal().unwrap_or_default())
}

/// Adds the size of the image to an error, and where the file ends or which part cannot be decoded.
fn with_size(format: Format, bytes: &[u8], error: Unreadable) -> Unreadable {
    let Unreadable::Never(why) = &error else { return error };
    let Some(what) = why.strip_prefix(&format!("the {format} image ")) else { return error };
    // A damaged chunk says more than the errors that follow from it.
    let damage = if format == Format::Png && what != CUT_SHORT { png::damage(bytes) } else { None };
    let damage = damage.map(|what| format!("cannot be decoded: {what}"));
    let what = damage.as_deref().unwrap_or(what);
    let size = match dimensions(format, bytes) {
        Some((width, height)) => format!(" of {width} x {height} pixels"),
        None => String::new(),
    };
    let end = match what {
        CUT_SHORT => format!(" after {} bytes", bytes.len()),
        _ if what.contains(" byte") => String::new(),
        _ => place::of(format, bytes).unwrap_or_default(),
    };
    Unreadable::Never(format!("the {format} image{size} {what}{end}"))
}

/// Returns the limits for colour profiles and texts of a PNG, which are compressed and can be
/// decompression bombs.
fn png_room() -> image::Limits {
    let mut room = image::Limits::no_limits();
    room.max_alloc = Some(SIDE_CHUNKS_MAX_BYTES);
    room
}

/// Decodes with a decoder of the `image` crate.
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
                "the {format} image has an unsupported sample type ({other:?})"
            )));
        }
    };
    // PNG is decoded in place. The others need a buffer of their own first, of at most four samples
    // per pixel.
    let beside = match format {
        Format::Png => 0,
        _ => u64::from(width) * u64::from(height) * 4 * bytes_each as u64,
    };
    let samples = pixels.start(width, height, channels, Orientation::NoTransforms, bytes_each, beside)?;
    decoder.read_image(samples).map_err(|error| broken(format, error))?;
    if bytes_each == 2 {
        keep_high_bytes(&mut pixels.samples);
    }
    Ok(())
}

/// Replaces native-endian samples of 16 bits with their high bytes, in place.
fn keep_high_bytes(samples: &mut Vec<u8>) {
    let half = samples.len() / 2;
    for index in 0..half {
        samples[index] = (u16::from_ne_bytes([samples[2 * index], samples[2 * index + 1]]) >> 8) as u8;
    }
    samples.truncate(half);
}

/// Refuses an image that is empty or too large, with its size and the limit.
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

/// Converts the error of a decoder into a sentence for the client.
fn broken(format: Format, error: image::ImageError) -> Unreadable {
    use std::error::Error;

    // Decoders report a premature end in many ways, none of which helps a client that sent a photo.
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
    match error {
        image::ImageError::Unsupported(_) => {
            Unreadable::Never(format!("the {format} image is of an unsupported kind ({error})"))
        }
        _ => {
            let text = error.to_string();
            // All messages of the crate begin with the format, which is in the sentence already.
            let why =
                text.strip_prefix("Format error decoding ").and_then(|text| Some(text.split_once(": ")?.1));
            Unreadable::Never(format!("the {format} image cannot be decoded: {}", why.unwrap_or(&text)))
        }
    }
}

/// Returns the error for an image whose end is missing.
fn cut_short(format: Format) -> Unreadable {
    Unreadable::Never(format!("the {format} image {CUT_SHORT}"))
}
