//! TIFF, by the decoder of the `image` crate (0.25.10). It refuses palettes, grey of 2 and 4 bits,
//! grey with alpha and YCbCr, rounds inks in its own way, and does not look at what a fourth number
//! is or which bit of a byte comes first: these are read here, as numbers of the `tiff` crate, and
//! JPEG within TIFF by our own decoder.

mod directory;

use std::io::Cursor;

use image::{ImageDecoder, codecs::tiff::TiffDecoder};
use tiff::{
    ColorType, TiffError,
    decoder::{Decoder, DecodingResult, Limits as Room},
    tags::Tag,
};

use self::directory::{BLACK_IS_ZERO, Directory, PALETTE, RGB, WHITE_IS_ZERO, YCBCR};
use super::{
    Format, Limits, Orientation, Pixels, SIDE_CHUNKS_MAX_BYTES, Unreadable, broken, check_size, cut_short,
    jpeg, read, turned,
};

/// JPEG in the way that is in use.
const JPEG: u64 = 7;

type Reader<'f> = Decoder<Cursor<&'f [u8]>>;

/// The colour profile.
pub(super) fn profile(file: &[u8]) -> Option<Vec<u8>> {
    let profile: Vec<u8> = Directory::read(file).numbers(34675).map(|byte| byte as u8).collect();
    Some(profile).filter(|profile| !profile.is_empty())
}

/// Where the first strip or tile begins.
pub(super) fn pixels(file: &[u8]) -> Option<usize> {
    Directory::read(file).parts().first().map(|part| part.start)
}

/// Columns and rows by the header.
pub(super) fn dimensions(file: &[u8]) -> Option<(u32, u32)> {
    let shown = Directory::read(file).as_grey(file);
    Decoder::new(Cursor::new(&*shown)).ok()?.dimensions().ok()
}

pub(super) fn decode(file: &[u8], limits: Limits, pixels: &mut Pixels) -> Result<(), Unreadable> {
    let directory = Directory::read(file);
    let in_order = directory.in_order();
    let shown = directory.as_grey(&in_order);
    let mut decoder = Decoder::new(Cursor::new(&*shown)).map_err(refused)?;
    let (width, height) = decoder.dimensions().map_err(refused)?;
    check_size(width, height, limits.max_pixels)?;
    if let Some(what) = directory.unsupported() {
        return Err(Unreadable::Never(format!("the TIFF image {what}, which is not supported")));
    }
    let xmp = decoder.find_tag(Tag::Unknown(700)).ok().flatten().and_then(|tag| tag.into_u8_vec().ok());
    let (size, meaning) = ((width, height), directory.meaning());
    match decoder.colortype().map_err(refused)? {
        ColorType::Gray(8) | ColorType::RGB(8) | ColorType::YCbCr(8)
            if directory.compression() == JPEG
                && !directory.is_in_planes()
                && matches!(meaning, BLACK_IS_ZERO | RGB | YCBCR) =>
        {
            jpegs(decoder, (file, &directory), size, limits, pixels)?;
        }
        ColorType::Gray(bits @ (1 | 2 | 4 | 8)) if meaning == PALETTE => {
            let colours = palette(&mut decoder, bits)?;
            indices(decoder, size, bits.into(), colours, pixels)?;
        }
        ColorType::Multiband { bit_depth: 8, num_samples: 2 } if meaning == PALETTE => {
            let colours = palette(&mut decoder, 8)?;
            let out = pixels.start(width, height, 4, Orientation::NoTransforms, 1, beside(size, 2))?;
            let numbers = numbers(decoder, out.len() / 2)?;
            for (out, number) in out.chunks_exact_mut(4).zip(numbers.chunks_exact(2)) {
                for (colour, out) in out[..3].iter_mut().enumerate() {
                    *out = colours(number[0].into(), colour);
                }
                out[3] = number[1];
            }
        }
        ColorType::Gray(bits @ (2 | 4)) => {
            let most = (1 << bits) - 1;
            let sample = |index: usize, _| {
                let grey = if meaning == WHITE_IS_ZERO { most - index } else { index };
                (grey * 255 / most) as u8
            };
            indices(decoder, size, bits.into(), sample, pixels)?;
        }
        ColorType::Multiband { bit_depth: 8 | 16, num_samples: 2 } => {
            let out = pixels.start(width, height, 2, Orientation::NoTransforms, 1, beside(size, 4))?;
            let numbers = numbers(decoder, out.len())?;
            out.copy_from_slice(&numbers[..out.len()]);
            if meaning == WHITE_IS_ZERO {
                out.iter_mut().step_by(2).for_each(|grey| *grey = 255 - *grey);
            }
        }
        ColorType::CMYK(8 | 16) => inks(decoder, size, pixels)?,
        _ => {
            let file = Cursor::new(&*in_order);
            let mut decoder = TiffDecoder::new(file).map_err(|error| broken(Format::Tiff, error))?;
            let mut room = image::Limits::no_limits();
            room.max_alloc =
                Some(decoder.total_bytes().saturating_mul(2).saturating_add(SIDE_CHUNKS_MAX_BYTES));
            decoder.set_limits(room).map_err(|error| broken(Format::Tiff, error))?;
            read(Format::Tiff, decoder, limits, pixels)?;
        }
    }
    see_through(pixels, directory.extra());
    // A TIFF file is what EXIF is made of.
    pixels.orientation = turned::orientation(Some(file), xmp.as_deref());
    Ok(())
}

/// Makes of the last number of each pixel what its alpha is by its tag.
fn see_through(pixels: &mut Pixels, extra: Option<u64>) {
    if !matches!(pixels.channels, 2 | 4) {
        return;
    }
    for pixel in pixels.samples.chunks_exact_mut(pixels.channels) {
        let [colours @ .., alpha] = pixel else { continue };
        match (extra, *alpha) {
            (Some(1), 0) => colours.fill(0),
            // The colours were multiplied with it; as Pillow divides.
            (Some(1), alpha @ 1..=254) => {
                for colour in colours {
                    *colour = (u32::from(*colour) * 255 / u32::from(alpha)).min(255) as u8;
                }
            }
            // It is anything but alpha.
            (Some(0), _) => *alpha = 255,
            // A fourth number that is not named is taken for alpha.
            _ => {}
        }
    }
}

/// The palette for indices of `bits` bits: returns the sample of an index and a colour.
fn palette(decoder: &mut Reader, bits: u8) -> Result<impl Fn(usize, usize) -> u8 + use<>, Unreadable> {
    let palette = decoder.get_tag_u16_vec(Tag::ColorMap).map_err(refused)?;
    // Pillow divides, so that 0xffff is white.
    Ok(move |index: usize, colour: usize| {
        palette.get((colour << bits) + index).map_or(0, |wide| (wide / 256) as u8)
    })
}

/// What decoding takes beside the pixels: the numbers, of so many bytes a pixel, and buffers as
/// large.
fn beside((width, height): (u32, u32), bytes: u64) -> u64 {
    (u64::from(width) * u64::from(height)).saturating_mul(2 * bytes)
}

/// The numbers of a picture, the high byte of those of 16 bits, as many as this.
fn numbers(decoder: Reader, count: usize) -> Result<Vec<u8>, Unreadable> {
    let mut room = Room::default();
    room.decoding_buffer_size = count.saturating_mul(4).saturating_add(SIDE_CHUNKS_MAX_BYTES as usize);
    room.intermediate_buffer_size = room.decoding_buffer_size;
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

/// Indices of this many bits, in rows of whole bytes, and the sample for each index and colour.
fn indices(
    decoder: Reader,
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

/// Cyan, magenta, yellow and black, with Pillow's rounding.
fn inks(decoder: Reader, (width, height): (u32, u32), pixels: &mut Pixels) -> Result<(), Unreadable> {
    let out = pixels.start(width, height, 3, Orientation::NoTransforms, 1, beside((width, height), 8))?;
    let numbers = numbers(decoder, out.len() / 3 * 4)?;
    for (out, inks) in out.chunks_exact_mut(3).zip(numbers.chunks_exact(4)) {
        let light = 255 - u32::from(inks[3]);
        for (out, ink) in out.iter_mut().zip(inks) {
            let product = u32::from(*ink) * light + 128;
            *out = light.saturating_sub((product + (product >> 8)) >> 8) as u8;
        }
    }
    Ok(())
}

/// A picture whose strips or tiles are JPEGs, to the pixels of libtiff, which reads them with
/// libjpeg.
fn jpegs(
    mut decoder: Reader,
    (file, directory): (&[u8], &Directory),
    (width, height): (u32, u32),
    limits: Limits,
    pixels: &mut Pixels,
) -> Result<(), Unreadable> {
    let tables = decoder.find_tag(Tag::JPEGTables).ok().flatten().and_then(|tag| tag.into_u8_vec().ok());
    // Without the marks of a file's start and end.
    let tables =
        tables.as_deref().and_then(|tables| tables.get(2..tables.len().max(4) - 2)).unwrap_or_default();
    let part = decoder.chunk_dimensions();
    let (across, down) = (width.div_ceil(part.0.max(1)), height.div_ceil(part.1.max(1)));
    let parts = directory.parts();
    if parts.len() < across as usize * down as usize {
        return Err(cut_short(Format::Tiff));
    }
    // The pixels of a part, and its coefficients if it is progressive.
    let most =
        (u64::from(part.0) + 15).saturating_mul(u64::from(part.1.min(height)) + 15).min(limits.max_pixels);
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
