//! Reads the preprocessing files of timm (1.0, `config.json`) and of Hugging Face's transformers
//! (5.24, `preprocessor_config.json`).

use anyhow::{Context, bail, ensure};
use eirs_platform::settings::{Channels, Filter, PadPlace, PerChannel, ResizeMode, Size};
use serde_json::Value;

use super::Wanted;

fn number(value: &Value) -> Option<f64> {
    value.as_f64().filter(|number| number.is_finite())
}

fn numbers(value: &Value) -> Option<Vec<f32>> {
    match value {
        Value::Array(list) => list.iter().map(|one| Some(number(one)? as f32)).collect(),
        one => Some(vec![number(one)? as f32]),
    }
}

fn pixels(value: &Value) -> Option<u32> {
    u32::try_from(value.as_u64()?).ok().filter(|side| (1..=8192).contains(side))
}

/// Returns the colour `round(255 * mean)`.
fn colour(mean: &[f32]) -> [u8; 3] {
    let of = |index: usize| mean.get(index).or(mean.first()).copied().unwrap_or_default();
    std::array::from_fn(|index| (255.0 * of(index)).round_ties_even() as u8)
}

/// Follows timm's `create_transform(**resolve_data_config(pretrained_cfg))`.
pub(super) fn timm(json: &Value) -> anyhow::Result<Wanted> {
    let config = json.get("pretrained_cfg").unwrap_or(json);
    let [_, height, width] = config["input_size"].as_array().map(Vec::as_slice).unwrap_or_default() else {
        bail!("has no input_size of three numbers, as timm's config.json has");
    };
    let sides = (pixels(width), pixels(height));
    let (Some(width), Some(height)) = sides else { bail!("input_size is no size") };
    let share = number(&config["crop_pct"]).filter(|share| *share > 0.0 && *share <= 1.0).unwrap_or(0.875);
    let scaled = |side: u32| (f64::from(side) / share).floor() as u32;
    let mean = numbers(&config["mean"]).unwrap_or_else(|| vec![0.485, 0.456, 0.406]);
    let std = numbers(&config["std"]).unwrap_or_else(|| vec![0.229, 0.224, 0.225]);
    let mode = match config["crop_mode"].as_str().unwrap_or("center") {
        "squash" => ResizeMode::Squash,
        "border" => ResizeMode::Letterbox,
        _ => ResizeMode::Crop,
    };
    ensure!(
        mode != ResizeMode::Letterbox || share >= 1.0,
        "crop_mode \"border\" with crop_pct {share} is not known here: set resize_mode and resize yourself"
    );
    let boxed = mode == ResizeMode::Letterbox;
    Ok(Wanted {
        size: Some(Size::of(width, height)),
        resize: (!boxed).then(|| Size::of(scaled(width), scaled(height))),
        resize_mode: Some(mode),
        pad_colour: boxed.then(|| colour(&mean)),
        pad_place: boxed.then_some(PadPlace::Centre),
        filter: Some(filter(config["interpolation"].as_str().unwrap_or("bilinear"))?),
        ..Wanted::of_unit(mean, std)
    })
}

fn filter(name: &str) -> anyhow::Result<Filter> {
    Ok(match name {
        "nearest" | "nearest-exact" => Filter::Nearest,
        "bilinear" | "random" | "" => Filter::Bilinear,
        "bicubic" => Filter::Bicubic,
        "lanczos" => Filter::Lanczos,
        "box" => Filter::Box,
        other => bail!("interpolation {other:?} is not known here"),
    })
}

/// Follows those image processors of transformers that have standard behaviour, and a few with
/// known special behaviour.
pub(super) fn huggingface(json: &Value) -> anyhow::Result<Wanted> {
    let does = |key: &str, otherwise: bool| json[key].as_bool().unwrap_or(otherwise);
    let kind =
        ["image_processor_type", "feature_extractor_type"].into_iter().find_map(|key| json[key].as_str());
    let kind = kind.unwrap_or_default();
    let of = |names: &[&str]| names.iter().any(|name| kind.starts_with(name));
    ensure!(does("do_resize", true), "do_resize is false: set size, resize and resize_mode yourself");
    // A single number was the short side in these processors, and both sides in all others.
    let is_short = of(&["CLIP", "ConvNext", "Levit", "MobileNet", "MobileViT", "Bit", "PoolFormer"]);
    let scaled = sizes(&json["size"], is_short).context("size is none that is known here")?;
    let cut = sizes(&json["crop_size"], false).map(|size| size.sides);
    let cuts = does("do_center_crop", cut.is_some()) && cut.is_some();

    let mut wanted = Wanted { cuts_less_in_front: true, ..Wanted::default() };
    let share = number(&json["crop_pct"]);
    if let (true, Some(side)) = (of(&["ConvNext"]), scaled.short()) {
        // ConvNeXt crops a margin below 384 pixels, and squashes from there on.
        let resize = (f64::from(side) / share.unwrap_or(224.0 / 256.0)) as u32;
        wanted.size = Some(Size::Side(side));
        (wanted.resize_mode, wanted.resize) = if side < 384 {
            (Some(ResizeMode::Crop), Some(Size::Side(resize)))
        } else {
            (Some(ResizeMode::Squash), None)
        };
    } else {
        let factor = if of(&["Levit"]) && scaled.short().is_some() { 256.0 / 224.0 } else { 1.0 };
        let (width, height) = scaled.sides;
        let resize = Size::of((f64::from(width) * factor) as u32, (f64::from(height) * factor) as u32);
        let (across, down) = if cuts { cut.unwrap_or(scaled.sides) } else { scaled.sides };
        ensure!(
            cuts || scaled.short().is_none(),
            "size names the short side only and nothing is cut out, so that pictures have any shape: set \
             size and resize_mode yourself"
        );
        wanted.size = Some(Size::of(across, down));
        wanted.resize = Some(resize);
        wanted.resize_mode =
            Some(if scaled.short().is_some() { ResizeMode::Crop } else { ResizeMode::Squash });
    }
    wanted.filter = Some(match json["resample"].as_u64() {
        Some(0) => Filter::Nearest,
        Some(1) => Filter::Lanczos,
        Some(3) => Filter::Bicubic,
        Some(4) => Filter::Box,
        Some(2) | None => Filter::Bilinear,
        Some(other) => bail!("resample {other} is not known here"),
    });
    wanted.channels =
        Some(if does("do_flip_channel_order", of(&["MobileViT"])) { Channels::Bgr } else { Channels::Rgb });
    let factor =
        if does("do_rescale", true) { number(&json["rescale_factor"]).unwrap_or(1.0 / 255.0) } else { 1.0 };
    ensure!(factor > 0.0, "rescale_factor is no factor");
    wanted.divide_by = Some((1.0 / factor) as f32);
    let normalizes = does("do_normalize", !of(&["MobileViT"]));
    let list = |key: &str, otherwise: f32| numbers(&json[key]).unwrap_or_else(|| vec![otherwise; 3]);
    let (mut mean, mut std) = if normalizes {
        (list("image_mean", 0.5), list("image_std", 0.5))
    } else {
        (vec![0.0; 3], vec![1.0; 3])
    };
    if of(&["EfficientNet"]) {
        if does("rescale_offset", false) {
            mean.iter_mut().for_each(|mean| *mean += 1.0);
        }
        if does("include_top", true) {
            std.iter_mut().for_each(|std| *std *= *std);
        }
    }
    (wanted.mean, wanted.std) = (Some(PerChannel::from(mean)), Some(PerChannel::from(std)));
    Ok(wanted)
}

/// A size in one of the forms of transformers.
struct Sizes {
    sides: (u32, u32),
    is_short: bool,
}

impl Sizes {
    /// Returns the short side, if the size is only that.
    fn short(&self) -> Option<u32> {
        self.is_short.then_some(self.sides.0)
    }
}

fn sizes(value: &Value, number_is_short: bool) -> Option<Sizes> {
    if let Some(side) = pixels(value) {
        return Some(Sizes { sides: (side, side), is_short: number_is_short });
    }
    if let Some([height, width]) = value.as_array().map(Vec::as_slice) {
        return Some(Sizes { sides: (pixels(width)?, pixels(height)?), is_short: false });
    }
    if let Some(side) = pixels(&value["shortest_edge"]) {
        return value["longest_edge"].is_null().then_some(Sizes { sides: (side, side), is_short: true });
    }
    Some(Sizes { sides: (pixels(&value["width"])?, pixels(&value["height"])?), is_short: false })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen(wanted: &Wanted) -> (Option<ResizeMode>, Option<Size>, Option<Size>, Option<Filter>) {
        (wanted.resize_mode, wanted.size, wanted.resize, wanted.filter)
    }

    #[test]
    fn timm_files_scale_by_crop_pct_in_three_modes() {
        let config = |mode: &str, share: f64| {
            json!({"architecture": "x", "pretrained_cfg": {"input_size": [3, 224, 224],
                "interpolation": "bicubic",
                "crop_pct": share, "crop_mode": mode, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}})
        };
        let crop = timm(&config("center", 0.9)).unwrap();
        let side = |pixels| Some(Size::Side(pixels));
        assert_eq!(seen(&crop), (Some(ResizeMode::Crop), side(224), side(248), Some(Filter::Bicubic)));
        let squash = timm(&config("squash", 1.0)).unwrap();
        assert_eq!(seen(&squash), (Some(ResizeMode::Squash), side(224), side(224), Some(Filter::Bicubic)));
        let border = timm(&config("border", 1.0)).unwrap();
        assert_eq!((border.resize_mode, border.pad_colour), (Some(ResizeMode::Letterbox), Some([128; 3])));
        assert!(timm(&config("border", 0.9)).is_err());
        assert!(timm(&json!({"model_type": "vit"})).unwrap_err().to_string().contains("input_size"));
    }

    #[test]
    fn the_forms_of_transformers_are_understood() {
        let side = |pixels| Some(Size::Side(pixels));
        for (json, expected) in [
            (
                json!({"image_processor_type": "ViTImageProcessor", "size": {"height": 224, "width": 224},
                    "resample": 2}),
                (Some(ResizeMode::Squash), side(224), side(224), Some(Filter::Bilinear)),
            ),
            (
                json!({"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 256},
                    "resample": 3,
                    "crop_size": {"height": 224, "width": 224}, "do_center_crop": true}),
                (Some(ResizeMode::Crop), side(224), side(256), Some(Filter::Bicubic)),
            ),
            (
                json!({"feature_extractor_type": "ConvNextFeatureExtractor", "size": 224, "crop_pct": 0.875,
                    "resample": 3}),
                (Some(ResizeMode::Crop), side(224), side(256), Some(Filter::Bicubic)),
            ),
            (
                json!({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384},
                    "resample": 3}),
                (Some(ResizeMode::Squash), side(384), None, Some(Filter::Bicubic)),
            ),
            (
                json!({"image_processor_type": "BeitImageProcessor", "size": {"height": 256, "width": 256},
                    "crop_size": {"height": 224, "width": 224}, "do_center_crop": true, "resample": 2}),
                (Some(ResizeMode::Squash), side(224), side(256), Some(Filter::Bilinear)),
            ),
        ] {
            let wanted = huggingface(&json).unwrap();
            assert_eq!(seen(&wanted), expected, "{json}");
            assert!(wanted.cuts_less_in_front, "{json}");
        }
        let open =
            json!({"image_processor_type": "X", "size": {"shortest_edge": 256}, "do_center_crop": false});
        assert!(huggingface(&open).unwrap_err().to_string().contains("any shape"));
    }
}
