//! How a daemon starts: the flags that all have, the settings, the log, and what it says where it
//! cannot start. Before the log is there, sentences go to stderr, and afterwards to the log.

use std::{fmt::Display, io::Write, path::PathBuf, process::ExitCode};

use clap::Args;

use crate::{
    settings::{EXIT_BAD_SETTINGS, Layers, Settings},
    telemetry::{self, Traces},
};

/// The flags that every daemon has.
#[derive(Debug, Clone, Args)]
pub struct Flags {
    /// The settings file [default: $EIRS_CONFIG, or else /etc/eirs/eirs.toml if there is one]
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
    /// Where the settings come from: file, environment and these flags. A daemon adds its own
    /// flags.
    pub fn layers(&self) -> Layers {
        let state = self.state.as_ref().map(|path| path.display());
        Layers::of_process(self.config.as_deref()).flag("local.state", state)
    }
}

/// The settings, or the exit code after everything that is wrong with them was said.
pub fn settings(layers: &Layers) -> Result<Settings, ExitCode> {
    layers.load().map_err(|complaints| bad_settings([complaints]))
}

/// Starts the log and the traces of the program of this name. What looks like a setting in the
/// environment and is none is said here, unless the parent, whose environment this is, has said it.
pub fn log(
    settings: &Settings,
    program: &'static str,
    layers: &Layers,
    parent_has_said: bool,
) -> Result<Traces, ExitCode> {
    let traces =
        telemetry::init(&settings.telemetry, program).map_err(|complaint| bad_settings([complaint]))?;
    if !parent_has_said {
        layers.strays().iter().for_each(|stray| tracing::warn!("{stray}"));
    }
    Ok(traces)
}

/// The end of `--check` where nothing is wrong.
pub fn checked(layers: &Layers) -> ExitCode {
    layers.strays().iter().for_each(say);
    ExitCode::SUCCESS
}

/// Says what is wrong with the settings; systemd does not start such a unit again.
pub fn bad_settings<T: Display>(complaints: impl IntoIterator<Item = T>) -> ExitCode {
    complaints.into_iter().for_each(|complaint| say(&complaint));
    ExitCode::from(EXIT_BAD_SETTINGS)
}

/// The exit code of a daemon that has run; the log says why where it ended by an error.
pub fn ended<E: Display>(how: Result<(), E>) -> ExitCode {
    match how {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

/// The exit code of a daemon that cannot go on; the log says why.
pub fn failed(error: &impl Display) -> ExitCode {
    // With its causes, where it has some.
    tracing::error!("{error:#}");
    ExitCode::FAILURE
}

/// A line on stderr: logging is one of the things that the settings decide. A closed stderr is
/// nobody, and that is fine.
pub fn say(sentence: &impl Display) {
    let _nobody = writeln!(std::io::stderr(), "{sentence}");
}
