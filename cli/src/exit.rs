//! The outcomes of subcommands.

use std::process::ExitCode;

use eirs_platform::settings::{BadSettings, EXIT_BAD_SETTINGS};

use crate::show;

/// The outcome of a subcommand that ran to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Success.
    Ok,
    /// It ran, but found problems, which were shown.
    Failed,
    /// The checked configuration is invalid, which was shown.
    BadSettings,
}

/// The reason why a subcommand stopped, in sentences.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stop {
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    BadSettings(#[from] BadSettings),
}

#[cfg(not(feature = "aws"))]
impl Stop {
    /// Returns the error for a feature that this build does not have.
    pub(crate) fn without_aws(what: &str) -> Self {
        Self::Failed(anyhow::anyhow!(
            "{what}: this program was built without AWS; `cargo build --release` builds it with AWS"
        ))
    }
}

impl From<eirs_load::Error> for Stop {
    fn from(error: eirs_load::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl From<eirs_platform::Error> for Stop {
    fn from(error: eirs_platform::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// Returns the exit code, after printing the reason.
pub(crate) fn code(end: Result<Exit, Stop>) -> ExitCode {
    match end {
        Ok(Exit::Ok) => 0.into(),
        Ok(Exit::Failed) => 1.into(),
        Ok(Exit::BadSettings) => EXIT_BAD_SETTINGS.into(),
        Err(stop) => {
            show::aside(&stop);
            match stop {
                Stop::Failed(_) => 1.into(),
                Stop::Usage(_) => 2.into(),
                Stop::BadSettings(_) => EXIT_BAD_SETTINGS.into(),
            }
        }
    }
}
