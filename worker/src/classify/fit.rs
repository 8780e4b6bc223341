//! Finds the preprocessing of a model by experiment: on images with known labels, the correct
//! preprocessing gives the most correct labels, with the highest confidence.
//!
//! Not every combination is tried. The value range has the largest effect, so it is tried first,
//! with both channel orders; then the resize mode, with the best few of these; then the filter,
//! with the best few of those.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
};

use eirs_platform::settings::{Augment, Channels, Filter, Model, PerChannel, ResizeMode, Size};
use serde::Serialize;

use super::{Image, Loaded, onnx::Onnx};

/// Number of candidates that each stage passes on.
const KEPT: usize = 3;

/// An image with a known label.
#[derive(Debug, Clone)]
pub struct Known {
    /// The image.
    pub image: Image,
    /// Its label, in the model's spelling.
    pub label: String,
}

/// A tried preprocessing, and its score.
#[derive(Debug, Clone, Serialize)]
pub struct Trial {
    /// The preprocessing in words.
    pub what: String,
    /// The number of correctly labelled images.
    pub right: usize,
    /// The number of images.
    pub images: usize,
    /// The mean confidence of the correct label, in [0, 1].
    pub confidence: f32,
    /// The mean logarithm of that confidence, which breaks ties.
    #[serde(skip)]
    likelihood: f64,
    /// The confusion matrix.
    #[serde(skip)]
    called: Called,
    /// The settings with this preprocessing.
    #[serde(skip)]
    pub model: Model,
}

/// Number of images by correct label and best guess.
type Called = BTreeMap<String, BTreeMap<String, usize>>;

impl Trial {
    fn is_better(&self, other: &Self) -> Ordering {
        other.right.cmp(&self.right).then(other.likelihood.total_cmp(&self.likelihood))
    }

    /// Assigns to each correct label the guess that the model gives most often for it, using each
    /// guess once. Returns the assignment and the number of images that it makes correct.
    fn renamed(&self) -> (BTreeMap<&str, &str>, usize) {
        let mut pairs: Vec<(usize, &str, &str)> = self
            .called
            .iter()
            .flat_map(|(right, guesses)| {
                guesses.iter().map(move |(best, count)| (*count, right.as_str(), best.as_str()))
            })
            .collect();
        pairs.sort_by(|a, b| b.0.cmp(&a.0).then(a.cmp(b)));
        let (mut names, mut taken, mut images) = (BTreeMap::new(), BTreeSet::new(), 0);
        for (count, right, best) in pairs {
            if !names.contains_key(right) && taken.insert(best) {
                names.insert(right, best);
                images += count;
            }
        }
        (names, images)
    }

    /// Returns the labels in another order if that makes far more images correct.
    pub fn other_order(&self, labels: &[String]) -> Option<Vec<String>> {
        let (names, images) = self.renamed();
        let is_clear = images * 10 >= self.images * 7 && images >= 2 * self.right.max(1) && names.len() > 1;
        let by_guess: BTreeMap<&str, &str> = names.iter().map(|(right, best)| (*best, *right)).collect();
        is_clear.then(|| {
            labels
                .iter()
                .map(|label| by_guess.get(label.as_str()).map_or("?", |right| *right).to_owned())
                .collect()
        })
    }
}

/// All trials, and the labels of the model.
#[derive(Debug, Clone)]
pub struct Fitted {
    /// The trials, best first.
    pub trials: Vec<Trial>,
    /// The labels of the model, in the order of the settings.
    pub labels: Vec<String>,
}

/// One choice in a preprocessing.
struct Way {
    what: &'static str,
    set: fn(&mut Model),
}

fn numbers(model: &mut Model, divide_by: f32, mean: impl Into<PerChannel>, std: impl Into<PerChannel>) {
    (model.divide_by, model.mean, model.std) = (Some(divide_by), Some(mean.into()), Some(std.into()));
}

/// Common value ranges of pixels.
static NUMBERS: [Way; 7] = [
    Way { what: "-1..1", set: |model| numbers(model, 127.5, [1.0], [1.0]) },
    Way { what: "0..1", set: |model| numbers(model, 255.0, [0.0], [1.0]) },
    Way {
        what: "ImageNet's mean and std",
        set: |model| numbers(model, 255.0, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    },
    Way {
        what: "CLIP's mean and std",
        set: |model| {
            numbers(
                model,
                255.0,
                [0.481_454_66, 0.457_827_5, 0.408_210_73],
                [0.268_629_54, 0.261_302_6, 0.275_777_1],
            )
        },
    },
    Way { what: "0..255", set: |model| numbers(model, 1.0, [0.0], [1.0]) },
    Way {
        what: "less ImageNet's means",
        set: |model| numbers(model, 1.0, [123.68, 116.779, 103.939], [1.0]),
    },
    Way { what: "0..1, standardised by 0.5 and 0.25", set: |model| numbers(model, 255.0, [0.5], [0.25]) },
];

/// Common ways to resize to another aspect ratio.
static SHAPES: [Way; 6] = [
    Way { what: "crop at 256/224", set: |model| shape(model, ResizeMode::Crop, None) },
    Way { what: "crop", set: |model| shape(model, ResizeMode::Crop, Some(Size::Side(0))) },
    Way { what: "squash", set: |model| shape(model, ResizeMode::Squash, None) },
    Way {
        what: "squash and crop at 256/224",
        set: |model| shape(model, ResizeMode::Squash, Some(Size::Side(1))),
    },
    Way { what: "letterbox, black", set: |model| shape(model, ResizeMode::Letterbox, None) },
    Way {
        what: "letterbox, grey",
        set: |model| {
            shape(model, ResizeMode::Letterbox, None);
            model.pad_colour = Some([114; 3]);
        },
    },
];

fn shape(model: &mut Model, mode: ResizeMode, resize: Option<Size>) {
    (model.resize_mode, model.resize, model.pad_colour, model.pad_place) = (Some(mode), resize, None, None);
}

/// Common resampling filters.
static FILTERS: [Way; 6] = [
    Way { what: "bilinear", set: |model| filter(model, Filter::Bilinear, true) },
    Way { what: "bicubic", set: |model| filter(model, Filter::Bicubic, true) },
    Way { what: "lanczos", set: |model| filter(model, Filter::Lanczos, true) },
    Way { what: "bilinear, not antialiased", set: |model| filter(model, Filter::Bilinear, false) },
    Way { what: "bicubic, not antialiased", set: |model| filter(model, Filter::Bicubic, false) },
    Way { what: "nearest", set: |model| filter(model, Filter::Nearest, true) },
];

fn filter(model: &mut Model, filter: Filter, antialias: bool) {
    (model.filter, model.antialias) = (Some(filter), Some(antialias));
}

/// Tries preprocessings for the model of `base`, which names its file and labels, on `known`
/// images. Returns all trials, best first. Calls `says` after each trial, with its number and the
/// estimated total.
///
/// # Errors
///
/// Fails if the model cannot be loaded, or if it has none of the labels.
pub fn fit(
    base: &Model,
    known: &[Known],
    says: &mut dyn FnMut(&Trial, usize, usize),
) -> anyhow::Result<Fitted> {
    anyhow::ensure!(!known.is_empty(), "there is no image with a label");
    let mut base =
        Model { preset: None, weights: None, preset_file: None, augment: Augment::None, ..base.clone() };
    base.threshold = None;
    let loaded = Onnx::load(&Model { check_image: None, check_label: None, ..base.clone() })?;
    let mut search = Search { loaded: &loaded, known, trials: Vec::new(), says, expected: 0 };
    let side = loaded.input_size();
    search.ensure_known(&base)?;

    let colours: &[Channels] =
        if loaded.channels().count() == 3 { &[Channels::Rgb, Channels::Bgr] } else { &[] };
    let of_colours: Vec<(String, Model)> = match colours {
        [] => vec![(String::new(), base.clone())],
        _ => colours
            .iter()
            .map(|channels| {
                let name = if *channels == Channels::Rgb { "RGB, " } else { "BGR, " };
                (name.to_owned(), Model { channels: Some(*channels), ..base.clone() })
            })
            .collect(),
    };
    let first: Vec<_> = of_colours
        .iter()
        .flat_map(|(name, model)| NUMBERS.iter().map(move |way| tried(name, way, model)))
        .map(|(what, model)| (what, fitted(model, loaded.channels().count())))
        .collect();
    search.expected = first.len() + KEPT * (SHAPES.len() - 1) + KEPT * (FILTERS.len() - 1);
    let mut best = search.stage(first);
    for ways in [&SHAPES[..], &FILTERS[..]] {
        let next: Vec<_> = best
            .iter()
            .flat_map(|trial| {
                let before = format!("{}, ", trial.what);
                // The first way is part of the previous stage.
                ways[1..].iter().map(move |way| tried(&before, way, &trial.model)).collect::<Vec<_>>()
            })
            .map(|(what, model)| (what, sized(model, side)))
            .collect();
        search.stage(next);
        best = search.best();
    }
    let mut trials = search.trials;
    trials.sort_by(Trial::is_better);
    Ok(Fitted { trials, labels: loaded.labels().to_vec() })
}

fn tried(before: &str, way: &Way, model: &Model) -> (String, Model) {
    let mut model = model.clone();
    (way.set)(&mut model);
    (format!("{before}{}", way.what), model)
}

/// Puts means and deviations in channel order; a grey model has one of each.
fn fitted(mut model: Model, channels: usize) -> Model {
    let each = |list: &PerChannel| {
        let numbers = list.numbers();
        match (numbers, channels) {
            ([_], _) => list.clone(),
            (_, 3) if model.channels == Some(Channels::Bgr) => {
                numbers.iter().rev().copied().collect::<Vec<_>>().into()
            }
            (_, 3) => list.clone(),
            _ => vec![numbers.iter().sum::<f32>() / numbers.len() as f32].into(),
        }
    };
    (model.mean, model.std) = (model.mean.as_ref().map(each), model.std.as_ref().map(each));
    model
}

/// Replaces placeholder sizes: 0 is the model's size, 1 is 256/224 of it.
fn sized(mut model: Model, (width, height): (u32, u32)) -> Model {
    let grown = |side: u32| (f64::from(side) * 256.0 / 224.0).round() as u32;
    model.resize = match model.resize {
        Some(Size::Side(0)) => Some(Size::Side(width.min(height))),
        Some(Size::Side(1)) => Some(Size::of(grown(width), grown(height))),
        set => set,
    };
    model
}

struct Search<'a> {
    loaded: &'a Onnx,
    known: &'a [Known],
    trials: Vec<Trial>,
    says: &'a mut dyn FnMut(&Trial, usize, usize),
    expected: usize,
}

impl Search<'_> {
    /// Tries all `ways`; returns the best trials so far.
    fn stage(&mut self, ways: Vec<(String, Model)>) -> Vec<Trial> {
        for (what, model) in ways {
            // A preprocessing that does not fit the model is skipped.
            if let Ok(trial) = self.trial(what, model) {
                self.trials.push(trial);
                let number = self.trials.len();
                (self.says)(&self.trials[number - 1], number, self.expected.max(number));
            }
        }
        self.best()
    }

    fn best(&self) -> Vec<Trial> {
        let mut best = self.trials.clone();
        best.sort_by(Trial::is_better);
        // If the labels are in a different order than the outputs, the best preprocessing is the
        // one with the most consistent guesses.
        if best.first().is_some_and(|first| first.right * 2 < first.images) {
            best.sort_by_key(|trial| std::cmp::Reverse(trial.right.max(trial.renamed().1)));
        }
        best.truncate(KEPT);
        best
    }

    fn trial(&self, what: String, model: Model) -> anyhow::Result<Trial> {
        let loaded = self.loaded.with_settings(&Model { top: usize::MAX, ..model.clone() })?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(self.known.len());
        let share = self.known.len().div_ceil(threads);
        let judged = std::thread::scope(|scope| {
            let parts: Vec<_> = self
                .known
                .chunks(share)
                .map(|part| {
                    let loaded = &loaded;
                    scope.spawn(move || judge(loaded, part))
                })
                .collect();
            parts
                .into_iter()
                .map(|part| part.join().unwrap_or_else(|_| anyhow::bail!("it panicked")))
                .collect::<Vec<_>>()
        });
        let images = self.known.len();
        let mut trial =
            Trial { what, right: 0, images, confidence: 0.0, likelihood: 0.0, called: Called::new(), model };
        for part in judged {
            let part = part?;
            trial.right += part.right;
            trial.confidence += part.confidence / images as f32;
            trial.likelihood += part.likelihood / images as f64;
            for (right, best) in part.called {
                *trial.called.entry(right).or_default().entry(best).or_default() += 1;
            }
        }
        Ok(trial)
    }

    /// Refuses labels that the model does not have.
    fn ensure_known(&self, base: &Model) -> anyhow::Result<()> {
        let labels = self.loaded.labels();
        let strange: BTreeSet<_> = (self.known.iter())
            .filter(|known| !labels.iter().any(|label| is_same(label, &known.label)))
            .map(|known| format!("{:?}", known.label))
            .collect();
        let some: Vec<_> = labels.iter().take(5).cloned().collect();
        anyhow::ensure!(
            strange.is_empty(),
            "the model has no label {}, but {}{}; name the folders as the model's labels are{}",
            strange.into_iter().take(5).collect::<Vec<_>>().join(", "),
            some.join(", "),
            if labels.len() > some.len() { ", ..." } else { "" },
            if base.labels.is_none() { ", or give labels" } else { "" }
        );
        Ok(())
    }
}

/// The sums over some of the images.
#[derive(Default)]
struct Judged {
    right: usize,
    /// The sum of the confidences of the correct labels, and of their logarithms.
    confidence: f32,
    likelihood: f64,
    /// The correct label and the best guess of each image.
    called: Vec<(String, String)>,
}

fn judge(loaded: &Onnx, known: &[Known]) -> anyhow::Result<Judged> {
    let mut classifier = loaded.classifier()?;
    let mut judged = Judged::default();
    for known in known {
        let answer = classifier.classify(std::slice::from_ref(&known.image)).pop();
        // An image that cannot be decoded does not count.
        let Some(Ok(guesses)) = answer else { continue };
        let Some(best) = guesses.first() else { continue };
        judged.right += usize::from(is_same(&best.label, &known.label));
        let own = guesses.iter().find(|guess| is_same(&guess.label, &known.label));
        let own = own.map_or(0.0, |guess| guess.confidence);
        judged.confidence += own;
        judged.likelihood += f64::from(own).max(1e-9).ln();
        judged.called.push((known.label.clone(), best.label.clone()));
    }
    Ok(judged)
}

/// Compares labels, ignoring case, `_` and `-`; of synonyms (`tench, Tinca tinca`) the first one
/// suffices.
fn is_same(label: &str, other: &str) -> bool {
    let plain = |text: &str| text.trim().replace(['_', '-'], " ").to_lowercase();
    let (label, other) = (plain(label), plain(other));
    label == other || label.split(',').next().is_some_and(|first| first == other)
}

/// Writes the settings of a trial as a TOML table.
///
/// # Errors
///
/// Fails only if the settings cannot be serialised.
pub fn table(name: &str, model: &Model) -> anyhow::Result<String> {
    let all = serde_json::to_value(model)?;
    let usual = serde_json::to_value(Model::default())?;
    let is_own = |key: &str| {
        all.get(key).is_some_and(|value| !value.is_null())
            && (key == "divide_by" || all.get(key) != usual.get(key))
    };
    let keys = [
        "path",
        "labels",
        "engine",
        "size",
        "resize",
        "resize_mode",
        "pad_colour",
        "pad_place",
        "filter",
        "antialias",
        "jpeg_quality",
        "layout",
        "channels",
        "divide_by",
        "mean",
        "std",
        "output",
        "scores",
        "softmax",
        "positive",
    ];
    let mut text = format!("[models.{name}]\n");
    for key in keys.into_iter().filter(|key| is_own(key)) {
        text.push_str(&format!("{key} = {}\n", all.get(key).map(value).unwrap_or_default()));
    }
    Ok(text)
}

/// Formats a JSON value as TOML. Numbers are shortened to 32 bits, which is how people write them.
fn value(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Array(list) => {
            format!("[{}]", list.iter().map(self::value).collect::<Vec<_>>().join(", "))
        }
        serde_json::Value::Number(number) if number.is_f64() => {
            let short = (number.as_f64().unwrap_or_default() as f32).to_string();
            if short.contains('.') { short } else { format!("{short}.0") }
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
