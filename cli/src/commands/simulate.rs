//! `eirs simulate`

mod front;
mod luck;
mod overrides;
mod plot;
mod sweep;
mod text;
mod together;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use eirs_controller::{
    policy::{Policy, load, parse},
    simulate::{self, Comparison, Distribution, Draw, Recorded, Reference, Setup, Trace, compare},
};
use indicatif::{ProgressBar, ProgressStyle};

use self::{
    luck::Luck,
    overrides::{Override, apply},
    sweep::{Axis, Front, grid},
};
use crate::{Exit, Global, Stop, show::Voice};

/// The default rules of the comparison.
const REFERENCES: &str = "seed,keda,target-tracking,kpa";
/// Default number of seeds, if all runs together have at most [`MOST_JOBS`] jobs.
const SEEDS: u64 = 5;
/// See [`SEEDS`].
const MOST_JOBS: u64 = 200_000;

/// Replay arrivals under a policy, beside other autoscalers and perfect foresight
///
/// Decisions are made by the controller's own code; queue, instances and clock are simulated. All
/// rules get the same arrivals, service times and start delays. docs/SIMULATE.md explains the
/// report.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  eirs simulate --trace diurnal\n  \
                  eirs simulate --policy policies --trace arrivals.csv --service-time 800ms~exp --json\n  \
                  eirs simulate --trace burst:500/10m@2h --set pool.max=15 --set scale_in.idle=30s\n\n\
                  A trace is a CSV file (`t_seconds,count`, or one column of arrival times in seconds),\n\
                  the controller's recording (*.jsonl, or a folder of them), or a generator:\n\
                  KIND[:RATE][,KEY=VALUE][@LENGTH]\n  \
                  constant:5/s@1h   poisson:300/m@1h   diurnal:0..5/s,period=24h@24h\n  \
                  burst:300/10m@1h   onoff:4/s,on=5m,off=15m@2h")]
pub(crate) struct Simulate {
    /// The policy, or a folder of policies [default: the folder of the settings]
    #[arg(long, value_name = "FILE|FOLDER")]
    policy: Option<PathBuf>,
    /// The pool of the folder, and of the recording [default: `default`, or the only one]
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,
    /// When requests arrive: a file, a folder, or a generator; POOL=TRACE, several times, simulates
    /// these pools of a folder together
    #[arg(long, value_name = "TRACE", required = true)]
    trace: Vec<String>,
    /// The limit on all pools together [default: as recorded, or none]
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
    /// How long a job takes: 2s, 2s~exp, 2s~lognormal:0.5, 2s~uniform:0.2; the time is the mean
    /// [default: as recorded, or 2s~lognormal:0.5]
    #[arg(long, value_name = "TIME")]
    service_time: Option<Distribution>,
    /// Jobs that one instance works on at the same time [default: as recorded, or 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    concurrency: Option<u32>,
    /// From the start of an instance to its first job, written like the service time [default: as
    /// recorded, or 25s~lognormal:0.2]
    #[arg(long, value_name = "TIME")]
    start_delay: Option<Distribution>,
    /// The part of a start in which the machine does not run yet and is not billed
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    pending: Duration,
    /// The latency that a request must not exceed
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = some_time)]
    slo_p95: Duration,
    /// The seed: the same one gives the same run
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// How many seeds, from that one on, for confidence intervals [default: 5, fewer where there
    /// are many requests]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100))]
    seeds: Option<u64>,
    /// The controller looks at least this often
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = some_time)]
    tick: Duration,
    /// Price of an instance per hour [default: as in the policy]
    #[arg(long, value_name = "USD")]
    usd_per_hour: Option<f64>,
    /// Minimum billed time per start [default: as in the policy]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    billing_minimum: Option<Duration>,
    /// Set a key of the policy, as in pool.max=15, scale_in.idle=30s or rule[1].per_instance=20
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<Override>,
    /// Try values of a key, as in rule.per_instance=5..50, pool.max=5..20:5 or
    /// scale_in.idle=10s,30s,2m; several make a grid
    #[arg(long, value_name = "KEY=RANGE")]
    sweep: Vec<Axis>,
    /// Plot arrivals, backlog, instances and latency
    #[arg(long, value_name = "FILE.svg", conflicts_with = "sweep")]
    plot: Option<PathBuf>,
    /// Draw cost against latency: the policy, and each of the other rules with several values of
    /// its main parameter
    #[arg(long, value_name = "FILE.svg", conflicts_with = "sweep")]
    front: Option<PathBuf>,
    /// The other rules to compare with
    #[arg(
        long,
        value_name = "RULES",
        value_delimiter = ',',
        default_value = REFERENCES
    )]
    compare: Vec<String>,
    #[command(flatten)]
    voice: Voice,
    #[command(flatten)]
    luck: Luck,
}

impl Simulate {
    /// Runs the command.
    pub(crate) fn run(self, global: &Global) -> Result<Exit, Stop> {
        if let [several, ..] = &self.trace[..]
            && (self.trace.len() > 1 || together::pool_of(several).is_some())
        {
            return self.together(global);
        }
        if self.limit.is_some() {
            let problem = "--limit is for several pools (POOL=TRACE); one pool has --set pool.max=N";
            return Err(Stop::Usage(problem.to_owned()));
        }
        let source = self.source(global)?;
        let policy = source.policy(&self.set)?;
        let references = self.references()?;
        let trace_of = |seed: u64| Trace::of(&self.trace[0], &source.pool, seed).map_err(Stop::Usage);
        let trace = trace_of(self.seed)?;
        let setup = self.setup(&policy, &trace.recorded)?;
        let is_well = if self.sweep.is_empty() {
            let samples = if self.plot.is_some() { plot::SAMPLES } else { 0 };
            let many = (MOST_JOBS / trace.arrivals.len().max(1) as u64).clamp(1, SEEDS);
            let mut draws = vec![Draw { trace: trace.clone(), setup: setup.clone() }];
            for seed in self.seed.saturating_add(1)..self.seed.saturating_add(self.seeds.unwrap_or(many)) {
                draws.push(Draw { trace: trace_of(seed)?, setup: Setup { seed, ..setup.clone() } });
            }
            let bar = bar(draws.len() * (references.len() + 1) + 1);
            let through = || bar.inc(1);
            let Comparison { report, policy: outcome } =
                compare(&policy, &draws, &references, samples, &through);
            bar.finish_and_clear();
            if let Some(file) = &self.plot {
                let words = plot::Words {
                    title: text::policy(&source.pool, &policy),
                    trace: text::title(&report.trace),
                    figures: text::figures(&report, self.slo_p95),
                    slo_s: self.slo_p95.as_secs_f64(),
                    max: policy.pool.max,
                };
                fs::write(file, plot::svg(&words, &trace, &outcome)).map_err(|error| {
                    Stop::Usage(format!("{}: cannot be written: {error}", file.display()))
                })?;
            }
            if let Some(file) = &self.front {
                fs::write(file, front::svg(&report)).map_err(|error| {
                    Stop::Usage(format!("{}: cannot be written: {error}", file.display()))
                })?;
            }
            self.voice.show(&report, || text::report(&report).trim_end().to_owned());
            report.wrong.is_empty()
        } else {
            let points = grid(&self.sweep).map_err(Stop::Usage)?;
            let policies = points.iter().map(|point| {
                let swept = sweep::overrides(point).map_err(Stop::Usage)?;
                source.policy(&[&self.set[..], &swept].concat())
            });
            let policies = policies.collect::<Result<Vec<_>, _>>()?;
            let bar = bar(policies.len() + references.len() + 1);
            let through = || bar.inc(1);
            let swept = simulate::sweep(&policies, policy.most(), &trace, &setup, &references, &through);
            bar.finish_and_clear();
            let front = Front::of(&points, &swept);
            self.voice.show(&front, || front.text(&self.sweep).trim_end().to_owned());
            front.is_well()
        };
        Ok(if is_well { Exit::Ok } else { Exit::Failed })
    }

    fn setup(&self, policy: &Policy, recorded: &Recorded) -> Result<Setup, Stop> {
        let mut price = policy.instance.clone();
        price.usd_per_hour = self.usd_per_hour.unwrap_or(price.usd_per_hour);
        price.billing_minimum = self.billing_minimum.unwrap_or(price.billing_minimum);
        if !(price.usd_per_hour.is_finite() && price.usd_per_hour >= 0.0) {
            return Err(Stop::Usage("--usd-per-hour must be zero or more".to_owned()));
        }
        let usual = Setup::default();
        let with_mean = |usual: Distribution, mean_s: Option<f64>| {
            let mean = mean_s.and_then(|mean_s| Duration::try_from_secs_f64(mean_s).ok());
            Distribution { mean: mean.unwrap_or(usual.mean), ..usual }
        };
        let at_once = recorded.at_once.map_or(usual.concurrency, |at_once| at_once.round().max(1.0) as u32);
        Ok(Setup {
            service_time: self
                .service_time
                .unwrap_or_else(|| with_mean(usual.service_time, recorded.service_s)),
            concurrency: self.concurrency.unwrap_or(at_once),
            start_delay: self
                .start_delay
                .unwrap_or_else(|| with_mean(usual.start_delay, recorded.start_delay_s)),
            pending: self.pending,
            slo: self.slo_p95,
            seed: self.seed,
            tick: self.tick,
            price,
            launched_usd_per_hour: policy.launch.usd_per_hour,
            checks: true,
            faults: self.luck.faults(),
            ..usual
        })
    }

    fn references(&self) -> Result<Vec<Reference>, Stop> {
        let named = self.compare.iter().filter(|name| !name.is_empty() && *name != "none");
        named
            .map(|name| name.parse().map_err(|problem| Stop::Usage(format!("--compare: {problem}"))))
            .collect()
    }

    /// Returns the pool and its file.
    fn source(&self, global: &Global) -> Result<Source, Stop> {
        let folder = match &self.policy {
            Some(path) if path.is_file() => return Source::read(path, self.pool.as_deref()),
            Some(folder) => folder.clone(),
            None => global.settings()?.controller.policies,
        };
        let read = load::read_folder(&folder).map_err(|complaint| Stop::Usage(complaint.to_string()))?;
        let names: Vec<_> = read.files.keys().cloned().collect();
        let wanted = self.pool.clone().unwrap_or_else(|| match &names[..] {
            [only] => only.clone(),
            _ => "default".to_owned(),
        });
        if !names.contains(&wanted) {
            let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err(Stop::Usage(format!("{} has no pool `{wanted}`; known: {there}", folder.display())));
        }
        Source::read(&folder.join(format!("{wanted}.toml")), None)
    }
}

/// Creates a progress bar for runs, which take seconds for a long trace.
fn bar(runs: usize) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{spinner} simulated {pos} of {len} runs in {elapsed} {wide_bar}");
    let bar = ProgressBar::new(runs as u64).with_style(style.expect("a constant that is a template"));
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// The text of a policy.
struct Source {
    path: PathBuf,
    pool: String,
    text: String,
}

impl Source {
    fn read(path: &Path, pool: Option<&str>) -> Result<Self, Stop> {
        let unreadable =
            |error: std::io::Error| Stop::Usage(format!("{}: cannot be read: {error}", path.display()));
        let text = fs::read_to_string(path).map_err(unreadable)?;
        let name = || path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { path: path.to_owned(), pool: pool.map_or_else(name, str::to_owned), text })
    }

    /// Returns the policy with these keys set.
    fn policy(&self, set: &[Override]) -> Result<Policy, Stop> {
        let Self { path, text, .. } = self;
        let named = |problem: String| Stop::Usage(format!("{}: {problem}", path.display()));
        let text = if set.is_empty() { text.clone() } else { apply(text, set).map_err(named)? };
        parse(path, &text).map_err(|complaints| {
            Stop::Usage(complaints.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
        })
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    eirs_platform::settings::units::duration::parse(text)
}

/// Parses a duration of at least 1 ms: a controller without a pause between passes would not let
/// the simulated time advance.
pub(super) fn some_time(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    if time < Duration::from_millis(1) {
        return Err(format!("`{text}` must be at least 1ms"));
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_below_a_millisecond_is_refused() {
        assert_eq!(some_time("1ms"), Ok(Duration::from_millis(1)));
        for text in ["0s", "999us", "1ns", "soon"] {
            assert!(some_time(text).is_err(), "{text}");
        }
    }
}
