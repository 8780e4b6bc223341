//! The words that the settings of a model are made of.

use serde::{Deserialize, Serialize};

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
    /// ONNX Runtime where its library is found and can run the model, else rten.
    Auto,
    /// ONNX Runtime, or no start.
    Onnxruntime,
    /// rten, which needs no library.
    Rten,
}

/// What ONNX Runtime computes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// The processor.
    Cpu,
    /// A GPU of NVIDIA's.
    Cuda,
    /// The same, by NVIDIA's optimizer.
    TensorRt,
    /// Intel's processors and GPUs.
    OpenVino,
    /// Apple's.
    CoreMl,
}

/// Whose preprocessing a model wants: one word instead of the keys that it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// `weights` names torchvision's weights.
    Torchvision,
    /// timm's `config.json` beside the model.
    Timm,
    /// `weights` names the application, or one of Keras' three modes.
    KerasApplications,
    /// The classifiers of Ultralytics.
    Ultralytics,
    /// Blue first, the means of ImageNet, no scaling.
    Caffe,
    /// `preprocessor_config.json` beside the model.
    Huggingface,
}

/// How a picture of any shape becomes what the model sees. A model must be asked as it was trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResizeMode {
    /// The short side is scaled to `resize` and the centre is cut out, as torchvision, timm and
    /// Hugging Face do.
    Crop,
    /// Both sides are scaled, whatever the shape, as Teachable Machine, Custom Vision and Keras'
    /// image folders do.
    Squash,
    /// The long side is scaled to fit, and the rest is filled with a colour.
    Letterbox,
}

/// Where the picture is within what `letterbox` fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PadPlace {
    /// All around it.
    Centre,
    /// Right of it or below it.
    End,
}

/// What a pixel of a scaled picture is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// The nearest pixel.
    Nearest,
    /// The mean of those that it covers.
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

/// The colours of a pixel, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channels {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
    /// One: how bright it is.
    Grey,
    /// Red, green, blue, and how opaque it is.
    Rgba,
}

impl Channels {
    /// How many numbers a pixel is.
    pub fn count(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::Rgb | Self::Bgr => 3,
            Self::Rgba => 4,
        }
    }
}

/// What becomes of transparency.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Alpha {
    /// It is left out: a transparent pixel has the colour that is stored for it, as for Pillow's
    /// `convert("RGB")`.
    #[default]
    Drop,
    /// The picture is on white.
    White,
    /// The picture is on black.
    Black,
}

/// What becomes of the colour profile of an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Colour {
    /// It is ignored, as Pillow ignores it: the numbers are what they are.
    #[default]
    Ignore,
    /// The colours that it describes are made sRGB.
    Srgb,
}

/// What the numbers of a model's output are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scores {
    /// What a softmax makes confidences of.
    Logits,
    /// Confidences.
    Probabilities,
    /// Logarithms of confidences.
    LogProbabilities,
    /// The same without their minus: the smallest is the best.
    NegativeLogProbabilities,
    /// Confidences from 0 to 100.
    Percent,
    /// Confidences from 0 to 255.
    Bytes,
    /// What a sigmoid makes confidences of, each by itself.
    Sigmoid,
}

/// Over which views of an image the confidences are averaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Augment {
    /// It is seen as it is.
    None,
    /// And in a mirror.
    Flip,
    /// And turned by 90, 180 and 270 degrees.
    Rotate,
    /// And both: eight views.
    FlipRotate,
}

/// How a script is talked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Run once for each image, with its path as the last argument; it prints `name,label` or
    /// `label`.
    Once,
    /// Kept running; one path a line in, one JSON line an answer out.
    Stream,
}
