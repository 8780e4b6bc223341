//! What an image shows: the classifiers, behind one trait. A classifier is synchronous and keeps a
//! core busy; the worker runs one on each thread of a bounded pool.

pub mod fit;
pub mod inspect;

mod noop;
mod onnx;
mod script;

pub use self::script::{guardian, host};

use std::{
    fmt,
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use anyhow::Context;
use bytes::Bytes;
use eirs_platform::{
    job::Guess,
    settings::{self, Model},
};
use serde::Serialize;

/// An image as it was uploaded.
#[derive(Debug, Clone)]
pub struct Image {
    /// The uploader's name for it: only shown, never trusted as a path.
    pub name: String,
    /// The file.
    pub bytes: Bytes,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The image can never work; a sentence for the uploader.
    #[error("{0}")]
    Rejected(String),
    /// Another attempt, here or elsewhere, may work; a sentence for the operator.
    #[error("{0}")]
    Failed(String),
    /// The classifier itself asks for another attempt later; a sentence for the operator.
    #[error("{0}")]
    Later(String),
}

/// Classifies images, one value for each thread. `worker/examples/own_classifier.rs` is a whole
/// one.
///
/// ```
/// use eirs_platform::job::Guess;
/// use eirs_worker::classify::{Classifier, Failure, Image};
///
/// /// Judges an image by the length of its file.
/// struct Scales;
///
/// impl Classifier for Scales {
///     fn classify(&mut self, images: &[Image]) -> Vec<Result<Vec<Guess>, Failure>> {
///         let weigh = |image: &Image| match image.bytes.len() {
///             0 => Err(Failure::Rejected("there is nothing in it".into())),
///             1..1_000_000 => Ok(vec![Guess { label: "light".into(), confidence: 1.0 }]),
///             _ => Ok(vec![Guess { label: "heavy".into(), confidence: 1.0 }]),
///         };
///         images.iter().map(weigh).collect()
///     }
/// }
///
/// let image = Image { name: "a.jpg".into(), bytes: vec![0; 100].into() };
/// let answers = Scales.classify(&[image]);
/// assert_eq!(answers[0].as_ref().unwrap()[0].label, "light");
/// ```
pub trait Classifier: Send {
    /// One answer for each image, in their order: guesses, best first, never empty, at most the
    /// `top` of the settings. Never panics and never hangs, whatever the images hold.
    fn classify(&mut self, images: &[Image]) -> Vec<Result<Vec<Guess>, Failure>>;
}

/// A model that was loaded and checked; the threads share what they can of it.
pub trait Loaded: Send + Sync {
    /// What classifies, for logs and reports, e.g. `onnxruntime 1.23.2`, `rten 0.27`, `script
    /// once`.
    fn engine(&self) -> &str;

    /// A classifier for one more thread.
    fn classifier(&self) -> anyhow::Result<Box<dyn Classifier>>;

    /// All that is known of the model, for `eirs model check` and the log.
    fn describe(&self) -> Description;

    /// What looks wrong with the settings, judged by how the model answers to this image.
    fn hints(&self, _image: &Image) -> Vec<String> {
        Vec::new()
    }
}

/// What a model is made of, as far as it says so.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Description {
    /// The model file, the command, or what else classifies.
    pub model: String,
    /// See [`Loaded::engine`].
    pub engine: String,
    /// What would make it better, if anything.
    pub advice: Option<String>,
    /// What goes in.
    pub inputs: Vec<Port>,
    /// What comes out.
    pub outputs: Vec<Port>,
    /// Which output holds the scores, and what they are; empty where that is the script's affair.
    pub scores: String,
    /// How many labels there are; 0 where that is the script's affair.
    pub labels: usize,
    /// Where they come from.
    pub labels_from: String,
    /// The first few of them.
    pub first_labels: Vec<String>,
    /// What happens to an image before the model sees it, in words.
    pub preprocessing: String,
}

/// An input or an output of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Port {
    /// As the model file names it.
    pub name: String,
    /// The type of its elements, e.g. `f32`.
    pub kind: String,
    /// Its dimensions; `None` for one that the file leaves open.
    pub shape: Vec<Option<usize>>,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape: Vec<_> =
            self.shape.iter().map(|side| side.map_or("?".to_owned(), |side| side.to_string())).collect();
        write!(f, "{} {} [{}]", self.name, self.kind, shape.join(", "))
    }
}

/// Loads the model that the settings describe and checks everything that can be checked before the
/// first image.
///
/// # Errors
///
/// One sentence that names what is wrong and where.
pub fn load(model: &Model) -> anyhow::Result<Box<dyn Loaded>> {
    Ok(match model.classifier {
        settings::Classifier::Onnx => Box::new(onnx::Onnx::load(model)?),
        settings::Classifier::Script => Box::new(script::Script::load(model)?),
        settings::Classifier::Noop => Box::new(noop::Noop),
    })
}

/// The files of this machine that a model needs beside its settings, each with the setting that
/// names it, or that would name it where it is found by where it lies: so that copies of them
/// elsewhere, named there, classify the same.
pub fn files(model: &Model) -> Vec<(&'static str, std::path::PathBuf)> {
    match model.classifier {
        settings::Classifier::Onnx => onnx::files(model),
        // What a script needs only its operator knows.
        settings::Classifier::Script | settings::Classifier::Noop => Vec::new(),
    }
}

/// What a loop without any service around it achieves.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct BareLoop {
    /// Images that were classified.
    pub images: usize,
    /// Of them, those without an answer.
    pub failed: usize,
    /// How long that took, loading and a first round excluded.
    pub seconds: f64,
    /// Images in one second.
    pub per_second: f64,
}

/// Decodes, resizes and classifies `images`, `repeat` times over, on a number of threads: the
/// yardstick of the service.
///
/// # Errors
///
/// Where the model cannot be loaded, or there is nothing to do.
pub fn bare_loop(model: &Model, images: &[Image], threads: usize, repeat: usize) -> anyhow::Result<BareLoop> {
    anyhow::ensure!(!images.is_empty() && threads > 0 && repeat > 0, "the bare loop has nothing to do");
    let loaded = load(model)?;
    let mut classifiers = (0..threads).map(|_| loaded.classifier()).collect::<anyhow::Result<Vec<_>>>()?;
    // The first inference of a session sets up its buffers.
    classifiers.iter_mut().for_each(|classifier| drop(classifier.classify(&images[..1])));

    let total = images.len() * repeat;
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let start = Instant::now();
    std::thread::scope(|scope| {
        for mut classifier in classifiers.drain(..) {
            let (next, failed) = (&next, &failed);
            let batch = model.batch.max(1);
            scope.spawn(move || {
                loop {
                    let first = next.fetch_add(batch, Ordering::Relaxed);
                    let taken: Vec<_> = (first..total.min(first + batch))
                        .map(|index| images[index % images.len()].clone())
                        .collect();
                    if taken.is_empty() {
                        break;
                    }
                    let answers = classifier.classify(&taken);
                    failed.fetch_add(
                        answers.iter().filter(|answer| answer.is_err()).count(),
                        Ordering::Relaxed,
                    );
                }
            });
        }
    });
    let seconds = start.elapsed().as_secs_f64();
    Ok(BareLoop { images: total, failed: failed.into_inner(), seconds, per_second: total as f64 / seconds })
}

/// Reads an image file for a check or a measurement.
///
/// # Errors
///
/// Where the file cannot be read.
pub fn read_image(path: &std::path::Path) -> anyhow::Result<Image> {
    let bytes = std::fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Image { name, bytes: bytes.into() })
}

/// What a panic said, for a [`Failure`].
fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given")
}
