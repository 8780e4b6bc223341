//! Colour profiles: of what red, green and blue are the amounts. Most files mean sRGB, and models
//! were trained on numbers as they are stored; where the setting says so, what another profile
//! describes (Display P3 of phones, Adobe RGB of cameras) is made sRGB.
//!
//! A profile that cannot be read, or is for another number of colours than the pixels have (inks
//! among them), changes nothing, as for browsers.

use eirs_platform::settings::Colour;
use miniz_oxide::inflate::decompress_to_vec_zlib_with_limit;
use moxcms::{ColorProfile, DataColorSpace, Layout, TransformOptions};

use super::{Format, Pixels, heif, png, tiff, webp};

/// A profile is read up to this size; those of printers have a few million bytes.
const PROFILE_MAX_BYTES: usize = 8 << 20;

/// Pixels that are converted in one go.
const RUN: usize = 4096;

/// Makes the colours of a decoded picture what the setting says.
pub(super) fn convert(format: Format, file: &[u8], colour: Colour, pixels: &mut Pixels) {
    match colour {
        Colour::Ignore => {}
        Colour::Srgb => {
            if let Some(profile) = profile(format, file) {
                to_srgb(&profile, pixels.channels, &mut pixels.samples);
            }
        }
    }
}

fn to_srgb(profile: &[u8], channels: usize, samples: &mut [u8]) -> Option<()> {
    let profile = ColorProfile::new_from_slice(profile).ok()?;
    let srgb = ColorProfile::new_srgb();
    let exact = TransformOptions { prefer_fixed_point: false, ..TransformOptions::default() };
    match (profile.color_space, channels) {
        (DataColorSpace::Rgb, 3 | 4) => {
            let layout = if channels == 3 { Layout::Rgb } else { Layout::Rgba };
            let transform = profile.create_transform_8bit(layout, &srgb, layout, exact).ok()?;
            let mut before = vec![0; RUN * channels];
            for run in samples.chunks_mut(RUN * channels) {
                let before = &mut before[..run.len()];
                before.copy_from_slice(run);
                transform.transform(before, run).ok()?;
            }
        }
        (DataColorSpace::Gray, 1 | 2) => {
            let transform = profile.create_transform_8bit(Layout::Gray, &srgb, Layout::Rgb, exact).ok()?;
            let greys: [u8; 256] = std::array::from_fn(|grey| grey as u8);
            let mut colours = [0; 3 * 256];
            transform.transform(&greys, &mut colours).ok()?;
            samples.iter_mut().step_by(channels).for_each(|grey| *grey = colours[usize::from(*grey) * 3]);
        }
        _ => {}
    }
    Some(())
}

/// The profile within a file of a format that Pillow knows one of.
fn profile(format: Format, file: &[u8]) -> Option<Vec<u8>> {
    match format {
        Format::Jpeg => in_jpeg(file),
        Format::Png => in_png(file),
        Format::WebP => webp::profile(file).map(<[u8]>::to_vec),
        Format::Tiff => tiff::profile(file),
        Format::Heic | Format::Avif => heif::profile(format, file),
        Format::Gif | Format::Bmp | Format::Ico | Format::Pnm | Format::Qoi => None,
    }
}

/// In parts with numbers, each in a segment of its own.
fn in_jpeg(file: &[u8]) -> Option<Vec<u8>> {
    let (mut parts, mut rest) = (Vec::new(), file.get(2..)?);
    loop {
        match rest {
            [0xff, 0xff, ..] => rest = &rest[1..],
            // The pixels come.
            [0xff, 0xda | 0xd9, ..] => break,
            [0xff, marker, high, low, ..] => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                let body = rest.get(4..2 + length)?;
                if *marker == 0xe2
                    && let Some([number, _count, part @ ..]) = body.strip_prefix(b"ICC_PROFILE\0")
                {
                    parts.push((*number, part));
                }
                rest = &rest[2 + length..];
            }
            _ => break,
        }
    }
    parts.sort_by_key(|(number, _)| *number);
    let whole: Vec<u8> = parts.into_iter().flat_map(|(_, part)| part).copied().collect();
    Some(whole).filter(|profile| !profile.is_empty())
}

/// Compressed, after a name and the number of the compression.
fn in_png(file: &[u8]) -> Option<Vec<u8>> {
    let (_, chunk) =
        png::chunks(file).take_while(|(kind, _)| kind != b"IDAT").find(|(kind, _)| kind == b"iCCP")?;
    let name = chunk.iter().position(|byte| *byte == 0)?;
    decompress_to_vec_zlib_with_limit(chunk.get(name + 2..)?, PROFILE_MAX_BYTES).ok()
}
