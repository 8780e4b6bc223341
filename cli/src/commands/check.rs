//! `eirs check`
//!
//! Builds a [`Report`] for one machine (`check/local.rs`) or for an AWS account (`check/aws.rs`).
//! What cannot be inspected is reported as a problem, and the rest is shown.

#[cfg(feature = "aws")]
mod aws;
mod controller;
mod local;
mod queues;
mod report;
mod stores;
mod units;

use std::time::Duration;

use chrono::Utc;
use console::Term;
use eirs_platform::settings::{BackendKind, Settings};
use tokio_util::sync::CancellationToken;

use self::report::Report;
use crate::{
    Exit, Global, Stop, show,
    state::{self, Kind},
};

/// Show instances, queues, images and results, and say what is wrong
///
/// Inspects queues, stores, machines and systemd directly; `eirs status` shows what the controller
/// last saw. On AWS it also reports drift from what `eirs setup` makes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  eirs check && echo healthy\n  eirs check --watch\n  \
        eirs check --json | jq -r '.problems[]'")]
pub struct Check {
    /// Print JSON; with --watch, one line per check
    #[arg(long)]
    json: bool,
    /// Repeat the check until Ctrl-C
    #[arg(long, short)]
    watch: bool,
}

/// The installation to inspect.
enum Place {
    Local(Box<local::Look>),
    #[cfg(feature = "aws")]
    Aws(Box<aws::Look>),
}

impl Check {
    /// Runs the check; it fails if there is a problem.
    pub async fn run(self, global: &Global) -> Result<Exit, Stop> {
        let settings = global.settings()?;
        let Some(mut place) = self.place(settings).await? else { return Ok(Exit::Failed) };
        if self.watch {
            self.watch(&mut place).await;
            return Ok(Exit::Ok);
        }
        let report = place.look().await;
        if self.json {
            show::json(&report);
        } else {
            show::out(report.text(Utc::now(), show::width()).trim_end());
        }
        Ok(if report.is_well() { Exit::Ok } else { Exit::Failed })
    }

    /// Returns the installation to inspect; `None`, after a message, if nothing has run yet. That
    /// is a problem like all that cannot be inspected: a wrong folder must not look healthy.
    async fn place(&self, settings: Settings) -> Result<Option<Place>, Stop> {
        if settings.backend == BackendKind::Aws {
            return cloud(settings).await.map(Some);
        }
        let folder = settings.local.state.as_path();
        match state::kind(folder) {
            Kind::Ours => return Ok(Some(Place::Local(Box::new(local::Look::new(settings))))),
            Kind::Foreign => {
                return Err(Stop::Failed(anyhow::anyhow!(state::foreign(folder))));
            }
            Kind::Nothing => {
                let nothing = format!("nothing was checked: {}", state::nothing(folder));
                match self.json {
                    true => show::json(&serde_json::json!({ "state": folder, "problems": [nothing] })),
                    false => show::aside(nothing),
                }
            }
        }
        Ok(None)
    }

    /// Prints reports repeatedly; on a terminal, each replaces the previous one.
    async fn watch(&self, place: &mut Place) {
        let stop = CancellationToken::new();
        show::stop_on_signal(stop.clone());
        let term = Some(Term::stdout()).filter(|term| term.is_term() && !self.json);
        while let Some(report) = stop.run_until_cancelled(place.look()).await {
            if self.json {
                show::json_line(&report);
            } else {
                let text = report.text(Utc::now(), show::width());
                if let Some(term) = &term {
                    let _gone = term.clear_screen();
                }
                show::out(if term.is_some() { text.trim_end() } else { &text });
            }
            stop.run_until_cancelled(tokio::time::sleep(place.rest())).await;
        }
    }
}

#[cfg(feature = "aws")]
async fn cloud(settings: Settings) -> Result<Place, Stop> {
    Ok(Place::Aws(Box::new(aws::Look::new(settings))))
}

/// The error of the backend says that AWS is missing in this build.
#[cfg(not(feature = "aws"))]
async fn cloud(settings: Settings) -> Result<Place, Stop> {
    state::open(&settings).await?;
    Ok(Place::Local(Box::new(local::Look::new(settings))))
}

impl Place {
    async fn look(&mut self) -> Report {
        match self {
            Self::Local(look) => look.look(Utc::now()).await,
            #[cfg(feature = "aws")]
            Self::Aws(look) => look.look(Utc::now()).await,
        }
    }

    /// Returns the interval of a watch. A network is asked less often.
    fn rest(&self) -> Duration {
        match self {
            Self::Local(_) => Duration::from_secs(2),
            #[cfg(feature = "aws")]
            Self::Aws(_) => Duration::from_secs(5),
        }
    }
}

#[cfg(test)]
mod tests;
