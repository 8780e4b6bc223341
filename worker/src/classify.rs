//! Classifiers, which share one trait. A classifier is synchronous and keeps a core busy; the
//! worker runs one on each thread of a pool of fixed size.

pub mod fit;
pub mod inspect;

mod noop;
mod onnx;
mod script;

pub use self::script::{guardian, host};

use std::{
    fmt, io,
    os::unix::fs::FileTypeExt,
    path::Path,
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

/// An uploaded image.
#[derive(Debug, Clone)]
pub struct Image {
    /// The name given by the client: only displayed, never used as a path.
    pub name: String,
    /// The content of the file.
    pub bytes: Bytes,
}

/// The reason why an image has no label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The image is invalid and never works; a sentence for the client.
    #[error("{0}")]
    Rejected(String),
    /// Another attempt may succeed, on this worker or another; a sentence for the operator.
    #[error("{0}")]
    Failed(String),
    /// The classifier asks for another attempt later; a sentence for the operator.
    #[error("{0}")]
    Later(String),
}

/// Classifies images; each thread has its own value. See `worker/examples/own_classifier.rs` for a
/// complete example.
///
/// ```
/// use eirs_platform::job::Guess;
/// use eirs_worker::classify::{Classifier, Failure, Image};
///
/// /// Judges an image by the size of its file.
/// struct Scales;
///
/// impl Classifier for Scales {
///     fn classify(&mut self, images: &[Image]) -> Vec<Result<Vec<Guess>, Failure>> {
///         let weigh = |image: &Image| match image.bytes.len() {
///             0 => Err(Failure::Rejected("the image is empty".into())),
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
    /// Classifies `images` and returns one result per image, in the same order. A success is a list
    /// of guesses, best first, of at least 1 and at most `top` (a setting). Must neither panic nor
    /// hang, whatever the images contain.
    fn classify(&mut self, images: &[Image]) -> Vec<Result<Vec<Guess>, Failure>>;
}

/// A loaded and checked model, of which the threads share as much as possible.
pub trait Loaded: Send + Sync {
    /// Returns the name of the engine for logs and reports, such as `onnxruntime 1.23.2`, `rten
    /// 0.27` or `script once`.
    fn engine(&self) -> &str;

    /// Creates a classifier for one thread.
    fn classifier(&self) -> anyhow::Result<Box<dyn Classifier>>;

    /// Describes the model, for `eirs model check` and the log.
    fn describe(&self) -> Description;

    /// Returns hints about settings that look wrong, judged by the output of the model for this
    /// image.
    fn hints(&self, _image: &Image) -> Vec<String> {
        Vec::new()
    }
}

/// The description of a model, as far as it is known.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Description {
    /// The model file or the command.
    pub model: String,
    /// See [`Loaded::engine`].
    pub engine: String,
    /// Advice for better results or speed, if any.
    pub advice: Option<String>,
    /// The inputs of the model.
    pub inputs: Vec<Port>,
    /// The outputs of the model.
    pub outputs: Vec<Port>,
    /// The output with the scores, and their kind; empty for a script.
    pub scores: String,
    /// The number of labels; 0 for a script.
    pub labels: usize,
    /// The source of the labels.
    pub labels_from: String,
    /// The first few labels.
    pub first_labels: Vec<String>,
    /// The preprocessing of an image before inference, in words.
    pub preprocessing: String,
}

/// An input or an output of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Port {
    /// The name in the model file.
    pub name: String,
    /// The element type, such as `f32`.
    pub kind: String,
    /// The dimensions; `None` for one that the file leaves open.
    pub shape: Vec<Option<usize>>,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape: Vec<_> =
            self.shape.iter().map(|side| side.map_or("?".to_owned(), |side| side.to_string())).collect();
        write!(f, "{} {} [{}]", self.name, self.kind, shape.join(", "))
    }
}

/// Loads a model and checks everything that can be checked before the first image.
///
/// # Errors
///
/// Returns one sentence that names the problem and its place.
pub fn load(model: &Model) -> anyhow::Result<Box<dyn Loaded>> {
    Ok(match model.classifier {
        settings::Classifier::Onnx => Box::new(onnx::Onnx::load(model)?),
        settings::Classifier::Script => Box::new(script::Script::load(model)?),
        settings::Classifier::Noop => Box::new(noop::Noop),
    })
}

/// Returns the files on this machine that a model needs, each with the setting that names it, or
/// that would name a file found by its location. Copies of them elsewhere, with these settings,
/// classify alike.
pub fn files(model: &Model) -> Vec<(&'static str, std::path::PathBuf)> {
    match model.classifier {
        settings::Classifier::Onnx => onnx::files(model),
        // Only the operator knows the files that a script needs.
        settings::Classifier::Script | settings::Classifier::Noop => Vec::new(),
    }
}

/// The speed of a plain loop, without the service.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct BareLoop {
    /// The number of classified images.
    pub images: usize,
    /// The number of images among them that failed.
    pub failed: usize,
    /// The duration in seconds, without loading and warm-up.
    pub seconds: f64,
    /// Images per second.
    pub per_second: f64,
}

/// Decodes, resizes and classifies all `images`, `repeat` times, on the given number of threads.
/// The service is compared with this.
///
/// # Errors
///
/// Fails if the model cannot be loaded, or if any argument is empty or zero.
pub fn bare_loop(model: &Model, images: &[Image], threads: usize, repeat: usize) -> anyhow::Result<BareLoop> {
    anyhow::ensure!(!images.is_empty() && threads > 0 && repeat > 0, "the bare loop has nothing to do");
    let loaded = load(model)?;
    let mut classifiers = (0..threads).map(|_| loaded.classifier()).collect::<anyhow::Result<Vec<_>>>()?;
    // The first inference of a session allocates its buffers.
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
/// Fails if the file cannot be read, or is none.
pub fn read_image(path: &Path) -> anyhow::Result<Image> {
    let bytes = read_file(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Image { name, bytes: bytes.into() })
}

/// Reads a file; refuses what might never end, or never begin, such as a FIFO that nobody writes
/// to. A pipe that was handed to this process has a writer: `/dev/stdin`, and `/dev/fd/63` of a
/// shell's `<(command)`.
///
/// # Errors
///
/// Fails if the file cannot be read, or is none.
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let kind = std::fs::metadata(path)?.file_type();
    let is_handed = ["/dev/stdin", "/dev/fd", "/proc/self/fd"].iter().any(|handed| path.starts_with(handed));
    let what = match () {
        () if kind.is_file() || kind.is_fifo() && is_handed => return std::fs::read(path),
        () if kind.is_dir() => "a folder",
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_socket() => "a socket",
        () => "a device",
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("it is {what}; name an image file")))
}

/// Returns the message of a panic, for a [`Failure`].
fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given")
}
