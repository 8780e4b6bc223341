//! What a service should keep, and whether it did.

use std::time::Duration;

use eirs_platform::settings::units;
use serde::Serialize;

use super::tally::Tally;
use crate::show::milliseconds;

/// The goals of a run.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
#[command(next_help_heading = "Goals: the exit code is 1 where one is missed")]
pub struct Slo {
    /// Fail where more than half of the images take longer than this
    #[arg(long, value_name = "TIME", alias = "slo_p50", value_parser = units::duration::parse)]
    pub slo_p50: Option<Duration>,
    /// Fail where more than 5 of 100 images take longer than this
    #[arg(long, value_name = "TIME", alias = "slo_p95", value_parser = units::duration::parse)]
    pub slo_p95: Option<Duration>,
    /// Fail where more than 1 of 100 images takes longer than this
    #[arg(long, value_name = "TIME", alias = "slo_p99", value_parser = units::duration::parse)]
    pub slo_p99: Option<Duration>,
    /// Fail where a larger share of the images fails than this [default: 0%]
    #[arg(long, value_name = "SHARE", alias = "slo_errors", value_parser = share)]
    pub slo_errors: Option<f64>,
}

/// Reads `1%` and `0.01`.
fn share(text: &str) -> Result<f64, String> {
    let number = |text: &str| text.trim().parse::<f64>().ok();
    let share = match text.trim().strip_suffix('%') {
        Some(percent) => number(percent).map(|percent| percent / 100.0),
        None => number(text),
    };
    let share = share.filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| format!("`{text}` is not a share; write one like 1% or 0.01"))
}

/// Whether the goals were met.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// All of them.
    pub met: bool,
    /// Each of them.
    pub goals: Vec<Goal>,
}

/// One goal.
#[derive(Debug, Clone, Serialize)]
pub struct Goal {
    /// `p50`, `p95` and `p99` in milliseconds, `errors` as a share from 0 to 1.
    pub name: &'static str,
    /// At most this.
    pub limit: f64,
    /// What it was; absent where so many failed that there is no such latency.
    pub value: Option<f64>,
    /// Whether that is within the limit.
    pub met: bool,
}

impl Slo {
    /// The verdict, where there are goals. An image that failed has not been classified within any time: it counts among the slow ones.
    pub(super) fn judge(&self, tally: &Tally) -> Option<Verdict> {
        let all = tally.ended_images();
        let mut goals = Vec::new();
        for (name, quantile, limit) in self.latencies() {
            let limit = limit.as_secs_f64() * 1e3;
            let of_results =
                if tally.results > 0 { quantile * all as f64 / tally.results as f64 } else { 2.0 };
            let is_there = of_results <= 1.0 + 1e-9;
            let value =
                is_there.then(|| tally.latency_us.value_at_quantile(of_results.min(1.0)) as f64 / 1e3);
            goals.push(Goal { name, limit, value, met: value.is_some_and(|value| value <= limit) });
        }
        if goals.is_empty() && self.slo_errors.is_none() {
            return None;
        }
        let limit = self.slo_errors.unwrap_or(0.0);
        let value = if all > 0 { tally.failed_images() as f64 / all as f64 } else { 0.0 };
        goals.push(Goal { name: "errors", limit, value: Some(value), met: all > 0 && value <= limit });
        Some(Verdict { met: goals.iter().all(|goal| goal.met), goals })
    }

    /// The latencies that have a limit, with their quantile.
    fn latencies(&self) -> impl Iterator<Item = (&'static str, f64, Duration)> {
        let named = [("p50", 0.5, self.slo_p50), ("p95", 0.95, self.slo_p95), ("p99", 0.99, self.slo_p99)];
        named.into_iter().filter_map(|(name, quantile, limit)| Some((name, quantile, limit?)))
    }
}

impl Goal {
    /// `p95 at most 2000 ms`
    pub fn asked(&self) -> String {
        format!("{} at most {}", self.name, self.shown(self.limit))
    }

    /// `it was 1.2 ms`
    pub fn found(&self) -> String {
        match self.value {
            Some(value) => self.shown(value),
            None => "too many failed to have one".to_owned(),
        }
    }

    fn shown(&self, value: f64) -> String {
        match self.name {
            "errors" => format!("{}%", (value * 1e5).round() / 1e3),
            _latency => milliseconds(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tally::Times, *};

    /// So many results of 10 ms, of 100 ms, and failures.
    fn tally(fast: u64, slow: u64, failed: u64) -> Tally {
        let mut tally = Tally::default();
        let times = |ms| Times { due: Duration::ZERO, took: Duration::from_millis(ms) };
        (0..fast).for_each(|_| tally.classified(times(10), "x", None));
        (0..slow).for_each(|_| tally.classified(times(100), "x", None));
        (0..failed).for_each(|_| tally.failed(times(1), "500".into(), "oops".into()));
        tally
    }

    #[track_caller]
    fn check(slo: Slo, tally: &Tally, expected: &[(&str, Option<f64>, bool)]) {
        let verdict = slo.judge(tally).unwrap();
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
        let p95 = |ms| Slo { slo_p95: Some(Duration::from_millis(ms)), ..Slo::default() };
        check(p95(50), &tally(95, 5, 0), &[("p95", Some(10.01), true), ("errors", Some(0.0), true)]);
        check(p95(50), &tally(94, 6, 0), &[("p95", Some(100.03), false), ("errors", Some(0.0), true)]);
        let lenient = Slo { slo_errors: Some(0.1), ..p95(50) };
        check(lenient, &tally(94, 0, 6), &[("p95", None, false), ("errors", Some(0.06), true)]);
        check(lenient, &tally(95, 0, 5), &[("p95", Some(10.01), true), ("errors", Some(0.05), true)]);
    }

    #[test]
    fn without_goals_there_is_no_verdict_and_with_one_no_error_is_forgiven_unsaid() {
        assert!(Slo::default().judge(&tally(1, 0, 1)).is_none());
        let p50 = Slo { slo_p50: Some(Duration::from_secs(1)), ..Slo::default() };
        check(p50, &tally(9, 0, 1), &[("p50", Some(10.01), true), ("errors", Some(0.1), false)]);
    }

    #[test]
    fn a_run_in_which_nothing_happened_meets_nothing() {
        let slo = Slo { slo_p99: Some(Duration::from_secs(1)), ..Slo::default() };
        check(slo, &tally(0, 0, 0), &[("p99", None, false), ("errors", Some(0.0), false)]);
    }

    #[test]
    fn a_share_is_a_percentage_or_a_fraction() {
        assert_eq!((share("1%"), share("0.01"), share("0")), (Ok(0.01), Ok(0.01), Ok(0.0)));
        for wrong in ["", "2", "101%", "-1%", "few"] {
            assert!(share(wrong).unwrap_err().contains("is not a share"), "{wrong}");
        }
    }
}
