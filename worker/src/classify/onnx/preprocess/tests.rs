//! Compares presets and filters with the output of the original libraries, as recorded by
//! `testing/models/presets.py`.

use std::path::Path;

use eirs_platform::settings::{Layers, Model};
use serde::Deserialize;

use super::{
    super::{Source, input::Input, preset::Wanted, recipe::Recipe},
    Preprocess,
};
use crate::classify::Port;

/// Samples of a library's output for one image, with their positions (channel, row, column).
#[derive(Debug, Deserialize)]
struct Case {
    case: String,
    settings: serde_json::Map<String, serde_json::Value>,
    file: Option<(String, serde_json::Value)>,
    shape: [usize; 3],
    numbers: Vec<(usize, f32)>,
}

/// Returns the maximum difference of a sample and the maximum mean difference, in levels of 0 to
/// 255.
fn allowed(case: &str) -> (f32, f32) {
    match case {
        // A JPEG round trip with another encoder.
        case if case.starts_with("opennsfw2") => (4.0, 0.6),
        // Here, the scaled image is converted to grey; Pillow scales the grey image.
        case if case.starts_with("grey") => (2.01, 0.35),
        // Rounding between two passes, which is largest for the large weights of Lanczos and cubic.
        _ => (1.01, 0.35),
    }
}

#[test]
fn presets_and_filters_match_the_original_libraries() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("../../../../tests/presets.json")).unwrap();
    assert!(cases.len() > 40, "{}", cases.len());
    let image = include_bytes!("../../../../../models/shapes/samples/spiral_0.jpg");
    let mut wrong = Vec::new();
    for Case { case, settings, file, shape: [channels, rows, columns], numbers } in cases {
        let folder = tempfile::tempdir().unwrap();
        if let Some((name, content)) = file {
            std::fs::write(folder.path().join(name), content.to_string()).unwrap();
        }
        let model = model(&settings, folder.path());
        let shape = vec![None, Some(channels), Some(rows), Some(columns)];
        let port = Port { name: "x".into(), kind: "f32".into(), shape };
        let wanted = Wanted::of(&model, None).unwrap();
        let input = Input::find(&Source::SHAPES, &[port], None, &wanted).unwrap();
        let recipe = Recipe::new(&model, &wanted, input).unwrap();
        let level: Vec<f32> =
            (0..channels).map(|channel| recipe.value(channel, 1) - recipe.value(channel, 0)).collect();
        let mut tensor = vec![0.0; recipe.len()];
        Preprocess::new(recipe).fill(image, &mut tensor).unwrap();
        let differences: Vec<f32> = numbers
            .iter()
            .map(|(place, number)| ((tensor[*place] - number) / level[place / (rows * columns)]).abs())
            .collect();
        let most = differences.iter().copied().fold(0.0, f32::max);
        let mean = differences.iter().sum::<f32>() / differences.len() as f32;
        let (most_allowed, mean_allowed) = allowed(&case);
        if most > most_allowed || mean > mean_allowed {
            wrong.push(format!("{case}: {most:.2} levels at most, {mean:.3} in the mean"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Builds the model from settings, as in the settings file.
fn model(settings: &serde_json::Map<String, serde_json::Value>, folder: &Path) -> Model {
    let path = folder.join("model.onnx").display().to_string();
    let layers = Layers::of(None, &[]).flag("models.default.path", Some(path));
    let layers = settings.iter().fold(layers, |layers, (key, value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        layers.flag(&format!("models.default.{key}"), Some(text))
    });
    layers.load().unwrap().models.remove("default").unwrap()
}
