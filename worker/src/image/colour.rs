//! Colour profiles: of what red, green and blue are the amounts. Most files mean sRGB, and models
//! were trained on numbers as they are stored; where the setting says so, what another profile
//! describes (Display P3 of phones, Adobe RGB of cameras) is made sRGB.
//!
//! A profile that cannot be read, or is for another number of colours than the pixels have, changes
//! nothing, as for browsers.

use eirs_platform::settings::Colour;
use miniz_oxide::inflate::decompress_to_vec_zlib_with_limit;
use moxcms::{ColorProfile, DataColorSpace, Layout, ProfileVersion, TransformOptions};

use super::{Format, Pixels, heif, png, tiff, webp};

/// A profile is read up to this size; those of printers have a few million bytes.
const PROFILE_MAX_BYTES: usize = 8 << 20;

/// Pixels that are converted in one go.
const RUN: usize = 4096;

/// Makes the colours of a decoded picture what the setting says.
pub(super) fn convert(format: Format, file: &[u8], colour: Colour, pixels: &mut Pixels) {
    if colour == Colour::Ignore {
        return;
    }
    let profile = profile(format, file);
    if pixels.are_inks {
        pixels.are_inks = false;
        if profile.and_then(|profile| inks_to_srgb(&profile, &mut pixels.samples)).is_none() {
            mix(&mut pixels.samples);
        }
    } else if let Some(profile) = profile {
        to_srgb(&profile, pixels.channels, &mut pixels.samples);
    }
}

/// Makes pixels of four inks red, green, blue and 255, where the profile is one of inks.
fn inks_to_srgb(profile: &[u8], samples: &mut [u8]) -> Option<()> {
    let profile = ColorProfile::new_from_slice(profile).ok()?;
    if profile.color_space != DataColorSpace::Cmyk {
        return None;
    }
    let (inks, _) = samples.as_chunks_mut::<4>();
    // The crate's layout of four inks is that of four of anything.
    by_table(&profile, Layout::Rgba, [u16::MAX; 4], inks, |inks, [red, green, blue]| {
        *inks = [red, green, blue, 255];
    })
}

/// Makes each pixel what a profile with a table of colours says. `darkest` is what it has for
/// black.
fn by_table<const N: usize>(
    profile: &ColorProfile,
    layout: Layout,
    darkest: [u16; N],
    pixels: &mut [[u8; N]],
    put: impl Fn(&mut [u8; N], [u8; 3]),
) -> Option<()> {
    let srgb = ColorProfile::new_srgb();
    let transform = profile.create_transform_16bit(layout, &srgb, Layout::Rgb, exact()).ok()?;
    let black = if profile.version() as u32 >= ProfileVersion::V4_0 as u32 {
        BLACK_OF_VERSION_4
    } else {
        let mut black = [0; 3];
        transform.transform(&darkest, &mut black).ok()?;
        let black = times(&TO_XYZ, black.map(|level| to_light(f32::from(level) / 65535.0)));
        // No black is lighter than that.
        black.map(|part| part * (MIDDLE_GREY / black[1]).min(1.0))
    };
    let ground = Ground::new(black);
    let (mut numbers, mut colours) = (vec![0; RUN * N], vec![0; RUN * 3]);
    for run in pixels.chunks_mut(RUN) {
        let (numbers, colours) = (&mut numbers[..run.len() * N], &mut colours[..run.len() * 3]);
        for (number, sample) in numbers.iter_mut().zip(run.as_flattened()) {
            *number = u16::from(*sample) * 257;
        }
        transform.transform(numbers, colours).ok()?;
        for (pixel, colour) in run.iter_mut().zip(colours.as_chunks::<3>().0) {
            put(pixel, ground.put_under(*colour));
        }
    }
    Some(())
}

/// X, Y and Z of white.
const D50: [f32; 3] = [0.9642, 1.0, 0.8249];

/// The black of every profile of version 4, by its standard (perceptual intent).
const BLACK_OF_VERSION_4: [f32; 3] = [0.003_36, 0.003_473_1, 0.002_87];

/// Y of L* = 50.
const MIDDLE_GREY: f32 = 0.184_2;

/// The light of red, green and blue of sRGB to X, Y and Z, and back.
const TO_XYZ: [[f32; 3]; 3] =
    [[0.436_07, 0.385_15, 0.143_07], [0.222_49, 0.716_88, 0.060_61], [0.013_92, 0.097_08, 0.714_10]];
const FROM_XYZ: [[f32; 3]; 3] =
    [[3.134_19, -1.617_21, -0.490_69], [-0.978_79, 1.916_13, 0.033_45], [0.071_98, -0.228_99, 1.405_38]];

fn times(matrix: &[[f32; 3]; 3], vector: [f32; 3]) -> [f32; 3] {
    matrix.map(|row| row[0] * vector[0] + row[1] * vector[1] + row[2] * vector[2])
}

/// Makes the black of paper that of a screen (black-point compensation, as littlecms does it).
struct Ground {
    /// The light of each level of 16 bits, and the level of 8 bits for each light.
    lights: Vec<f32>,
    levels: Vec<u8>,
    /// What light is multiplied with, and what is added to it.
    factors: [[f32; 3]; 3],
    offset: [f32; 3],
}

impl Ground {
    fn new(black: [f32; 3]) -> Self {
        let part = |number: u16| f32::from(number) / 65535.0;
        let scale: [f32; 3] = std::array::from_fn(|axis| D50[axis] / (D50[axis] - black[axis]));
        let shift: [f32; 3] = std::array::from_fn(|axis| -black[axis] * scale[axis]);
        let mut scaled = TO_XYZ;
        for (row, scale) in scaled.iter_mut().zip(scale) {
            row.iter_mut().for_each(|factor| *factor *= scale);
        }
        let column = |of: usize| times(&FROM_XYZ, scaled.map(|row| row[of]));
        let columns = [column(0), column(1), column(2)];
        Self {
            lights: (0..=u16::MAX).map(|level| to_light(part(level))).collect(),
            levels: (0..=u16::MAX).map(|light| (from_light(part(light)) * 255.0).round() as u8).collect(),
            factors: std::array::from_fn(|row| columns.map(|column| column[row])),
            offset: times(&FROM_XYZ, shift),
        }
    }

    fn put_under(&self, colour: [u16; 3]) -> [u8; 3] {
        let light = times(&self.factors, colour.map(|level| self.lights[usize::from(level)]));
        std::array::from_fn(|channel| {
            let light = (light[channel] + self.offset[channel]).clamp(0.0, 1.0);
            self.levels[(light * 65535.0).round() as usize]
        })
    }
}

/// sRGB's curve.
fn to_light(level: f32) -> f32 {
    if level <= 0.040_45 { level / 12.92 } else { ((level + 0.055) / 1.055).powf(2.4) }
}

fn from_light(light: f32) -> f32 {
    if light <= 0.003_130_8 { light * 12.92 } else { 1.055 * light.powf(1.0 / 2.4) - 0.055 }
}

/// Makes pixels of four inks red, green, blue and 255, without a profile.
fn mix(samples: &mut [u8]) {
    for pixel in samples.as_chunks_mut::<4>().0 {
        let [red, green, blue] = mixed(*pixel);
        *pixel = [red, green, blue, 255];
    }
}

/// Red, green and blue of cyan, magenta, yellow and black, with Pillow's rounding.
pub(super) fn mixed([cyan, magenta, yellow, black]: [u8; 4]) -> [u8; 3] {
    let light = 255 - u32::from(black);
    [cyan, magenta, yellow].map(|ink| {
        let product = u32::from(ink) * light + 128;
        light.saturating_sub((product + (product >> 8)) >> 8) as u8
    })
}

fn exact() -> TransformOptions {
    TransformOptions { prefer_fixed_point: false, ..TransformOptions::default() }
}

fn to_srgb(profile: &[u8], channels: usize, samples: &mut [u8]) -> Option<()> {
    let profile = ColorProfile::new_from_slice(profile).ok()?;
    let srgb = ColorProfile::new_srgb();
    let exact = exact();
    match (profile.color_space, channels) {
        (DataColorSpace::Rgb, 3) if !profile.is_matrix_shaper() => {
            by_table(&profile, Layout::Rgb, [0; 3], samples.as_chunks_mut::<3>().0, |pixel, colour| {
                *pixel = colour
            })?;
        }
        (DataColorSpace::Rgb, 4) if !profile.is_matrix_shaper() => {
            let (pixels, _) = samples.as_chunks_mut::<4>();
            by_table(&profile, Layout::Rgba, [0, 0, 0, u16::MAX], pixels, |pixel, [red, green, blue]| {
                *pixel = [red, green, blue, pixel[3]];
            })?;
        }
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
