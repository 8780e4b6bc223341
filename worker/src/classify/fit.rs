//! Finds the preprocessing of a model by trying: on images whose labels are known, the right way
//! names most of them rightly, and with the most confidence.
//!
//! Not every combination is tried. What the numbers are decides most, so that comes first, with
//! both orders of the colours; then how the picture is cut, with the best few of these; then the
//! filter, with the best few of those.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
};

use eirs_platform::settings::{Augment, Channels, Filter, Model, PerChannel, ResizeMode, Size};
use serde::Serialize;

use super::{Image, Loaded, onnx::Onnx};

/// How many of one stage go on to the next.
const KEPT: usize = 3;

/// An image and what it shows.
#[derive(Debug, Clone)]
pub struct Known {
    /// The image.
    pub image: Image,
    /// Its label, as the model calls it.
    pub label: String,
}

/// One way to prepare images, and what came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Trial {
    /// In words.
    pub what: String,
    /// Images that were named rightly.
    pub right: usize,
    /// Images that were tried.
    pub images: usize,
    /// The mean confidence of the right label, from 0 to 1.
    pub confidence: f32,
    /// The mean logarithm of that, which decides between equals.
    #[serde(skip)]
    likelihood: f64,
    /// What the images of each label were called, and how often.
    #[serde(skip)]
    called: Called,
    /// The settings.
    #[serde(skip)]
    pub model: Model,
}

/// By right label and by the model's best guess: how often.
type Called = BTreeMap<String, BTreeMap<String, usize>>;

impl Trial {
    fn is_better(&self, other: &Self) -> Ordering {
        other.right.cmp(&self.right).then(other.likelihood.total_cmp(&self.likelihood))
    }

    /// For each right label the one by which the model calls most of its images, each given once;
    /// and how many images that makes right.
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

    /// The labels in the order that fits the images, where another order than the model's names far
    /// more of them rightly.
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

/// All trials, and the labels in the order of the model.
#[derive(Debug, Clone)]
pub struct Fitted {
    /// The best one first.
    pub trials: Vec<Trial>,
    /// Of the model, as its settings have them.
    pub labels: Vec<String>,
}

/// One thing that a way to prepare images is made of.
struct Way {
    what: &'static str,
    set: fn(&mut Model),
}

fn numbers(model: &mut Model, divide_by: f32, mean: impl Into<PerChannel>, std: impl Into<PerChannel>) {
    (model.divide_by, model.mean, model.std) = (Some(divide_by), Some(mean.into()), Some(std.into()));
}

/// What people make of pixels.
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

/// What people make of another shape.
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

/// What people scale with.
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

/// Tries ways to prepare `known` images for the model of `base`, which names its file and its
/// labels, and returns them all, the best one first. `says` hears of each one that was tried, with
/// its number and about how many there are.
///
/// # Errors
///
/// Where the model cannot be loaded, or knows none of the labels.
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
                // The first is what was tried before.
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

/// Means follow the order of the colours, and a grey model has one.
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

/// Sizes that stand for another: 0 for that of the model, 1 for 256/224 of it.
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
    /// Tries all of these; returns the best few of all so far.
    fn stage(&mut self, ways: Vec<(String, Model)>) -> Vec<Trial> {
        for (what, model) in ways {
            // One that does not fit the model is no way to prepare its images.
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
        // Where the labels are in another order than the outputs, the best way is the one whose
        // guesses are the most of one mind.
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

/// What came of some of the images.
#[derive(Default)]
struct Judged {
    right: usize,
    /// The sum of the confidences of their labels, and that of their logarithms.
    confidence: f32,
    likelihood: f64,
    /// Right label and best guess of each.
    called: Vec<(String, String)>,
}

fn judge(loaded: &Onnx, known: &[Known]) -> anyhow::Result<Judged> {
    let mut classifier = loaded.classifier()?;
    let mut judged = Judged::default();
    for known in known {
        let answer = classifier.classify(std::slice::from_ref(&known.image)).pop();
        // An image that cannot be read says nothing for or against any way.
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

/// Labels are the same for a person; of synonyms (`tench, Tinca tinca`) the first one does.
fn is_same(label: &str, other: &str) -> bool {
    let plain = |text: &str| text.trim().replace(['_', '-'], " ").to_lowercase();
    let (label, other) = (plain(label), plain(other));
    label == other || label.split(',').next().is_some_and(|first| first == other)
}

/// The keys of a table of settings that a trial found, as TOML.
///
/// # Errors
///
/// Never where the settings were read.
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

/// JSON's values are TOML's but for their spaces; numbers of 32 bits are written as people write
/// them.
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
