//! `eirs model`

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use eirs_platform::settings::Model;
use eirs_worker::classify::{self, inspect};

use crate::{Exit, Global, Stop, show::Voice};

/// Check a model
#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    Check(Check),
}

/// Load a model as a worker would, show its inputs and outputs, and classify an image
///
/// Wrong labels usually come from wrong preprocessing: the hints compare other ways to prepare the
/// image.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  eirs model check mobilenet.onnx --labels labels.txt --image cat.jpg\n  \
                        eirs model check squeezenet.onnx --set channels=bgr --set 'mean=[104, 117, 123]' --set divide_by=1")]
pub struct Check {
    /// The model file [default: that of the settings]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The model of the settings
    #[arg(long, value_name = "NAME", default_value = Model::DEFAULT)]
    model: String,
    /// A file of labels, in the order of the outputs
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// An image to classify
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// The engine that runs the model
    #[arg(long, value_enum)]
    engine: Option<Engine>,
    /// Any other setting of the model, as in [models.NAME]
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_and_value)]
    set: Vec<(String, String)>,
    #[command(flatten)]
    voice: Voice,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Engine {
    Auto,
    Onnxruntime,
    Rten,
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE, e.g. channels=bgr")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

impl ModelCommand {
    /// Runs it.
    pub fn run(self, global: &Global) -> Result<Exit, Stop> {
        match self {
            Self::Check(check) => check.run(global),
        }
    }
}

impl Check {
    fn run(self, global: &Global) -> Result<Exit, Stop> {
        let key = |key: &str| format!("models.{}.{key}", self.model);
        let engine = self.engine.and_then(|engine| Some(engine.to_possible_value()?.get_name().to_owned()));
        let layers = global
            .layers()
            .flag(&key("path"), self.file.as_ref().map(|path| path.display()))
            .flag(&key("labels"), self.labels.as_ref().map(|path| path.display()))
            .flag(&key("engine"), engine);
        let layers =
            self.set.iter().fold(layers, |layers, (name, value)| layers.flag(&key(name), Some(value)));
        let settings = layers.load()?;
        let image = self.image.as_deref().map(classify::read_image).transpose()?;
        let report = inspect::check(global.model(&settings, &self.model)?, image.as_ref())?;
        self.voice.tell(&report, || report.to_string().trim_end().to_owned());
        let answered = report.answer.is_none_or(|answer| answer.failure.is_none());
        Ok(if answered { Exit::Ok } else { Exit::Failed })
    }
}
