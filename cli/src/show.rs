//! Output helpers: tables, counts and durations, and questions to the user.

mod progress;
mod voice;

use std::{
    fmt::Display,
    io::{self, BufRead, IsTerminal, Write},
    time::Duration,
};

use chrono::{DateTime, Utc};
use console::{Alignment, Term, style};
use eirs_platform::job::{Outcome, Reply};
use serde::Serialize;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};
use tokio_util::sync::CancellationToken;

pub use eirs_load::words::{count, escaped, milliseconds, plain};

pub use self::progress::Progress;
pub use self::voice::Voice;

/// Writes a line of output to stdout. A closed pipe, as after `head`, is not a failure.
pub fn out(line: impl Display) {
    let _reader_gone = writeln!(io::stdout(), "{line}");
}

/// Writes a line about the progress of the work to stderr.
pub fn aside(line: impl Display) {
    let _reader_gone = writeln!(io::stderr(), "{line}");
}

/// Quotes a word for a shell.
pub fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Writes a value as JSON to stdout.
pub fn json(value: &impl Serialize) {
    let text = serde_json::to_string_pretty(value);
    out(text.expect("what the tools show has string keys and can be written"));
}

/// Writes a value as JSON with one space per level to stdout, for readers with a size limit.
#[cfg(feature = "aws")]
pub fn small_json(value: &impl Serialize) {
    let mut text = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b" ");
    let written = value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, format));
    written.expect("what the tools show has string keys and can be written");
    out(String::from_utf8_lossy(&text));
}

/// Writes a value as one line of JSON to stdout.
pub fn json_line(value: &impl Serialize) {
    let text = serde_json::to_string(value);
    out(text.expect("what the tools show has string keys and can be written"));
}

/// Formats a duration in at most two units: `12s`, `3m`, `2h 5m`, `4d 3h`.
pub fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    let two = |large: u64, unit: &str, small: u64, small_unit: &str| {
        let rest = if small > 0 { format!(" {small}{small_unit}") } else { String::new() };
        format!("{large}{unit}{rest}")
    };
    match seconds {
        86_400.. => two(days, "d", hours, "h"),
        3600.. => two(hours, "h", minutes, "m"),
        // During the first minutes, seconds matter to a waiting person.
        60..600 => two(minutes, "m", seconds % 60, "s"),
        600.. => format!("{minutes}m"),
        _ => format!("{seconds}s"),
    }
}

/// Formats the time since `then`; a future time counts as now.
pub fn since(then: DateTime<Utc>, now: DateTime<Utc>) -> String {
    span((now - then).to_std().unwrap_or_default())
}

/// Formats as `2s ago`.
pub fn ago(then: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let span = since(then, now);
    if span == "0s" { "just now".to_owned() } else { format!("{span} ago") }
}

/// Returns the width for output: that of the terminal, or eighty columns.
pub fn width() -> usize {
    let columns = Term::stdout().size_checked().map_or(80, |(_, columns)| usize::from(columns));
    // Very long lines are hard to read.
    columns.clamp(40, 120)
}

/// Formats a paragraph after a word: wrapped, with further lines indented below the first.
pub fn paragraph(word: &str, text: &str, width: usize) -> String {
    let indent = WORD + 2;
    let head = console::pad_str(word, WORD, Alignment::Left, None).into_owned();
    let mut line = format!("  {}", style(head).dim());
    let (mut whole, mut column, mut is_first) = (String::new(), indent, true);
    for part in text.split_whitespace() {
        let columns = console::measure_text_width(part);
        if !is_first && column + 1 + columns > width {
            whole += &format!("{line}\n");
            line = " ".repeat(indent);
            (column, is_first) = (indent, true);
        }
        if !is_first {
            line.push(' ');
            column += 1;
        }
        line += part;
        column += columns;
        is_first = false;
    }
    format!("{whole}{line}\n")
}

/// The width of the words before paragraphs, including a space after them.
const WORD: usize = 10;

/// Wraps indented text, so that it ends before column `width`.
pub fn wrapped(text: &str, indent: usize, width: usize) -> String {
    let margin = " ".repeat(indent);
    let (mut whole, mut line) = (String::new(), margin.clone());
    for part in text.split_whitespace() {
        let is_empty = line.len() == indent;
        let columns = console::measure_text_width(&line) + 1 + console::measure_text_width(part);
        if !is_empty && columns > width {
            whole += &format!("{line}\n");
            line.clone_from(&margin);
        } else if !is_empty {
            line.push(' ');
        }
        line += part;
    }
    format!("{whole}{line}\n")
}

/// Shortens a text to at most this number of columns.
pub fn cut(text: &str, columns: usize) -> String {
    console::truncate_str(text, columns, "\u{2026}").into_owned()
}

/// Formats rows under a header, with minimum column widths; numbers are aligned to the right.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let is_number = |text: &str| text == "?" || text.parse::<f64>().is_ok();
    let columns: Vec<_> = head
        .iter()
        .enumerate()
        .map(|(place, name)| {
            let cells = || rows.iter().filter_map(move |row| row.get(place));
            let width =
                cells().map(|cell| console::measure_text_width(cell)).max().unwrap_or(0).max(name.len());
            (width, !rows.is_empty() && cells().all(|cell| is_number(cell)))
        })
        .collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<_> = cells
            .zip(&columns)
            .map(|(cell, (width, right))| {
                let side = if *right { Alignment::Right } else { Alignment::Left };
                console::pad_str(cell, *width, side, None).into_owned()
            })
            .collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let mut text = line(&mut head.iter().copied());
    rows.iter().for_each(|row| text += &line(&mut row.iter().map(String::as_str)));
    text
}

/// Formats the outcome of a job in a few words.
pub fn end(reply: &Reply) -> String {
    match &reply.outcome {
        Outcome::Classified { .. } => reply.label().unwrap_or("no label").to_owned(),
        Outcome::Rejected { reason } => format!("rejected: {reason}"),
        Outcome::GaveUp { reason } => format!("given up: {reason}"),
    }
}

/// Asks the user; `None` without a terminal.
pub fn confirm(question: &str) -> io::Result<Option<bool>> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Ok(None);
    }
    let mut stderr = io::stderr();
    write!(stderr, "{question} [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(Some(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")))
}

/// Asks the user; a signal to stop counts as no. The question waits on its own thread, so that
/// other tasks continue.
pub async fn ask(question: &'static str, stop: &CancellationToken) -> io::Result<Option<bool>> {
    let (answer, answered) = oneshot::channel();
    // The thread is not awaited: after a signal, the process ends without an answer.
    std::thread::spawn(move || {
        let _stopped = answer.send(confirm(question));
    });
    tokio::select! {
        answered = answered => answered.unwrap_or(Ok(None)),
        () = stop.cancelled() => Ok(Some(false)),
    }
}

/// Cancels the token at the first SIGINT or SIGTERM, so that the results so far can be reported.
pub fn stop_on_signal(stop: CancellationToken) {
    tokio::spawn(async move {
        // If no handler can be installed, the signals end the process as usual.
        if let (Ok(mut term), Ok(mut int)) =
            (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
            stop.cancel();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_aligned_right_without_trailing_spaces() {
        let rows = [vec!["requests-default".into(), "7".into()], vec!["x".into(), "120".into()]];
        assert_eq!(
            table(&["queue", "visible"], &rows),
            "queue             visible\nrequests-default        7\nx                     120\n"
        );
    }

    #[test]
    fn a_span_has_two_units_at_most() {
        let shown =
            [0, 59, 60, 61, 599, 600, 3599, 3600, 7500, 86_400, 98_000].map(|s| span(Duration::from_secs(s)));
        assert_eq!(shown, ["0s", "59s", "1m", "1m 1s", "9m 59s", "10m", "59m", "1h", "2h 5m", "1d", "1d 3h"]);
    }

    #[test]
    fn a_paragraph_is_wrapped_in_its_column() {
        let text = paragraph("why", "47 jobs: backlog wants 5 (10 for each instance)", 40);
        assert_eq!(text, "  why       47 jobs: backlog wants 5 (10\n            for each instance)\n");
        assert_eq!(paragraph("", "x", 40), "            x\n");
    }

    #[test]
    fn wrapped_text_is_indented_and_ends_before_the_width() {
        assert_eq!(wrapped("one two three", 4, 12), "    one two\n    three\n");
        assert_eq!(wrapped("", 2, 12), "  \n");
    }

    #[test]
    fn a_cut_text_ends_in_dots() {
        assert_eq!(cut("golden retriever", 8), "golden …");
    }
}
