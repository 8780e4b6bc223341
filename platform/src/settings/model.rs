//! `[models.NAME]`: the classifier, and how an image is preprocessed for it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

mod kinds;
mod numbers;

pub use self::{
    kinds::{
        Alpha, Augment, Channels, Classifier, Colour, Engine, Filter, Layout, PadPlace, Preset, Protocol,
        Provider, ResizeMode, Scores,
    },
    numbers::{PerChannel, Size},
};

use super::units;
use crate::names;

/// `[models.NAME]`. The defaults suit the built-in model and every 224-pixel model trained on
/// pixels from -1 to 1, such as TensorFlow's MobileNets; `models/README.md` has the settings of
/// others.
///
/// Every key is part of the model's version, unless `platform/src/version.rs` lists it as one that
/// does not change results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Model {
    /// The kind of classifier.
    pub classifier: Classifier,

    /// onnx: the model file. Without it, the built-in model of drawn shapes.
    pub path: Option<PathBuf>,
    /// onnx: the labels of the outputs, in any usual format. Without it, those beside or in the
    /// model, or else the indexes. script, `once`: the labels that it prints.
    pub labels: Option<PathBuf>,
    /// onnx: the engine that runs it.
    pub engine: Engine,
    /// onnx: the library of ONNX Runtime. Without it, the usual places are searched.
    pub onnxruntime: Option<PathBuf>,
    /// onnx: the device that ONNX Runtime uses.
    pub provider: Provider,
    /// onnx: number of threads of ONNX Runtime for one inference; 1 leaves the cores to the
    /// worker's threads.
    pub engine_threads: usize,
    /// onnx: ONNX Runtime keeps the memory of one inference for the next.
    pub memory_arena: bool,
    /// onnx: the library whose preprocessing the model expects; other keys override it.
    pub preset: Option<Preset>,
    /// onnx: the weights (torchvision), or the application or mode (Keras), of the preset.
    pub weights: Option<String>,
    /// onnx: the file that the preset reads. Without it, the usual one beside the model.
    pub preset_file: Option<PathBuf>,
    /// onnx: the size of the input in pixels; without it, that of the model file.
    #[serde(deserialize_with = "numbers::optional_size")]
    pub size: Option<Size>,
    /// onnx: the size in pixels to which an image is scaled before the centre is cropped: the short
    /// side, or both sides. Without it, 256/224 of `size` for `crop`, and `size` for the other
    /// modes.
    #[serde(deserialize_with = "numbers::optional_size")]
    pub resize: Option<Size>,
    /// onnx: how an image of another shape is fitted to the input.
    pub resize_mode: Option<ResizeMode>,
    /// onnx, letterbox: the fill colour: red, green, blue.
    pub pad_colour: Option<[u8; 3]>,
    /// onnx, letterbox: the place of the image.
    pub pad_place: Option<PadPlace>,
    /// onnx: the filter for scaling.
    pub filter: Option<Filter>,
    /// onnx: scaling down uses all pixels, as in Pillow, and not only the nearest ones, as in
    /// OpenCV.
    pub antialias: Option<bool>,
    /// onnx: the quality of a JPEG compression between scaling and cropping, for models trained on
    /// such pixels.
    pub jpeg_quality: Option<u8>,
    /// onnx: rotate images as their EXIF data say.
    pub exif: bool,
    /// onnx: the order of the axes; without it, that of the model file.
    pub layout: Option<Layout>,
    /// onnx: the channels of a pixel in their order; without it, by their number: grey; red, green,
    /// blue; or these and alpha.
    pub channels: Option<Channels>,
    /// onnx: a pixel from 0 to 255 is first divided by this, ...
    pub divide_by: Option<f32>,
    /// ... then this is subtracted, per channel in the order of `channels`, ...
    pub mean: Option<PerChannel>,
    /// ... and the result is divided by this.
    pub std: Option<PerChannel>,
    /// onnx: the name of the output with the scores.
    pub output: Option<String>,
    /// onnx: the kind of scores; without it, as inferred from the model file and the scores.
    pub scores: Option<Scores>,
    /// onnx: short form of `scores`: true is `logits`, false is `probabilities`.
    pub softmax: Option<bool>,
    /// onnx: for a model with one output and two labels, the label whose confidence the output is.
    pub positive: Option<String>,
    /// onnx: minimum confidence; labels with less are left out.
    pub threshold: Option<f32>,
    /// onnx: the label if all are below `threshold`.
    pub otherwise: String,
    /// onnx: the views of an image over which confidences are averaged.
    pub augment: Augment,
    /// onnx: decode large JPEGs at a fraction of their size, which saves memory and changes few
    /// results.
    pub scaled_decode: bool,
    /// onnx: how transparent pixels are handled.
    pub alpha: Alpha,
    /// onnx: how the colour profile of an image is handled.
    pub colour: Colour,
    /// onnx: maximum number of waiting images per inference; 1 is fastest for most models on a CPU.
    pub batch: usize,
    /// onnx: an image to classify at the start; the worker refuses to start if its label is not
    /// `check_label`.
    pub check_image: Option<PathBuf>,
    /// onnx: the expected label of `check_image`.
    pub check_label: Option<String>,

    /// script: the command and its arguments.
    pub command: Vec<String>,
    /// script: the protocol.
    pub protocol: Protocol,
    /// script: the variables of the worker's environment that it gets in addition to the usual
    /// ones: names, beginnings of names with a star, or `NAME=value`.
    pub env: Vec<String>,
    /// script: the socket of the service that runs the command as another user (`eirs-worker
    /// --run-scripts`). Without it, the command is a child of the worker.
    pub script_socket: Option<PathBuf>,
    /// Maximum time for one image.
    #[serde(with = "units::duration")]
    pub timeout: Duration,

    /// Maximum number of pixels of an image; larger ones are rejected before they are decoded.
    pub max_pixels: u64,
    /// Maximum number of guesses in a result.
    pub top: usize,

    /// The operator's part of the version: changing it means that earlier results do not answer new
    /// uploads.
    pub version: Option<String>,
    /// The whole version, for machines without the files that determine it; `eirs setup` writes it.
    pub digest: Option<String>,
}

impl Model {
    /// The model of uploads that name none.
    pub const DEFAULT: &'static str = "default";

    /// Returns the file of the labels: the setting, or else the one found beside the model file.
    pub fn labels_file(&self) -> Option<PathBuf> {
        self.labels.clone().or_else(|| labels_beside(self.path.as_deref()?))
    }

    /// Returns the file that the preset reads, if it reads one: the setting, or else the one beside
    /// the model file.
    pub fn preset_reads(&self) -> Option<PathBuf> {
        let usual = match self.preset? {
            Preset::Timm => "config.json",
            Preset::Huggingface => "preprocessor_config.json",
            Preset::Torchvision | Preset::KerasApplications | Preset::Ultralytics | Preset::Caffe => {
                return None;
            }
        };
        let model = self.path.as_deref()?;
        self.preset_file
            .clone()
            .or_else(|| beside(model, usual))
            .or_else(|| Some(model.with_file_name(usual)))
    }

    /// Returns invalid combinations, as `key: what is wrong`.
    pub(super) fn complaints(&self) -> Vec<String> {
        let scripted = self.classifier == Classifier::Script;
        let rules = [
            (!scripted || !self.command.is_empty(), "command: a script needs the command to run"),
            (self.divide_by.is_none_or(|by| by != 0.0 && by.is_finite()), "divide_by: must not be zero"),
            (
                [&self.mean, &self.std].into_iter().flatten().all(is_per_channel),
                "mean, std: one number, or one for each channel, at most four",
            ),
            (self.std.iter().flat_map(PerChannel::numbers).all(|s| *s != 0.0), "std: must not be zero"),
            (self.batch >= 1, "batch: must be at least 1"),
            (self.top >= 1, "top: must be at least 1"),
            (
                [self.size, self.resize].into_iter().flatten().all(is_size),
                "size, resize: must be from 1 to 8192 pixels",
            ),
            (
                self.resize_mode == Some(ResizeMode::Letterbox)
                    || (self.pad_colour.is_none() && self.pad_place.is_none()),
                "pad_colour, pad_place: go with resize_mode = \"letterbox\"",
            ),
            (
                self.resize_mode != Some(ResizeMode::Letterbox) || self.resize.is_none(),
                "resize: does not go with resize_mode = \"letterbox\", which scales to size",
            ),
            (
                self.softmax.is_none() || self.scores.is_none(),
                "softmax: is the short form of scores; set one of them",
            ),
            (
                self.threshold.is_none_or(|least| (0.0..=1.0).contains(&least)),
                "threshold: must be a confidence, from 0 to 1",
            ),
            (!self.otherwise.trim().is_empty(), "otherwise: must be a label"),
            (
                self.jpeg_quality.is_none_or(|quality| (1..=100).contains(&quality)),
                "jpeg_quality: must be from 1 to 100",
            ),
            ((1..=256).contains(&self.engine_threads), "engine_threads: must be from 1 to 256"),
            (
                self.provider == Provider::Cpu || self.engine != Engine::Rten,
                "provider: is of ONNX Runtime; rten computes on the processor",
            ),
            (
                self.weights.is_none()
                    || matches!(self.preset, Some(Preset::Torchvision | Preset::KerasApplications)),
                "weights: goes with preset = \"torchvision\" or \"keras-applications\"",
            ),
            (
                self.preset != Some(Preset::KerasApplications) || self.weights.is_some(),
                "preset: keras-applications needs weights, the name of the application such as `ResNet50`, \
                 or its mode `caffe`, `tf` or `torch`",
            ),
            (
                self.preset_file.is_none() || matches!(self.preset, Some(Preset::Timm | Preset::Huggingface)),
                "preset_file: goes with preset = \"timm\" or \"huggingface\"",
            ),
            (
                !matches!(self.preset, Some(Preset::Timm | Preset::Huggingface)) || self.path.is_some(),
                "preset: reads a file beside the model; set path",
            ),
            (
                self.check_image.is_some() == self.check_label.is_some(),
                "check_image: check_image and check_label must be set together",
            ),
            (
                self.env.iter().all(|entry| is_variable(entry)),
                "env: each entry must be the name of a variable, the beginning of names with a \
                star (`MY_*`), or `NAME=value`",
            ),
            (
                self.classifier != Classifier::Onnx || self.command.is_empty(),
                "command: goes with classifier = \"script\"",
            ),
            (
                self.script_socket.as_deref().is_none_or(Path::is_absolute),
                "script_socket: must be an absolute path",
            ),
            (self.timeout >= Duration::from_millis(10), "timeout: must be at least 10ms"),
            (
                self.digest.as_deref().is_none_or(names::is_version),
                "digest: must be lower-case letters and digits, at most 64",
            ),
        ];
        rules.into_iter().filter(|(holds, _)| !holds).map(|(_, complaint)| complaint.to_owned()).collect()
    }
}

/// Returns whether an entry names variables for a script.
fn is_variable(entry: &str) -> bool {
    let name =
        entry.split_once('=').map_or_else(|| entry.strip_suffix('*').unwrap_or(entry), |(name, _)| name);
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !entry.contains('\0')
}

fn is_per_channel(numbers: &PerChannel) -> bool {
    matches!(numbers.numbers().len(), 1 | 3 | 4) && numbers.numbers().iter().all(|number| number.is_finite())
}

fn is_size(size: Size) -> bool {
    let (width, height) = size.sides();
    (1..=8192).contains(&width) && (1..=8192).contains(&height)
}

/// Returns the file of labels beside a model file.
pub fn labels_beside(model: &Path) -> Option<PathBuf> {
    let usual = ["labels.txt", "labels.json"].into_iter().find_map(|name| beside(model, name));
    usual.or_else(|| beside(model, "config.json").filter(|file| has_labels(file)))
}

/// Returns a file that comes with a model: in the same folder, or above a folder called `onnx`, as
/// on Hugging Face.
fn beside(model: &Path, name: &str) -> Option<PathBuf> {
    let own = model.with_file_name(name);
    let above = || {
        let folder = model.parent().filter(|folder| folder.file_name().is_some_and(|name| name == "onnx"))?;
        Some(folder.with_file_name(name))
    };
    Some(own).filter(|file| file.is_file()).or_else(above).filter(|file| file.is_file())
}

/// Returns whether a `config.json` is that of a Hugging Face or timm model with class names. Other
/// models have such a file, too.
fn has_labels(file: &Path) -> bool {
    let is_small = std::fs::metadata(file).is_ok_and(|data| data.len() < 16 << 20);
    let text = is_small.then(|| std::fs::read_to_string(file).ok()).flatten().unwrap_or_default();
    ["\"id2label\"", "\"label_names\""].into_iter().any(|key| text.contains(key))
}

impl Default for Model {
    fn default() -> Self {
        Self {
            classifier: Classifier::Onnx,
            path: None,
            labels: None,
            engine: Engine::Auto,
            onnxruntime: None,
            provider: Provider::Cpu,
            engine_threads: 1,
            memory_arena: true,
            preset: None,
            weights: None,
            preset_file: None,
            size: None,
            resize: None,
            resize_mode: None,
            pad_colour: None,
            pad_place: None,
            filter: None,
            antialias: None,
            jpeg_quality: None,
            exif: true,
            layout: None,
            channels: None,
            divide_by: None,
            mean: None,
            std: None,
            output: None,
            scores: None,
            softmax: None,
            positive: None,
            threshold: None,
            otherwise: "none".to_owned(),
            augment: Augment::None,
            scaled_decode: true,
            alpha: Alpha::Drop,
            colour: Colour::Ignore,
            batch: 1,
            check_image: None,
            check_label: None,
            command: Vec::new(),
            protocol: Protocol::Once,
            env: Vec::new(),
            script_socket: None,
            timeout: Duration::from_secs(30),
            max_pixels: 100_000_000,
            top: 5,
            version: None,
            digest: None,
        }
    }
}
