//! Converts image files to the input of a model.

use eirs_platform::settings::{Alpha, Channels, Colour, Layout};

use super::recipe::Recipe;
use crate::{
    classify::Failure,
    image::{
        self, Limits, Orientation, Pixels, Resizer, Unreadable,
        geometry::{Fit, Geometry, Plan},
    },
};

/// Prepares images one after the other, reusing the same buffers.
pub(super) struct Preprocess {
    recipe: Recipe,
    /// The result for each of the 256 sample values, per channel of the model.
    table: Vec<[f32; 256]>,
    pixels: Pixels,
    resizer: Resizer,
}

impl Preprocess {
    pub(super) fn new(recipe: Recipe) -> Self {
        let of = |channel: usize| std::array::from_fn(|value| recipe.value(channel, value as u8));
        let table = (0..recipe.input.channels.count()).map(of).collect();
        Self { recipe, table, pixels: Pixels::default(), resizer: Resizer::default() }
    }

    /// Fills `tensor`, of length [`Recipe::len`], from an image file.
    pub(super) fn fill(&mut self, file: &[u8], tensor: &mut [f32]) -> Result<(), Failure> {
        let filled = self.read(file, tensor);
        self.pixels.recycle();
        filled.map_err(|error| match error {
            Unreadable::Never(why) => Failure::Rejected(why),
            error @ Unreadable::NoMemory(_) => Failure::Failed(error.to_string()),
        })
    }

    fn read(&mut self, file: &[u8], tensor: &mut [f32]) -> Result<(), Unreadable> {
        let Self { recipe, table, pixels, resizer } = self;
        let limits = Limits {
            max_pixels: recipe.max_pixels,
            view: recipe.view(),
            alpha: recipe.alpha,
            colour: recipe.colour,
        };
        image::decode(file, limits, pixels)?;
        if !recipe.exif {
            pixels.turn(Orientation::NoTransforms);
        }
        let plane = recipe.geometry.size.0 as usize * recipe.geometry.size.1 as usize;
        let channels = recipe.input.channels;
        // The distance between the channels of a pixel, and between pixels.
        let (apart, next) = match recipe.input.layout {
            Layout::Nchw => (plane, 1),
            Layout::Nhwc => (1, channels.count()),
        };
        let put = |index: usize, [red, green, blue, alpha]: [u8; 4]| {
            let mut set = |channel: usize, value: u8| {
                tensor[channel * apart + index * next] = table[channel][usize::from(value)];
            };
            match channels {
                Channels::Rgb => {
                    [red, green, blue].into_iter().enumerate().for_each(|(at, value)| set(at, value))
                }
                Channels::Bgr => {
                    [blue, green, red].into_iter().enumerate().for_each(|(at, value)| set(at, value))
                }
                Channels::Grey => set(0, grey(red, green, blue)),
                Channels::Rgba => {
                    [red, green, blue, alpha].into_iter().enumerate().for_each(|(at, value)| set(at, value));
                }
            }
        };
        match recipe.jpeg_quality {
            None => resizer.fit(pixels, &recipe.geometry, put),
            Some(quality) => through_jpeg(resizer, pixels, &recipe.geometry, quality, put),
        }
    }
}

/// Converts to grey like Pillow's `convert("L")`.
fn grey(red: u8, green: u8, blue: u8) -> u8 {
    let weighted = 19_595 * u32::from(red) + 38_470 * u32::from(green) + 7_471 * u32::from(blue);
    ((weighted + 0x8000) >> 16) as u8
}

/// Resizes with a JPEG round trip between scaling and cropping, as in the training of some models.
fn through_jpeg(
    resizer: &mut Resizer,
    pixels: &mut Pixels,
    geometry: &Geometry,
    quality: u8,
    put: impl FnMut(usize, [u8; 4]),
) -> Result<(), Unreadable> {
    let plan = geometry.plan(pixels.upright());
    let (width, height) = plan.scaled;
    let sides = u16::try_from(width).ok().zip(u16::try_from(height).ok());
    let unfit = || Unreadable::Never(format!("an image of {width} x {height} pixels cannot be a JPEG image"));
    let (columns, rows) = sides.ok_or_else(unfit)?;
    let size = (u32::from(columns), u32::from(rows));
    let mut scaled = vec![0; usize::from(columns) * usize::from(rows) * 3];
    let whole = Plan { at: (0, 0), ..plan };
    resizer.place(pixels, geometry, whole, size, |index, [red, green, blue, _]| {
        scaled[index * 3..index * 3 + 3].copy_from_slice(&[red, green, blue]);
    })?;
    let mut file = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut file, quality);
    // The default of libjpeg.
    encoder.set_sampling_factor(jpeg_encoder::SamplingFactor::F_2_2);
    encoder.set_chroma_subsampling_method(jpeg_encoder::ChromaSubsamplingMethod::Average);
    encoder.encode(&scaled, columns, rows, jpeg_encoder::ColorType::Rgb).map_err(|_| unfit())?;
    let limits = Limits { max_pixels: u64::MAX, view: None, alpha: Alpha::Drop, colour: Colour::Ignore };
    image::decode(&file, limits, pixels)?;
    let as_it_is = Geometry { fit: Fit::Squash { to: size }, ..Geometry::crop(1, 1) };
    let fit = match geometry.fit {
        boxed @ Fit::Letterbox { .. } => boxed,
        Fit::Crop { .. } | Fit::Squash { .. } => as_it_is.fit,
    };
    resizer.place(pixels, &Geometry { fit, ..as_it_is }, plan, geometry.size, put)
}

#[cfg(test)]
mod tests;
