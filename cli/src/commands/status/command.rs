//! `eirs status`

use std::{
    fs,
    time::{Duration, SystemTime},
};

use chrono::Utc;
use console::Term;
use eirs_controller::status::Status;
use eirs_platform::{
    settings::Settings,
    state_folder::{self, CONTROLLER_LOCK},
};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{read, text};
use crate::{Exit, Global, Stop, show, state};

/// Show pools, instances, the last decisions, and today's hours and cost
///
/// Shows what the controller wrote in its last pass. `eirs check` inspects the queues themselves.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  eirs status --watch\n  eirs status --json | jq \
        '.controller.pools[].desired'\n\ndocs/OPERATIONS.md explains the keys of the JSON.")]
pub(crate) struct StatusCommand {
    /// Print JSON; with --watch, one line per change
    #[arg(long)]
    json: bool,
    /// Show every change until Ctrl-C
    #[arg(long, short)]
    watch: bool,
}

/// The interval between checks of a watch.
const LOOK: Duration = Duration::from_millis(500);

/// The output of `--json`.
#[derive(Debug, Serialize)]
struct Report<'a> {
    /// The state folder.
    state: String,
    /// Whether a controller runs.
    running: bool,
    /// The process id of the controller.
    pid: Option<u32>,
    /// The last status, of this controller or an earlier one; null if none ever ran.
    controller: Option<&'a Status>,
}

impl StatusCommand {
    pub(crate) async fn run(self, global: &Global) -> Result<Exit, Stop> {
        let settings = global.settings()?;
        state::expect_ours(&settings)?;
        if self.watch {
            self.watch(&settings).await;
        } else {
            self.show(&settings, None);
        }
        Ok(Exit::Ok)
    }

    /// Prints the status after each change of the file, and on a terminal also every second,
    /// because durations grow.
    async fn watch(&self, settings: &Settings) {
        let stop = CancellationToken::new();
        show::stop_on_signal(stop.clone());
        let term = Some(Term::stdout()).filter(|term| term.is_term() && !self.json);
        let mut shown: Option<SystemTime> = None;
        while !stop.is_cancelled() {
            let modified = fs::metadata(settings.status_file()).and_then(|data| data.modified()).ok();
            if term.is_some() || modified != shown {
                self.show(settings, term.as_ref());
                shown = modified;
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    fn show(&self, settings: &Settings, term: Option<&Term>) {
        let holder = state_folder::holder(&settings.local.state, CONTROLLER_LOCK);
        let status = read(&settings.status_file());
        if self.json {
            let report = Report {
                state: settings.local.state.display().to_string(),
                running: holder.is_some(),
                pid: holder.and_then(|holder| holder.by),
                controller: status.as_ref(),
            };
            if self.watch {
                show::json_line(&report)
            } else {
                show::json(&report)
            }
            return;
        }
        let text = text(settings, status.as_ref(), holder.is_some(), show::width(), Utc::now());
        if let Some(term) = term {
            let _gone = term.clear_screen();
        }
        show::out(text.trim_end());
        if self.watch && term.is_none() {
            show::out("");
        }
    }
}
