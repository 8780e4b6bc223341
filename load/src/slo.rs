//! Goals for a service, and whether it met them.

use std::{str::FromStr, time::Duration};

use serde::Serialize;

use crate::{tally::Tally, words::milliseconds};

/// The goals of a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Slo {
    /// Limit for the median latency.
    pub p50: Option<Duration>,
    /// Limit for the 95th percentile.
    pub p95: Option<Duration>,
    /// Limit for the 99th percentile.
    pub p99: Option<Duration>,
    /// Maximum share of failed images; zero if only other goals are set.
    pub errors: Option<Share>,
}

/// A share as a fraction of integers, so that 7 of 1000 equal 0.7% exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    parts: u64,
    of: u64,
}

impl Share {
    const NONE: Self = Self { parts: 0, of: 1 };
    /// Maximum number of decimals.
    const DIGITS: usize = 12;

    /// Returns whether `part` of `all` is at most this share.
    fn has(self, part: u64, all: u64) -> bool {
        u128::from(part) * u128::from(self.of) <= u128::from(self.parts) * u128::from(all)
    }

    fn value(self) -> f64 {
        self.parts as f64 / self.of as f64
    }
}

impl FromStr for Share {
    type Err = String;

    /// Parses `1%` and `0.01`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a share; write one like 1% or 0.01");
        let trimmed = text.trim();
        let (number, whole) =
            trimmed.strip_suffix('%').map_or((trimmed, 1), |number| (number.trim_end(), 100));
        let (before, behind) = number.split_once('.').unwrap_or((number, ""));
        let digits = [before, behind].concat();
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number || behind.len() > Self::DIGITS {
            return Err(wrong());
        }
        let parts = digits.parse().map_err(|_too_large| wrong())?;
        let of = whole * 10u64.pow(behind.len() as u32);
        if parts > of { Err(wrong()) } else { Ok(Self { parts, of }) }
    }
}

/// Whether the goals were met.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// Whether all goals were met.
    pub met: bool,
    /// The goals.
    pub goals: Vec<Goal>,
}

/// One goal.
#[derive(Debug, Clone, Serialize)]
pub struct Goal {
    /// `p50`, `p95` and `p99` are in milliseconds, `errors` is a share in [0, 1].
    pub name: &'static str,
    /// The maximum.
    pub limit: f64,
    /// The measured value; absent if too many images failed for this percentile.
    pub value: Option<f64>,
    /// Whether the value is within the limit.
    pub met: bool,
}

impl Slo {
    /// Returns the verdict, if there are goals. A failed image counts as slower than any limit.
    pub(crate) fn judge(&self, tally: &Tally) -> Option<Verdict> {
        let (all, results) = (tally.ended_images(), tally.results);
        let mut goals = Vec::new();
        for (name, percent, limit) in self.latencies() {
            // The number of images that must be within the limit.
            let needed = (percent * all).div_ceil(100);
            let met = all > 0 && tally.within(limit) >= needed;
            let limit = limit.as_secs_f64() * 1e3;
            let value = (all > 0 && results >= needed).then(|| {
                let value = tally.latency_us.value_at_quantile(needed as f64 / results as f64) as f64 / 1e3;
                // The histogram rounds up.
                if met { value.min(limit) } else { value }
            });
            goals.push(Goal { name, limit, value, met });
        }
        if goals.is_empty() && self.errors.is_none() {
            return None;
        }
        let (limit, failed) = (self.errors.unwrap_or(Share::NONE), tally.failed_images());
        let value = if all > 0 { failed as f64 / all as f64 } else { 0.0 };
        let met = all > 0 && limit.has(failed, all);
        goals.push(Goal { name: "errors", limit: limit.value(), value: Some(value), met });
        Some(Verdict { met: goals.iter().all(|goal| goal.met), goals })
    }

    /// Returns the limits of the latencies.
    pub(crate) fn limits(&self) -> impl Iterator<Item = Duration> {
        self.latencies().map(|(_, _, limit)| limit)
    }

    /// Returns the latency goals, with the percentage of images that must meet them.
    fn latencies(&self) -> impl Iterator<Item = (&'static str, u64, Duration)> {
        let named = [("p50", 50, self.p50), ("p95", 95, self.p95), ("p99", 99, self.p99)];
        named.into_iter().filter_map(|(name, percent, limit)| Some((name, percent, limit?)))
    }
}

impl Goal {
    /// Formats the goal as `p95 at most 2000 ms`.
    pub fn asked(&self) -> String {
        format!("{} at most {}", self.name, self.shown(self.limit))
    }

    /// Formats the value as `1.2 ms`.
    pub fn found(&self) -> String {
        match self.value {
            Some(value) => self.shown(value),
            None => "too many failed to have one".to_owned(),
        }
    }

    fn shown(&self, value: f64) -> String {
        match self.name {
            "errors" => format!("{}%", (value * 1e7).round() / 1e5),
            _latency => milliseconds(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::Times;

    /// A tally of results of 10 ms and of 100 ms, and of failures, with these goals.
    fn tally(slo: Slo, fast: u64, slow: u64, failed: u64) -> Tally {
        let times = |ms| Times { due: Duration::ZERO, took: Duration::from_millis(ms) };
        let mut tally = Tally::with_limits(slo.limits());
        (0..fast).for_each(|_| tally.classified(times(10), "x", None));
        (0..slow).for_each(|_| tally.classified(times(100), "x", None));
        (0..failed).for_each(|_| tally.failed(times(1), "500".into(), "oops".into()));
        tally
    }

    #[track_caller]
    fn check(slo: Slo, counts: [u64; 3], expected: &[(&str, Option<f64>, bool)]) {
        let [fast, slow, failed] = counts;
        let verdict = slo.judge(&tally(slo, fast, slow, failed)).unwrap();
        let found: Vec<_> = verdict
            .goals
            .iter()
            .map(|goal| (goal.name, goal.value.map(|value| (value * 100.0).round() / 100.0), goal.met))
            .collect();
        assert_eq!(found, expected);
        assert_eq!(verdict.met, expected.iter().all(|(_, _, met)| *met));
    }

    #[test]
    fn a_goal_is_met_up_to_its_limit_and_failures_are_slow() {
        let p95 = |ms| Slo { p95: Some(Duration::from_millis(ms)), ..Slo::default() };
        check(p95(50), [95, 5, 0], &[("p95", Some(10.0), true), ("errors", Some(0.0), true)]);
        check(p95(50), [94, 6, 0], &[("p95", Some(100.0), false), ("errors", Some(0.0), true)]);
        check(p95(10), [95, 5, 0], &[("p95", Some(10.0), true), ("errors", Some(0.0), true)]);
        let lenient = Slo { errors: Some("10%".parse().unwrap()), ..p95(50) };
        check(lenient, [94, 0, 6], &[("p95", None, false), ("errors", Some(0.06), true)]);
        check(lenient, [95, 0, 5], &[("p95", Some(10.0), true), ("errors", Some(0.05), true)]);
    }

    #[test]
    fn latencies_are_judged_exactly_despite_the_histogram() {
        let slo = Slo { p95: Some(Duration::from_secs(10)), ..Slo::default() };
        for (took_us, met) in [(9_995_800, true), (10_000_000, true), (10_000_001, false)] {
            let mut tally = Tally::with_limits(slo.limits());
            tally.classified(Times { due: Duration::ZERO, took: Duration::from_micros(took_us) }, "x", None);
            let verdict = slo.judge(&tally).unwrap();
            let value = verdict.goals[0].value.unwrap();
            assert_eq!((verdict.met, value <= 10_000.0), (met, met), "{took_us}: {value}");
            assert!((value - took_us as f64 / 1e3).abs() < 2.0, "{took_us}: {value}");
        }
    }

    #[test]
    fn a_share_of_errors_is_judged_exactly() {
        for (share, failed, all, met) in [
            ("0.7%", 7, 1000, true),
            ("0.7%", 8, 1000, false),
            ("0.3%", 3, 1000, true),
            ("1%", 29, 2900, true),
        ] {
            let slo = Slo { errors: Some(share.parse().unwrap()), ..Slo::default() };
            let verdict = slo.judge(&tally(slo, all - failed, 0, failed)).unwrap();
            assert_eq!(verdict.met, met, "{failed} of {all}, at most {share}");
        }
        let slo = Slo { errors: Some("0.7%".parse().unwrap()), ..Slo::default() };
        assert_eq!(slo.judge(&tally(slo, 993, 0, 7)).unwrap().goals[0].found(), "0.7%");
    }

    #[test]
    fn without_goals_there_is_no_verdict_and_any_goal_forbids_errors() {
        assert!(Slo::default().judge(&tally(Slo::default(), 1, 0, 1)).is_none());
        let p50 = Slo { p50: Some(Duration::from_secs(1)), ..Slo::default() };
        check(p50, [9, 0, 1], &[("p50", Some(10.0), true), ("errors", Some(0.1), false)]);
    }

    #[test]
    fn an_empty_run_meets_no_goal() {
        let slo = Slo { p99: Some(Duration::from_secs(1)), ..Slo::default() };
        check(slo, [0, 0, 0], &[("p99", None, false), ("errors", Some(0.0), false)]);
    }

    #[test]
    fn a_share_is_a_percentage_or_a_fraction() {
        let value = |text: &str| text.parse::<Share>().map(Share::value);
        assert_eq!(
            (value("1%"), value("0.01"), value("0"), value(".5 %")),
            (Ok(0.01), Ok(0.01), Ok(0.0), Ok(0.005))
        );
        for wrong in ["", "%", ".", "2", "101%", "-1%", "few", "1e-3", "0.0000000000001"] {
            assert!(value(wrong).unwrap_err().contains("is not a share"), "{wrong}");
        }
    }
}
