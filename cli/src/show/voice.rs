//! The two forms in which a command reports its results.

use std::{fmt::Display, io};

use serde::Serialize;

use super::{aside, confirm, json, out};
use crate::Stop;

/// A person reads sentences on stdout. With `--json` they go to stderr, and stdout has one JSON
/// object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::Args)]
pub struct Voice {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl Voice {
    /// Prints a sentence for the user.
    pub fn say(self, sentence: impl Display) {
        if self.json { aside(sentence) } else { out(sentence) }
    }

    /// Prints the final result.
    pub fn end(self, result: &impl Serialize) {
        if self.json {
            json(result);
        }
    }

    /// Prints the result as text or as JSON.
    pub fn show<T: Display>(self, result: &impl Serialize, text: impl FnOnce() -> T) {
        if self.json { json(result) } else { out(text()) }
    }

    /// Returns whether the user agrees, or has agreed with a flag.
    pub fn confirmed(self, yes: bool) -> Result<bool, Stop> {
        Ok(yes || self.agreed(confirm("Do it?"))?)
    }

    /// Returns whether the user agrees, given the answer to the question.
    pub fn agreed(self, answer: io::Result<Option<bool>>) -> Result<bool, Stop> {
        match answer.map_err(anyhow::Error::from)? {
            Some(true) => Ok(true),
            Some(false) => {
                self.say("Nothing was changed.");
                Ok(false)
            }
            None => Err(Stop::Usage("no terminal to ask for confirmation; use --yes".into())),
        }
    }
}
