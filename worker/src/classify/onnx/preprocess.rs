//! From the bytes of an image to the numbers that a model was trained on.

use eirs_platform::settings::{Alpha, Channels, Layout, Model, ResizeMode};

use crate::{
    classify::Failure,
    image::{self, Limits, Pixels, Resizer, Unreadable, View},
};

/// What happens to every image, by the settings and the model file.
#[derive(Debug, Clone)]
pub(super) struct Recipe {
    /// Side of the square that the model sees.
    pub(super) side: u32,
    /// The short side before the centre is cut out.
    resize: u32,
    resize_mode: ResizeMode,
    layout: Layout,
    channels: Channels,
    divide_by: f32,
    mean: [f32; 3],
    std: [f32; 3],
    scaled_decode: bool,
    alpha: Alpha,
    max_pixels: u64,
}

impl Recipe {
    pub(super) fn new(model: &Model, side: u32) -> Self {
        // The proportion that the models for ImageNet share: 224 pixels out of 256.
        let usual = (f64::from(side) * 256.0 / 224.0).round() as u32;
        Self {
            side,
            resize: if model.resize == 0 { usual } else { model.resize },
            resize_mode: model.resize_mode,
            layout: model.layout,
            channels: model.channels,
            divide_by: model.divide_by,
            mean: model.mean,
            std: model.std,
            scaled_decode: model.scaled_decode,
            alpha: model.alpha,
            max_pixels: model.max_pixels,
        }
    }

    /// How many numbers one image becomes.
    pub(super) fn len(&self) -> usize {
        self.side as usize * self.side as usize * 3
    }

    /// The shape of so many images.
    pub(super) fn shape(&self, images: usize) -> [usize; 4] {
        let side = self.side as usize;
        match self.layout {
            Layout::Nchw => [images, 3, side, side],
            Layout::Nhwc => [images, side, side, 3],
        }
    }

    /// In words, for `eirs model check`.
    pub(super) fn describe(&self) -> String {
        let Self { side, resize, divide_by, mean, std, .. } = self;
        let order = match self.channels {
            Channels::Rgb => "red, green, blue",
            Channels::Bgr => "blue, green, red",
        };
        let layout = match self.layout {
            Layout::Nchw => "NCHW",
            Layout::Nhwc => "NHWC",
        };
        let square = match self.resize_mode {
            ResizeMode::Crop => format!(
                "the short side scaled to {resize} pixels (bilinear, antialiased), the centre of {side} x {side} cut out"
            ),
            ResizeMode::Squash => {
                format!("both sides scaled to {side} pixels (bilinear, antialiased), whatever the shape")
            }
        };
        format!("{square}; {order}; each pixel (x / {divide_by} - {mean:?}) / {std:?}; {layout}")
    }
}

/// Prepares one image after the other, with the same buffers.
pub(super) struct Preprocess {
    recipe: Recipe,
    /// What each of the 256 values of red, green and blue becomes.
    table: [[f32; 256]; 3],
    pixels: Pixels,
    resizer: Resizer,
}

impl Preprocess {
    pub(super) fn new(recipe: Recipe) -> Self {
        // The settings name mean and std in the order in which the model sees the colours.
        let table = std::array::from_fn(|colour| {
            let position = position(recipe.channels, colour);
            std::array::from_fn(|x| {
                (x as f32 / recipe.divide_by - recipe.mean[position]) / recipe.std[position]
            })
        });
        Self { recipe, table, pixels: Pixels::default(), resizer: Resizer::default() }
    }

    /// Fills `tensor`, of [`Recipe::len`] numbers, from an image file.
    pub(super) fn fill(&mut self, file: &[u8], tensor: &mut [f32]) -> Result<(), Failure> {
        let Self { recipe, table, pixels, resizer } = self;
        let (short, cut) = match recipe.resize_mode {
            ResizeMode::Crop => (recipe.resize, Some((recipe.side, recipe.side))),
            ResizeMode::Squash => (recipe.side, None),
        };
        let limits = Limits {
            max_pixels: recipe.max_pixels,
            view: Some(View { short, cut, fractions: recipe.scaled_decode }),
            alpha: recipe.alpha,
        };
        let plane = recipe.side as usize * recipe.side as usize;
        let places: [usize; 3] = std::array::from_fn(|colour| position(recipe.channels, colour));
        // How far apart the numbers of a pixel are, and those of two pixels.
        let (channel, next) = match recipe.layout {
            Layout::Nchw => (plane, 1),
            Layout::Nhwc => (1, 3),
        };
        let put = |index: usize, pixel: [u8; 3]| {
            for colour in 0..3 {
                tensor[places[colour] * channel + index * next] = table[colour][usize::from(pixel[colour])];
            }
        };
        let filled = image::decode(file, limits, pixels).and_then(|()| match recipe.resize_mode {
            ResizeMode::Crop => resizer.centre_square(pixels, recipe.resize, recipe.side, put),
            ResizeMode::Squash => resizer.squashed_square(pixels, recipe.side, put),
        });
        pixels.recycle();
        filled.map_err(|error| match error {
            Unreadable::Never(why) => Failure::Rejected(why),
            error @ Unreadable::NoMemory(_) => Failure::Failed(error.to_string()),
        })
    }
}

/// Where red (0), green (1) or blue (2) stands among the channels of the model.
fn position(channels: Channels, colour: usize) -> usize {
    match channels {
        Channels::Rgb => colour,
        Channels::Bgr => 2 - colour,
    }
}
