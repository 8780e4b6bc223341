//! Decompresses tiles of LZW before the `tiff` crate (0.11.3) reads the file. It reads tiles row by
//! row, and weezl (0.1.12) then sees the end of a tile too early if its last codes stand for
//! several rows, as in an even background: a complete file looks cut short.

use std::borrow::Cow;

use weezl::{BitOrder, LzwStatus, decode::Configuration};

use super::{
    Format, Unreadable, cut_short,
    directory::{COMPRESSION, Directory},
};

const LZW: u64 = 5;
const TILE_WIDTH: u64 = 322;
const TILE_LENGTH: u64 = 323;
/// The tags with the offsets and lengths of tiles.
const TILES: [u64; 2] = [324, 325];

/// Returns the file with plain tiles instead of those of LZW, which may take `most` bytes.
pub(super) fn unpacked(file: Cow<[u8]>, most: usize) -> Result<Cow<[u8]>, Unreadable> {
    let directory = Directory::read(&file);
    if directory.compression() != LZW || directory.entry(TILE_WIDTH).is_none() {
        return Ok(file);
    }
    let samples = if directory.is_in_planes() { 1 } else { directory.samples() };
    let row = directory.first(TILE_WIDTH, 0).saturating_mul(directory.bits() * samples).div_ceil(8);
    let each = usize::try_from(row.saturating_mul(directory.first(TILE_LENGTH, 0))).unwrap_or(usize::MAX);
    let parts = directory.parts();
    if parts.len() < directory.numbers(TILES[0]).count() {
        return Err(cut_short(Format::Tiff));
    }
    if each.saturating_mul(parts.len()) > most {
        return Err(Unreadable::Never("the TIFF image has tiles that are much larger than it".to_owned()));
    }
    let mut plain = Vec::with_capacity(file.len() + each * parts.len());
    plain.extend_from_slice(&file);
    let mut places = Vec::with_capacity(parts.len());
    for part in parts {
        places.push(plain.len());
        plain.resize(plain.len() + each, 0);
        let start = plain.len() - each;
        decompress(&file[part], &mut plain[start..])?;
    }
    let lengths = vec![each; places.len()];
    for (tag, numbers) in TILES.into_iter().zip([places, lengths]) {
        replace(&directory, &mut plain, tag, &numbers);
    }
    directory.set(&mut plain, COMPRESSION, 1);
    Ok(Cow::Owned(plain))
}

/// Fills a tile.
fn decompress(mut codes: &[u8], mut tile: &mut [u8]) -> Result<(), Unreadable> {
    let how = Configuration::with_tiff_size_switch(BitOrder::Msb, 8).with_yield_on_full_buffer(true);
    let mut decoder = how.build();
    while !tile.is_empty() {
        let done = decoder.decode_bytes(codes, tile);
        let is_stuck = (done.consumed_in, done.consumed_out) == (0, 0);
        (codes, tile) = (&codes[done.consumed_in..], &mut tile[done.consumed_out..]);
        match done.status {
            Ok(LzwStatus::Ok | LzwStatus::NoProgress) if !is_stuck => {}
            _ if tile.is_empty() => {}
            Ok(_) => return Err(cut_short(Format::Tiff)),
            Err(error) => {
                return Err(Unreadable::Never(format!("the TIFF image cannot be decoded: {error}")));
            }
        }
    }
    Ok(())
}

/// Lets a tag have these numbers, which are appended to the file if there are several.
fn replace(directory: &Directory, plain: &mut Vec<u8>, tag: u64, numbers: &[usize]) {
    const LONG: u64 = 4;
    const LONG8: u64 = 16;
    let Some(entry) = directory.entry(tag) else { return };
    let (kind, length) = if directory.is_big { (LONG8, 8) } else { (LONG, 4) };
    directory.write(plain, entry + 2, 2, kind);
    directory.write(plain, entry + 4, length, numbers.len() as u64);
    let value = entry + 4 + length;
    if let [number] = numbers {
        return directory.write(plain, value, length, *number as u64);
    }
    let start = plain.len();
    plain.resize(start + numbers.len() * length, 0);
    directory.write(plain, value, length, start as u64);
    for (index, number) in numbers.iter().enumerate() {
        directory.write(plain, start + index * length, length, *number as u64);
    }
}
