//! The protocol `stream`: one process for many images.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use eirs_platform::{backoff::Backoff, job::Guess, settings::Model};

use super::{
    answer::{Gathered, Line, Skipped, lines, quoted, read},
    child::{Event, OUTPUT_MAX_BYTES, Running, manner, wants_later},
    later,
    once::refuse_huge,
    scratch::Scratch,
};
use crate::classify::{Classifier, Failure, Image};

/// How long a script may take to go after its input is closed, before it is killed.
const FAREWELL: Duration = Duration::from_millis(500);

/// How much of a line without an end is looked at, to quote it.
const QUOTED_BYTES: usize = 4096;

pub(super) struct Stream {
    settings: Model,
    scratch: Scratch,
    /// `None` when it must be started again.
    process: Option<Running>,
    backoff: Backoff,
    /// Not before this, so that a command which cannot run does not keep a core busy with dying.
    next_start: Instant,
    /// What the process printed beside its answers.
    skipped: Skipped,
}

/// Takes the lines that are whole.
fn take_lines(printed: &mut Vec<u8>) -> Vec<u8> {
    let end = printed.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    printed.drain(..end).collect()
}

impl Stream {
    /// Starts the command at once: what it takes to load its own model then passes before the first
    /// image comes.
    pub(super) fn new(settings: &Model) -> anyhow::Result<Self> {
        let scratch = Scratch::new(settings.script_socket.as_deref())
            .context("the folder for images cannot be created")?;
        let process = Running::start(settings, None, true).context("the script could not be started")?;
        Ok(Self {
            settings: settings.clone(),
            scratch,
            process: Some(process),
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(5)),
            next_start: Instant::now(),
            skipped: Skipped::default(),
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
        let answered = self.listen(&file.path);
        match &answered {
            Ok(_) | Err(Failure::Rejected(_)) => self.backoff.reset(),
            // It answered, and goes on.
            Err(Failure::Later(_)) if self.process.as_mut().is_some_and(|process| !process.has_exited()) => {}
            // Which line answers which image is anybody's guess from here on: it starts afresh.
            Err(_) => self.discard(),
        }
        answered
    }

    /// Reads what the process prints until one line of it is the answer, or none can be.
    fn listen(&mut self, file: &Path) -> Result<Vec<Guess>, Failure> {
        let (timeout, top) = (self.settings.timeout, self.settings.top);
        let process = self.process.as_mut().ok_or_else(|| failed("is not running".into()))?;
        let deadline = Instant::now() + timeout;
        let mut bytes = 0;
        let problem = loop {
            match process.wait(deadline, |printed| printed.contains(&b'\n')) {
                // It may print without end.
                Event::Printed if bytes <= OUTPUT_MAX_BYTES && Instant::now() < deadline => {
                    let printed = take_lines(&mut process.printed);
                    let mut rest = &printed[..];
                    while let Some(newline) = rest.iter().position(|byte| *byte == b'\n') {
                        let (line, after) = rest.split_at(newline + 1);
                        (bytes, rest) = (bytes + line.len(), after);
                        if let Some(answer) =
                            lines(line).iter().find_map(|line| self.skipped.or_answer(line, file, top))
                        {
                            // What follows is looked at before the next image.
                            process.printed.splice(..0, rest.iter().copied());
                            return answer;
                        }
                    }
                }
                Event::Printed if bytes > OUTPUT_MAX_BYTES => {
                    break format!("printed more than {OUTPUT_MAX_BYTES} bytes without a result");
                }
                Event::Flooded => {
                    break format!("printed more than {OUTPUT_MAX_BYTES} bytes without an end of line");
                }
                Event::Exited => {
                    let status = process.end();
                    let last_words = process.last_words();
                    if wants_later(status) {
                        return Err(later(&last_words));
                    }
                    break format!("ended with {} without a result; {last_words}", manner(status));
                }
                Event::TimedOut | Event::Printed => {
                    let timeout = humantime::format_duration(timeout);
                    break format!("took longer than {timeout}; {}", process.last_words());
                }
            }
        };
        // Half a line may be all that there is to see.
        lines(&process.printed[..process.printed.len().min(QUOTED_BYTES)])
            .iter()
            .for_each(|line| self.skipped.noise(line));
        Err(failed(format!("{problem}{}", self.skipped.told())))
    }

    /// Ends a process that is gone, or that printed an answer which nobody asked for: its next one
    /// might be to the last image. Whatever else it printed meanwhile (a banner, a warning) is
    /// passed over.
    fn discard_unfit(&mut self) {
        let Some(process) = &mut self.process else { return };
        let why = match process.wait(Instant::now(), |_| false) {
            Event::Exited => {
                let status = process.end();
                Some(format!("ended with {} while idle; {}", manner(status), process.last_words()))
            }
            Event::Flooded => Some("printed too much while idle".to_owned()),
            Event::TimedOut | Event::Printed => {
                self.skipped.or_unasked(&std::mem::take(&mut process.printed))
            }
        };
        if let Some(why) = why {
            tracing::warn!("the script {why}; restarting it");
            self.discard();
        }
    }

    /// Ends the process, and puts the next start off a little.
    fn discard(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.put_down();
        }
        self.skipped.forget();
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
                let started = Running::start(&self.settings, None, true);
                self.process
                    .insert(started.map_err(|error| failed(format!("could not be started: {error}")))?)
            }
        };
        process.tell(&format!("{path}\n")).map_err(|error| {
            failed(format!(
                "does not read its \
            input: {error}"
            ))
        })
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
            process.put_down();
        }
    }
}

impl Skipped {
    /// What a line answers; `None` where it is no answer to this image, and is passed over.
    fn or_answer(&mut self, line: &str, file: &Path, top: usize) -> Option<Result<Vec<Guess>, Failure>> {
        let whole = match self.gathered(line) {
            Gathered::Line => None,
            Gathered::Whole(object) => Some(object),
            Gathered::Open => {
                self.noise(line);
                return None;
            }
        };
        let line = whole.as_deref().unwrap_or(line);
        match read(line, file, top) {
            Line::Answer(guesses) => {
                self.forget();
                return Some(Ok(guesses));
            }
            Line::Refusal(why) => return Some(Err(Failure::Rejected(why))),
            Line::Later(why) => return Some(Err(later(&why))),
            Line::Wrong(why) => {
                return Some(Err(failed(format!("printed an invalid result: {}: {why}", quoted(line)))));
            }
            Line::Stray => self.stray(),
            Line::Noise => self.noise(line),
        }
        None
    }

    /// What was printed while nothing was asked, if an answer is in it, or may be.
    fn or_unasked(&mut self, printed: &[u8]) -> Option<String> {
        let whole = printed.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let (whole, rest) = (lines(&printed[..whole]), lines(&printed[whole..]));
        let mut unasked = None;
        for line in &whole {
            match read(line, Path::new(""), 1) {
                Line::Stray => self.stray(),
                Line::Noise => self.noise(line),
                _ => unasked = unasked.or(Some(line)),
            }
        }
        // The rest of a line that is still being written may make an answer of it.
        let unasked = unasked.or_else(|| rest.iter().find(|line| line.contains('{')));
        unasked.map(|line| format!("printed without being asked: {}", quoted(line)))
    }
}

fn failed(what: String) -> Failure {
    Failure::Failed(format!("the script {what}"))
}
