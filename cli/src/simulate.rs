//! `eirs simulate`

mod overrides;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use eirs_controller::{
    policy::{Policy, load, parse},
    simulate::{Distribution, Faults, Reference, Report, Setup, Trace, compare},
};

use self::overrides::{Override, apply};
use crate::{Exit, Global, Stop, show};

/// Replay arrivals under a policy, and compare it with other rules and with who knows the future
///
/// The decision is the controller's own; the queue, the instances and the clock are simulated. Everybody gets the same arrivals,
/// service times and start delays. docs/SIMULATE.md says what is modelled and how to read the report.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  eirs simulate --trace diurnal\n  eirs simulate --policy policies --trace arrivals.csv --service-time 800ms~exp --json\n  \
                  eirs simulate --trace burst:500/10m@2h --set pool.max=15 --set scale_in.idle=30s\n\n\
                  A trace is a CSV file (`t_seconds,count`, or one column of arrival times in seconds), the controller's\n\
                  recording (*.jsonl, or a folder of them), or a generator: KIND[:RATE][,KEY=VALUE][@LENGTH]\n  \
                  constant:5/s@1h   poisson:300/m@1h   diurnal:0..5/s,period=24h@24h\n  \
                  burst:300/10m@1h   onoff:4/s,on=5m,off=15m@2h"
)]
pub(crate) struct Simulate {
    /// The policy, or a folder of policies [default: the folder of the settings]
    #[arg(long, value_name = "FILE|DIR")]
    policy: Option<PathBuf>,
    /// Which pool of the folder, and of the recording [default: `default`, or the only one]
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,
    /// When requests arrive: a file, a folder, or a generator
    #[arg(long, value_name = "TRACE")]
    trace: String,
    /// How long a job takes: 2s, 2s~exp, 2s~lognormal:0.5, 2s~uniform:0.2; the time is the mean
    #[arg(long, value_name = "TIME", default_value = "2s")]
    service_time: Distribution,
    /// Jobs that one instance works on at the same time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    concurrency: u32,
    /// From the start of an instance to its first job, written like the service time
    #[arg(long, value_name = "TIME", default_value = "25s")]
    start_delay: Distribution,
    /// The latency that a request shall not exceed
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    slo_p95: Duration,
    /// The same seed gives the same run
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// The controller looks at least this often
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    tick: Duration,
    /// What an instance costs in an hour that it runs [default: as in the policy]
    #[arg(long, value_name = "USD")]
    usd_per_hour: Option<f64>,
    /// Each start is billed for at least this [default: as in the policy]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    billing_minimum: Option<Duration>,
    /// Set a key of the policy, as in pool.max=15, scale_in.idle=30s or rule[1].per_instance=20
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<Override>,
    /// The other rules to compare with
    #[arg(
        long,
        value_name = "RULES",
        value_delimiter = ',',
        default_value = "seed,keda,target-tracking,kpa"
    )]
    compare: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Simulate {
    /// Runs it.
    pub(crate) fn run(self, global: &Global) -> Result<Exit, Stop> {
        let (name, policy) = self.read_policy(global)?;
        let setup = self.setup(&policy)?;
        let references = self.references()?;
        let trace = Trace::of(&self.trace, &name, self.seed).map_err(Stop::Usage)?;
        let comparison = compare(&policy, &trace, &setup, &references, 0);
        if self.json {
            show::json(&comparison.report);
        } else {
            show::out(text(&comparison.report).trim_end());
        }
        Ok(if comparison.report.wrong.is_empty() { Exit::Ok } else { Exit::Failed })
    }

    fn setup(&self, policy: &Policy) -> Result<Setup, Stop> {
        let mut price = policy.instance.clone();
        price.usd_per_hour = self.usd_per_hour.unwrap_or(price.usd_per_hour);
        price.billing_minimum = self.billing_minimum.unwrap_or(price.billing_minimum);
        if !(price.usd_per_hour.is_finite() && price.usd_per_hour >= 0.0) {
            return Err(Stop::Usage("--usd-per-hour should be zero or more".to_owned()));
        }
        Ok(Setup {
            service_time: self.service_time,
            concurrency: self.concurrency,
            start_delay: self.start_delay,
            slo: self.slo_p95,
            seed: self.seed,
            tick: self.tick,
            price,
            checks: true,
            faults: Faults::default(),
            ..Setup::default()
        })
    }

    fn references(&self) -> Result<Vec<Reference>, Stop> {
        let named = self.compare.iter().filter(|name| !name.is_empty() && *name != "none");
        named
            .map(|name| name.parse().map_err(|problem| Stop::Usage(format!("--compare: {problem}"))))
            .collect()
    }

    /// The pool's name and its policy, with what was set on the command line.
    fn read_policy(&self, global: &Global) -> Result<(String, Policy), Stop> {
        let folder = match &self.policy {
            Some(path) if path.is_file() => return self.read_file(path),
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
            return Err(Stop::Usage(format!(
                "{} has no pool `{wanted}`; there is {there}",
                folder.display()
            )));
        }
        self.read_file(&folder.join(format!("{wanted}.toml")))
    }

    fn read_file(&self, path: &Path) -> Result<(String, Policy), Stop> {
        let unreadable =
            |error: std::io::Error| Stop::Usage(format!("{}: cannot be read: {error}", path.display()));
        let mut text = fs::read_to_string(path).map_err(unreadable)?;
        if !self.set.is_empty() {
            text = apply(&text, &self.set)
                .map_err(|problem| Stop::Usage(format!("{}: {problem}", path.display())))?;
        }
        let policy = parse(path, &text).map_err(|complaints| {
            Stop::Usage(complaints.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
        })?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok((self.pool.clone().unwrap_or(name), policy))
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    eirs_platform::settings::units::duration::parse(text)
}

fn text(report: &Report) -> String {
    let trace = &report.trace;
    let length = humantime::format_duration(Duration::from_secs(trace.seconds.round() as u64));
    let best = report.clairvoyant.cost_usd;
    let rows: Vec<_> = report
        .rows()
        .map(|(name, figures)| {
            vec![
                name.to_owned(),
                format!("{:.1}", figures.mean_s),
                format!("{:.1}", figures.p50_s),
                format!("{:.1}", figures.p95_s),
                format!("{:.1}", figures.p99_s),
                format!("{:.1}", figures.max_s),
                format!("{:.2}", figures.within_slo * 100.0),
                figures.killed.to_string(),
                figures.redelivered.to_string(),
                figures.unfinished.to_string(),
                figures.starts.to_string(),
                format!("{:.2}", figures.instance_hours),
                format!("{:.4}", figures.cost_usd),
                format!("{:.4}", figures.cost_usd_per_1000),
                format!("{:.2}", figures.cost_usd / best),
            ]
        })
        .collect();
    let head = [
        "", "mean s", "p50", "p95", "p99", "max", "in SLO %", "killed", "again", "open", "starts", "hours",
        "USD", "USD/1000", "x best",
    ];
    let mut text = format!(
        "{}: {} in {length}\n\n{}",
        trace.name,
        show::count(trace.arrivals, "request"),
        show::table(&head, &rows)
    );
    if !report.wrong.is_empty() {
        text += "\nThe decision broke rules of its own:\n";
        text.extend(report.wrong.iter().map(|wrong| format!("  {wrong}\n")));
    }
    text
}
