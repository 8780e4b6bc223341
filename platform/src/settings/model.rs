//! `[models.NAME]`: what classifies, and how an image becomes what it sees.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::units;
use crate::version;

/// `[models.NAME]`. The defaults suit the model that is built into the worker and every 224-pixel model that was
/// trained on pixels from -1 to 1, such as the MobileNets of TensorFlow; `models/README.md` has the settings of others.
///
/// Every key is part of the model's version, unless `platform/src/version.rs` lists it as one that decides no answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Model {
    /// What classifies.
    pub classifier: Classifier,

    /// onnx: the model file. Without it, the model of drawn shapes that is built into the worker.
    pub path: Option<PathBuf>,
    /// onnx: the labels in the order of the outputs, one a line, or a JSON array, or a JSON object from index to label.
    /// Without it, `labels.txt` or `labels.json` beside the model file, or else the index itself.
    pub labels: Option<PathBuf>,
    /// onnx: which engine runs it.
    pub engine: Engine,
    /// onnx: the ONNX Runtime library. Without it, the usual places are searched.
    pub onnxruntime: Option<PathBuf>,
    /// onnx: side of the square that the model sees, in pixels; 0 asks the model file.
    pub size: u32,
    /// onnx: the short side is scaled to this before the centre is cut out, in pixels; 0 is 256/224 of `size`.
    pub resize: u32,
    /// onnx: how a picture that is no square becomes one.
    pub resize_mode: ResizeMode,
    /// onnx: the order of the axes.
    pub layout: Layout,
    /// onnx: the order of the colours.
    pub channels: Channels,
    /// onnx: a pixel from 0 to 255 is divided by this first, ...
    pub divide_by: f32,
    /// ... then this is subtracted, for each channel in the order of `channels`, ...
    pub mean: [f32; 3],
    /// ... and then it is divided by this.
    pub std: [f32; 3],
    /// onnx: whether the outputs are logits that a softmax turns into confidences.
    pub softmax: bool,
    /// onnx: JPEGs that are much larger than needed are decoded at a fraction of their size, which takes a fraction of
    /// the memory and changes hardly any answer.
    pub scaled_decode: bool,
    /// onnx: what is seen behind transparent pixels.
    pub alpha: Alpha,
    /// onnx: images that make one inference when so many wait; 1 is fastest for most models on a CPU.
    pub batch: usize,
    /// onnx: an image to classify at start; the worker refuses to start when the answer is not `check_label`.
    pub check_image: Option<PathBuf>,
    /// onnx: what `check_image` shows.
    pub check_label: Option<String>,

    /// script: the command and its arguments.
    pub command: Vec<String>,
    /// script: how it is talked to.
    pub protocol: Protocol,
    /// script: what it gets of the worker's environment beside what programs need: names, beginnings of names with a star, or
    /// `NAME=value`.
    pub env: Vec<String>,
    /// How long one image may take.
    #[serde(with = "units::duration")]
    pub timeout: Duration,

    /// The most pixels of an image; one with more is rejected before memory is taken for it.
    pub max_pixels: u64,
    /// How many guesses a result holds.
    pub top: usize,

    /// The operator's own part of the version: another text makes results of before no answers to new uploads.
    pub version: Option<String>,
    /// The whole version, where this machine has not the files that it would be made of; `eirs setup` writes it.
    pub digest: Option<String>,
}

/// What classifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Classifier {
    /// An ONNX model inside the worker.
    Onnx,
    /// The operator's own command.
    Script,
    /// Answers `noop` to everything, without looking: to measure the service itself.
    Noop,
}

/// Which engine runs an ONNX model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// ONNX Runtime where its library is found, else rten.
    Auto,
    /// ONNX Runtime, or no start.
    Onnxruntime,
    /// rten, which needs no library.
    Rten,
}

/// How a picture that is no square becomes one. A model must be asked as it was trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResizeMode {
    /// The short side is scaled to `resize` and the centre is cut out, as torchvision, timm and Keras' own applications do.
    Crop,
    /// Both sides are scaled to `size`, whatever the shape, as Teachable Machine, Custom Vision and Keras' image folders do.
    Squash,
}

/// The order of the axes of the input, behind the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Channels, rows, columns.
    Nchw,
    /// Rows, columns, channels.
    Nhwc,
}

/// The order of the colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channels {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
}

/// What becomes of transparency.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Alpha {
    /// It is left out: a transparent pixel has the colour that is stored for it, as for Pillow's `convert("RGB")`.
    #[default]
    Drop,
    /// The picture lies on white.
    White,
    /// The picture lies on black.
    Black,
}

/// How a script is talked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Run once for each image, with its path as the last argument; it prints `name,label` or `label`.
    Once,
    /// Kept running; one path a line in, one JSON line an answer out.
    Stream,
}

impl Model {
    /// The model that is asked when an upload names none.
    pub const DEFAULT: &'static str = "default";

    /// The file of the labels: the one that is set, or else the one that is found beside the model file.
    pub fn labels_file(&self) -> Option<PathBuf> {
        self.labels.clone().or_else(|| labels_beside(self.path.as_deref()?))
    }

    /// What does not fit together, as `key: what is wrong`.
    pub(super) fn complaints(&self) -> Vec<String> {
        let scripted = self.classifier == Classifier::Script;
        let rules = [
            (!scripted || !self.command.is_empty(), "command: a script needs the command to run"),
            (self.divide_by != 0.0 && self.divide_by.is_finite(), "divide_by: must not be zero"),
            (self.std.iter().all(|s| *s != 0.0 && s.is_finite()), "std: must not be zero"),
            (self.batch >= 1, "batch: must be at least 1"),
            (self.top >= 1, "top: must be at least 1"),
            (
                self.size <= 4096 && self.resize <= 8192,
                "size: must be at most 4096, resize at most 8192 pixels",
            ),
            (
                self.resize == 0 || self.resize >= self.size,
                "resize: must be at least size, or the centre cut would exceed the image",
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
            (self.timeout >= Duration::from_millis(10), "timeout: must be at least 10ms"),
            (
                self.digest.as_deref().is_none_or(version::is_version),
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

/// The labels that are found beside a model file without being named.
pub fn labels_beside(model: &Path) -> Option<PathBuf> {
    let usual = ["labels.txt", "labels.json"].map(|name| model.with_file_name(name));
    usual.into_iter().find(|path| path.is_file())
}

impl Default for Model {
    fn default() -> Self {
        Self {
            classifier: Classifier::Onnx,
            path: None,
            labels: None,
            engine: Engine::Auto,
            onnxruntime: None,
            size: 0,
            resize: 0,
            resize_mode: ResizeMode::Crop,
            layout: Layout::Nchw,
            channels: Channels::Rgb,
            divide_by: 127.5,
            mean: [1.0; 3],
            std: [1.0; 3],
            softmax: true,
            scaled_decode: true,
            alpha: Alpha::Drop,
            batch: 1,
            check_image: None,
            check_label: None,
            command: Vec::new(),
            protocol: Protocol::Once,
            env: Vec::new(),
            timeout: Duration::from_secs(30),
            max_pixels: 100_000_000,
            top: 5,
            version: None,
            digest: None,
        }
    }
}
