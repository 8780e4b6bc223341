//! The protocol `stream`: one process for many images.

use std::{
    path::Path,
    sync::Once,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use eirs_platform::{backoff::Backoff, job::Guess, settings::Model};

use super::{
    answer::{Gathered, Line, Skipped, lines, names_an_image, quoted, read},
    child::{Event, OUTPUT_MAX_BYTES, Running, manner, wants_later},
    later,
    once::refuse_huge,
    scratch::Scratch,
};
use crate::classify::{Classifier, Failure, Image};

/// The time for a script to exit after its input is closed, before it is killed.
const FAREWELL: Duration = Duration::from_millis(500);

/// Maximum part of an unfinished line that is quoted, in bytes.
const QUOTED_BYTES: usize = 4096;

pub(super) struct Stream {
    settings: Model,
    scratch: Scratch,
    /// `None` if the process must be started again.
    process: Option<Running>,
    backoff: Backoff,
    /// The earliest time of the next start, so that a crashing command does not keep a core busy.
    next_start: Instant,
    /// Lines of the process that were not responses.
    skipped: Skipped,
    /// Whether the process has classified an image.
    has_answered: bool,
    /// Whether a process of this command printed a response before it read the path, or two printed
    /// more responses than there were images. From then on, each process gets one image.
    is_doubtful: bool,
    /// Number of processes that printed more responses than there were images.
    unsolicited: u32,
}

/// A response.
enum Heard {
    Answer(Result<Vec<Guess>, Failure>),
    /// This line was printed before the script read the path, so it is for another image or none. A
    /// script that reads the path at the same moment is only noticed some images later, when paths
    /// accumulate.
    TooEarly(String),
}

/// A response without `path` belongs to the last image only if the script prints exactly one for
/// each. One that is printed at the moment in which the script reads a path cannot be noticed, so
/// the operator is warned of the risk.
fn warn_once(line: &str) {
    static WARNED: Once = Once::new();
    WARNED.call_once(|| {
        tracing::warn!(
            "the script does not name the image in its response {}: with the member `path`, a stray one \
             could not be taken for that of another image",
            quoted(line)
        );
    });
}

/// Takes the complete lines.
fn take_lines(printed: &mut Vec<u8>) -> Vec<u8> {
    let end = printed.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    printed.drain(..end).collect()
}

impl Stream {
    /// Starts the command at once, so that it can load its own model before the first image.
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
            has_answered: false,
            is_doubtful: false,
            unsolicited: 0,
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

        self.discard_unusable();
        let mut asked = self.ask(path);
        if asked.is_err() {
            // The process died while idle, which is not the fault of this image: a new process gets
            // it.
            self.discard();
            asked = self.ask(path);
        }
        asked?;
        let answered = self.listen(&file.path, path);
        match &answered {
            Ok(_) | Err(Failure::Rejected(_)) => {
                self.backoff.reset();
                self.has_answered = true;
            }
            // It responded, and continues to run.
            Err(Failure::Later(_)) if self.process.as_mut().is_some_and(|process| !process.has_exited()) => {}
            // From here on, responses can no longer be matched to images, so the process is
            // replaced.
            Err(_) => self.discard(),
        }
        if self.is_doubtful {
            self.discard();
        }
        answered
    }

    /// Reads lines until one is the response, or none can follow.
    fn listen(&mut self, file: &Path, path: &str) -> Result<Vec<Guess>, Failure> {
        let (timeout, top) = (self.settings.timeout, self.settings.top);
        let process = self.process.as_mut().ok_or_else(|| failed("is not running".into()))?;
        let deadline = Instant::now() + timeout;
        let mut bytes = 0;
        let problem = loop {
            match process.wait(deadline, |printed| printed.contains(&b'\n')) {
                // A process may print without end.
                Event::Printed if bytes <= OUTPUT_MAX_BYTES && Instant::now() < deadline => {
                    let printed = take_lines(&mut process.printed);
                    let mut rest = &printed[..];
                    while let Some(newline) = rest.iter().position(|byte| *byte == b'\n') {
                        let (line, after) = rest.split_at(newline + 1);
                        (bytes, rest) = (bytes + line.len(), after);
                        let is_unread = || process.has_unread_input();
                        let heard = lines(line)
                            .iter()
                            .find_map(|line| self.skipped.response_in(line, file, top, is_unread));
                        match heard {
                            Some(Heard::Answer(answer)) => {
                                // The rest is checked before the next image.
                                process.printed.splice(..0, rest.iter().copied());
                                return answer;
                            }
                            Some(Heard::TooEarly(line)) => return self.ask_again(&line, file, path),
                            None => {}
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
                    // The end of the output also ends the last line.
                    let rest = lines(&process.printed);
                    let is_unread = || process.has_unread_input();
                    let heard =
                        rest.iter().find_map(|line| self.skipped.response_in(line, file, top, is_unread));
                    if let Some(Heard::Answer(
                        answer @ (Ok(_) | Err(Failure::Rejected(_) | Failure::Later(_))),
                    )) = heard
                    {
                        self.discard();
                        return answer;
                    }
                    // It ended after the previous image: some programs end after some requests.
                    let has_left =
                        bytes == 0 && rest.is_empty() && status.is_some_and(|status| status.success());
                    if self.has_answered && has_left {
                        self.discard();
                        self.ask(path)?;
                        return self.listen(file, path);
                    }
                    break format!("ended with {} without a result; {last_words}", manner(status));
                }
                Event::TimedOut | Event::Printed => {
                    let timeout = humantime::format_duration(timeout);
                    break format!("took longer than {timeout}; {}", process.last_words());
                }
            }
        };
        // An unfinished line may be all that there is to quote.
        lines(&process.printed[..process.printed.len().min(QUOTED_BYTES)])
            .iter()
            .for_each(|line| self.skipped.noise(line));
        Err(failed(format!("{problem}{}", self.skipped.summary())))
    }

    /// Starts another process after a response that came too early, and asks it. If that does the
    /// same, its responses cannot be matched to images.
    fn ask_again(&mut self, line: &str, file: &Path, path: &str) -> Result<Vec<Guess>, Failure> {
        let why = format!("printed a response before it read which image is asked for: {}", quoted(line));
        if self.is_doubtful {
            return Err(failed(format!(
                "{why}; it must print one for each path, best with the member `path`"
            )));
        }
        tracing::warn!("the script {why}; from now on, each image gets a process of its own");
        self.is_doubtful = true;
        self.discard();
        self.ask(path)?;
        self.listen(file, path)
    }

    /// Ends a process that has exited, or that printed an unsolicited response: its next one might
    /// belong to the previous image. Other output (a banner, a warning) is ignored.
    fn discard_unusable(&mut self) {
        let Some(process) = &mut self.process else { return };
        let why = match process.wait(Instant::now(), |_| false) {
            Event::Exited => {
                let status = process.end();
                Some(format!("ended with {} while idle; {}", manner(status), process.last_words()))
            }
            Event::Flooded => Some("printed too much while idle".to_owned()),
            Event::TimedOut | Event::Printed => {
                let unsolicited = self.skipped.unsolicited_in(&std::mem::take(&mut process.printed));
                self.unsolicited += u32::from(self.has_answered && unsolicited.is_some());
                self.is_doubtful |= self.unsolicited > 1;
                unsolicited
            }
        };
        if let Some(why) = why {
            tracing::warn!("the script {why}; restarting it");
            self.discard();
        }
    }

    /// Ends the process, and delays the next start.
    fn discard(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.put_down();
        }
        self.skipped.forget();
        self.has_answered = false;
        self.next_start = Instant::now() + self.backoff.next_wait();
    }

    /// Sends a path to the process, which is started if necessary.
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
        process.write_line(&format!("{path}\n")).map_err(|error| {
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
    /// Parses a line; returns `None` if it is not a response for this image.
    fn response_in(
        &mut self,
        line: &str,
        file: &Path,
        top: usize,
        is_unread: impl Fn() -> bool,
    ) -> Option<Heard> {
        let whole = match self.gathered(line) {
            Gathered::Line => None,
            Gathered::Whole(object) => Some(object),
            Gathered::Open => {
                self.noise(line);
                return None;
            }
        };
        let line = whole.as_deref().unwrap_or(line);
        let answer = match read(line, file, top) {
            Line::Answer(guesses) => Ok(guesses),
            Line::Refusal(why) => Err(Failure::Rejected(why)),
            Line::Later(why) => Err(later(&why)),
            Line::Wrong(why) => Err(failed(format!("printed an invalid result: {}: {why}", quoted(line)))),
            Line::Stray => {
                self.stray();
                return None;
            }
            Line::Noise => {
                self.noise(line);
                return None;
            }
        };
        if !names_an_image(line, file) {
            if is_unread() {
                return Some(Heard::TooEarly(line.to_owned()));
            }
            warn_once(line);
        }
        if answer.is_ok() {
            self.forget();
        }
        Some(Heard::Answer(answer))
    }

    /// Checks the output of an idle process; returns an error message if it contains a response, or
    /// may contain one.
    fn unsolicited_in(&mut self, printed: &[u8]) -> Option<String> {
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
        // An unfinished line may become a response.
        let unasked = unasked.or_else(|| rest.iter().find(|line| line.contains('{')));
        unasked.map(|line| format!("printed without being asked: {}", quoted(line)))
    }
}

fn failed(what: String) -> Failure {
    Failure::Failed(format!("the script {what}"))
}
