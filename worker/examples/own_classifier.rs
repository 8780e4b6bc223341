//! A classifier of your own in Rust: it names the colour that an image has most of.
//!
//!     cargo run -p eirs-worker --no-default-features --example own_classifier -- \
//!         models/shapes/samples/*.jpg
//!
//! To serve it, add a kind of classifier to `platform/src/settings/model.rs` and a line to
//! `eirs_worker::classify::load`. A model that is an ONNX file or a script needs no Rust: see
//! `models/README.md`.

use std::{env, fs};

use anyhow::Context;
use eirs_platform::{
    job::Guess,
    settings::{Alpha, Colour},
};
use eirs_worker::{
    classify::{Classifier, Description, Failure, Image, Loaded},
    image::{self, Limits, Pixels, Resizer, Unreadable, View, geometry::Geometry},
};

const COLOURS: [&str; 3] = ["red", "green", "blue"];
/// The image is shrunk to a square of this side: enough for a mean.
const SIDE: u32 = 32;

/// What was loaded, once for the process. There is nothing to load here.
struct Colours;

/// What a thread needs for itself: buffers that are used again for each image.
#[derive(Default)]
struct Eye {
    pixels: Pixels,
    resizer: Resizer,
}

impl Loaded for Colours {
    fn engine(&self) -> &str {
        "colours"
    }

    fn classifier(&self) -> anyhow::Result<Box<dyn Classifier>> {
        Ok(Box::new(Eye::default()))
    }

    fn describe(&self) -> Description {
        Description {
            model: "the strongest colour".into(),
            engine: "colours".into(),
            ..Description::default()
        }
    }
}

impl Classifier for Eye {
    fn classify(&mut self, images: &[Image]) -> Vec<Result<Vec<Guess>, Failure>> {
        images.iter().map(|image| self.look(image)).collect()
    }
}

impl Eye {
    fn look(&mut self, image: &Image) -> Result<Vec<Guess>, Failure> {
        let failure = |why| match why {
            // Trying again does not help an image that is broken.
            Unreadable::Never(why) => Failure::Rejected(why),
            other => Failure::Failed(other.to_string()),
        };
        let view = Some(View { short: SIDE, cut: Some((SIDE, SIDE)), fractions: true });
        let limits = Limits { max_pixels: 100_000_000, view, alpha: Alpha::Drop, colour: Colour::Ignore };
        image::decode(&image.bytes, limits, &mut self.pixels).map_err(failure)?;
        let mut sums = [0.0; 3];
        let add = |_, colour: [u8; 4]| {
            for (sum, value) in sums.iter_mut().zip(colour) {
                *sum += f32::from(value);
            }
        };
        let seen = self.resizer.fit(&self.pixels, &Geometry::crop(SIDE, SIDE), add).map_err(failure);
        // Other threads may have the memory.
        self.pixels.recycle();
        seen?;
        let all: f32 = sums.iter().sum::<f32>().max(1.0);
        let guess = |(label, sum): (&&str, f32)| Guess { label: (*label).into(), confidence: sum / all };
        let mut guesses: Vec<_> = COLOURS.iter().zip(sums).map(guess).collect();
        // The best one first.
        guesses.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
        Ok(guesses)
    }
}

#[expect(clippy::print_stdout, reason = "an example shows what it found")]
fn main() -> anyhow::Result<()> {
    let mut classifier = Colours.classifier()?;
    for path in env::args().skip(1) {
        let bytes = fs::read(&path).with_context(|| format!("{path} cannot be read"))?.into();
        for answer in classifier.classify(&[Image { name: path.clone(), bytes }]) {
            match answer {
                Ok(guesses) => println!("{path}: {} ({:.2})", guesses[0].label, guesses[0].confidence),
                Err(why) => println!("{path}: {why}"),
            }
        }
    }
    Ok(())
}
