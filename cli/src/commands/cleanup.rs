//! `eirs cleanup`

#[cfg(feature = "aws")]
mod aws;
mod local;

use clap::ValueEnum;
use eirs_platform::settings::BackendKind;
use serde::Serialize;
use serde_json::Value;

use crate::{Exit, Global, Stop, show::Voice};

/// Empty or delete an installation
///
/// On one machine this is the state folder. On AWS it is everything with the installation's tag,
/// and nothing else. After an interruption, run it again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  eirs cleanup --mode clear --yes\n  \
        eirs --config eirs.toml cleanup --mode delete --plan")]
pub struct Cleanup {
    /// What to do
    #[arg(long, value_enum)]
    mode: Mode,
    /// Only show what would be done
    #[arg(long)]
    plan: bool,
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    voice: Voice,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    /// Delete all messages, images and results, and stop all workers; keep everything else
    Clear,
    /// Delete the state folder, or everything that setup made
    Delete,
}

impl Cleanup {
    /// Runs the command.
    pub async fn run(self, global: &Global) -> Result<Exit, Stop> {
        let settings = global.settings()?;
        match settings.backend {
            BackendKind::Local => local::run(&self, &settings).await,
            #[cfg(feature = "aws")]
            BackendKind::Aws => aws::run(&self, settings).await,
            #[cfg(not(feature = "aws"))]
            BackendKind::Aws => Err(Stop::without_aws("backend = \"aws\"")),
        }
    }

    /// Shows the plan, asks for confirmation, executes it, and reports the outcome.
    async fn carry_out(
        &self,
        shown: String,
        mut report: Value,
        work: impl Future<Output = anyhow::Result<()>>,
    ) -> Result<Exit, Stop> {
        self.voice.say(shown);
        let wanted = !self.plan;
        let agreed = wanted && self.voice.confirmed(self.yes)?;
        if agreed {
            work.await?;
            self.voice.say(if self.mode == Mode::Clear { "Cleared." } else { "Deleted." });
        }
        report["done"] = agreed.into();
        self.voice.end(&report);
        Ok(if agreed == wanted { Exit::Ok } else { Exit::Failed })
    }
}
