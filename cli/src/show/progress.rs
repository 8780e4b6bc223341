//! Work that takes minutes, as what is done in a cloud does.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

#[cfg(feature = "aws")]
use console::style;
use indicatif::ProgressBar;

use super::aside;

/// Something long that goes on: on a terminal one line that changes, elsewhere a line for each
/// thing that is new.
#[derive(Debug)]
pub struct Progress {
    spinner: Option<ProgressBar>,
}

impl Progress {
    /// Nothing is said yet.
    pub fn new() -> Self {
        let spinner = io::stderr().is_terminal().then(ProgressBar::new_spinner);
        if let Some(spinner) = &spinner {
            spinner.enable_steady_tick(Duration::from_millis(120));
        }
        Self { spinner }
    }

    /// What is going on now.
    pub fn tell(&self, what: &str) {
        match &self.spinner {
            Some(spinner) => spinner.set_message(what.to_owned()),
            None => aside(format_args!("  {what}")),
        }
    }

    /// Something is done, and stays on the screen.
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
