//! Parses the output of scripts. A result is accepted; the text around it (banners of libraries,
//! progress bars, warnings, blank lines, colours) is ignored. Anything unclear is refused: no
//! result is better than a wrong label.

use std::{
    collections::{HashSet, VecDeque},
    mem,
    path::Path,
};

use eirs_platform::job::Guess;
use serde::{Deserialize, Deserializer, de::Error};
use serde_json::{Map, Value};

use super::{
    cells::{after_name, label_in_cell, label_in_line, names, plain},
    label, reason,
};

/// Number of invalid lines that are kept for the error message.
const KEPT_LINES: usize = 5;
/// Number of characters shown of each of these lines.
const SHOWN_CHARS: usize = 160;
/// A valid response, for error messages.
const EXAMPLE: &str = "{\"label\": \"cat\", \"confidence\": 0.9}";
/// Maximum size of a JSON object that extends over several lines, in bytes.
const LONGEST_OBJECT: usize = 16 << 10;
/// Tolerance for confidences beyond 0 and 1, from rounding: in 16 bits, 1.001 is next to 1.
const HAIR: f64 = 0.001;

/// Returns the lines of the output, without colours, surrounding blanks and empty lines. A progress
/// bar that returns to the start of its line, with a carriage return or backspaces, starts a new
/// line.
pub(super) fn lines(printed: &[u8]) -> Vec<String> {
    let text = without_escapes(&String::from_utf8_lossy(printed));
    text.split(['\n', '\r', '\u{8}'])
        .map(|line| line.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}'))
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Removes control sequences of terminals (ECMA-48): colours, cursor movements, titles, character
/// sets. An unterminated sequence ends at the end of its line.
fn without_escapes(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' => match rest.next() {
                Some('[') => skip_control_sequence(&mut rest),
                Some(']' | 'P' | 'X' | '^' | '_') => skip_string(&mut rest),
                // `ESC ( B`, with which `tput sgr0` resets a colour.
                Some(' '..='/') => {
                    while rest.next_if(|c| matches!(c, ' '..='/')).is_some() {}
                    rest.next_if(|c| matches!(c, '0'..='~'));
                }
                Some('\n') => plain.push('\n'),
                _ => {}
            },
            // The same sequences with a single-character introducer.
            '\u{9b}' => skip_control_sequence(&mut rest),
            '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}' => skip_string(&mut rest),
            c => plain.push(c),
        }
    }
    plain
}

type Rest<'a> = std::iter::Peekable<std::str::Chars<'a>>;

/// Skips a control sequence, which ends with a final byte of `@` to `~`.
fn skip_control_sequence(rest: &mut Rest<'_>) {
    while rest.next_if(|c| matches!(c, ' '..='?')).is_some() {}
    rest.next_if(|c| matches!(c, '@'..='~'));
}

/// Skips a command string, which ends with a bell or with ESC and a backslash.
fn skip_string(rest: &mut Rest<'_>) {
    while let Some(c) = rest.next_if(|c| *c != '\n') {
        match c {
            '\u{7}' | '\u{9c}' => return,
            '\u{1b}' if rest.next_if_eq(&'\\').is_some() => return,
            _ => {}
        }
    }
}

/// Quotes a line for an error message, shortened if it is long.
pub(super) fn quoted(line: &str) -> String {
    let mut shown: String = line.chars().take(SHOWN_CHARS).collect();
    if shown.len() < line.len() {
        shown.push('…');
    }
    format!("{shown:?}")
}

fn all_quoted<'a>(lines: impl ExactSizeIterator<Item = &'a str>) -> String {
    let more = lines.len().saturating_sub(KEPT_LINES);
    let mut shown: Vec<_> = lines.take(KEPT_LINES).map(quoted).collect();
    if more > 0 {
        shown.push(format!("{more} more"));
    }
    shown.join(", ")
}

/// Parses the output of a `once` script for this file: a label, or one JSON object as in the
/// protocol `stream`. JSON never becomes a label. A single line that is one of `labels` is that
/// label.
pub(super) fn answer_in(printed: &[u8], file: &Path, labels: &HashSet<String>, top: usize) -> Line {
    let lines = lines(printed);
    let is_named = lines.iter().any(|line| names(file).any(|name| after_name(line, name).is_some()));
    if !is_named {
        let whole = lines.join("\n");
        match read(&whole, file, top) {
            Line::Noise if matches!(serde_json::from_str(&whole), Ok(Value::Object(_) | Value::Array(_))) => {
                let why = "JSON without `label`, `top`, `error` or `retry`";
                return Line::Wrong(format!("{why}: {}", quoted(&whole)));
            }
            Line::Noise => {}
            Line::Stray => return Line::Wrong(format!("a result for another image: {}", quoted(&whole))),
            Line::Wrong(why) => {
                return Line::Wrong(format!("an invalid result: {}: {why}", quoted(&whole)));
            }
            answer => return answer,
        }
    }
    let known = match &lines[..] {
        [only] => plain(only).ok().filter(|label| labels.contains(label)),
        _ => None,
    };
    match known.map_or_else(|| label_in(printed, file), Ok) {
        Ok(label) => Line::Answer(vec![Guess { label, confidence: 1.0 }]),
        Err(why) => Line::Wrong(why),
    }
}

/// Finds the label in the output of a `once` script for this file, by the rules in `script.rs`; the
/// error says what is wrong.
fn label_in(printed: &[u8], file: &Path) -> Result<String, String> {
    let lines = lines(printed);
    for name in names(file) {
        let mut labels: Vec<_> = lines.iter().filter_map(|line| after_name(line, name)).collect();
        labels.dedup();
        match labels[..] {
            [] => {}
            [only] => return label_in_cell(only),
            _ => return Err(format!("several results: {}", all_quoted(labels.into_iter()))),
        }
    }
    match &lines[..] {
        [] => Err("nothing".to_owned()),
        [only] => label_in_line(only, file),
        several => Err(format!(
            "{} lines, and none begins with the name of the image and a comma, so that the label \
            is unclear: {}",
            several.len(),
            all_quoted(several.iter().map(String::as_str))
        )),
    }
}

/// The meaning of a line that a `stream` script printed.
#[derive(Debug, PartialEq)]
pub(super) enum Line {
    /// A result: the guesses, best first.
    Answer(Vec<Guess>),
    /// The image is invalid, for this reason.
    Refusal(String),
    /// A later attempt may succeed; with the reason.
    Later(String),
    /// A response for another image.
    Stray,
    /// Not a response.
    Noise,
    /// An invalid response, and what is wrong with it.
    Wrong(String),
}

/// Parses a line; `file` is the current image.
pub(super) fn read(line: &str, file: &Path, top: usize) -> Line {
    let Some(members) = object(line, file) else {
        // Python writes NaN, which JSON does not have.
        let meant = line.starts_with('{') && ["\"label\"", "\"top\""].iter().any(|key| line.contains(key));
        return match serde_json::from_str::<Value>(line) {
            Err(error) if meant => Line::Wrong(format!("not JSON ({error})")),
            _ => Line::Noise,
        };
    };
    let is_answer = ["label", "top", "error", "retry"].iter().any(|key| members.contains_key(*key));
    if members.get("path").and_then(Value::as_str).is_some_and(|path| !is_same(Path::new(path), file)) {
        return if is_answer { Line::Stray } else { Line::Noise };
    }
    if !is_answer {
        return Line::Noise;
    }
    match serde_json::from_value::<Members>(Value::Object(members)) {
        Ok(members) => members.meaning(top),
        Err(error) => Line::Wrong(error.to_string()),
    }
}

/// Returns whether a line names the image that it is about.
pub(super) fn names_an_image(line: &str, file: &Path) -> bool {
    object(line, file).is_some_and(|members| members.contains_key("path"))
}

/// Parses the JSON object in a line. An object after other text (an unfinished progress bar) only
/// counts if it names the image, so that a log line that quotes an earlier response is not taken
/// for one.
fn object(line: &str, file: &Path) -> Option<Map<String, Value>> {
    if let Ok(Value::Object(members)) = serde_json::from_str(line) {
        return Some(members);
    }
    let Ok(Value::Object(members)) = serde_json::from_str(&line[line.find('{')?..]) else { return None };
    let names_it =
        members.get("path").and_then(Value::as_str).is_some_and(|path| is_same(Path::new(path), file));
    names_it.then_some(members)
}

/// Returns whether a script means this file: by its path, or by another path to its folder, which
/// is unique to the image. The bare file name is accepted, like a missing path.
fn is_same(named: &Path, file: &Path) -> bool {
    let end = |path: &Path| Some((path.file_name()?.to_owned(), path.parent()?.file_name()?.to_owned()));
    named == file
        || file.file_name() == Some(named.as_os_str())
        || end(named).is_some_and(|named| Some(named) == end(file))
}

/// The members of a response; others are ignored.
#[derive(Deserialize)]
struct Members {
    error: Option<Reason>,
    retry: Option<Reason>,
    top: Option<Vec<Entry>>,
    label: Option<String>,
    #[serde(default, deserialize_with = "number")]
    confidence: Option<f64>,
}

/// `true`, or a reason.
#[derive(Deserialize)]
#[serde(untagged, expecting = "`error` and `retry` are true, false or a text")]
enum Reason {
    Plain(bool),
    Because(String),
}

#[derive(Deserialize)]
#[serde(expecting = "an object with `label` and `confidence`")]
struct Entry {
    label: String,
    #[serde(default, deserialize_with = "number")]
    confidence: Option<f64>,
}

/// Parses a confidence. `null`, which JavaScript and others write for NaN, is an error and not the
/// default.
fn number<'de, D: Deserializer<'de>>(given: D) -> Result<Option<f64>, D::Error> {
    let value = Value::deserialize(given)?;
    let wrong = || D::Error::custom(format!("its confidence is {value}, not a number from 0 to 1"));
    value.as_f64().map(Some).ok_or_else(wrong)
}

impl Members {
    fn meaning(self, top: usize) -> Line {
        // Some programs write `"error": ""` with a label if there was no error.
        let has_label = self.label.is_some() || self.top.is_some();
        let error = match self.error {
            None | Some(Reason::Plain(false)) => None,
            Some(Reason::Because(why)) if why.trim().is_empty() && has_label => None,
            Some(Reason::Plain(true)) => Some(String::new()),
            Some(Reason::Because(why)) => Some(why),
        };
        match self.retry {
            None | Some(Reason::Plain(false)) => {}
            Some(Reason::Plain(true)) => {
                return Line::Later(error.as_deref().and_then(reason).unwrap_or_default());
            }
            Some(Reason::Because(why)) => return Line::Later(reason(&why).unwrap_or_default()),
        }
        if let Some(why) = error {
            return Line::Refusal(reason(&why).unwrap_or_else(|| "the script rejects this image".to_owned()));
        }
        let entries = match (self.top, self.label) {
            (Some(entries), _) => entries,
            (None, Some(label)) => vec![Entry { label, confidence: self.confidence }],
            (None, None) => Vec::new(),
        };
        match guesses(entries, top) {
            Ok(guesses) => Line::Answer(guesses),
            Err(why) => Line::Wrong(why),
        }
    }
}

fn guesses(entries: Vec<Entry>, top: usize) -> Result<Vec<Guess>, String> {
    // Without any, the order counts; one without among others has no place in it.
    let with = entries.iter().filter(|entry| entry.confidence.is_some()).count();
    if with > 0 && with < entries.len() {
        return Err("some of its labels have a confidence and some have none".to_owned());
    }
    let guess = |Entry { label: text, confidence }: Entry| {
        Ok(Guess { label: label(&text)?, confidence: share(confidence.unwrap_or(1.0))? })
    };
    let mut guesses = entries.into_iter().map(guess).collect::<Result<Vec<_>, String>>()?;
    if guesses.is_empty() {
        return Err("it has no label".to_owned());
    }
    guesses.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
    guesses.truncate(top.max(1));
    Ok(guesses)
}

/// Validates a confidence, and clamps one within the tolerance.
fn share(confidence: f64) -> Result<f32, String> {
    if (-HAIR..=0.0).contains(&confidence) {
        // Avoids -0.0, which would be shown with its sign.
        Ok(0.0)
    } else if (0.0..=1.0 + HAIR).contains(&confidence) {
        Ok(confidence.min(1.0) as f32)
    } else {
        Err(format!("its confidence {confidence} is not between 0 and 1"))
    }
}

/// The relation of a line to the previous ones.
pub(super) enum Gathered {
    /// A line of its own.
    Line,
    /// Part of an incomplete JSON object.
    Open,
    /// The last line of this object.
    Whole(String),
}

/// The last lines that were not a response for the current image, for the error message if none
/// comes.
#[derive(Default)]
pub(super) struct Skipped {
    lines: VecDeque<String>,
    strays: usize,
    /// The lines of an incomplete JSON object.
    open: String,
}

impl Skipped {
    pub(super) fn noise(&mut self, line: &str) {
        if self.lines.len() == KEPT_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line.chars().take(SHOWN_CHARS + 1).collect());
    }

    /// Adds a line to a JSON object that extends over several lines, and returns the object if it
    /// is complete. Its lines are not parsed on their own: one may look like a response, as an
    /// entry of `top` does.
    pub(super) fn gathered(&mut self, line: &str) -> Gathered {
        let is_first = self.open.is_empty();
        if is_first && !line.starts_with('{') {
            return Gathered::Line;
        }
        if !is_first {
            self.open.push('\n');
        }
        self.open.push_str(line);
        match serde_json::from_str::<serde::de::IgnoredAny>(&self.open) {
            Ok(_) if !is_first => Gathered::Whole(mem::take(&mut self.open)),
            Err(error) if error.is_eof() && self.open.len() <= LONGEST_OBJECT => Gathered::Open,
            _ => {
                self.open.clear();
                Gathered::Line
            }
        }
    }

    /// Counts a response for another image.
    pub(super) fn stray(&mut self) {
        self.strays += 1;
    }

    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Returns the end of an error message; empty if no line was skipped.
    pub(super) fn summary(&self) -> String {
        let mut summary = String::new();
        if self.strays > 0 {
            let are = if self.strays == 1 { "response was" } else { "responses were" };
            summary.push_str(&format!("; {} {are} for other images", self.strays));
        }
        if !self.lines.is_empty() {
            let lines = all_quoted(self.lines.iter().map(String::as_str));
            summary.push_str(&format!("; it printed no valid response: {lines}; one is {EXAMPLE} on a line"));
        }
        summary
    }
}

#[cfg(test)]
mod tests;
