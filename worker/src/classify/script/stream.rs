//! The protocol `stream`: one process for many images.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use eirs_platform::{backoff::Backoff, job::Guess, settings::Model};
use serde::Deserialize;

use super::{
    child::{Event, OUTPUT_MAX_BYTES, Running, manner},
    label,
    once::refuse_huge,
    scratch::Scratch,
};
use crate::classify::{Classifier, Failure, Image};

/// How long a script may take to go after its input is closed, before it is killed.
const FAREWELL: Duration = Duration::from_millis(500);

pub(super) struct Stream {
    settings: Model,
    scratch: Scratch,
    /// `None` when it must be started again.
    process: Option<Running>,
    backoff: Backoff,
    /// Not before this, so that a command which cannot run does not keep a core busy with dying.
    next_start: Instant,
}

impl Stream {
    /// Starts the command at once: what it takes to load its own model then passes before the first image comes.
    pub(super) fn new(settings: &Model) -> anyhow::Result<Self> {
        let scratch = Scratch::new().context("the folder for images cannot be made")?;
        let process =
            Running::start(&settings.command, None, true).context("the script could not be started")?;
        Ok(Self {
            settings: settings.clone(),
            scratch,
            process: Some(process),
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(5)),
            next_start: Instant::now(),
        })
    }

    fn answer(&mut self, image: &Image) -> Result<Vec<Guess>, Failure> {
        refuse_huge(image, self.settings.max_pixels)?;
        let file =
            self.scratch.put(image).map_err(|error| failed(format!("got no file to read: {error}")))?;
        let path = file
            .path
            .to_str()
            .ok_or_else(|| failed("got no path: the temporary folder is not UTF-8".into()))?;

        self.discard_unfit();
        let mut asked = self.ask(path);
        if asked.is_err() {
            // It died while idle, which is not this image's fault: a fresh one gets it.
            self.discard();
            asked = self.ask(path);
        }
        asked?;
        let process = self.process.as_mut().ok_or_else(|| failed("is not running".into()))?;
        let event = process.wait(Instant::now() + self.settings.timeout, |printed| printed.contains(&b'\n'));
        let problem = match event {
            Event::Printed => {
                let end = process.printed.iter().position(|byte| *byte == b'\n').unwrap_or_default();
                let line: Vec<u8> = process.printed.drain(..=end).collect();
                match parse(&line, &file.path, self.settings.top) {
                    Ok(answer) => {
                        self.backoff.reset();
                        return answer.map_err(Failure::Rejected);
                    }
                    // Which line answers which image is anybody's guess from here on: it starts afresh.
                    Err(nonsense) => format!("printed {nonsense}"),
                }
            }
            Event::Exited => {
                let status = process.end();
                format!("ended with {} before it answered; {}", manner(status), process.last_words())
            }
            Event::TimedOut => format!(
                "took longer than {}; {}",
                humantime::format_duration(self.settings.timeout),
                process.last_words()
            ),
            Event::Flooded => format!("printed more than {OUTPUT_MAX_BYTES} bytes without an end of line"),
        };
        self.discard();
        Err(failed(problem))
    }

    /// Ends a process that is gone, or that printed what nobody asked for: its next line might answer the last image.
    fn discard_unfit(&mut self) {
        let Some(process) = &mut self.process else { return };
        let now = Instant::now();
        match process.wait(now, |printed| !printed.is_empty()) {
            Event::TimedOut => {}
            Event::Exited => {
                let status = process.end();
                tracing::warn!(
                    "the script ended with {} while idle; {}",
                    manner(status),
                    process.last_words()
                );
                self.discard();
            }
            Event::Printed | Event::Flooded => {
                tracing::warn!("the script printed something that it was not asked for; it is started again");
                self.discard();
            }
        }
    }

    /// Ends the process, and puts the next start off a little.
    fn discard(&mut self) {
        self.process = None;
        self.next_start = Instant::now() + self.backoff.next_wait();
    }

    /// Hands a path to the process, which is started if need be.
    fn ask(&mut self, path: &str) -> Result<(), Failure> {
        let process = match &mut self.process {
            Some(process) => process,
            None => {
                while let left = self.next_start.saturating_duration_since(Instant::now())
                    && !left.is_zero()
                {
                    thread::park_timeout(left);
                }
                let started = Running::start(&self.settings.command, None, true);
                self.process
                    .insert(started.map_err(|error| failed(format!("could not be started: {error}")))?)
            }
        };
        process.tell(&format!("{path}\n")).map_err(|error| failed(format!("does not read: {error}")))
    }
}

impl Classifier for Stream {
    fn classify(&mut self, images: &[Image]) -> Vec<Result<Vec<Guess>, Failure>> {
        images.iter().map(|image| self.answer(image)).collect()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            process.close_input();
            process.wait(Instant::now() + FAREWELL, |_| false);
        }
    }
}

fn failed(what: String) -> Failure {
    Failure::Failed(format!("the script {what}"))
}

/// A line of answer. Other members are ignored.
#[derive(Deserialize)]
struct Line {
    path: Option<String>,
    error: Option<String>,
    top: Option<Vec<Entry>>,
    label: Option<String>,
    confidence: Option<f32>,
}

#[derive(Deserialize)]
struct Entry {
    label: String,
    confidence: Option<f32>,
}

/// The guesses in a line, or the script's reason to refuse the image; or else what is wrong with the line.
fn parse(line: &[u8], file: &Path, top: usize) -> Result<Result<Vec<Guess>, String>, String> {
    let line: Line =
        serde_json::from_slice(line).map_err(|error| format!("a line that is no answer ({error})"))?;
    if line.path.as_deref().is_some_and(|path| Path::new(path) != file) {
        return Err("an answer to another image".to_owned());
    }
    if let Some(reason) = line.error {
        return Ok(Err(label(&reason).unwrap_or_else(|_| "the script refuses this image".to_owned())));
    }
    let entries = match (line.top, line.label) {
        (Some(entries), _) => entries,
        (None, Some(label)) => vec![Entry { label, confidence: line.confidence }],
        (None, None) => return Err("an answer without a label".to_owned()),
    };
    let mut guesses = Vec::with_capacity(entries.len());
    for Entry { label: text, confidence } in entries {
        let confidence = confidence.unwrap_or(1.0);
        if !(0.0..=1.0).contains(&confidence) {
            return Err(format!("a confidence of {confidence}, which is not between 0 and 1"));
        }
        guesses.push(Guess { label: label(&text)?, confidence });
    }
    if guesses.is_empty() {
        return Err("an answer without a label".to_owned());
    }
    guesses.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
    guesses.truncate(top.max(1));
    Ok(Ok(guesses))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str) -> Result<Result<Vec<(String, f32)>, String>, String> {
        parse(line.as_bytes(), Path::new("/tmp/x/cat.jpg"), 2).map(|answer| {
            answer.map(|guesses| guesses.into_iter().map(|g| (g.label, g.confidence)).collect())
        })
    }

    #[test]
    fn an_answer_is_a_label_or_a_list_or_a_refusal() {
        assert_eq!(check(r#"{"label": "cat", "confidence": 0.5}"#), Ok(Ok(vec![("cat".into(), 0.5)])));
        assert_eq!(check(r#"{"label": "cat", "extra": [1]}"#), Ok(Ok(vec![("cat".into(), 1.0)])));
        let three = r#"{"top": [{"label": "a", "confidence": 0.1}, {"label": "b", "confidence": 0.7},
                                {"label": "c", "confidence": 0.2}], "path": "/tmp/x/cat.jpg"}"#;
        assert_eq!(check(three), Ok(Ok(vec![("b".into(), 0.7), ("c".into(), 0.2)])));
        assert_eq!(check(r#"{"error": "no face in it"}"#), Ok(Err("no face in it".into())));
    }

    #[test]
    fn anything_else_is_nonsense() {
        for (line, expected) in [
            ("cat", "no answer"),
            ("[]", "no answer"),
            ("{}", "without a label"),
            (r#"{"top": []}"#, "without a label"),
            (r#"{"label": " "}"#, "empty label"),
            (r#"{"label": "cat", "confidence": 97}"#, "between 0 and 1"),
            (r#"{"label": "cat", "path": "/tmp/y/cat.jpg"}"#, "another image"),
        ] {
            assert!(check(line).is_err_and(|problem| problem.contains(expected)), "{line}");
        }
    }
}
