//! Follows the applications of Keras (3.15): `keras.utils.load_img(file, target_size=...)`, then
//! `preprocess_input` of the application.

use anyhow::bail;
use eirs_platform::settings::{Channels, Filter, PerChannel, ResizeMode};

use super::Wanted;

/// The mode of `preprocess_input`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Caffe,
    Tf,
    Torch,
    /// Unchanged: these models scale the pixels themselves.
    Raw,
}

/// Returns the preprocessing for the name of an application or a mode.
pub(super) fn wanted(weights: &str) -> anyhow::Result<Wanted> {
    let Some(mode) = mode(weights) else {
        bail!(
            "weights: Keras has no application {weights:?}; name one, such as `ResNet50`, or its mode \
             `caffe`, `tf` or `torch`"
        );
    };
    let (channels, divide_by, mean, std): (_, _, PerChannel, PerChannel) = match mode {
        Mode::Caffe => (Channels::Bgr, 1.0, [103.939, 116.779, 123.68].into(), [1.0].into()),
        Mode::Tf => (Channels::Rgb, 127.5, [1.0].into(), [1.0].into()),
        Mode::Torch => (Channels::Rgb, 255.0, [0.485, 0.456, 0.406].into(), [0.229, 0.224, 0.225].into()),
        Mode::Raw => (Channels::Rgb, 1.0, [0.0].into(), [1.0].into()),
    };
    Ok(Wanted {
        // The defaults of `load_img`.
        resize_mode: Some(ResizeMode::Squash),
        filter: Some(Filter::Nearest),
        channels: Some(channels),
        divide_by: Some(divide_by),
        mean: Some(mean),
        std: Some(std),
        ..Wanted::default()
    })
}

fn mode(weights: &str) -> Option<Mode> {
    let name: String =
        weights.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    let starts = |beginnings: &[&str]| beginnings.iter().any(|beginning| name.starts_with(beginning));
    match name.as_str() {
        "caffe" => Some(Mode::Caffe),
        "tf" => Some(Mode::Tf),
        "torch" => Some(Mode::Torch),
        _ if starts(&["vgg"]) || (starts(&["resnet"]) && !name.ends_with("v2")) => Some(Mode::Caffe),
        _ if starts(&["efficientnet", "convnext", "mobilenetv3"]) => Some(Mode::Raw),
        _ if starts(&["resnet", "xception", "inception", "mobilenet", "nasnet"]) => Some(Mode::Tf),
        _ if starts(&["densenet"]) => Some(Mode::Torch),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_application_has_its_mode_in_keras() {
        for (name, expected) in [
            ("VGG16", Mode::Caffe),
            ("ResNet50", Mode::Caffe),
            ("ResNet50V2", Mode::Tf),
            ("ResNet152V2", Mode::Tf),
            ("MobileNet", Mode::Tf),
            ("MobileNetV2", Mode::Tf),
            ("MobileNetV3Large", Mode::Raw),
            ("InceptionResNetV2", Mode::Tf),
            ("NASNetMobile", Mode::Tf),
            ("Xception", Mode::Tf),
            ("DenseNet121", Mode::Torch),
            ("EfficientNetV2B0", Mode::Raw),
            ("ConvNeXtTiny", Mode::Raw),
            ("tf", Mode::Tf),
        ] {
            assert_eq!(mode(name), Some(expected), "{name}");
        }
        assert!(wanted("LeNet").is_err());
    }
}
