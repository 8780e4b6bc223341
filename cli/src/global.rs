//! The options of all subcommands.

use std::path::PathBuf;

use eirs_platform::settings::{Layers, Model, Settings};

use crate::{Stop, show};

/// The options of all subcommands.
#[derive(Debug, clap::Args)]
pub(crate) struct Global {
    /// The settings file [default: $EIRS_CONFIG, or /etc/eirs/eirs.toml if it exists]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Options of every command")]
    pub(crate) config: Option<PathBuf>,
    /// The state folder: local queue, images and results [default: .eirs]
    #[arg(long, global = true, value_name = "FOLDER", help_heading = "Options of every command")]
    pub(crate) state: Option<PathBuf>,
}

impl Global {
    /// Returns the layers of settings, including the flags.
    pub(crate) fn layers(&self) -> Layers {
        let state = self.state.as_ref().map(|path| path.display());
        let layers = Layers::of_process(self.config.as_deref()).flag("local.state", state);
        layers.strays().iter().for_each(show::aside);
        layers
    }

    /// Returns the settings.
    pub(crate) fn settings(&self) -> Result<Settings, Stop> {
        Ok(self.layers().load()?)
    }

    /// Returns a model of the settings.
    pub(crate) fn model<'a>(&self, settings: &'a Settings, name: &str) -> Result<&'a Model, Stop> {
        let known = || settings.models.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let model = settings.models.get(name);
        model.ok_or_else(|| Stop::Usage(format!("unknown model `{name}`; the settings have {}", known())))
    }
}
