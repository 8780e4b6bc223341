//! The complete preprocessing of a model, resolved once from settings, preset and model file.

use anyhow::ensure;
use eirs_platform::settings::{
    Alpha, Channels, Colour, Filter, Layout, Model, PadPlace, PerChannel, ResizeMode, Size,
};

use super::{
    input::{Element, Input},
    preset::Wanted,
};
use crate::image::{
    View,
    geometry::{Fit, Geometry},
};

/// The preprocessing of every image.
#[derive(Debug, Clone)]
pub(super) struct Recipe {
    pub(super) input: Input,
    pub(super) geometry: Geometry,
    divide_by: f32,
    /// One per channel of the model, in its order.
    mean: Vec<f32>,
    std: Vec<f32>,
    /// Whether samples are passed unchanged.
    is_raw: bool,
    pub(super) jpeg_quality: Option<u8>,
    pub(super) exif: bool,
    pub(super) scaled_decode: bool,
    pub(super) alpha: Alpha,
    pub(super) colour: Colour,
    pub(super) max_pixels: u64,
}

impl Recipe {
    pub(super) fn new(model: &Model, wanted: &Wanted, input: Input) -> anyhow::Result<Self> {
        let channels = input.channels.count();
        let is_set = wanted.divide_by.is_some() || wanted.mean.is_some() || wanted.std.is_some();
        let is_raw = input.element == Element::U8 && !is_set;
        // The default range is -1..1; a divisor alone means a mean of zero.
        let usual_mean = if wanted.divide_by.is_none() { 1.0 } else { 0.0 };
        let each = |key: &str, numbers: Option<&PerChannel>, usual: f32| {
            let list = numbers.map_or(Some(vec![usual; channels]), |numbers| numbers.of(channels));
            // A preset has colour values; a grey model uses their mean.
            let list = list.or_else(|| {
                let numbers = numbers.filter(|_| wanted.channels_are_soft && channels == 1)?.numbers();
                Some(vec![numbers.iter().sum::<f32>() / numbers.len() as f32])
            });
            list.ok_or_else(|| {
                anyhow::anyhow!("{key}: must be one number, or one for each of {channels} channels")
            })
        };
        Ok(Self {
            geometry: geometry(wanted, input.size)?,
            divide_by: if is_raw { 1.0 } else { wanted.divide_by.unwrap_or(127.5) },
            mean: each("mean", wanted.mean.as_ref(), usual_mean)?,
            std: each("std", wanted.std.as_ref(), 1.0)?,
            is_raw,
            input,
            jpeg_quality: model.jpeg_quality,
            exif: model.exif,
            scaled_decode: model.scaled_decode,
            alpha: model.alpha,
            colour: model.colour,
            max_pixels: model.max_pixels,
        })
    }

    /// Returns the number of samples per image.
    pub(super) fn len(&self) -> usize {
        self.input.len()
    }

    /// Returns the part of an image that must be decoded.
    pub(super) fn view(&self) -> Option<View> {
        let view = self.geometry.view()?;
        // The cut sides depend on the orientation. A JPEG round trip needs the whole image.
        let is_cut =
            self.jpeg_quality.is_none() && (self.exif || self.geometry.size.0 == self.geometry.size.1);
        let cut = view.cut.filter(|_| is_cut);
        Some(View { cut, fractions: self.scaled_decode, ..view })
    }

    /// Converts a sample of 0 to 255 to the input value of this channel.
    pub(super) fn value(&self, channel: usize, value: u8) -> f32 {
        let value = f32::from(value);
        if self.is_raw { value } else { (value / self.divide_by - self.mean[channel]) / self.std[channel] }
    }

    /// Describes the preprocessing, for `eirs model check`.
    pub(super) fn describe(&self) -> String {
        let Self { input, geometry, divide_by, mean, std, .. } = self;
        let size = |sides: (u32, u32)| format!("{} x {}", sides.0, sides.1);
        let name = match geometry.filter {
            Filter::Nearest => "nearest",
            Filter::Box => "box",
            Filter::Bilinear => "bilinear",
            Filter::Bicubic => "bicubic",
            Filter::Lanczos => "lanczos",
        };
        let filter = match (geometry.filter, geometry.antialias) {
            (Filter::Nearest, true) => "the nearest pixel, as Pillow takes it".to_owned(),
            (Filter::Nearest | Filter::Box, false) => "the nearest pixel, as OpenCV takes it".to_owned(),
            (_, true) => format!("{name}, antialiased"),
            (_, false) => format!("{name}, not antialiased"),
        };
        let cut = |of: (u32, u32)| {
            let cut = if of == geometry.size { "cut to" } else { "the centre cut out:" };
            format!("{cut} {}", size(geometry.size))
        };
        let placed = match geometry.fit {
            Fit::Crop { cover } if cover.0 == cover.1 => {
                format!("the short side scaled to {} pixels ({filter}), {}", cover.0, cut(cover))
            }
            Fit::Crop { cover } => {
                format!("scaled to cover {} pixels ({filter}), {}", size(cover), cut(cover))
            }
            Fit::Squash { to } if to == geometry.size => {
                format!("scaled to {} pixels ({filter}), whatever the shape", size(to))
            }
            Fit::Squash { to } => {
                format!("scaled to {} pixels ({filter}), whatever the shape, {}", size(to), cut(to))
            }
            Fit::Letterbox { colour, place } => {
                let place = if place == PadPlace::Centre { "around it" } else { "after it" };
                format!(
                    "scaled to fit into {} pixels ({filter}), the rest {place} {colour:?}",
                    size(geometry.size)
                )
            }
        };
        let jpeg = self
            .jpeg_quality
            .map_or(String::new(), |quality| format!("; a JPEG of quality {quality} between"));
        let order = match input.channels {
            Channels::Rgb => "red, green, blue",
            Channels::Bgr => "blue, green, red",
            Channels::Grey => "grey",
            Channels::Rgba => "red, green, blue, alpha",
        };
        let layout = match input.layout {
            Layout::Nchw if input.shape(1).len() < 3 => "as a list, one channel after the other",
            Layout::Nhwc if input.shape(1).len() < 3 => "as a list, pixel by pixel",
            Layout::Nchw => "NCHW",
            Layout::Nhwc => "NHWC",
        };
        let value = if self.is_raw {
            "each pixel as it is".to_owned()
        } else {
            format!("each pixel (x / {divide_by} - {mean:?}) / {std:?}")
        };
        let exif = if self.exif { "" } else { "; orientation ignored" };
        let colours = match self.colour {
            Colour::Ignore => "",
            Colour::Srgb => "colours made sRGB, ",
        };
        format!("{colours}{placed}{jpeg}{exif}; {order}; {value}; {layout}")
    }
}

fn geometry(wanted: &Wanted, size: (u32, u32)) -> anyhow::Result<Geometry> {
    let (across, down) = size;
    let usual = |side: u32| (f64::from(side) * 256.0 / 224.0).round() as u32;
    let mode = wanted.resize_mode.unwrap_or(ResizeMode::Crop);
    let set =
        wanted.resize.map(|resize| if resize == Size::Side(0) { Size::of(across, down) } else { resize });
    let grown = |side: u32| {
        let factor = f64::from(side) / f64::from(across.min(down));
        ((f64::from(across) * factor).round() as u32, (f64::from(down) * factor).round() as u32)
    };
    let fit = match (mode, set) {
        // The ratio common to ImageNet models: 224 pixels out of 256.
        (ResizeMode::Crop, None) => Fit::Crop { cover: (usual(across), usual(down)) },
        (ResizeMode::Crop, Some(Size::Side(side))) => Fit::Crop { cover: grown(side) },
        // An explicit mode keeps both sides.
        (ResizeMode::Crop, Some(Size::Rectangle { width, height }))
            if wanted.resize_mode == Some(ResizeMode::Crop) =>
        {
            Fit::Crop { cover: (width, height) }
        }
        (ResizeMode::Crop, Some(Size::Rectangle { width, height })) => Fit::Squash { to: (width, height) },
        (ResizeMode::Squash, None) => Fit::Squash { to: size },
        (ResizeMode::Squash, Some(Size::Side(side))) => Fit::Squash { to: grown(side) },
        (ResizeMode::Squash, Some(Size::Rectangle { width, height })) => Fit::Squash { to: (width, height) },
        (ResizeMode::Letterbox, _) => Fit::Letterbox {
            colour: wanted.pad_colour.unwrap_or_default(),
            place: wanted.pad_place.unwrap_or(PadPlace::Centre),
        },
    };
    if let Fit::Crop { cover } | Fit::Squash { to: cover } = fit {
        ensure!(
            cover.0 >= across && cover.1 >= down,
            "resize: {} is less than the {} pixels that the model sees, so the centre cut would reach over \
             the edge",
            Size::of(cover.0, cover.1),
            Size::of(across, down)
        );
    }
    Ok(Geometry {
        size,
        fit,
        filter: wanted.filter.unwrap_or(Filter::Bilinear),
        antialias: wanted.antialias.unwrap_or(true),
        cuts_less_in_front: wanted.cuts_less_in_front,
    })
}
