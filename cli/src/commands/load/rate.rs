//! The arguments of the open loop. Rates are parsed by the load generator, traces by the simulator.

use std::{path::Path, time::Duration};

use eirs_controller::simulate::trace::{self, Trace};
use eirs_load::{Arrivals, OpenLoop, Schedule};

/// The open loop: when uploads are sent.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Open loop")]
pub(super) struct Rate {
    /// Send uploads at this rate per second, at changing rates, or as in a trace
    #[arg(long, value_name = "RATE|TRACE")]
    rate: Option<String>,
    /// How uploads are spaced at a rate [default: even]
    #[arg(long, value_name = "HOW", requires = "rate")]
    arrivals: Option<Spacing>,
    /// The seed of random arrivals: the same one gives the same arrivals
    #[arg(long, value_name = "N", default_value_t = 1, requires = "rate")]
    seed: u64,
    /// Maximum uploads in flight; a further upload waits, and its latency keeps counting
    #[arg(
        long, value_name = "N", alias = "max_in_flight", default_value_t = 1000, requires = "rate",
        value_parser = clap::value_parser!(u32).range(1..=100_000)
    )]
    pub(super) max_in_flight: u32,
    /// Speed up a trace by this factor
    #[arg(long, value_name = "TIMES", default_value_t = 1.0, requires = "rate", value_parser = speed)]
    speed: f64,
    /// The pool of a recording
    #[arg(long, value_name = "NAME", default_value = "default", requires = "rate")]
    pool: String,
}

/// How the uploads of a rate are spread over time.
#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum Spacing {
    /// At equal distances
    #[default]
    Even,
    /// At random, as those of many independent clients
    Poisson,
}

impl From<Spacing> for Arrivals {
    fn from(spacing: Spacing) -> Self {
        match spacing {
            Spacing::Even => Self::Even,
            Spacing::Poisson => Self::Poisson,
        }
    }
}

impl Rate {
    /// Returns the open loop; `None` without a rate. The error is a sentence.
    pub(super) fn open_loop(&self) -> Result<Option<OpenLoop>, String> {
        let Some(words) = self.rate.as_deref() else { return Ok(None) };
        let schedule = schedule(words, &self.pool, self.seed, self.speed)
            .map_err(|problem| format!("--rate {problem}"))?;
        if schedule.is_trace() && self.arrivals.is_some() {
            return Err("--arrivals is for rates: a trace has its own times".to_owned());
        }
        if !schedule.is_trace() && self.speed != 1.0 {
            return Err("--speed is for traces: write another rate".to_owned());
        }
        let arrivals = self.arrivals.unwrap_or_default().into();
        Ok(Some(OpenLoop { arrivals, seed: self.seed, ..OpenLoop::new(words, schedule) }))
    }
}

/// Parses rates, or reads a trace: a file, the controller's recording, or a generator of the
/// simulator. An existing file has precedence. `speed` accelerates a trace.
fn schedule(words: &str, pool: &str, seed: u64, speed: f64) -> Result<Schedule, String> {
    let path = Path::new(words);
    let read = if path.exists() { Some(trace::read(path, pool, seed)) } else { trace::generate(words, seed) };
    if let Some(trace) = read {
        return Ok(replay(&trace?, speed));
    }
    let is_path = words.ends_with(".csv") || ["/", "./", "../"].iter().any(|start| words.starts_with(start));
    if is_path {
        return Err(format!("`{words}`: no such file"));
    }
    words
        .parse()
        .map_err(|problem| format!("{problem}; a trace is a file, or a generator like burst:300/10m@1h"))
}

fn replay(trace: &Trace, speed: f64) -> Schedule {
    Schedule::from_moments(trace.arrivals.iter().map(|at| Duration::from_micros(*at).div_f64(speed)))
}

fn speed(text: &str) -> Result<f64, String> {
    let speed = text.parse::<f64>().ok().filter(|speed| speed.is_finite() && (1e-3..=1e6).contains(speed));
    speed.ok_or_else(|| format!("`{text}` must be a number of times, like 10"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_sent_at_its_own_times_or_faster() {
        let file = tempfile::Builder::new().suffix(".csv").tempfile().unwrap();
        std::fs::write(&file, "at\n0.5\n2\n2\n").unwrap();
        let words = file.path().to_str().unwrap();
        for (speed, expected) in [(1.0, [0.5, 2.0, 2.0]), (4.0, [0.125, 0.5, 0.5])] {
            let schedule = schedule(words, "default", 1, speed).unwrap();
            let sends: Vec<_> = schedule.sends(Arrivals::Even, 1).map(|at| at.as_secs_f64()).collect();
            assert_eq!(sends, expected);
            assert!(schedule.is_trace());
        }
    }

    #[test]
    fn a_generator_of_the_simulator_is_a_trace_and_ends_with_its_last_arrival() {
        let burst = schedule("burst:3/10s@20s", "default", 1, 1.0).unwrap();
        let sends: Vec<_> = burst.sends(Arrivals::Even, 1).map(|at| at.as_secs_f64()).collect();
        assert_eq!(sends, [5.0, 5.0, 5.0, 15.0, 15.0, 15.0]);
        assert_eq!(burst.end(), Some(Duration::from_secs(15)));
    }

    #[test]
    fn other_words_are_refused_in_a_sentence() {
        for (words, expected) in [
            ("fast", "`fast` is not a rate"),
            ("fast", "; a trace is a file, or a generator like burst:300/10m@1h"),
            ("nowhere.csv", "`nowhere.csv`: no such file"),
            ("./nowhere", "no such file"),
            ("constant:5@1h", "is not a rate"),
        ] {
            let said = schedule(words, "default", 1, 1.0).unwrap_err();
            assert!(said.contains(expected), "{words}: {said}");
        }
    }
}
