//! `eirs cleanup`

#[cfg(feature = "aws")]
mod aws;
mod local;

use clap::ValueEnum;
use eirs_platform::settings::BackendKind;

use crate::{Exit, Global, Stop, show};

/// Empty an installation, or delete it
///
/// On one machine that is the state folder. In an AWS account it is everything that is tagged as this installation's, and
/// nothing else; a run that was interrupted is run again.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  eirs cleanup --mode clear --yes\n  eirs --config eirs.toml cleanup --mode delete --plan"
)]
pub struct Cleanup {
    /// What to do
    #[arg(long, value_enum)]
    mode: Mode,
    /// Only show what would be done
    #[arg(long)]
    plan: bool,
    /// Do it without asking
    #[arg(long, short)]
    yes: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Delete all messages, images and results, and stop all workers; everything else stays
    Clear,
    /// Delete the state folder, or everything that setup made
    Delete,
}

impl Cleanup {
    /// Runs it.
    pub async fn run(self, global: &Global) -> Result<Exit, Stop> {
        let settings = global.settings()?;
        match settings.backend {
            BackendKind::Local => local::run(&self, &settings).await,
            #[cfg(feature = "aws")]
            BackendKind::Aws => aws::run(&self, settings).await,
            #[cfg(not(feature = "aws"))]
            BackendKind::Aws => Err(Stop::without_aws()),
        }
    }
}

/// Whether a person agrees, or has said so before.
fn agree(cleanup: &Cleanup) -> Result<bool, Stop> {
    if cleanup.yes {
        return Ok(true);
    }
    match show::confirm("Do it?").map_err(anyhow::Error::from)? {
        Some(true) => Ok(true),
        Some(false) => {
            show::out("Nothing was touched.");
            Ok(false)
        }
        None => Err(Stop::Usage("there is no terminal to ask on; say --yes to do it without asking".into())),
    }
}
