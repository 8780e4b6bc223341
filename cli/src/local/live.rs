//! What `eirs local` shows while it runs: on a terminal one line that is kept up to date, elsewhere a line when the fleet
//! changes. It looks at the date of the controller's status file once a second and reads it only when that is new, so that
//! an idle service costs nothing here.

use std::{
    convert::Infallible,
    fs,
    io::{self, IsTerminal},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use eirs_platform::settings::Settings;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::MissedTickBehavior;

use eirs_controller::status::Status;

use crate::{show, status};

/// How often the status file is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Shows the fleet.
pub(super) struct Live {
    file: PathBuf,
    read: Option<SystemTime>,
    line: Option<ProgressBar>,
    told: String,
}

impl Live {
    pub(super) fn of(settings: &Settings) -> Self {
        let line = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(2));
            bar.with_style(ProgressStyle::with_template("{wide_msg}").expect("a constant that is a template"))
        });
        // What an earlier controller wrote is not news.
        let file = settings.status_file();
        let read = fs::metadata(&file).and_then(|data| data.modified()).ok();
        Self { file, read, line, told: String::new() }
    }

    /// Goes on until it is dropped.
    pub(super) async fn run(mut self) -> anyhow::Result<Infallible> {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            let modified = fs::metadata(&self.file).and_then(|data| data.modified()).ok();
            if modified.is_some() && modified != self.read {
                self.read = modified;
                if let Some(seen) = status::read(&self.file) {
                    self.show(&seen);
                }
            }
        }
    }

    fn show(&mut self, seen: &Status) {
        let (fleet, work) = (status::fleet(seen), status::work(seen));
        if let Some(line) = &self.line {
            line.set_message(format!("{fleet}; {work}"));
            line.tick();
        } else if fleet != self.told {
            show::aside(format_args!("{fleet}; {work}"));
            self.told = fleet;
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(line) = &self.line {
            line.finish_and_clear();
        }
    }
}
