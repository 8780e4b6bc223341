//! The operator's own command as the classifier. Two protocols:
//!
//! - `once`: the command is run for each image, with the path of the image as its last argument. It
//!   prints `name,label` and exits with 0. `name` is the file name that was given, or its path, or
//!   its stem; the label is all after the comma, and may hold commas. Whatever it prints on other
//!   lines is passed over. A command that prints one line only may leave the name out. With several
//!   lines without the name, the label is unclear: that is a failure, and the lines are quoted.
//! - `stream`: the command is kept running. For each path, one a line on its standard input, it
//!   prints one line of JSON, and flushes it: `{"label": "cat", "confidence": 0.9}`, or `{"top":
//!   [{"label": ..., "confidence": ...}, ...]}`, or `{"error": "why this image can never work"}`,
//!   or `{"retry": "why it may work later"}`. With a member `path` it says which image it means,
//!   and is held to it: a late answer to another image is passed over. So are lines that are no
//!   answer (banners, progress bars, logs); they are quoted where no answer comes. The object may
//!   be written over several lines. An answer that nobody asked for ends the process.
//!
//! Exit code 75 (`EX_TEMPFAIL`) says of either that this may work later; any other but 0 is a
//! failure. Both are tried again, for as long as `queue.retry_for` says. A confidence that is a
//! hair beyond 0 or 1 is that bound.
//!
//! The image is a file of its own in a private folder, named after the upload as far as that is
//! safe, and deleted after the answer. The command runs in the worker's working directory, with
//! what it needs of the worker's environment (`environment.rs`), in a process group of its own that
//! is killed as a whole after an answer, a time-out, or more output than makes sense. Nothing that
//! it starts outlives the worker (`guardian.rs`). `examples/script/` has one script for each
//! protocol.
//!
//! With `script_socket`, the command is run by a service of another user instead (`apart.rs` is the
//! worker's side, `host.rs` the service's, `wire.rs` what goes between).

mod answer;
mod apart;
mod child;
mod environment;
pub mod guardian;
pub mod host;
mod once;
mod order;
mod own;
mod scratch;
mod stream;
mod wire;

#[cfg(test)]
mod tests;

use anyhow::Context;
use eirs_platform::{
    settings::{Model, Protocol},
    version::program_file,
};

use super::{Classifier, Description, Failure, Loaded};

/// No label is longer, in bytes; what is, is a mistake.
const LABEL_MAX_BYTES: usize = 1000;

/// A command that can be run.
pub(super) struct Script {
    settings: Model,
}

impl Script {
    pub(super) fn load(model: &Model) -> anyhow::Result<Self> {
        let program = model.command.first().context("command: a script needs the command to run")?;
        program_file(program)
            .with_context(|| format!("command: {program:?} is not a program that can be run"))?;
        Ok(Self { settings: model.clone() })
    }
}

impl Loaded for Script {
    fn engine(&self) -> &str {
        match self.settings.protocol {
            Protocol::Once => "script once",
            Protocol::Stream => "script stream",
        }
    }

    fn classifier(&self) -> anyhow::Result<Box<dyn Classifier>> {
        Ok(match self.settings.protocol {
            Protocol::Once => Box::new(once::Once::new(&self.settings)?),
            Protocol::Stream => Box::new(stream::Stream::new(&self.settings)?),
        })
    }

    fn describe(&self) -> Description {
        Description {
            model: format!("command {}", self.settings.command.join(" ")),
            engine: self.engine().to_owned(),
            preprocessing: "the script's own".to_owned(),
            ..Description::default()
        }
    }
}

/// A label as it is shown, or why it cannot be one.
fn label(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("an empty label".to_owned());
    }
    if text.len() > LABEL_MAX_BYTES {
        return Err(format!("a label of {} bytes", text.len()));
    }
    if text.contains(char::REPLACEMENT_CHARACTER) {
        return Err("a label that is not UTF-8 text".to_owned());
    }
    if text.chars().any(char::is_control) {
        return Err("a label with control characters".to_owned());
    }
    Ok(text.to_owned())
}

/// The script itself asks for another attempt.
fn later(why: &str) -> Failure {
    Failure::Later(format!("the script asks to retry later; {why}"))
}
