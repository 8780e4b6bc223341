//! TIFF, by the decoder of the `image` crate (0.25.10). It refuses palettes, grey of 2 and 4 bits
//! and grey with alpha, and rounds inks in its own way: these are read here, as numbers of the
//! `tiff` crate.

use std::{borrow::Cow, io::Cursor};

use image::{ImageDecoder, codecs::tiff::TiffDecoder};
use tiff::{
    ColorType, TiffError,
    decoder::{Decoder, DecodingResult, Limits as Room},
    tags::Tag,
};

use super::{
    Format, Limits, Orientation, Pixels, SIDE_CHUNKS_MAX_BYTES, Unreadable, broken, check_size, cut_short,
    read, turned,
};

/// What the tag that says how numbers make colours has for grey and for palettes.
const WHITE_IS_ZERO: u16 = 0;
const BLACK_IS_ZERO: u16 = 1;
const PALETTE: u16 = 3;

/// Columns and rows by the header.
pub(super) fn dimensions(file: &[u8]) -> Option<(u32, u32)> {
    let (file, _) = as_grey(file);
    Decoder::new(Cursor::new(&*file)).ok()?.dimensions().ok()
}

pub(super) fn decode(file: &[u8], limits: Limits, pixels: &mut Pixels) -> Result<(), Unreadable> {
    let (shown, meaning) = as_grey(file);
    let mut decoder = Decoder::new(Cursor::new(&*shown)).map_err(refused)?;
    let (width, height) = decoder.dimensions().map_err(refused)?;
    check_size(width, height, limits.max_pixels)?;
    let xmp = decoder.find_tag(Tag::Unknown(700)).ok().flatten().and_then(|tag| tag.into_u8_vec().ok());
    let size = (width, height);
    match decoder.colortype().map_err(refused)? {
        ColorType::Gray(bits @ (1 | 2 | 4 | 8)) if meaning == PALETTE => {
            let palette = decoder.get_tag_u16_vec(Tag::ColorMap).map_err(refused)?;
            // Pillow divides, so that 0xffff is white.
            let sample = |index: usize, colour: usize| {
                palette.get((colour << bits) + index).map_or(0, |wide| (wide / 256) as u8)
            };
            indices(decoder, size, bits.into(), sample, pixels)?;
        }
        ColorType::Gray(bits @ (2 | 4)) => {
            let most = (1 << bits) - 1;
            let sample = |index: usize, _| {
                let grey = if meaning == WHITE_IS_ZERO { most - index } else { index };
                (grey * 255 / most) as u8
            };
            indices(decoder, size, bits.into(), sample, pixels)?;
        }
        ColorType::Multiband { bit_depth: 8, num_samples: 2 } => {
            let out = pixels.start(width, height, 2, Orientation::NoTransforms, 1, beside(size, 2))?;
            let numbers = numbers(decoder, out.len())?;
            out.copy_from_slice(&numbers[..out.len()]);
        }
        ColorType::CMYK(8) => {
            let out = pixels.start(width, height, 3, Orientation::NoTransforms, 1, beside(size, 4))?;
            let numbers = numbers(decoder, out.len() / 3 * 4)?;
            for (out, inks) in out.chunks_exact_mut(3).zip(numbers.chunks_exact(4)) {
                let light = 255 - u32::from(inks[3]);
                for (out, ink) in out.iter_mut().zip(inks) {
                    let product = u32::from(*ink) * light + 128;
                    *out = light.saturating_sub((product + (product >> 8)) >> 8) as u8;
                }
            }
        }
        _ => {
            let file = Cursor::new(file);
            let mut decoder = TiffDecoder::new(file).map_err(|error| broken(Format::Tiff, error))?;
            let mut room = image::Limits::no_limits();
            room.max_alloc =
                Some(decoder.total_bytes().saturating_mul(2).saturating_add(SIDE_CHUNKS_MAX_BYTES));
            decoder.set_limits(room).map_err(|error| broken(Format::Tiff, error))?;
            read(Format::Tiff, decoder, limits, pixels)?;
        }
    }
    // A TIFF file is what EXIF is made of.
    pixels.orientation = turned::orientation(Some(file), xmp.as_deref());
    Ok(())
}

/// The file, and what its numbers mean. One with a palette is given as one of grey, whose numbers
/// are the indices, and grey in which zero is white as the other one: `tiff` refuses these.
fn as_grey(file: &[u8]) -> (Cow<'_, [u8]>, u16) {
    let is_little = file.starts_with(b"II");
    let number = |at: usize, length: usize| -> Option<u64> {
        let bytes = file.get(at..at.checked_add(length)?)?.iter();
        let add = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        Some(if is_little { bytes.rev().fold(0, add) } else { bytes.fold(0, add) })
    };
    let place = || {
        // The larger kind has a wider everything.
        let is_big = number(2, 2)? == 43;
        let (start, width, count, each, value) = if is_big { (8, 8, 8, 20, 12) } else { (4, 4, 2, 12, 8) };
        let directory = usize::try_from(number(start, width)?).ok()?;
        let entries = usize::try_from(number(directory, count)?).ok()?.min(1000);
        let first = directory.checked_add(count)?;
        let tag = u64::from(Tag::PhotometricInterpretation.to_u16());
        let entry = (0..entries).map(|entry| first + entry * each).find(|at| number(*at, 2) == Some(tag))?;
        Some((entry + value, number(entry + value, 2)? as u16))
    };
    let (at, meaning) = match place() {
        Some((at, meaning @ (WHITE_IS_ZERO | PALETTE))) => (at, meaning),
        _ => return (Cow::Borrowed(file), BLACK_IS_ZERO),
    };
    let mut copy = file.to_vec();
    let grey = if is_little { BLACK_IS_ZERO.to_le_bytes() } else { BLACK_IS_ZERO.to_be_bytes() };
    copy[at..at + 2].copy_from_slice(&grey);
    (Cow::Owned(copy), meaning)
}

/// What decoding takes beside the pixels: the numbers, of so many bytes a pixel, and buffers as
/// large.
fn beside((width, height): (u32, u32), bytes: u64) -> u64 {
    (u64::from(width) * u64::from(height)).saturating_mul(2 * bytes)
}

/// The numbers of a picture, of 8 bits each or less, in this many bytes.
fn numbers(decoder: Decoder<Cursor<&[u8]>>, bytes: usize) -> Result<Vec<u8>, Unreadable> {
    let mut room = Room::default();
    room.decoding_buffer_size = bytes.saturating_mul(2).saturating_add(SIDE_CHUNKS_MAX_BYTES as usize);
    room.intermediate_buffer_size = room.decoding_buffer_size;
    match decoder.with_limits(room).read_image().map_err(refused)? {
        DecodingResult::U8(numbers) if numbers.len() >= bytes => Ok(numbers),
        _ => Err(Unreadable::Never("the TIFF image has fewer samples than it says".to_owned())),
    }
}

/// Indices of this many bits, in rows of whole bytes, and the sample for each index and colour.
fn indices(
    decoder: Decoder<Cursor<&[u8]>>,
    (width, height): (u32, u32),
    bits: usize,
    sample: impl Fn(usize, usize) -> u8,
    pixels: &mut Pixels,
) -> Result<(), Unreadable> {
    let stride = (width as usize * bits).div_ceil(8);
    let out = pixels.start(width, height, 3, Orientation::NoTransforms, 1, beside((width, height), 1))?;
    let numbers = numbers(decoder, stride * height as usize)?;
    for (row, out) in numbers.chunks_exact(stride).zip(out.chunks_exact_mut(width as usize * 3)) {
        for (column, pixel) in out.chunks_exact_mut(3).enumerate() {
            let bit = column * bits;
            let index = usize::from(row[bit / 8] >> (8 - bits - bit % 8)) & ((1 << bits) - 1);
            for (colour, out) in pixel.iter_mut().enumerate() {
                *out = sample(index, colour);
            }
        }
    }
    Ok(())
}

/// What an uploader reads when the decoder gives up.
fn refused(error: TiffError) -> Unreadable {
    match error {
        TiffError::IoError(io) if io.kind() == std::io::ErrorKind::UnexpectedEof => cut_short(Format::Tiff),
        TiffError::UnsupportedError(what) => {
            Unreadable::Never(format!("the TIFF image is of an unsupported kind ({what})"))
        }
        other => Unreadable::Never(format!("the TIFF image cannot be decoded: {other}")),
    }
}
