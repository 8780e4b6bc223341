//! The report of `eirs model check`: the loaded model, its result for an image, and hints about
//! wrong settings.

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

/// The report about a model.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The description of the model.
    #[serde(flatten)]
    pub description: Description,
    /// The version under which its results are stored.
    pub version: String,
    /// The duration of loading, in milliseconds.
    pub load_ms: f64,
    /// The result for the test image, if one was given.
    pub answer: Option<Answer>,
    /// Hints about settings that look wrong.
    pub hints: Vec<String>,
}

/// The result of a model for one image.
#[derive(Debug, Clone, Serialize)]
pub struct Answer {
    /// The name of the image.
    pub image: String,
    /// The guesses, best first; empty after a failure.
    pub top: Vec<Guess>,
    /// The reason of a failure.
    pub failure: Option<String>,
    /// The duration of decoding and classifying in the second run, in milliseconds.
    pub classify_ms: f64,
}

/// Loads the model and classifies an image, if one is given.
///
/// # Errors
///
/// Fails if the model cannot be loaded, with one sentence that names the problem and its place.
pub fn check(model: &Model, image: Option<&Image>) -> anyhow::Result<Report> {
    let start = Instant::now();
    let loaded = load(model)?;
    let load_ms = start.elapsed().as_secs_f64() * 1e3;
    let (description, version) = (loaded.describe(), version::of(model)?);
    let mut report = Report { description, version, load_ms, answer: None, hints: Vec::new() };
    if let Some(image) = image {
        let mut classifier = loaded.classifier()?;
        let images = std::slice::from_ref(image);
        // The first run allocates buffers or starts the script, so only the second one shows the
        // cost of an image.
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
        // Loading may skip a trial run if the graph says enough; a check always runs the model.
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
