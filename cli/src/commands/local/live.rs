//! What `eirs local` shows while it runs: on a terminal one line that is kept up to date, elsewhere
//! a line when the fleet changes. It looks at the stamp of the controller's status file once a
//! second and reads it only when that is new, so that an idle service costs nothing here.

use std::{convert::Infallible, path::PathBuf, time::Duration};

use console::Term;
use eirs_controller::status::Status;
use eirs_platform::{settings::Settings, state_folder::Stamp};
use tokio::time::MissedTickBehavior;

use crate::{commands::status, show};

/// How often the status file is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Shows the fleet.
pub(super) struct Live {
    file: PathBuf,
    read: Stamp,
    line: Option<Term>,
    told: String,
}

impl Live {
    /// Of a controller that was started when its status file was as it was `before`: what an
    /// earlier one wrote is not news.
    pub(super) fn of(settings: &Settings, before: Stamp) -> Self {
        let term = Term::stderr();
        let line = term.is_term().then_some(term);
        Self { file: settings.status_file(), read: before, line, told: String::new() }
    }

    /// Goes on until it is dropped.
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
            // Not with a progress bar: that fills its line, so that a terminal's `^C` would start a
            // new one.
            let width = usize::from(line.size().1).saturating_sub(4);
            let text = format!("{fleet}; {work}");
            let _gone =
                line.clear_line().and_then(|()| line.write_str(&console::truncate_str(&text, width, "...")));
        } else if fleet != self.told {
            show::aside(format_args!("{fleet}; {work}"));
            self.told = fleet;
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
