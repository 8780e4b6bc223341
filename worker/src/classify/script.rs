//! Classifies with a command of the operator. There are two protocols:
//!
//! - `once`: the command runs for each image, with the path of the image as its last argument. It
//!   prints `name,label` and exits with 0. `name` is the file name, the path, or the stem; the
//!   label is everything after the comma, and may contain commas (`cells.rs`). Other lines are
//!   ignored. A command that prints a single line may omit the name. Several lines without the name
//!   are a failure, which quotes them. A single line that is one of the configured labels is that
//!   label, even if it begins with the stem and a comma (`tench, Tinca tinca` for `tench.jpg`).
//! - `stream`: the command keeps running. It reads paths from standard input, one per line. For
//!   each, it prints one line of JSON and flushes it: `{"label": "cat", "confidence": 0.9}`,
//!   `{"top": [{"label": ..., "confidence": ...}, ...]}`, `{"error": "why this image is invalid"}`,
//!   or `{"retry": "why it may work later"}`. A member `path` names the image; a late response for
//!   another image is ignored. So are other lines (banners, progress bars, logs), which are quoted
//!   if no response comes. The object may extend over several lines. An unsolicited response ends
//!   the process, and so does one without `path` that comes before the path was read.
//!
//! In both protocols, exit code 75 (`EX_TEMPFAIL`) asks for a later attempt; any other code except
//! 0 is a failure. Both are retried for `queue.retry_for`. A confidence that exceeds 0 or 1 by at
//! most 0.001 is rounded to it.
//!
//! The image is a file in a private folder, named after the upload as far as that is safe, and
//! deleted after the response. The command runs in the worker's working directory, with a subset of
//! the worker's environment (`environment.rs`), in its own process group. The whole group is killed
//! after a response, a timeout, or excessive output. No process that it starts outlives the worker
//! (`guardian.rs`). `examples/script/` has a script for each protocol.
//!
//! With `script_socket`, a service of another user runs the command (`apart.rs` is the worker's
//! side, `host.rs` that of the service, `wire.rs` the protocol between them).

mod answer;
mod apart;
mod cells;
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

use std::{collections::HashSet, sync::Arc};

use anyhow::Context;
use eirs_platform::{
    program,
    settings::{Model, Protocol},
};

use super::{Classifier, Description, Failure, Loaded, onnx::labels_of};

/// Maximum length of a label, in bytes; a longer one is a mistake.
const LABEL_MAX_BYTES: usize = 1000;

/// A command that can be run.
pub(super) struct Script {
    settings: Model,
    /// The labels that it prints, if they are configured.
    labels: Arc<HashSet<String>>,
}

impl Script {
    pub(super) fn load(model: &Model) -> anyhow::Result<Self> {
        let program = model.command.first().context("command: a script needs the command to run")?;
        let file = program::find(program).map_err(|why| anyhow::anyhow!("command: {why}"))?;
        program::check_first_line(&file).map_err(|why| anyhow::anyhow!("command: {why}"))?;
        let labels = model.labels.as_deref().map(labels_of).transpose()?.unwrap_or_default();
        Ok(Self { settings: model.clone(), labels: Arc::new(labels.into_iter().collect()) })
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
            Protocol::Once => Box::new(once::Once::new(&self.settings, Arc::clone(&self.labels))?),
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

/// Validates a label; the error says what is wrong with it.
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

/// Returns the reason that a script gave, in one line of limited length; `None` if it is empty.
fn reason(text: &str) -> Option<String> {
    let words: Vec<_> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()).collect();
    let mut line = words.join(" ");
    if line.len() > LABEL_MAX_BYTES {
        line.truncate(line.floor_char_boundary(LABEL_MAX_BYTES));
        line.push('…');
    }
    (!line.is_empty()).then_some(line)
}

/// Builds the failure of a script that asks for a later attempt.
fn later(why: &str) -> Failure {
    Failure::Later(format!("the script asks to retry later; {why}"))
}
