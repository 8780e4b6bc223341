//! How things are shown: tables, counts and durations that read well, and questions that can be answered.

use std::{
    fmt::Display,
    io::{self, BufRead, IsTerminal, Write},
};

use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Writes a line of the product, on stdout. A reader that went away, as `head` does, is no failure.
pub fn out(line: impl Display) {
    let _reader_gone = writeln!(io::stdout(), "{line}");
}

/// Writes a line about the work, on stderr.
pub fn aside(line: impl Display) {
    let _reader_gone = writeln!(io::stderr(), "{line}");
}

/// Writes a value as JSON, on stdout.
pub fn json(value: &impl Serialize) {
    let text = serde_json::to_string_pretty(value);
    out(text.expect("what the tools show has string keys and can be written"));
}

/// `1 image`, `2 images`.
pub fn count(number: u64, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

/// Milliseconds with three figures that matter, in seconds where these are many.
pub fn milliseconds(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms if ms < 100.0 => format!("{ms:.1} ms"),
        ms if ms < 10_000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1e3),
    }
}

/// Rows under a head, each column as wide as it must be; columns of numbers stand on the right.
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
                let side = if *right { console::Alignment::Right } else { console::Alignment::Left };
                console::pad_str(cell, *width, side, None).into_owned()
            })
            .collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let mut text = line(&mut head.iter().copied());
    rows.iter().for_each(|row| text += &line(&mut row.iter().map(String::as_str)));
    text
}

/// Asks a person; `None` where there is none to ask.
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

/// Cancels the token at the first SIGINT or SIGTERM, so that what was done so far can be reported.
pub fn stop_on_signal(stop: CancellationToken) {
    tokio::spawn(async move {
        // Where no handler can be installed, the signals end the process, as they always do.
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
    fn numbers_stand_on_the_right_and_nothing_trails() {
        let rows = [vec!["requests-default".into(), "7".into()], vec!["x".into(), "120".into()]];
        assert_eq!(
            table(&["queue", "visible"], &rows),
            "queue             visible\nrequests-default        7\nx                     120\n"
        );
    }

    #[test]
    fn durations_keep_three_figures() {
        let shown = [0.5, 12.34, 123.4, 1234.0, 61_000.0].map(milliseconds);
        assert_eq!(shown, ["0.50 ms", "12.3 ms", "123 ms", "1234 ms", "61.0 s"]);
    }
}
