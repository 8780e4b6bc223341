//! Decodes icons. Of several images in a file, it takes the same as Pillow: the largest, and among
//! equally large ones that with the fewest colours. The decoder of the `image` crate (0.25.10)
//! takes another one, and refuses PNG without alpha.

use std::io::Cursor;

use image::{
    ImageDecoder,
    codecs::{ico::IcoDecoder, png::PngDecoder},
};

use super::{Format, Limits, Pixels, Unreadable, broken, cut_short, png_room, read};

/// Size of the header, and of each entry after it, in bytes.
const HEADER: usize = 6;
const ENTRY: usize = 16;

/// Returns the width and height from the header.
pub(super) fn dimensions(file: &[u8]) -> Option<(u32, u32)> {
    match chosen(file).ok()? {
        Chosen::Png(png) => {
            PngDecoder::with_limits(Cursor::new(png), png_room()).ok().map(|png| png.dimensions())
        }
        Chosen::Bitmap(icon) => IcoDecoder::new(Cursor::new(icon)).ok().map(|icon| icon.dimensions()),
    }
}

pub(super) fn decode(file: &[u8], limits: Limits, pixels: &mut Pixels) -> Result<(), Unreadable> {
    let failed = |error| broken(Format::Ico, error);
    match chosen(file)? {
        Chosen::Png(png) => {
            let decoder = PngDecoder::with_limits(Cursor::new(png), png_room()).map_err(failed)?;
            read(Format::Ico, decoder, limits, pixels)
        }
        Chosen::Bitmap(icon) => {
            read(Format::Ico, IcoDecoder::new(Cursor::new(icon)).map_err(failed)?, limits, pixels)
        }
    }
}

/// The selected image.
enum Chosen<'f> {
    Png(&'f [u8]),
    /// An icon file with only this image.
    Bitmap(Vec<u8>),
}

fn chosen(file: &[u8]) -> Result<Chosen<'_>, Unreadable> {
    let end = || cut_short(Format::Ico);
    let count = file.get(4..HEADER).ok_or_else(end)?;
    let count = usize::from(u16::from_le_bytes([count[0], count[1]]));
    let entries = file.get(HEADER..HEADER + count * ENTRY).ok_or_else(end)?.chunks_exact(ENTRY);
    // Zero stands for 256. If the number of bits is zero, the number of colours counts.
    let side = |byte: u8| if byte == 0 { 256 } else { u32::from(byte) };
    let bits = |entry: &[u8]| match (u16::from_le_bytes([entry[6], entry[7]]), entry[2]) {
        (0, 0) => 256,
        (0, colours) => colours.next_power_of_two().trailing_zeros(),
        (bits, _) => bits.into(),
    };
    let order = |entry: &&[u8]| (std::cmp::Reverse(side(entry[0]) * side(entry[1])), bits(entry));
    let entry = entries
        .min_by_key(order)
        .ok_or_else(|| Unreadable::Never("the ICO image has no picture".to_owned()))?;
    let number =
        |at: usize| u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]) as usize;
    let data = file.get(number(12)..).and_then(|rest| rest.get(..number(8))).ok_or_else(end)?;
    if data.starts_with(b"\x89PNG") {
        return Ok(Chosen::Png(data));
    }
    let start = (HEADER + ENTRY) as u32;
    let alone = [&[0, 0, 1, 0, 1, 0], &entry[..12], &start.to_le_bytes()[..], data].concat();
    Ok(Chosen::Bitmap(alone))
}
