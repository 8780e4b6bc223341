//! `[models.NAME]`: what classifies, and how an image becomes what it sees.

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

/// `[models.NAME]`. The defaults suit the model that is built into the worker and every 224-pixel
/// model that was trained on pixels from -1 to 1, such as the MobileNets of TensorFlow;
/// `models/README.md` has the settings of others.
///
/// Every key is part of the model's version, unless `platform/src/version.rs` lists it as one that
/// decides no answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Model {
    /// What classifies.
    pub classifier: Classifier,

    /// onnx: the model file. Without it, the model of drawn shapes that is built into the worker.
    pub path: Option<PathBuf>,
    /// onnx: the labels of the outputs, in any of the usual forms. Without it, those beside the
    /// model or in it, or else the index itself.
    pub labels: Option<PathBuf>,
    /// onnx: which engine runs it.
    pub engine: Engine,
    /// onnx: the ONNX Runtime library. Without it, the usual places are searched.
    pub onnxruntime: Option<PathBuf>,
    /// onnx: what ONNX Runtime computes on.
    pub provider: Provider,
    /// onnx: threads of ONNX Runtime that share one inference; 1 leaves the cores to the threads of
    /// the worker.
    pub engine_threads: usize,
    /// onnx: whether ONNX Runtime keeps the memory of one inference for the next.
    pub memory_arena: bool,
    /// onnx: whose preprocessing the model wants; keys that are set beside it count more.
    pub preset: Option<Preset>,
    /// onnx: which weights (torchvision) or which application or mode (Keras) the preset is for.
    pub weights: Option<String>,
    /// onnx: the file that the preset reads. Without it, the usual one beside the model.
    pub preset_file: Option<PathBuf>,
    /// onnx: what the model sees, in pixels; without it, what the model file says.
    #[serde(deserialize_with = "numbers::optional_size")]
    pub size: Option<Size>,
    /// onnx: what is scaled to before the centre is cut out, in pixels: the short side, or both;
    /// without it, 256/224 of `size` for `crop`, and `size` itself for the other modes.
    #[serde(deserialize_with = "numbers::optional_size")]
    pub resize: Option<Size>,
    /// onnx: how a picture of another shape becomes what the model sees.
    pub resize_mode: Option<ResizeMode>,
    /// onnx, letterbox: the colour of what is no picture: red, green, blue.
    pub pad_colour: Option<[u8; 3]>,
    /// onnx, letterbox: where the picture is.
    pub pad_place: Option<PadPlace>,
    /// onnx: how pixels are scaled.
    pub filter: Option<Filter>,
    /// onnx: whether all pixels count when a picture is made smaller, as with Pillow, or the
    /// nearest few, as with OpenCV.
    pub antialias: Option<bool>,
    /// onnx: JPEG compression between scaling and cutting, with this quality, for models that were
    /// trained on such pixels.
    pub jpeg_quality: Option<u8>,
    /// onnx: whether a picture is turned as its EXIF data say.
    pub exif: bool,
    /// onnx: the order of the axes; without it, what the model file says.
    pub layout: Option<Layout>,
    /// onnx: the colours of a pixel in their order; without it, by their number: grey, red green
    /// blue, or these and alpha.
    pub channels: Option<Channels>,
    /// onnx: a pixel from 0 to 255 is divided by this first, ...
    pub divide_by: Option<f32>,
    /// ... then this is subtracted, for each channel in the order of `channels`, ...
    pub mean: Option<PerChannel>,
    /// ... and then it is divided by this.
    pub std: Option<PerChannel>,
    /// onnx: the name of the output that holds the scores.
    pub output: Option<String>,
    /// onnx: what the scores are; without it, what the model file and its scores say.
    pub scores: Option<Scores>,
    /// onnx: the short form of `scores`: true is `logits`, false is `probabilities`.
    pub softmax: Option<bool>,
    /// onnx: for a model of one output and two labels, the label of which the number is the
    /// confidence.
    pub positive: Option<String>,
    /// onnx: labels with less confidence are left out.
    pub threshold: Option<f32>,
    /// onnx: the label where every one is below `threshold`.
    pub otherwise: String,
    /// onnx: over which views of an image the confidences are averaged.
    pub augment: Augment,
    /// onnx: JPEGs that are much larger than needed are decoded at a fraction of their size, which
    /// takes a fraction of the memory and changes hardly any answer.
    pub scaled_decode: bool,
    /// onnx: what is seen through transparent pixels.
    pub alpha: Alpha,
    /// onnx: what becomes of the colour profile of an image.
    pub colour: Colour,
    /// onnx: images that make one inference when so many wait; 1 is fastest for most models on a
    /// CPU.
    pub batch: usize,
    /// onnx: an image to classify at start; the worker refuses to start when the answer is not
    /// `check_label`.
    pub check_image: Option<PathBuf>,
    /// onnx: what `check_image` shows.
    pub check_label: Option<String>,

    /// script: the command and its arguments.
    pub command: Vec<String>,
    /// script: how it is talked to.
    pub protocol: Protocol,
    /// script: what it gets of the worker's environment beside what programs need: names,
    /// beginnings of names with a star, or `NAME=value`.
    pub env: Vec<String>,
    /// script: the socket of the service that runs the command as another user
    /// (`eirs-worker --run-scripts`). Without it, the command is a child of the worker.
    pub script_socket: Option<PathBuf>,
    /// How long one image may take.
    #[serde(with = "units::duration")]
    pub timeout: Duration,

    /// The most pixels of an image; one with more is rejected before memory is taken for it.
    pub max_pixels: u64,
    /// How many guesses a result holds.
    pub top: usize,

    /// The operator's own part of the version: another text makes results of before no answers to
    /// new uploads.
    pub version: Option<String>,
    /// The whole version, where this machine has not the files that it would be made of; `eirs
    /// setup` writes it.
    pub digest: Option<String>,
}

impl Model {
    /// The model that is asked when an upload names none.
    pub const DEFAULT: &'static str = "default";

    /// The file of the labels: the one that is set, or else the one that is found beside the model
    /// file.
    pub fn labels_file(&self) -> Option<PathBuf> {
        self.labels.clone().or_else(|| labels_beside(self.path.as_deref()?))
    }

    /// The file that the preset reads, if it reads one: the one that is set, or else the one beside
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

    /// What does not fit together, as `key: what is wrong`.
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
                "preset: keras-applications needs weights, the name of the application such as `ResNet50`, or its mode \
                 `caffe`, `tf` or `torch`",
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

/// Whether this names variables for a script.
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

/// The labels that are found beside a model file without being named.
pub fn labels_beside(model: &Path) -> Option<PathBuf> {
    let usual = ["labels.txt", "labels.json"].into_iter().find_map(|name| beside(model, name));
    usual.or_else(|| beside(model, "config.json").filter(|file| has_labels(file)))
}

/// A file that models come with: in their folder, or above a folder that is called `onnx`, as
/// Hugging Face lays them.
fn beside(model: &Path, name: &str) -> Option<PathBuf> {
    let own = model.with_file_name(name);
    let above = || {
        let folder = model.parent().filter(|folder| folder.file_name().is_some_and(|name| name == "onnx"))?;
        Some(folder.with_file_name(name))
    };
    Some(own).filter(|file| file.is_file()).or_else(above).filter(|file| file.is_file())
}

/// Whether this is the description of a model of Hugging Face or timm that names its classes.
/// Others have a `config.json`, too.
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
