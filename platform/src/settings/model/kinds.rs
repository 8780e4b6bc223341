//! The values of a model's settings.

use serde::{Deserialize, Serialize};

/// The kind of classifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Classifier {
    /// An ONNX model inside the worker.
    Onnx,
    /// The operator's own command.
    Script,
    /// Returns `noop` for every image without reading it, to measure the service itself.
    Noop,
}

/// The engine of an ONNX model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// ONNX Runtime if its library is found and can run the model, else rten.
    Auto,
    /// Only ONNX Runtime; the worker does not start without it.
    Onnxruntime,
    /// rten, which needs no library.
    Rten,
}

/// The device that ONNX Runtime uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// The processor.
    Cpu,
    /// NVIDIA GPUs.
    Cuda,
    /// NVIDIA GPUs, with the TensorRT optimizer.
    TensorRt,
    /// Intel processors and GPUs.
    OpenVino,
    /// Apple devices.
    CoreMl,
}

/// The library whose preprocessing a model expects: one word instead of several keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// torchvision; `weights` names its weights.
    Torchvision,
    /// timm; reads `config.json` beside the model.
    Timm,
    /// Keras; `weights` names the application, or one of the three modes.
    KerasApplications,
    /// Classifiers of Ultralytics.
    Ultralytics,
    /// Caffe: blue first, the means of ImageNet, no scaling of values.
    Caffe,
    /// Hugging Face; reads `preprocessor_config.json` beside the model.
    Huggingface,
}

/// How an image of any shape is fitted to the input. It must be the same as in training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResizeMode {
    /// Scale the short side to `resize` and crop the centre, as torchvision, timm and Hugging Face
    /// do.
    Crop,
    /// Scale both sides regardless of the shape, as Teachable Machine, Custom Vision and Keras'
    /// image folders do.
    Squash,
    /// Scale the long side to fit and fill the rest with a colour.
    Letterbox,
}

/// The place of the image in a letterbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PadPlace {
    /// In the centre.
    Centre,
    /// At the top left; the fill is to the right or below.
    End,
}

/// How a pixel of a scaled image is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// The nearest pixel.
    Nearest,
    /// The mean of the covered pixels.
    Box,
    /// Linear in both directions.
    Bilinear,
    /// Cubic in both directions.
    Bicubic,
    /// Lanczos' windowed sinc.
    Lanczos,
}

/// The order of the axes of the input, after the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Channels, rows, columns.
    Nchw,
    /// Rows, columns, channels.
    Nhwc,
}

/// The channels of a pixel, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channels {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
    /// Brightness only.
    Grey,
    /// Red, green, blue and opacity.
    Rgba,
}

impl Channels {
    /// Returns the number of channels.
    pub fn count(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::Rgb | Self::Bgr => 3,
            Self::Rgba => 4,
        }
    }
}

/// How transparency is handled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Alpha {
    /// Ignored: a transparent pixel has its stored colour, as in Pillow's `convert("RGB")`.
    #[default]
    Drop,
    /// Composed onto white.
    White,
    /// Composed onto black.
    Black,
}

/// How the colour profile of an image is handled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Colour {
    /// Ignored, as in Pillow: pixel values are used as they are.
    #[default]
    Ignore,
    /// Colours are converted to sRGB.
    Srgb,
}

/// The kind of a model's scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scores {
    /// Values for a softmax.
    Logits,
    /// Confidences.
    Probabilities,
    /// Logarithms of confidences.
    LogProbabilities,
    /// Negative logarithms of confidences: the smallest is the best.
    NegativeLogProbabilities,
    /// Confidences from 0 to 100.
    Percent,
    /// Confidences from 0 to 255.
    Bytes,
    /// Values for a sigmoid, independently of each other.
    Sigmoid,
}

/// The views of an image over which confidences are averaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Augment {
    /// The image only.
    None,
    /// Also mirrored.
    Flip,
    /// Also rotated by 90, 180 and 270 degrees.
    Rotate,
    /// All eight combinations.
    FlipRotate,
}

/// The protocol of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Run once per image, with its path as the last argument; it prints `name,label` or `label`.
    Once,
    /// Kept running; reads a path per line and writes a line of JSON for each.
    Stream,
}
