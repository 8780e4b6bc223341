//! Simulates several values of keys of the policy and tabulates cost and latency, so that a policy
//! can be chosen.

use std::{collections::BTreeMap, str::FromStr, time::Duration};

use eirs_controller::simulate::{Figures, Sweep, TraceSummary, is_better};
use eirs_platform::settings::units;
use serde::Serialize;

use super::{
    overrides::Override,
    text::{HEADS, cells, title, wrong},
};
use crate::show;

/// Maximum number of values of a range without a step.
const VALUES: f64 = 10.0;
/// Maximum number of runs; a longer table is unreadable.
const MOST_RUNS: usize = 1000;

/// A key and its values, such as `rule.per_instance=5..50`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    key: String,
    values: Vec<String>,
}

impl FromStr for Axis {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, range) = text.split_once('=').ok_or("must be KEY=RANGE, like rule.per_instance=5..50")?;
        // Checks the key before anything runs.
        Override::new(key, "0")?;
        Ok(Self { key: key.trim().to_owned(), values: values(range.trim())? })
    }
}

/// Parses `5..50`, `5..50:5`, `10s..60s`, or a list.
fn values(range: &str) -> Result<Vec<String>, String> {
    let Some((from, rest)) = range.split_once("..") else {
        let listed: Vec<_> = range.split(',').map(|value| value.trim().to_owned()).collect();
        if listed.iter().any(String::is_empty) {
            return Err(format!("`{range}` is not a list of values, like 5,10,20"));
        }
        return Ok(listed);
    };
    let (to, step) = rest.split_once(':').map_or((rest, None), |(to, step)| (to, Some(step)));
    let unit = Unit::of(from, to);
    let read = |text: &str| {
        unit.read(text).ok_or_else(|| {
            format!(
                "`{text}` in `{range}` is neither a \
            number nor a time"
            )
        })
    };
    let (from, to) = (read(from)?, read(to)?);
    let step = match step {
        Some(step) => read(step)?,
        None => nice((to - from) / (VALUES - 1.0), unit),
    };
    if to < from || step <= 0.0 {
        return Err(format!("`{range}` must rise, like 5..50 or 10s..60s:10s"));
    }
    let count = ((to - from) / step + 1e-9) as usize + 1;
    if count > MOST_RUNS {
        return Err(format!("`{range}` has {count} values; at most {MOST_RUNS} are allowed"));
    }
    Ok((0..count).map(|number| unit.write(step.mul_add(number as f64, from))).collect())
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Unit {
    Whole,
    Real,
    Time,
}

impl Unit {
    fn of(from: &str, to: &str) -> Self {
        let both = |is: fn(&str) -> bool| is(from.trim()) && is(to.trim());
        if both(|text| text.parse::<u32>().is_ok()) {
            Self::Whole
        } else if both(|text| text.parse::<f64>().is_ok()) {
            Self::Real
        } else {
            Self::Time
        }
    }

    fn read(self, text: &str) -> Option<f64> {
        let text = text.trim();
        match self {
            Self::Whole => text.parse::<u32>().ok().map(f64::from),
            Self::Real => text.parse::<f64>().ok().filter(|number| number.is_finite()),
            Self::Time => units::duration::parse(text).ok().map(|time| time.as_secs_f64()),
        }
    }

    fn write(self, value: f64) -> String {
        match self {
            Self::Whole => format!("{value:.0}"),
            // Rounds, since sums of tenths are inexact.
            Self::Real => format!("{}", (value * 1e9).round() / 1e9),
            Self::Time => {
                let time = Duration::from_millis((value * 1e3).round() as u64);
                humantime::format_duration(time).to_string()
            }
        }
    }
}

/// Returns the next larger round step: 1, 2, 3 or 5, 10, 20 ...
fn nice(least: f64, unit: Unit) -> f64 {
    if least <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(least.log10().floor());
    let step = [1.0, 2.0, 3.0, 5.0, 10.0].map(|times| times * power);
    let step = step.into_iter().find(|step| *step >= least * 0.999).unwrap_or(10.0 * power);
    if unit == Unit::Whole { step.max(1.0) } else { step }
}

/// A policy of the grid: the value of each key.
pub(super) type Point = Vec<(String, String)>;

/// Returns all combinations of values, the last key varying fastest.
pub(super) fn grid(axes: &[Axis]) -> Result<Vec<Point>, String> {
    let count = axes.iter().map(|axis| axis.values.len()).try_fold(1usize, usize::checked_mul);
    if count.is_none_or(|count| count > MOST_RUNS) {
        return Err(format!("all --sweep together make more than {MOST_RUNS} policies"));
    }
    let mut keys: Vec<_> = axes.iter().map(|axis| axis.key.as_str()).collect();
    keys.sort_unstable();
    if let Some(twice) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(format!("two --sweep of {}; give it all its values in one", twice[0]));
    }
    let extend = |points: Vec<Point>, axis: &Axis| {
        let with = |point: &Point| {
            let (point, axis) = (point.clone(), axis.clone());
            axis.values.into_iter().map(move |value| [&point[..], &[(axis.key.clone(), value)]].concat())
        };
        points.iter().flat_map(with).collect()
    };
    Ok(axes.iter().fold(vec![Point::new()], extend))
}

/// Returns the overrides for a point of the grid.
pub(super) fn overrides(point: &Point) -> Result<Vec<Override>, String> {
    point.iter().map(|(key, value)| Override::new(key, value)).collect()
}

/// The grid and its results.
#[derive(Debug, Serialize)]
pub(super) struct Front<'a> {
    trace: &'a TraceSummary,
    sweep: Vec<Row<'a>>,
    clairvoyant: &'a Figures,
    references: &'a BTreeMap<&'static str, Figures>,
}

#[derive(Debug, Serialize)]
struct Row<'a> {
    set: BTreeMap<&'a str, &'a str>,
    /// Whether no other policy is both cheaper and faster.
    on_front: bool,
    #[serde(flatten)]
    figures: &'a Figures,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    wrong: &'a [String],
}

impl<'a> Front<'a> {
    pub(super) fn of(points: &'a [Point], sweep: &'a Sweep) -> Self {
        let all: Vec<_> = sweep.policies.iter().map(|(figures, _)| figures).collect();
        let row = |(point, (figures, wrong)): (&'a Point, &'a (Figures, Vec<String>))| Row {
            set: point.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect(),
            on_front: !all.iter().any(|other| is_better(other, figures)),
            figures,
            wrong,
        };
        Self {
            trace: &sweep.trace,
            sweep: points.iter().zip(&sweep.policies).map(row).collect(),
            clairvoyant: &sweep.clairvoyant,
            references: &sweep.references,
        }
    }

    pub(super) fn is_well(&self) -> bool {
        self.sweep.iter().all(|row| row.wrong.is_empty())
    }

    /// Formats as a table, cheapest first: along the front, the latency decreases.
    pub(super) fn text(&self, axes: &[Axis]) -> String {
        let keys: Vec<_> = axes.iter().map(|axis| axis.key.as_str()).collect();
        let best = self.clairvoyant.cost_usd;
        let mut sorted: Vec<_> = self.sweep.iter().collect();
        sorted.sort_by(|a, b| {
            let by = |row: &Row<'_>| [row.figures.cost_usd, row.figures.p95_s];
            by(a).partial_cmp(&by(b)).unwrap_or(std::cmp::Ordering::Equal)
        });
        let ours = |row: &&Row<'_>| {
            let values = keys.iter().map(|key| row.set.get(key).copied().unwrap_or_default().to_owned());
            let mark = if row.on_front { "*" } else { "" };
            [values.collect(), vec![mark.to_owned()], cells(row.figures, best)].concat()
        };
        let mut rows: Vec<_> = sorted.iter().map(ours).collect();
        let others = [("clairvoyant", self.clairvoyant)].into_iter();
        let others = others.chain(self.references.iter().map(|(name, figures)| (*name, figures)));
        rows.extend(others.map(|(name, figures)| {
            let mut start = vec![String::new(); keys.len() + 1];
            name.clone_into(&mut start[0]);
            [start, cells(figures, best)].concat()
        }));
        let head = [&keys[..], &["front"], &HEADS[..]].concat();
        let broken: Vec<_> = self.sweep.iter().flat_map(|row| row.wrong.iter().cloned()).collect();
        format!(
            "{}\n\n{}\n* no other value is both cheaper and faster at the 95th percentile\n{}",
            title(self.trace),
            show::table(&head, &rows),
            wrong(&broken)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(range: &str, expected: &[&str]) {
        assert_eq!(values(range).unwrap(), expected, "{range}");
    }

    #[test]
    fn ranges_and_lists_become_values() {
        check("5..50", &["5", "10", "15", "20", "25", "30", "35", "40", "45", "50"]);
        check("5..50:20", &["5", "25", "45"]);
        check("1..3", &["1", "2", "3"]);
        check("7..7", &["7"]);
        check("10s..60s", &["10s", "20s", "30s", "40s", "50s", "1m"]);
        check("30s..2m:30s", &["30s", "1m", "1m 30s", "2m"]);
        check("0.5..0.9:0.2", &["0.5", "0.7", "0.9"]);
        check("5, 10,20s", &["5", "10", "20s"]);
        check("9", &["9"]);
    }

    #[test]
    fn invalid_ranges_are_named_in_the_error() {
        for (bad, expected) in [
            ("50..5", "must rise"),
            ("5..50:0", "must rise"),
            ("5..many", "is neither a number nor a time"),
            ("5,,6", "is not a list"),
            ("", "is not a list"),
            ("1..100000:1", "are allowed"),
        ] {
            let said = values(bad).unwrap_err();
            assert!(said.contains(expected), "{bad}: {said}");
        }
        assert!("max=1..2".parse::<Axis>().is_err() && "pool.max".parse::<Axis>().is_err());
    }

    #[test]
    fn a_key_is_swept_once() {
        let axes: Vec<Axis> =
            ["pool.max=1..3", "pool.min=0,1", "pool.max=4..5"].map(|text| text.parse().unwrap()).into();
        assert_eq!(grid(&axes).unwrap_err(), "two --sweep of pool.max; give it all its values in one");
    }

    #[test]
    fn several_keys_make_a_grid_and_too_large_a_grid_is_refused() {
        let axes: Vec<Axis> = ["pool.max=1,2", "rule.p95=10s,20s"].map(|text| text.parse().unwrap()).into();
        let points = grid(&axes).unwrap();
        let values =
            points.iter().map(|point| point.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>());
        let values: Vec<_> = values.collect();
        assert_eq!(values, [["1", "10s"], ["1", "20s"], ["2", "10s"], ["2", "20s"]]);
        let many: Vec<Axis> =
            ["pool.max=1..50:1", "pool.min=1..50:1"].map(|text| text.parse().unwrap()).into();
        assert!(grid(&many).is_err());
    }

    #[test]
    fn the_front_has_all_policies_that_none_beats_in_both() {
        let figures = |cost_usd, p95_s| Figures { cost_usd, p95_s, ..Figures::default() };
        let (cheap, fast) = (figures(1.0, 9.0), figures(3.0, 2.0));
        let (between, beaten, same) = (figures(2.0, 5.0), figures(2.5, 5.0), figures(2.0, 5.0));
        assert!(is_better(&between, &beaten));
        for (one, other) in
            [(cheap, fast), (fast, cheap), (between, same), (cheap, between), (beaten, between)]
        {
            assert!(!is_better(&one, &other));
        }
    }
}
