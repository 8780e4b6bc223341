//! JPEG. Two decoders: `zune-jpeg` is the faster one at full size; `jpeg-decoder` alone can decode at a fraction of it.
//!
//! Measured on photos of 12 megapixels (processor time of all threads, one core of an EPYC): in full and resized 77 ms,
//! at an eighth 70 ms, at a quarter 74 ms, at a half 100 ms; progressive ones are slower at any fraction. So a fraction
//! hardly saves time. What it saves is memory, three bytes a pixel: 300 MB for each thread at the usual limit.

use jpeg_decoder::{CodingProcess, ColorTransform};
use zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions};
use zune_jpeg::{JpegDecoder, errors::DecodeErrors};

use super::{Format, Limits, Orientation, Pixels, Unreadable, check_size, cut_short};

/// A progressive JPEG comes in scans, each of which costs time for the whole picture but can be a few bytes long.
/// Encoders make about ten.
const SCANS_MAX: usize = 100;

pub(super) fn decode(file: &[u8], limits: Limits, pixels: &mut Pixels) -> Result<(), Unreadable> {
    let layout = Layout::of(file);
    if layout.scans > SCANS_MAX {
        return Err(Unreadable::Never(format!("the JPEG image has more than {SCANS_MAX} scans")));
    }
    // Pillow reads past damage, but not past a missing end; neither do we.
    let options = DecoderOptions::default()
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX)
        .set_strict_mode(!layout.complete);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(file), options);
    decoder.decode_headers().map_err(|error| broken(&layout, error))?;
    let (Some(info), Some(space)) = (decoder.info(), decoder.input_colorspace()) else {
        return Err(Unreadable::Never("the JPEG image has no header".to_owned()));
    };
    let (width, height) = (u32::from(info.width), u32::from(info.height));
    check_size(width, height, limits.max_pixels)?;
    let orientation = decoder
        .exif()
        .and_then(|exif| Orientation::from_exif_chunk(exif))
        .unwrap_or(Orientation::NoTransforms);

    if let Some(short) = limits.scale_to
        && layout.complete
        && decode_scaled(file, space, short, orientation, pixels).is_some()
    {
        return Ok(());
    }

    let (channels, wanted) =
        if space == ColorSpace::Luma { (1, ColorSpace::Luma) } else { (3, ColorSpace::RGB) };
    if layout.in_parts() {
        return decode_in_parts(file, space, orientation, pixels);
    }
    decoder.set_options(decoder.options().jpeg_set_out_colorspace(wanted));
    let samples = pixels.start(width, height, channels, orientation, 1)?;
    decoder.decode_into(samples).map_err(|error| broken(&layout, error))
}

/// Columns and rows by the header.
pub(super) fn dimensions(file: &[u8]) -> Option<(u32, u32)> {
    let options = DecoderOptions::default().set_max_width(usize::MAX).set_max_height(usize::MAX);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(file), options);
    decoder.decode_headers().ok()?;
    decoder.info().map(|info| (u32::from(info.width), u32::from(info.height)))
}

/// Decodes a picture whose components come one after the other. zune-jpeg 0.5.15 takes the blocks of such a scan for
/// those of interleaved units and returns other pixels, without an error (`decode_mcu_ycbcr_baseline` in src/mcu.rs);
/// the other decoder reads them right.
fn decode_in_parts(
    file: &[u8],
    space: ColorSpace,
    orientation: Orientation,
    pixels: &mut Pixels,
) -> Result<(), Unreadable> {
    let (channels, transform) = match space {
        ColorSpace::YCbCr => (3, ColorTransform::YCbCr),
        ColorSpace::RGB => (3, ColorTransform::None),
        _ => {
            return Err(Unreadable::Never(format!(
                "the JPEG image is of a kind that is not read ({space:?} with a scan for each component)"
            )));
        }
    };
    let mut decoder = jpeg_decoder::Decoder::new(file);
    decoder.set_color_transform(transform);
    let unreadable = |why: &dyn std::fmt::Display| {
        Unreadable::Never(format!("the JPEG image with a scan for each component cannot be decoded: {why}"))
    };
    let samples = decoder.decode().map_err(|error| unreadable(&error))?;
    let info = decoder.info().ok_or_else(|| unreadable(&"it has no header"))?;
    let (width, height) = (u32::from(info.width), u32::from(info.height));
    if samples.len() != width as usize * height as usize * channels {
        return Err(unreadable(&"its components do not fit its size"));
    }
    *pixels = Pixels { width, height, channels, orientation, samples };
    Ok(())
}

/// Fractions that pay, and from how many pixels on: an eighth always, a quarter where memory counts, a half never.
const FRACTIONS: [(u16, u64); 2] = [(8, 0), (4, 24_000_000)];

/// Decodes at a fraction of the size where the short side stays at least twice as long as needed: shrinking the rest
/// with an antialiased filter then gives nearly the pixels of the full way. `None` where that gains nothing or where
/// this decoder, the pickier one, refuses.
fn decode_scaled(
    file: &[u8],
    space: ColorSpace,
    short_side: u32,
    orientation: Orientation,
    pixels: &mut Pixels,
) -> Option<()> {
    // The two decoders guess colour spaces by different rules; one of them has to decide.
    let (channels, transform) = match space {
        ColorSpace::YCbCr => (3, ColorTransform::YCbCr),
        ColorSpace::Luma => (1, ColorTransform::Grayscale),
        _ => return None,
    };
    let mut decoder = jpeg_decoder::Decoder::new(file);
    decoder.read_info().ok()?;
    let info = decoder.info()?;
    if info.coding_process != CodingProcess::DctSequential {
        return None;
    }
    let pixels_in_full = u64::from(info.width) * u64::from(info.height);
    let enough = short_side.saturating_mul(2);
    let (fraction, _) = FRACTIONS.into_iter().find(|(fraction, from_pixels)| {
        let short = u32::from(info.width.min(info.height).div_ceil(*fraction));
        short >= enough && pixels_in_full >= *from_pixels
    })?;
    decoder.set_color_transform(transform);
    let (width, height) =
        decoder.scale(info.width.div_ceil(fraction), info.height.div_ceil(fraction)).ok()?;
    let samples = decoder.decode().ok()?;
    if samples.len() != usize::from(width) * usize::from(height) * channels {
        return None;
    }
    *pixels = Pixels { width: width.into(), height: height.into(), channels, orientation, samples };
    Some(())
}

/// What the markers of the file say, without decoding.
struct Layout {
    /// There is an end-of-image marker behind the first scan.
    complete: bool,
    /// Starts of scans.
    scans: usize,
    /// The frame is a sequential one, where a component comes in one scan only.
    sequential: bool,
}

impl Layout {
    fn of(file: &[u8]) -> Self {
        let mut at = 2;
        let mut layout = Self { complete: false, scans: 0, sequential: false };
        while let Some(&[byte, marker]) = file.get(at..at + 2) {
            match (byte, marker) {
                (0xff, 0x01 | 0xd0..=0xd8) => at += 2,
                // A byte of compressed data, where 0xff is followed by 0x00, or a fill byte before a marker.
                (0xff, 0xff | 0x00) | (..=0xfe, _) => at += 1,
                (0xff, 0xd9) if layout.scans > 0 => {
                    layout.complete = true;
                    break;
                }
                // Segments are skipped by their length: the thumbnail in an EXIF segment has markers, too.
                (0xff, _) => {
                    match marker {
                        0xda => layout.scans += 1,
                        0xc0 | 0xc1 => layout.sequential = true,
                        _ => {}
                    }
                    let length =
                        file.get(at + 2..at + 4).map_or(2, |l| usize::from(u16::from_be_bytes([l[0], l[1]])));
                    at += 2 + length.max(2);
                }
            }
        }
        layout
    }

    /// Components, or some of them, have scans of their own, though the picture is no progressive one.
    fn in_parts(&self) -> bool {
        self.sequential && self.scans > 1
    }
}

fn broken(layout: &Layout, error: DecodeErrors) -> Unreadable {
    match error {
        DecodeErrors::Unsupported(scheme) => {
            Unreadable::Never(format!("the JPEG image is of a kind that is not read ({scheme:?})"))
        }
        _ if !layout.complete => cut_short(Format::Jpeg),
        error => Unreadable::Never(format!("the JPEG image cannot be decoded: {error}")),
    }
}
