//! What `eirs model check` shows: the model as it was loaded, its answer to an image, and what
//! looks wrong.

pub mod engines;

use std::{fmt, time::Instant};

use eirs_platform::{
    job::Guess,
    settings::{self, Model},
    version,
};
use serde::Serialize;

use super::{Description, Image, Port, load};
use crate::self_test::grey;

/// A model, looked at.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What it is made of.
    #[serde(flatten)]
    pub description: Description,
    /// The version under which its results are filed.
    pub version: String,
    /// How long loading took, in milliseconds.
    pub load_ms: f64,
    /// What it says about the test image, if there was one.
    pub answer: Option<Answer>,
    /// What looks wrong with the settings.
    pub hints: Vec<String>,
}

/// What a model says about one image.
#[derive(Debug, Clone, Serialize)]
pub struct Answer {
    /// The image.
    pub image: String,
    /// The guesses, best first; empty where it failed.
    pub top: Vec<Guess>,
    /// Why there is no guess.
    pub failure: Option<String>,
    /// How long decoding and classifying took, the second time, in milliseconds.
    pub classify_ms: f64,
}

/// Loads the model with its settings and classifies an image, if one is given.
///
/// # Errors
///
/// Where the model cannot be loaded: one sentence that names what is wrong and where.
pub fn check(model: &Model, image: Option<&Image>) -> anyhow::Result<Report> {
    let start = Instant::now();
    let loaded = load(model)?;
    let load_ms = start.elapsed().as_secs_f64() * 1e3;
    let (description, version) = (loaded.describe(), version::of(model)?);
    let mut report = Report { description, version, load_ms, answer: None, hints: Vec::new() };
    if let Some(image) = image {
        let mut classifier = loaded.classifier()?;
        let images = std::slice::from_ref(image);
        // The first run sets up buffers or starts the script: only the second shows what an image
        // costs.
        let first = classifier.classify(images);
        let start = Instant::now();
        let second = if matches!(first.first(), Some(Ok(_))) { classifier.classify(images) } else { first };
        let classify_ms = start.elapsed().as_secs_f64() * 1e3;
        let (top, failure) = match second.into_iter().next() {
            Some(Ok(top)) => (top, None),
            Some(Err(failure)) => (Vec::new(), Some(failure.to_string())),
            None => (Vec::new(), Some("no answer".to_owned())),
        };
        report.hints = if failure.is_none() { loaded.hints(image) } else { Vec::new() };
        report.answer = Some(Answer { image: image.name.clone(), top, failure, classify_ms });
    } else if model.classifier == settings::Classifier::Onnx {
        // A model that is known to run is not run when it is loaded; a check shows it all the same.
        let grey = Image { name: "grey.bmp".to_owned(), bytes: grey() };
        if let Some(Err(failure)) = loaded.classifier()?.classify(&[grey]).pop() {
            report.hints.push(format!("a grey image could not be classified: {failure}"));
        }
    }
    Ok(report)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Description {
            model,
            engine,
            advice,
            inputs,
            outputs,
            scores,
            labels,
            labels_from,
            first_labels,
            preprocessing,
        } = &self.description;
        let ports = |ports: &[Port]| ports.iter().map(Port::to_string).collect::<Vec<_>>().join("; ");
        let mut line = |name: &str, text: &str| match text {
            "" => Ok(()),
            text => writeln!(f, "{name:<10} {text}"),
        };
        line("model", model)?;
        line("version", &self.version)?;
        line("engine", &format!("{engine}, loaded in {:.0} ms", self.load_ms))?;
        line("advice", advice.as_deref().unwrap_or_default())?;
        line("input", &ports(inputs))?;
        line("output", &ports(outputs))?;
        line("scores", scores)?;
        if *labels > 0 {
            let more = if *labels > first_labels.len() { ", ..." } else { "" };
            line("labels", &format!("{labels}: {}{more} ({labels_from})", first_labels.join(", ")))?;
        }
        line("image", preprocessing)?;
        if let Some(Answer { image, top, failure, classify_ms }) = &self.answer {
            line("answer", &format!("{image}, in {classify_ms:.1} ms"))?;
            for Guess { label, confidence } in top {
                line("", &format!("{:>5.1} % {label}", confidence * 100.0))?;
            }
            line("failed", failure.as_deref().unwrap_or_default())?;
        }
        self.hints.iter().try_for_each(|hint| line("hint", hint))
    }
}
