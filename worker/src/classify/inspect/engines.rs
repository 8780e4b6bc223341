//! `eirs model check --engines`: compares the results of both engines for a model.

use std::{fmt, io::Cursor};

use anyhow::Context;
use eirs_platform::{
    job::Guess,
    settings::{Engine, Model},
};
use serde::Serialize;

use crate::classify::{Classifier, Image, load};

/// Maximum difference of confidences that rounding can explain; it is larger for quantised models.
const MOST: f32 = 0.01;

/// The results of both engines.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// Their names and versions.
    pub engines: [String; 2],
    /// The results for each image.
    pub images: Vec<Pair>,
}

/// The results of both engines for one image.
#[derive(Debug, Clone, Serialize)]
pub struct Pair {
    /// The name of the image.
    pub image: String,
    /// The best guess of each engine, or its error.
    pub best: [Result<Guess, String>; 2],
    /// The largest difference between the confidences of one label.
    pub difference: f32,
}

impl Pair {
    fn agree(&self) -> bool {
        match &self.best {
            [Ok(_), Ok(_)] => self.difference <= MOST,
            // If both refuse the image alike, it shows no difference.
            [Err(one), Err(other)] => one == other,
            _ => false,
        }
    }
}

impl Comparison {
    /// Returns whether the results are equal, except for rounding.
    pub fn agree(&self) -> bool {
        self.images.iter().all(Pair::agree)
    }
}

/// Classifies images with both engines. Without any, it uses generated ones.
///
/// # Errors
///
/// Fails if an engine is missing or cannot run the model, with a sentence that names it.
pub fn compare(model: &Model, images: &[Image]) -> anyhow::Result<Comparison> {
    let made;
    let images = if images.is_empty() {
        made = pictures()?;
        &made[..]
    } else {
        images
    };
    let classifier = |engine| -> anyhow::Result<(String, Box<dyn Classifier>)> {
        // All labels, so that each can be compared.
        let model = Model {
            engine,
            top: usize::MAX,
            threshold: None,
            check_image: None,
            check_label: None,
            ..model.clone()
        };
        let loaded = load(&model)?;
        Ok((loaded.engine().to_owned(), loaded.classifier()?))
    };
    let (first, mut one) = classifier(Engine::Onnxruntime)?;
    let (second, mut other) = classifier(Engine::Rten)?;
    let pair = |image: &Image| {
        let ask = |classifier: &mut Box<dyn Classifier>| match classifier
            .classify(std::slice::from_ref(image))
            .pop()
        {
            Some(Ok(guesses)) => Ok(guesses),
            Some(Err(failure)) => Err(failure.to_string()),
            None => Err("no answer".to_owned()),
        };
        let both = [ask(&mut one), ask(&mut other)];
        let difference = match &both {
            [Ok(one), Ok(other)] => difference(one, other),
            _ => 0.0,
        };
        let best = both.map(|guesses| {
            guesses.and_then(|list| list.into_iter().next().ok_or_else(|| "no guess".to_owned()))
        });
        Pair { image: image.name.clone(), best, difference }
    };
    Ok(Comparison { engines: [first, second], images: images.iter().map(pair).collect() })
}

fn difference(one: &[Guess], other: &[Guess]) -> f32 {
    let of = |guess: &Guess| {
        other.iter().find(|same| same.label == guess.label).map_or(0.0, |same| same.confidence)
    };
    one.iter().map(|guess| (guess.confidence - of(guess)).abs()).fold(0.0, f32::max)
}

/// Generates images that any model can classify: flat ones, a gradient, stripes and noise.
fn pictures() -> anyhow::Result<Vec<Image>> {
    type Pixel = fn(u32, u32) -> [u8; 3];
    let kinds: [(&str, Pixel); 5] = [
        ("black", |_, _| [0; 3]),
        ("white", |_, _| [255; 3]),
        ("gradient", |x, y| [(x / 2) as u8, (y / 2) as u8, ((x + y) / 4) as u8]),
        ("stripes", |x, _| if x / 16 % 2 == 0 { [230, 40, 20] } else { [20, 60, 220] }),
        ("noise", |x, y| {
            let mixed = x
                .wrapping_mul(374_761_393)
                .wrapping_add(y.wrapping_mul(668_265_263))
                .wrapping_mul(2_654_435_761);
            [(mixed >> 24) as u8, (mixed >> 16) as u8, (mixed >> 8) as u8]
        }),
    ];
    let draw = |(name, pixel): (&str, Pixel)| {
        let picture = image::RgbImage::from_fn(400, 300, |x, y| image::Rgb(pixel(x, y)));
        let mut file = Cursor::new(Vec::new());
        picture.write_to(&mut file, image::ImageFormat::Png).context("drawing a picture")?;
        Ok(Image { name: name.to_owned(), bytes: file.into_inner().into() })
    };
    kinds.into_iter().map(draw).collect()
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<10} {}; {}", "engines", self.engines[0], self.engines[1])?;
        for pair in &self.images {
            let shown = |best: &Result<Guess, String>| match best {
                Ok(guess) => format!("{} {:.2} %", guess.label, guess.confidence * 100.0),
                Err(why) => why.clone(),
            };
            let verdict = if pair.agree() { "same" } else { "NOT THE SAME" };
            let [one, other] = &pair.best;
            writeln!(
                f,
                "{:<10} {}: {}; {}; {verdict}, confidences differ by {:.5} at most",
                "image",
                pair.image,
                shown(one),
                shown(other),
                pair.difference
            )?;
        }
        if !self.agree() {
            writeln!(
                f,
                "{:<10} set engine to the one that is right; ONNX Runtime is the reference for ONNX models",
                "hint"
            )?;
        }
        Ok(())
    }
}
