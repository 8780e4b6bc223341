//! The start of a daemon: common flags, settings, logging, and the errors if it cannot start.
//! Errors go to stderr before the log exists, and to the log afterwards.

use std::{fmt::Display, io::Write, path::PathBuf, process::ExitCode};

use clap::Args;

use crate::{
    settings::{EXIT_BAD_SETTINGS, Layers, Settings},
    telemetry::{self, Traces},
};

/// The flags of every daemon.
#[derive(Debug, Clone, Args)]
pub struct Flags {
    /// The settings file [default: $EIRS_CONFIG, or /etc/eirs/eirs.toml if it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The state folder of the local backend (local.state)
    #[arg(long, value_name = "FOLDER")]
    pub state: Option<PathBuf>,
    /// Drain when the process with this id, which started this one, dies
    #[arg(long, value_name = "PID", hide = true)]
    pub with_parent: Option<u32>,
    /// Check the settings and exit
    #[arg(long)]
    pub check: bool,
}

impl Flags {
    /// Returns the layers of the settings: file, environment and these flags. A daemon adds its own
    /// flags.
    pub fn layers(&self) -> Layers {
        let state = self.state.as_ref().map(|path| path.display());
        Layers::of_process(self.config.as_deref()).flag("local.state", state)
    }
}

/// Loads the settings, or prints all errors and returns the exit code.
pub fn settings(layers: &Layers) -> Result<Settings, ExitCode> {
    layers.load().map_err(|complaints| bad_settings([complaints]))
}

/// Starts logging and tracing for a program. Logs ignored variables that may have been meant as
/// settings, unless the parent, which has the same environment, has done so.
pub fn log(
    settings: &Settings,
    program: &'static str,
    layers: &Layers,
    parent_has_warned: bool,
) -> Result<Traces, ExitCode> {
    let traces =
        telemetry::init(&settings.telemetry, program).map_err(|complaint| bad_settings([complaint]))?;
    if !parent_has_warned {
        layers.strays().iter().for_each(|stray| tracing::warn!("{stray}"));
    }
    Ok(traces)
}

/// Ends a successful `--check`.
pub fn checked(layers: &Layers) -> ExitCode {
    layers.strays().iter().for_each(say);
    ExitCode::SUCCESS
}

/// Prints errors in the settings and returns the exit code, for which systemd does not restart the
/// unit.
pub fn bad_settings<T: Display>(complaints: impl IntoIterator<Item = T>) -> ExitCode {
    complaints.into_iter().for_each(|complaint| say(&complaint));
    ExitCode::from(EXIT_BAD_SETTINGS)
}

/// Returns the exit code of a daemon that has ended; logs the error, if there was one.
pub fn ended<E: Display>(how: Result<(), E>) -> ExitCode {
    match how {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

/// Logs the error of a daemon that must end, and returns its exit code.
pub fn failed(error: &impl Display) -> ExitCode {
    // With the causes of the error.
    tracing::error!("{error:#}");
    ExitCode::FAILURE
}

/// Prints a line to stderr, because logging depends on the settings. A closed stderr is ignored.
pub fn say(sentence: &impl Display) {
    let _closed = writeln!(std::io::stderr(), "{sentence}");
}
