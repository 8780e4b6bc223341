//! Combines the preprocessing settings: explicit keys, and the preset for all others.

mod files;
mod keras;
mod torchvision;

use anyhow::Context;
use eirs_platform::settings::{
    Channels, Filter, Layout, Model, PadPlace, PerChannel, Preset, ResizeMode, Size,
};

use super::graph::Graph;

/// The wanted preprocessing, as far as settings and preset specify it; the model file provides the
/// rest.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Wanted {
    pub(super) layout: Option<Layout>,
    pub(super) channels: Option<Channels>,
    /// Whether a model with another number of channels may override `channels`, because they come
    /// from a preset.
    pub(super) channels_are_soft: bool,
    pub(super) size: Option<Size>,
    /// Whether `size` is a hint from the model file, which only counts if the input leaves the size
    /// open.
    pub(super) size_is_soft: bool,
    pub(super) resize: Option<Size>,
    pub(super) resize_mode: Option<ResizeMode>,
    pub(super) pad_colour: Option<[u8; 3]>,
    pub(super) pad_place: Option<PadPlace>,
    pub(super) filter: Option<Filter>,
    pub(super) antialias: Option<bool>,
    pub(super) divide_by: Option<f32>,
    pub(super) mean: Option<PerChannel>,
    pub(super) std: Option<PerChannel>,
    /// See `Geometry`.
    pub(super) cuts_less_in_front: bool,
}

impl Wanted {
    pub(super) fn of(model: &Model, graph: Option<&Graph>) -> anyhow::Result<Self> {
        let preset = match model.preset {
            // All classifiers of Ultralytics have the same preprocessing, and their files identify
            // them.
            None if graph.is_some_and(is_ultralytics) => Self::ultralytics(),
            None => Self::default(),
            Some(Preset::Caffe) => Self::caffe(),
            Some(Preset::Ultralytics) => Self::ultralytics(),
            Some(Preset::Torchvision) => torchvision::wanted(model.weights.as_deref())?,
            Some(Preset::KerasApplications) => keras::wanted(model.weights.as_deref().unwrap_or_default())?,
            Some(preset @ (Preset::Timm | Preset::Huggingface)) => {
                let file = model.preset_reads().context("preset: reads a file beside the model; set path")?;
                let place = format!("preset {}", file.display());
                let text =
                    std::fs::read_to_string(&file).with_context(|| format!("{place}: cannot be read"))?;
                let json = serde_json::from_str(&text).with_context(|| format!("{place}: is not JSON"))?;
                let wanted =
                    if preset == Preset::Timm { files::timm(&json) } else { files::huggingface(&json) };
                wanted.with_context(|| place)?
            }
        };
        let own_size = model.size.or(preset.size);
        // The preset's `resize` only applies to its own size and mode.
        let is_its = |set: Option<Size>| set.is_none() || preset.size.is_none() || set == preset.size;
        let has_its_mode = model.resize_mode.is_none() || model.resize_mode == preset.resize_mode;
        let as_preset = is_its(model.size) && has_its_mode;
        let hint = graph.and_then(|graph| size_hint(graph.metadata.get("imgsz")?));
        Ok(Self {
            layout: model.layout.or(preset.layout),
            channels: model.channels.or(preset.channels),
            channels_are_soft: model.channels.is_none(),
            size: own_size.or(hint),
            size_is_soft: own_size.is_none(),
            resize: model.resize.or(preset.resize.filter(|_| as_preset)),
            resize_mode: model.resize_mode.or(preset.resize_mode),
            pad_colour: model.pad_colour.or(preset.pad_colour),
            pad_place: model.pad_place.or(preset.pad_place),
            filter: model.filter.or(preset.filter),
            antialias: model.antialias.or(preset.antialias),
            divide_by: model.divide_by.or(preset.divide_by),
            mean: model.mean.clone().or(preset.mean),
            std: model.std.clone().or(preset.std),
            cuts_less_in_front: preset.cuts_less_in_front,
        })
    }

    /// RGB scaled to 0..1, then normalised by `mean` and `std`.
    fn of_unit(mean: impl Into<PerChannel>, std: impl Into<PerChannel>) -> Self {
        Self {
            resize_mode: Some(ResizeMode::Crop),
            channels: Some(Channels::Rgb),
            divide_by: Some(255.0),
            mean: Some(mean.into()),
            std: Some(std.into()),
            ..Self::default()
        }
    }

    /// Caffe's ImageNet models: resized to 256 x 256 (bilinear, like OpenCV), centre crop, BGR,
    /// mean of ImageNet.
    fn caffe() -> Self {
        Self {
            resize_mode: Some(ResizeMode::Squash),
            resize: Some(Size::Side(256)),
            antialias: Some(false),
            channels: Some(Channels::Bgr),
            divide_by: Some(1.0),
            mean: Some([104.0, 117.0, 123.0].into()),
            std: Some([1.0].into()),
            ..Self::default()
        }
    }

    /// Ultralytics' `classify_transforms`: the short side is resized to `size`, then a centre crop.
    fn ultralytics() -> Self {
        Self { resize: Some(Self::SAME), ..Self::of_unit([0.0], [1.0]) }
    }

    /// A `resize` that stands for `size`.
    const SAME: Size = Size::Side(0);
}

/// Returns whether the metadata says that Ultralytics exported this classifier.
fn is_ultralytics(graph: &Graph) -> bool {
    let says = |key: &str, what: &str| graph.metadata.get(key).is_some_and(|value| value == what);
    says("author", "Ultralytics") && says("task", "classify")
}

/// Parses the size that Ultralytics writes: `[224, 224]`, rows first.
fn size_hint(text: &str) -> Option<Size> {
    let numbers: Vec<u32> = serde_json::from_str(text).ok()?;
    match numbers[..] {
        [side] => Some(Size::Side(side)),
        [height, width] => Some(Size::of(width, height)),
        _ => None,
    }
}
