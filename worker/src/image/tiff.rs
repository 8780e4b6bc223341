//! Decodes TIFF. The `tiff` crate (0.11.3) reads the numbers; it sees every file as grey with that
//! number of samples, because it confuses numbers if a predictor meets samples that are not
//! colours, and refuses planes in tiles. Their meaning is decided here, as in Pillow. JPEG within
//! TIFF is read by the JPEG decoder of this crate.

mod directory;
mod tiles;

use std::{borrow::Cow, io::Cursor};

use eirs_platform::settings::Colour;
use tiff::{
    TiffError,
    decoder::{ChunkType, Decoder, DecodingResult, Limits as Room},
    tags::Tag,
};

use self::directory::{BLACK_IS_ZERO, Directory, INKS, PALETTE, RGB, WHITE_IS_ZERO, YCBCR};
use super::{
    Format, Limits, Orientation, Pixels, SIDE_CHUNKS_MAX_BYTES, Unreadable, check_size, colour, cut_short,
    jpeg, turned,
};

/// The current kind of JPEG compression.
const JPEG: u64 = 7;

type Reader<'f> = Decoder<Cursor<Cow<'f, [u8]>>>;

/// Returns the colour profile.
pub(super) fn profile(file: &[u8]) -> Option<Vec<u8>> {
    let profile: Vec<u8> = Directory::read(file).numbers(34675).map(|byte| byte as u8).collect();
    Some(profile).filter(|profile| !profile.is_empty())
}

/// Returns the offset of the first strip or tile.
pub(super) fn pixels(file: &[u8]) -> Option<usize> {
    Directory::read(file).parts().first().map(|part| part.start)
}

/// Returns the width and height from the header.
pub(super) fn dimensions(file: &[u8]) -> Option<(u32, u32)> {
    reader(file, &Directory::read(file)).ok()?.dimensions().ok()
}

pub(super) fn decode(file: &[u8], limits: Limits, pixels: &mut Pixels) -> Result<(), Unreadable> {
    let directory = Directory::read(file);
    let in_order = directory.in_order();
    let mut decoder = reader(&in_order, &directory)?;
    let (width, height) = decoder.dimensions().map_err(refused)?;
    check_size(width, height, limits.max_pixels)?;
    if let Some(what) = directory.unsupported() {
        return Err(Unreadable::Never(format!("the TIFF image {what}, which is not supported")));
    }
    let xmp = decoder.find_tag(Tag::Unknown(700)).ok().flatten().and_then(|tag| tag.into_u8_vec().ok());
    let (size, meaning) = ((width, height), directory.meaning());
    match (meaning, directory.bits(), directory.samples()) {
        (BLACK_IS_ZERO | RGB | YCBCR, 8, 1 | 3)
            if directory.compression() == JPEG && !directory.is_in_planes() =>
        {
            jpegs(decoder, (file, &directory), size, limits, pixels)?;
        }
        (PALETTE, bits @ (1 | 2 | 4 | 8), 1) => {
            let colours = palette(&mut decoder, bits)?;
            indices((&in_order, &directory), size, bits, 3, colours, pixels)?;
        }
        (PALETTE, 8, 2) => {
            let colours = palette(&mut decoder, 8)?;
            let numbers = all_numbers(&in_order, &directory, size)?;
            let out = pixels.start(width, height, 4, Orientation::NoTransforms, 1, beside(size, 2))?;
            for (out, number) in out.chunks_exact_mut(4).zip(numbers.chunks_exact(2)) {
                for (colour, out) in out[..3].iter_mut().enumerate() {
                    *out = colours(number[0].into(), colour);
                }
                out[3] = number[1];
            }
        }
        (BLACK_IS_ZERO | WHITE_IS_ZERO, bits @ (1 | 2 | 4), 1) => {
            let most = (1 << bits) - 1;
            let sample = |index: usize, _| {
                let grey = if meaning == WHITE_IS_ZERO { most - index } else { index };
                (grey * 255 / most) as u8
            };
            indices((&in_order, &directory), size, bits, 1, sample, pixels)?;
        }
        (BLACK_IS_ZERO | WHITE_IS_ZERO, 8 | 16, samples) => {
            let channels = samples.min(2) as usize;
            colours((&in_order, &directory), size, channels, pixels)?;
            if meaning == WHITE_IS_ZERO {
                pixels.samples.iter_mut().step_by(channels).for_each(|grey| *grey = 255 - *grey);
            }
        }
        (RGB, 8 | 16, samples @ 3..) => {
            colours((&in_order, &directory), size, samples.min(4) as usize, pixels)?;
        }
        (INKS, 8 | 16, 4..) => inks((&in_order, &directory), size, limits.colour, pixels)?,
        (_, bits, samples) => {
            return Err(Unreadable::Never(format!(
                "the TIFF image is of an unsupported kind ({samples} samples of {bits} bits a pixel, \
                 photometric interpretation {meaning})"
            )));
        }
    }
    see_through(pixels, directory.extra());
    pixels.orientation = turned::of(directory.orientation(), xmp.as_deref());
    Ok(())
}

/// Creates a decoder that returns the numbers of a file unchanged.
fn reader<'f>(file: &'f [u8], directory: &Directory) -> Result<Reader<'f>, Unreadable> {
    Decoder::new(Cursor::new(directory.as_numbers(file, None))).map_err(refused)
}

/// Applies the tag that describes the last number of each pixel, such as alpha.
fn see_through(pixels: &mut Pixels, extra: Option<u64>) {
    if !matches!(pixels.channels, 2 | 4) || pixels.are_inks {
        return;
    }
    for pixel in pixels.samples.chunks_exact_mut(pixels.channels) {
        let [colours @ .., alpha] = pixel else { continue };
        match (extra, *alpha) {
            (Some(1), 0) => colours.fill(0),
            // The colours were multiplied by alpha; this divides like Pillow.
            (Some(1), alpha @ 1..=254) => {
                for colour in colours {
                    *colour = (u32::from(*colour) * 255 / u32::from(alpha)).min(255) as u8;
                }
            }
            // The number is not alpha.
            (Some(0), _) => *alpha = 255,
            // A fourth number without a description is taken for alpha.
            _ => {}
        }
    }
}

/// Returns a function from an index of `bits` bits and a colour to the sample.
fn palette(decoder: &mut Reader, bits: u64) -> Result<impl Fn(usize, usize) -> u8 + use<>, Unreadable> {
    let palette = decoder.get_tag_u16_vec(Tag::ColorMap).map_err(refused)?;
    // Pillow divides, so that 0xffff is white.
    Ok(move |index: usize, colour: usize| {
        palette.get((colour << bits) + index).map_or(0, |wide| (wide / 256) as u8)
    })
}

/// Returns the memory that decoding needs in addition to the pixels: the numbers, of `bytes` per
/// pixel, and buffers of the same size.
fn beside((width, height): (u32, u32), bytes: u64) -> u64 {
    (u64::from(width) * u64::from(height)).saturating_mul(2 * bytes)
}

/// Returns `count` numbers of all planes or of one, the high byte of those of 16 bits.
fn numbers(
    file: &[u8],
    directory: &Directory,
    plane: Option<usize>,
    count: usize,
) -> Result<Vec<u8>, Unreadable> {
    let most = count.saturating_mul(4).saturating_add(SIDE_CHUNKS_MAX_BYTES as usize);
    let file = tiles::unpacked(directory.as_numbers(file, plane), most)?;
    let decoder = Decoder::new(Cursor::new(file)).map_err(refused)?;
    let mut room = Room::default();
    room.decoding_buffer_size = most;
    room.intermediate_buffer_size = most;
    let numbers = match decoder.with_limits(room).read_image().map_err(refused)? {
        DecodingResult::U8(numbers) => numbers,
        DecodingResult::U16(numbers) => numbers.into_iter().map(|wide| (wide >> 8) as u8).collect(),
        _ => Vec::new(),
    };
    if numbers.len() < count {
        return Err(Unreadable::Never("the TIFF image has fewer samples than it says".to_owned()));
    }
    Ok(numbers)
}

/// Returns the numbers of all pixels, pixel by pixel, also if they are stored in planes.
fn all_numbers(
    file: &[u8],
    directory: &Directory,
    (width, height): (u32, u32),
) -> Result<Vec<u8>, Unreadable> {
    let samples = directory.samples() as usize;
    let count = width as usize * height as usize;
    if !directory.is_in_planes() || samples == 1 {
        return numbers(file, directory, None, count * samples);
    }
    let mut all = vec![0; count * samples];
    for plane in 0..samples {
        let numbers = numbers(file, directory, Some(plane), count)?;
        for (out, number) in all.iter_mut().skip(plane).step_by(samples).zip(numbers) {
            *out = number;
        }
    }
    Ok(all)
}

/// Copies the first `channels` numbers of every pixel.
fn colours(
    (file, directory): (&[u8], &Directory),
    size: (u32, u32),
    channels: usize,
    pixels: &mut Pixels,
) -> Result<(), Unreadable> {
    let bytes = directory.samples() * directory.bits() / 8;
    let out = pixels.start(size.0, size.1, channels, Orientation::NoTransforms, 1, beside(size, bytes))?;
    let numbers = all_numbers(file, directory, size)?;
    let pixels = numbers.chunks_exact(directory.samples() as usize);
    for (out, numbers) in out.chunks_exact_mut(channels).zip(pixels) {
        out.copy_from_slice(&numbers[..channels]);
    }
    Ok(())
}

/// Decodes indices of `bits` bits, in rows of whole bytes, with a function from index and channel
/// to the sample.
fn indices(
    (file, directory): (&[u8], &Directory),
    (width, height): (u32, u32),
    bits: u64,
    channels: usize,
    sample: impl Fn(usize, usize) -> u8,
    pixels: &mut Pixels,
) -> Result<(), Unreadable> {
    let bits = bits as usize;
    let stride = (width as usize * bits).div_ceil(8);
    let beside = beside((width, height), 1);
    let out = pixels.start(width, height, channels, Orientation::NoTransforms, 1, beside)?;
    let numbers = numbers(file, directory, None, stride * height as usize)?;
    for (row, out) in numbers.chunks_exact(stride).zip(out.chunks_exact_mut(width as usize * channels)) {
        for (column, pixel) in out.chunks_exact_mut(channels).enumerate() {
            let bit = column * bits;
            let index = usize::from(row[bit / 8] >> (8 - bits - bit % 8)) & ((1 << bits) - 1);
            for (colour, out) in pixel.iter_mut().enumerate() {
                *out = sample(index, colour);
            }
        }
    }
    Ok(())
}

/// Decodes cyan, magenta, yellow and black.
fn inks(
    (file, directory): (&[u8], &Directory),
    size: (u32, u32),
    colour: Colour,
    pixels: &mut Pixels,
) -> Result<(), Unreadable> {
    let are_kept = colour == Colour::Srgb;
    let channels = if are_kept { 4 } else { 3 };
    let bytes = directory.samples() * directory.bits() / 8;
    pixels.start(size.0, size.1, channels, Orientation::NoTransforms, 1, beside(size, bytes))?;
    let numbers = all_numbers(file, directory, size)?;
    let inks = numbers.chunks_exact(directory.samples() as usize);
    for (out, inks) in pixels.samples.chunks_exact_mut(channels).zip(inks) {
        match *inks {
            [cyan, magenta, yellow, black, ..] if are_kept => {
                out.copy_from_slice(&[cyan, magenta, yellow, black]);
            }
            [cyan, magenta, yellow, black, ..] => {
                out.copy_from_slice(&colour::mixed([cyan, magenta, yellow, black]));
            }
            _ => {}
        }
    }
    pixels.are_inks = are_kept;
    Ok(())
}

/// Decodes an image whose strips or tiles are JPEGs, with the same pixels as libtiff, which uses
/// libjpeg.
fn jpegs(
    mut decoder: Reader,
    (file, directory): (&[u8], &Directory),
    (width, height): (u32, u32),
    limits: Limits,
    pixels: &mut Pixels,
) -> Result<(), Unreadable> {
    let tables = decoder.find_tag(Tag::JPEGTables).ok().flatten().and_then(|tag| tag.into_u8_vec().ok());
    // Without the start and end markers of a file.
    let tables =
        tables.as_deref().and_then(|tables| tables.get(2..tables.len().max(4) - 2)).unwrap_or_default();
    let part = decoder.chunk_dimensions();
    let (across, down) = (width.div_ceil(part.0.max(1)), height.div_ceil(part.1.max(1)));
    let parts = directory.parts();
    if parts.len() < across as usize * down as usize {
        return Err(cut_short(Format::Tiff));
    }
    // The memory of one part: its pixels, and its coefficients if it is progressive. A tile is
    // complete even beyond the edge of the image; a strip may claim any number of rows.
    let rows = if decoder.get_chunk_type() == ChunkType::Tile { part.1 } else { part.1.min(height) };
    let most = (u64::from(part.0) + 15).saturating_mul(u64::from(rows) + 15).min(limits.max_pixels);
    let beside = most.saturating_mul(10);
    let out = pixels.start(width, height, 3, Orientation::NoTransforms, 1, beside)?;
    let limits = Limits { max_pixels: most, view: None, ..limits };
    let mut within = Pixels { is_within: true, ..Pixels::default() };
    for (index, bytes) in parts.into_iter().take(across as usize * down as usize).enumerate() {
        let (left, top) = (index as u32 % across * part.0, index as u32 / across * part.1);
        let jpeg = [&[0xff, 0xd8], tables, file[bytes].get(2..).unwrap_or_default()].concat();
        jpeg::decode_in_tiff(&jpeg, directory.meaning() == YCBCR, limits, &mut within)?;
        let (columns, rows) = (part.0.min(width - left), part.1.min(height - top));
        if within.width < columns || within.height < rows {
            return Err(Unreadable::Never(
                "the TIFF image has a JPEG that is smaller than its part".to_owned(),
            ));
        }
        let (stride, channels) = (within.width as usize * within.channels, within.channels);
        let shown = out.chunks_exact_mut(width as usize * 3).skip(top as usize).take(rows as usize);
        for (row, out) in within.samples.chunks_exact(stride).zip(shown) {
            let out = out[left as usize * 3..][..columns as usize * 3].chunks_exact_mut(3);
            for (pixel, out) in row.chunks_exact(channels).zip(out) {
                match *pixel {
                    [red, green, blue, ..] => out.copy_from_slice(&[red, green, blue]),
                    [grey, ..] => out.fill(grey),
                    [] => {}
                }
            }
        }
    }
    Ok(())
}

/// Converts the error of the decoder into a sentence for the client.
fn refused(error: TiffError) -> Unreadable {
    match error {
        TiffError::IoError(io) if io.kind() == std::io::ErrorKind::UnexpectedEof => cut_short(Format::Tiff),
        TiffError::UnsupportedError(what) => {
            Unreadable::Never(format!("the TIFF image is of an unsupported kind ({what})"))
        }
        other => Unreadable::Never(format!("the TIFF image cannot be decoded: {other}")),
    }
}
