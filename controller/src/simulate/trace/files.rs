//! Reads traces from files: CSV with counts or with single arrivals, and the controller's own
//! recording.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;

use super::{MOST_ARRIVALS, Recorded, Trace, default_start};
use crate::simulate::setup::{Chance, Micros, Stream};

/// Times in this range are seconds since 1970, as in many logs: from 2000 to 2100.
const SINCE_1970: std::ops::Range<f64> = 946_684_800.0..4_102_444_800.0;

/// Maximum number of jobs per instance at the same time, as the simulator allocates a place for
/// each.
const MOST_AT_ONCE: f64 = 1000.0;

/// Time that the first line of a recording covers: web hosts report every ten seconds.
const FIRST_STEP: TimeDelta = TimeDelta::seconds(10);

/// Reads a trace. `pool` selects a pool of a recording. Arrivals of which only the interval is
/// known are distributed over it at random by the seed.
pub fn read(path: &Path, pool: &str, seed: u64) -> Result<Trace, String> {
    let mut chance = Chance::of(seed, Stream::Arrivals);
    if path.is_dir() {
        return recording(path, &recordings(path)?, pool, &mut chance);
    }
    if path.extension().is_some_and(|extension| extension == "jsonl") {
        return recording(path, &[path.to_owned()], pool, &mut chance);
    }
    csv(path, &mut chance)
}

fn text(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: cannot be read: {error}", path.display()))
}

/// Reads `t_seconds,count` or a single column of arrival times, with or without a header.
fn csv(path: &Path, chance: &mut Chance) -> Result<Trace, String> {
    let text = text(path)?;
    let mut rows: Vec<(f64, Option<u64>)> = Vec::new();
    let (mut total, mut may_be_head) = (0u64, true);
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start_matches('\u{feff}').trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let at_line = |problem: String| format!("{}:{}: {problem}", path.display(), number + 1);
        expect_commas(line).map_err(at_line)?;
        if std::mem::take(&mut may_be_head) && is_head(line) {
            expect_names(line).map_err(at_line)?;
            continue;
        }
        let row = row(line).map_err(at_line)?;
        if rows.first().is_some_and(|(_, before)| before.is_some() != row.1.is_some()) {
            return Err(format!(
                "{}:{}: some lines have one column and some two",
                path.display(),
                number + 1
            ));
        }
        total = total.saturating_add(row.1.unwrap_or(1));
        if total > MOST_ARRIVALS as u64 {
            return Err(format!("{}:{}: more than {MOST_ARRIVALS} arrivals", path.display(), number + 1));
        }
        rows.push(row);
    }
    rows.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let mut starts_at = default_start();
    if let Some(first) = rows.first().map(|(at, _)| at.floor()).filter(|first| SINCE_1970.contains(first)) {
        rows.iter_mut().for_each(|(at, _)| *at -= first);
        starts_at = DateTime::from_timestamp(first as i64, 0).unwrap_or(starts_at);
    }
    let step = usual_step(&rows);
    let as_micros = |seconds: f64| (seconds * 1e6) as Micros;
    let (mut arrivals, mut length) = (Vec::new(), 0);
    for (index, (at, count)) in rows.iter().enumerate() {
        match count {
            None => arrivals.push(as_micros(*at)),
            Some(count) => {
                let next = rows[index + 1..].iter().find(|(next, _)| next > at);
                let width = next.map_or(step, |(next, _)| step.min(next - at));
                arrivals.extend((0..*count).map(|_| as_micros(chance.unit().mul_add(width, *at))));
                length = as_micros(at + width);
            }
        }
    }
    Trace::new(path.display().to_string(), arrivals, length, starts_at)
}

fn expect_commas(line: &str) -> Result<(), String> {
    if !line.contains(',') && line.contains([';', '\t']) {
        return Err("columns must be separated by commas, like `10,3`".to_owned());
    }
    Ok(())
}

/// Column names that must not be the first.
const COUNTS: [&str; 2] = ["count", "counts"];
/// Units other than the second.
const OTHER_UNITS: [&str; 15] = [
    "ms",
    "millis",
    "milliseconds",
    "us",
    "micros",
    "microseconds",
    "ns",
    "nanos",
    "nanoseconds",
    "min",
    "minute",
    "minutes",
    "hour",
    "hours",
    "days",
];

/// Refuses a header with other columns or units than those that are read.
fn expect_names(head: &str) -> Result<(), String> {
    let first = head.split(',').next().unwrap_or_default().trim().trim_matches('"');
    let words: Vec<_> = first.split(|c: char| !c.is_alphanumeric()).map(str::to_lowercase).collect();
    let has = |names: &[&str]| words.iter().any(|word| names.contains(&word.as_str()));
    if has(&COUNTS) {
        return Err(format!("the first column must be the time in seconds, not `{first}`"));
    }
    if has(&OTHER_UNITS) {
        return Err(format!("the first column must be in seconds, not `{first}`"));
    }
    Ok(())
}

/// Whether a first row is a header. A mistyped number or a date is not.
fn is_head(line: &str) -> bool {
    let first = line.split(',').next().unwrap_or_default().trim();
    let begins_a_word = |c: char| c.is_alphabetic() || c == '_';
    first.trim_start_matches('"').starts_with(begins_a_word) && first.parse::<f64>().is_err()
}

/// The most frequent distance between rows, and the shortest if several are equally frequent. Rows
/// without arrivals may be missing, and a single irregular row must not shorten the intervals of
/// all others.
fn usual_step(rows: &[(f64, Option<u64>)]) -> f64 {
    let mut gaps: Vec<_> =
        rows.windows(2).map(|pair| pair[1].0 - pair[0].0).filter(|gap| *gap > 0.0).collect();
    gaps.sort_by(f64::total_cmp);
    let same = |a: &f64, b: &f64| (b - a).abs() <= 1e-6 * b.abs();
    let groups = gaps.chunk_by(same).map(|group| (group.len(), group[0]));
    // On equal counts keep the first group, which has the shortest gap.
    groups.reduce(|most, group| if group.0 > most.0 { group } else { most }).map_or(1.0, |(_, gap)| gap)
}

fn row(line: &str) -> Result<(f64, Option<u64>), String> {
    let mut fields = line.split(',').map(|field| field.trim().trim_matches('"').trim());
    let (at, count) = (fields.next().unwrap_or_default(), fields.next());
    if fields.next().is_some() {
        return Err("more than two columns; expected `t_seconds,count` or one arrival time".to_owned());
    }
    let seconds = at.parse::<f64>().map_err(|_| format!("`{at}` must be a number of seconds"))?;
    if !seconds.is_finite() || seconds < 0.0 {
        return Err(format!("`{at}` must be a time in seconds, zero or later"));
    }
    let whole = |text: &str| {
        let count = text.parse::<f64>().ok().filter(|count| *count >= 0.0 && count.fract() == 0.0);
        count.map(|count| count as u64).ok_or_else(|| format!("`{text}` must be a whole number of arrivals"))
    };
    Ok((seconds, count.map(whole).transpose()?))
}

/// One line of a recording. Other keys are ignored.
#[derive(Debug, Deserialize)]
struct Line {
    v: u8,
    at: DateTime<Utc>,
    pool: String,
    arrived: u64,
    service_s: Option<f64>,
    start_delay_s: Option<f64>,
    at_once: Option<f64>,
    limit: Option<u32>,
}

/// The measured values in the lines.
fn recorded(lines: &[Line]) -> Recorded {
    let jobs = |line: &Line| line.arrived as f64;
    let times = || lines.iter().filter_map(|line| Some((jobs(line), line.service_s?)));
    let weight: f64 = times().map(|(jobs, _)| jobs).sum();
    let mean = times().map(|(jobs, service_s)| jobs * service_s).sum::<f64>() / weight;
    let mut delays: Vec<_> = lines.iter().filter_map(|line| line.start_delay_s).collect();
    delays.sort_by(f64::total_cmp);
    Recorded {
        service_s: (weight > 0.0).then_some(mean).or(lines.iter().rev().find_map(|line| line.service_s)),
        start_delay_s: delays.get(delays.len() / 2).copied(),
        at_once: lines.iter().rev().find_map(|line| line.at_once).map(|jobs| jobs.clamp(1.0, MOST_AT_ONCE)),
        limit: lines.last().and_then(|line| line.limit),
    }
}

fn recordings(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let unreadable = |error: std::io::Error| format!("{}: cannot be read: {error}", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(format!("{}: no recording (*.jsonl) is in this folder", folder.display()));
    }
    Ok(files)
}

/// Reads the controller's own recording, in which each line has the arrivals since the pool's
/// previous line.
fn recording(path: &Path, files: &[PathBuf], pool: &str, chance: &mut Chance) -> Result<Trace, String> {
    let mut lines: Vec<Line> = Vec::new();
    let (mut total, mut others) = (0u64, BTreeSet::new());
    for path in files {
        let text = text(path)?;
        let count = text.lines().count();
        for (number, line) in text.lines().enumerate() {
            let wrong = |problem: String| format!("{}:{}: {problem}", path.display(), number + 1);
            if line.trim().is_empty() {
                continue;
            }
            let line: Line = match serde_json::from_str(line) {
                Ok(line) => line,
                // The controller may have been killed while it wrote the last line.
                Err(_) if number + 1 == count && !text.ends_with('\n') => continue,
                Err(error) => return Err(wrong(format!("is not a line of a recording: {error}"))),
            };
            if line.v != 1 {
                return Err(wrong(format!("has version {}; this program reads version 1", line.v)));
            }
            if line.pool != pool {
                others.insert(line.pool);
                continue;
            }
            total = total.saturating_add(line.arrived);
            if total > MOST_ARRIVALS as u64 {
                return Err(wrong(format!("more than {MOST_ARRIVALS} arrivals")));
            }
            lines.push(line);
        }
    }
    lines.sort_by_key(|line| line.at);
    let (Some(Line { at: first, .. }), Some(Line { at: last, .. })) = (lines.first(), lines.last()) else {
        let others: Vec<_> = others.into_iter().collect();
        return Err(format!(
            "{}: the pool {pool} was not recorded; known: {}",
            path.display(),
            if others.is_empty() { "none".to_owned() } else { others.join(", ") }
        ));
    };
    let starts_at = *first - FIRST_STEP;
    let since = |at: &DateTime<Utc>| (*at - starts_at).num_microseconds().unwrap_or(0).unsigned_abs();
    let length = since(last);
    let (mut arrivals, mut from) = (Vec::new(), 0);
    for Line { at, arrived, .. } in &lines {
        let to = since(at);
        let span = (to - from) as f64;
        arrivals.extend((0..*arrived).map(|_| from + (chance.unit() * span) as Micros));
        from = to;
    }
    let trace = Trace::new(path.display().to_string(), arrivals, length, starts_at)?;
    Ok(Trace { recorded: recorded(&lines), ..trace })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        (folder, path)
    }

    fn check(name: &str, text: &str) -> Result<Trace, String> {
        let (_folder, path) = written(name, text);
        read(&path, "p", 1)
    }

    #[track_caller]
    fn check_bad(name: &str, text: &str, expected: &str) {
        let said = check(name, text).unwrap_err();
        assert!(said.contains(expected) && said.contains(name), "{said}");
    }

    #[test]
    fn counts_are_distributed_over_their_intervals() {
        let trace = check("t.csv", "t_seconds,count\n0,2\n30,1\n10,0\n").unwrap();
        assert_eq!((trace.arrivals.len(), trace.length), (3, 40_000_000));
        assert!(trace.arrivals[1] < 10_000_000 && (30_000_000..40_000_000).contains(&trace.arrivals[2]));
    }

    #[test]
    fn one_irregular_row_does_not_change_the_interval_of_the_others() {
        let minutes: String = (0..60).map(|minute| format!("{},60\n", minute * 60)).collect();
        let trace = check("t.csv", &format!("{minutes}90.5,3\n")).unwrap();
        let of_minute = |minute: u64| {
            let within = minute * 60_000_000..(minute + 1) * 60_000_000;
            trace.arrivals.iter().filter(|at| within.contains(at)).map(|at| at % 60_000_000).max().unwrap()
        };
        assert!(of_minute(0) > 30_000_000 && of_minute(40) > 30_000_000, "spread over the minute");
        assert_eq!((trace.arrivals.len(), trace.length), (3603, 3_600_000_000));
    }

    #[test]
    fn a_first_row_is_a_header_only_if_it_does_not_begin_with_a_number() {
        assert_eq!(check("t.csv", ".5,100\n1.5,1\n").unwrap().arrivals.len(), 101);
        assert_eq!(check("t.csv", "+0.5,2\n1e0,1\n").unwrap().arrivals.len(), 3);
        assert_eq!(check("t.csv", "# made by hand\nt,count\n0,2\n").unwrap().arrivals.len(), 2);
        assert_eq!(check("t.csv", "\"time (s)\",\"count\"\n0,2\n1,1\n").unwrap().arrivals.len(), 3);
        check_bad("t.csv", "t,count\nmore,words\n0,2\n", ":2: `more` must be a number of seconds");
        for first in ["1s", "0;5", "-", "2026-01-01T00:00:00Z", "08:00", "0x10"] {
            let said = format!(":1: `{first}` must be a number of seconds");
            check_bad("t.csv", &format!("{first},9\n1,2\n2,1\n"), &said);
        }
    }

    #[test]
    fn a_header_with_other_columns_or_units_is_refused() {
        check_bad(
            "t.csv",
            "count,t_seconds\n2,0\n3,10\n",
            ":1: the first column must be the time in seconds, not `count`",
        );
        check_bad("t.csv", "count\n2\n3\n", ":1: the first column must be the time");
        for first in ["minute", "t_ms", "Time (ms)", "\"hours\""] {
            check_bad("t.csv", &format!("{first},count\n0,2\n"), ":1: the first column must be in seconds");
        }
        for first in ["t_seconds", "time", "seconds", "timestamp", "t"] {
            assert_eq!(check("t.csv", &format!("{first},requests\n0,2\n")).unwrap().arrivals.len(), 2);
        }
    }

    #[test]
    fn fields_may_be_quoted_and_other_separators_are_refused() {
        assert_eq!(check("t.csv", "\"t\",\"count\"\n\"0\",\"2\"\n\"10\",\"3\"\n").unwrap().arrivals.len(), 5);
        check_bad("t.csv", "t;count\n0;2\n", ":1: columns must be separated by commas");
        check_bad("t.csv", "0\t2\n", ":1: columns must be separated by commas");
    }

    #[test]
    fn seconds_since_1970_set_the_time_of_day() {
        let trace = check("t.csv", "t_seconds,count\n1783065610,3\n1783065600,2\n").unwrap();
        assert_eq!(trace.starts_at.to_rfc3339(), "2026-07-03T08:00:00+00:00");
        assert_eq!((trace.arrivals.len(), trace.length), (5, 20_000_000));
        let trace = check("t.csv", "1783065600.5\n1783065601.75\n").unwrap();
        assert_eq!(trace.arrivals, [500_000, 1_750_000]);
        check_bad("t.csv", "1783065600000\n1783065610000\n", "is longer than a year; are its times seconds?");
    }

    #[test]
    fn single_arrivals_are_read_unchanged() {
        let trace = check("t.csv", "at\n1.5\n0.25\n").unwrap();
        assert_eq!((trace.arrivals, trace.length), (vec![250_000, 1_500_000], 1_500_000));
    }

    #[test]
    fn mistakes_are_reported_with_their_line() {
        check_bad("t.csv", "t,count\n0,1\n1,x\n", ":3: `x` must be a whole number");
        check_bad("t.csv", "0,1\nsoon,1\n", ":2: `soon` must be a number of seconds");
        check_bad("t.csv", "0,1\n-1,1\n", ":2: `-1` must be a time in seconds");
        check_bad("t.csv", "0,1\n1\n", ":2: some lines have one column");
        check_bad("t.csv", "0,1,2\n", ":1: more than two columns");
        check_bad("t.csv", "", "has no arrivals");
        check_bad("t.csv", "0,99999999999\n", ":1: more than");
        check_bad("t.jsonl", "{}\n", ":1: is not a line of a recording");
        let line = |v: u8, pool: &str| {
            format!("{{\"v\":{v},\"at\":\"2026-01-01T00:00:00Z\",\"pool\":\"{pool}\",\"arrived\":1}}\n")
        };
        check_bad("t.jsonl", &line(2, "p"), ":1: has version 2");
        check_bad("t.jsonl", &line(1, "q"), "known: q");
    }

    #[test]
    fn a_recording_contains_service_times_and_start_delays() {
        let line = |second: u32, arrived: u64, service_s: f64, start_s: f64| {
            format!(
                "{{\"v\":1,\"at\":\"2026-01-01T00:00:{second:02}Z\",\"pool\":\"p\",\"arrived\":{arrived},\"service_s\":{service_s},\"start_delay_s\":{start_s}}}\n"
            )
        };
        let text = line(0, 30, 1.0, 15.0) + &line(10, 10, 3.0, 16.0) + &line(20, 0, 9.0, 40.0);
        let recorded = check("t.jsonl", &text).unwrap().recorded;
        assert_eq!((recorded.service_s, recorded.start_delay_s), (Some(1.5), Some(16.0)));
        assert_eq!(check("t.csv", "1\n").unwrap().recorded, Recorded::default());
    }

    #[test]
    fn an_absurd_concurrency_in_a_recording_is_limited() {
        for (at_once, expected) in [("1e30", 1000.0), ("0", 1.0), ("4", 4.0)] {
            let line = format!(
                "{{\"v\":1,\"at\":\"2026-01-01T00:00:00Z\",\"pool\":\"p\",\"arrived\":1,\"at_once\":{at_once}}}\n"
            );
            assert_eq!(check("t.jsonl", &line).unwrap().recorded.at_once, Some(expected));
        }
    }

    #[test]
    fn a_recording_is_read_from_a_file_or_folder_even_if_its_end_is_cut_off() {
        let line = |at: &str, arrived: u64| {
            format!(
                "{{\"v\":1,\"at\":\"2026-01-01T{at}Z\",\"pool\":\"p\",\"arrived\":{arrived},\"colour\":\"blue\"}}\n"
            )
        };
        let (folder, _) = written("b.jsonl", &format!("{}{{\"v\":1,", line("00:01:00", 5)));
        fs::write(folder.path().join("a.jsonl"), line("00:00:00", 2)).unwrap();
        let trace = read(folder.path(), "p", 1).unwrap();
        assert_eq!((trace.arrivals.len(), trace.length), (7, 70_000_000));
        assert_eq!(trace.starts_at.to_rfc3339(), "2025-12-31T23:59:50+00:00");
        assert_eq!(trace.arrivals.iter().filter(|at| **at < 10_000_000).count(), 2);
    }
}
