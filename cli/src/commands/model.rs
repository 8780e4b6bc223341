//! `eirs model`

mod check;
mod fit;

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use eirs_platform::settings::{Layers, Model};

use crate::{Exit, Global, Stop};

/// Check a model, or find its preprocessing
#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    Check(check::Check),
    Fit(fit::Fit),
}

impl ModelCommand {
    /// Runs the command.
    pub fn run(self, global: &Global) -> Result<Exit, Stop> {
        match self {
            Self::Check(check) => check.run(global),
            Self::Fit(fit) => fit.run(global),
        }
    }
}

/// Which model, and what is known of it.
#[derive(Debug, clap::Args)]
struct Which {
    /// The model file [default: that of the settings]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The model of the settings
    #[arg(long, value_name = "NAME", default_value = Model::DEFAULT)]
    model: String,
    /// A file of labels, in the order of the outputs
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// The engine that runs the model
    #[arg(long, value_enum)]
    engine: Option<Engine>,
    /// Any other setting of the model, as in [models.NAME]
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_and_value)]
    set: Vec<(String, String)>,
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

impl Which {
    /// Returns the settings of the process, overridden by those on the command line.
    fn layers(&self, global: &Global) -> Layers {
        let key = |key: &str| format!("models.{}.{key}", self.model);
        let engine = self.engine.and_then(|engine| Some(engine.to_possible_value()?.get_name().to_owned()));
        let layers = global
            .layers()
            .flag(&key("path"), self.file.as_ref().map(|path| path.display()))
            .flag(&key("labels"), self.labels.as_ref().map(|path| path.display()))
            .flag(&key("engine"), engine);
        self.set.iter().fold(layers, |layers, (name, value)| layers.flag(&key(name), Some(value)))
    }
}
