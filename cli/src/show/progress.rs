//! The progress of work that takes minutes, as in a cloud.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

#[cfg(feature = "aws")]
use console::style;
use indicatif::ProgressBar;

use super::aside;

/// Shows progress: on a terminal one line that is updated, elsewhere a line per step.
#[derive(Debug)]
pub struct Progress {
    spinner: Option<ProgressBar>,
}

impl Progress {
    /// Starts without a message.
    pub fn new() -> Self {
        let spinner = io::stderr().is_terminal().then(ProgressBar::new_spinner);
        if let Some(spinner) = &spinner {
            spinner.enable_steady_tick(Duration::from_millis(120));
        }
        Self { spinner }
    }

    /// Shows the current step.
    pub fn show(&self, what: &str) {
        match &self.spinner {
            Some(spinner) => spinner.set_message(what.to_owned()),
            None => aside(format_args!("  {what}")),
        }
    }

    /// Shows a finished step, which stays on the screen.
    #[cfg(feature = "aws")]
    pub fn done(&self, what: &str) {
        let line = format!("{} {what}", style("done").for_stderr().green());
        match &self.spinner {
            Some(spinner) => spinner.println(line),
            None => aside(line),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}
