//! The output of `eirs local` while it runs: a line that is updated on a terminal, or else a line
//! when the fleet changes. It checks the modification stamp of the controller's status file once
//! per second, and reads the file only if it changed, so that an idle service costs nothing here.

use std::{convert::Infallible, path::PathBuf, time::Duration};

use console::Term;
use eirs_controller::status::Status;
use eirs_platform::{settings::Settings, state_folder::Stamp};
use tokio::time::MissedTickBehavior;

use crate::{commands::status, show};

/// The interval between checks of the status file.
const LOOK: Duration = Duration::from_secs(1);

/// Shows the fleet.
pub(super) struct Live {
    file: PathBuf,
    read: Stamp,
    line: Option<Term>,
    shown: String,
}

impl Live {
    /// Creates the view for a controller that was started when its status file had the stamp
    /// `before`, so that the status of an earlier controller is not shown.
    pub(super) fn of(settings: &Settings, before: Stamp) -> Self {
        let term = Term::stderr();
        let line = term.is_term().then_some(term);
        Self { file: settings.status_file(), read: before, line, shown: String::new() }
    }

    /// Runs until it is dropped.
    pub(super) async fn run(mut self) -> anyhow::Result<Infallible> {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            let now = Stamp::now(&self.file);
            if std::mem::replace(&mut self.read, now) != now
                && let Some(seen) = status::read(&self.file)
            {
                self.show(&seen);
            }
        }
    }

    fn show(&mut self, seen: &Status) {
        let (fleet, work) = (status::fleet(seen), status::work(seen));
        if let Some(line) = &self.line {
            // Not with a progress bar, which fills its line, so that a terminal's `^C` would start
            // a new one.
            let width = usize::from(line.size().1).saturating_sub(4);
            let text = format!("{fleet}; {work}");
            let _gone =
                line.clear_line().and_then(|()| line.write_str(&console::truncate_str(&text, width, "...")));
        } else if fleet != self.shown {
            show::aside(format_args!("{fleet}; {work}"));
            self.shown = fleet;
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(line) = &self.line {
            let _gone = line.clear_line();
        }
    }
}
