//! Converts images with a colour profile to sRGB. Most files are in sRGB, and models were trained
//! on stored values. If the `colour` setting asks for it, pixels in other colour spaces (Display P3
//! of phones, Adobe RGB of cameras) are converted to sRGB.
//!
//! A profile that cannot be parsed, or has another number of channels than the pixels, is ignored,
//! as browsers do.

use eirs_platform::settings::Colour;
use miniz_oxide::inflate::decompress_to_vec_zlib_with_limit;
use moxcms::{ColorProfile, DataColorSpace, Layout, ProfileVersion, TransformOptions};

use super::{Format, Pixels, heif, png, tiff, webp};

/// Maximum size of a profile, in bytes; those of printers have a few million.
const PROFILE_MAX_BYTES: usize = 8 << 20;

/// Number of pixels converted at once.
const RUN: usize = 4096;

/// Applies the `colour` setting to a decoded image.
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

/// Converts CMYK pixels to RGB and an alpha of 255, if the profile is one for CMYK.
fn inks_to_srgb(profile: &[u8], samples: &mut [u8]) -> Option<()> {
    let profile = ColorProfile::new_from_slice(profile).ok()?;
    if profile.color_space != DataColorSpace::Cmyk {
        return None;
    }
    let (inks, _) = samples.as_chunks_mut::<4>();
    // The crate's layout for four channels, whatever they are.
    by_table(&profile, Layout::Rgba, [u16::MAX; 4], inks, |inks, [red, green, blue]| {
        *inks = [red, green, blue, 255];
    })
}

/// Converts pixels by a profile with a lookup table. `darkest` is black in the colour space of the
/// profile.
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
        // The black point is at most middle grey.
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
            put(pixel, ground.compensate(*colour));
        }
    }
    Some(())
}

/// The white point (XYZ).
const D50: [f32; 3] = [0.9642, 1.0, 0.8249];

/// The black point of profiles of version 4, by the ICC specification (perceptual intent).
const BLACK_OF_VERSION_4: [f32; 3] = [0.003_36, 0.003_473_1, 0.002_87];

/// Y of L* = 50.
const MIDDLE_GREY: f32 = 0.184_2;

/// Matrices from linear sRGB to XYZ, and back.
const TO_XYZ: [[f32; 3]; 3] =
    [[0.436_07, 0.385_15, 0.143_07], [0.222_49, 0.716_88, 0.060_61], [0.013_92, 0.097_08, 0.714_10]];
const FROM_XYZ: [[f32; 3]; 3] =
    [[3.134_19, -1.617_21, -0.490_69], [-0.978_79, 1.916_13, 0.033_45], [0.071_98, -0.228_99, 1.405_38]];

fn times(matrix: &[[f32; 3]; 3], vector: [f32; 3]) -> [f32; 3] {
    matrix.map(|row| row[0] * vector[0] + row[1] * vector[1] + row[2] * vector[2])
}

/// Maps the black of paper to that of a screen (black point compensation, as in littlecms).
struct Ground {
    /// Linear light for each 16-bit level, and the 8-bit level for each linear light.
    lights: Vec<f32>,
    levels: Vec<u8>,
    /// The linear mapping: a matrix and an offset.
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

    fn compensate(&self, colour: [u16; 3]) -> [u8; 3] {
        let light = times(&self.factors, colour.map(|level| self.lights[usize::from(level)]));
        std::array::from_fn(|channel| {
            let light = (light[channel] + self.offset[channel]).clamp(0.0, 1.0);
            self.levels[(light * 65535.0).round() as usize]
        })
    }
}

/// The transfer function of sRGB.
fn to_light(level: f32) -> f32 {
    if level <= 0.040_45 { level / 12.92 } else { ((level + 0.055) / 1.055).powf(2.4) }
}

fn from_light(light: f32) -> f32 {
    if light <= 0.003_130_8 { light * 12.92 } else { 1.055 * light.powf(1.0 / 2.4) - 0.055 }
}

/// Converts CMYK pixels to RGB and an alpha of 255, without a profile.
fn mix(samples: &mut [u8]) {
    for pixel in samples.as_chunks_mut::<4>().0 {
        let [red, green, blue] = mixed(*pixel);
        *pixel = [red, green, blue, 255];
    }
}

/// Converts one pixel of cyan, magenta, yellow and black to RGB, with Pillow's rounding.
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

/// Returns the profile of a file, in the formats in which Pillow reads one.
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

/// Joins the numbered parts of a profile, one per segment.
fn in_jpeg(file: &[u8]) -> Option<Vec<u8>> {
    let (mut parts, mut rest) = (Vec::new(), file.get(2..)?);
    loop {
        match rest {
            [0xff, 0xff, ..] => rest = &rest[1..],
            // The pixels follow.
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

/// The profile is compressed, after its name and the compression method.
fn in_png(file: &[u8]) -> Option<Vec<u8>> {
    let (_, chunk) =
        png::chunks(file).take_while(|(kind, _)| kind != b"IDAT").find(|(kind, _)| kind == b"iCCP")?;
    let name = chunk.iter().position(|byte| *byte == 0)?;
    decompress_to_vec_zlib_with_limit(chunk.get(name + 2..)?, PROFILE_MAX_BYTES).ok()
}
