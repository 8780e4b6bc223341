//! `eirs policy try`: compares a new policy with the one in force.

use std::{fs, path::PathBuf, time::Duration};

use eirs_controller::{
    policy::{Policy, load_dir, parse},
    record,
    simulate::{Distribution, Figures, Setup, Trace, simulate},
};
use serde::Serialize;

use crate::{
    Exit, Global, Stop,
    commands::simulate::some_time,
    show::{self, Voice},
};

/// Replay the recording under the policy in force and under a new one; exit code 1 if the new one
/// is worse
///
/// Arrivals, service times and start delays are those that the controller recorded. Two limits say
/// what is worse: how much more the new policy may cost, and how many fewer jobs may meet the goal.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  eirs policy try new/default.toml\n  \
                  eirs policy try new.toml --pool default --slo-p95 20s --most-cost 1.0 && cp new.toml \
                  policies/default.toml")]
pub struct Try {
    /// The new policy
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The pool of the policy [default: the file's name]
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,
    /// A trace instead of the controller's recording: a file, a folder or a generator, as in `eirs
    /// simulate`
    #[arg(long, value_name = "TRACE")]
    trace: Option<String>,
    /// The latency that a job must not exceed
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = some_time)]
    slo_p95: Duration,
    /// The most that the new policy may cost, as a multiple of the old one
    #[arg(long, value_name = "RATIO", default_value_t = 1.05, value_parser = limit)]
    most_cost: f64,
    /// By how many percentage points the share of jobs that meet the goal may fall
    #[arg(long, value_name = "POINTS", default_value_t = 0.5, value_parser = limit)]
    most_late: f64,
    #[command(flatten)]
    voice: Voice,
}

/// The output of `--json`.
#[derive(Debug, Serialize)]
struct Verdict {
    pool: String,
    trace: String,
    in_force: Figures,
    tried: Figures,
    /// What is worse beyond the limits, one sentence each; empty if nothing is.
    worse: Vec<String>,
}

impl Try {
    pub(super) fn run(self, global: &Global) -> Result<Exit, Stop> {
        let settings = global.settings()?;
        let name = || self.file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let pool = self.pool.clone().unwrap_or_else(name);
        let unreadable =
            |error: std::io::Error| Stop::Usage(format!("{}: cannot be read: {error}", self.file.display()));
        let text = fs::read_to_string(&self.file).map_err(unreadable)?;
        let joined = |complaints: &[eirs_controller::policy::Complaint]| {
            complaints.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        let tried = parse(&self.file, &text).map_err(|complaints| Stop::Usage(joined(&complaints)))?;
        let folder = &settings.controller.policies;
        let mut policies = load_dir(folder).map_err(|complaints| Stop::Usage(joined(&complaints)))?;
        // Good figures must not recommend a policy that the controller would refuse.
        let refused = policies.complaints_with((&pool, &tried, &self.file), folder, &settings);
        if policies.pools.contains_key(&pool) && !refused.is_empty() {
            return Err(Stop::Usage(joined(&refused)));
        }
        let Some(in_force) = policies.pools.remove(&pool) else {
            return Err(Stop::Usage(format!(
                "{} has no pool `{pool}` to compare with; --pool names another one",
                folder.display()
            )));
        };
        let recording = settings.local.state.join(record::FOLDER).display().to_string();
        let trace = Trace::of(self.trace.as_ref().unwrap_or(&recording), &pool, 1).map_err(Stop::Usage)?;
        let [in_force, tried] = [&in_force, &tried].map(|policy| self.figures(policy, &trace));
        let worse = self.worse(&in_force, &tried);
        let is_good = worse.is_empty();
        let verdict = Verdict { pool, trace: trace.name, in_force, tried, worse };
        self.voice.show(&verdict, || verdict.text());
        Ok(if is_good { Exit::Ok } else { Exit::Failed })
    }

    fn figures(&self, policy: &Policy, trace: &Trace) -> Figures {
        let (usual, recorded) = (Setup::default(), trace.recorded);
        let with_mean = |usual: Distribution, mean_s: Option<f64>| {
            let mean = mean_s.and_then(|mean_s| Duration::try_from_secs_f64(mean_s).ok());
            Distribution { mean: mean.unwrap_or(usual.mean), ..usual }
        };
        let setup = Setup {
            service_time: with_mean(usual.service_time, recorded.service_s),
            start_delay: with_mean(usual.start_delay, recorded.start_delay_s),
            concurrency: recorded
                .at_once
                .map_or(usual.concurrency, |at_once| at_once.round().max(1.0) as u32),
            slo: self.slo_p95,
            price: policy.instance.clone(),
            ..usual
        };
        simulate(policy, trace, &setup, 0).figures
    }

    fn worse(&self, in_force: &Figures, tried: &Figures) -> Vec<String> {
        let mut worse = Vec::new();
        if tried.cost_usd > in_force.cost_usd * self.most_cost {
            worse.push(format!(
                "it costs {:.4} USD, more than {} times the {:.4} USD of the one in force",
                tried.cost_usd, self.most_cost, in_force.cost_usd
            ));
        }
        let [now, then] = [in_force, tried].map(|figures| figures.within_slo * 100.0);
        if then < now - self.most_late {
            worse.push(format!(
                "{then:.2} % of the jobs are within {}, more than {} points less than the {now:.2} % of the \
                 one in force",
                humantime::format_duration(self.slo_p95),
                self.most_late
            ));
        }
        worse
    }
}

impl Verdict {
    fn text(&self) -> String {
        let row = |name: &str, figures: &Figures| {
            let Figures { p50_s, p95_s, within_slo, starts, cost_usd, .. } = figures;
            vec![
                name.to_owned(),
                format!("{p50_s:.1}"),
                format!("{p95_s:.1}"),
                format!("{:.2}", within_slo * 100.0),
                starts.to_string(),
                format!("{cost_usd:.4}"),
            ]
        };
        let rows = [row("in force", &self.in_force), row("tried", &self.tried)];
        let table = show::table(&["", "p50", "p95", "in SLO %", "starts", "USD"], &rows);
        let end = if self.worse.is_empty() {
            "the new policy is within the limits".to_owned()
        } else {
            self.worse.iter().map(|worse| format!("worse: {worse}")).collect::<Vec<_>>().join("\n")
        };
        format!("{} of pool {}\n\n{table}\n{end}", self.trace, self.pool)
    }
}

/// Parses a limit. NaN is refused, because no value exceeds it.
fn limit(text: &str) -> Result<f64, String> {
    let limit = text.parse::<f64>().ok().filter(|limit| limit.is_finite() && *limit >= 0.0);
    limit.ok_or_else(|| "must be a number of zero or more, like 1.05".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial() -> Try {
        Try {
            file: PathBuf::from("default.toml"),
            pool: None,
            trace: None,
            slo_p95: Duration::from_secs(30),
            most_cost: 1.05,
            most_late: 0.5,
            voice: Voice::default(),
        }
    }

    #[test]
    fn a_policy_beyond_the_limits_of_cost_or_lateness_is_worse() {
        let figures = |cost_usd, within_slo| Figures { cost_usd, within_slo, ..Figures::default() };
        let now = figures(1.0, 0.99);
        assert!(trial().worse(&now, &figures(1.04, 0.986)).is_empty());
        assert!(trial().worse(&now, &figures(1.06, 0.99))[0].contains("more than 1.05 times the 1.0000 USD"));
        assert!(trial().worse(&now, &figures(0.5, 0.98))[0].contains("98.00 % of the jobs are within 30s"));
        assert_eq!(trial().worse(&now, &figures(2.0, 0.5)).len(), 2);
    }

    #[test]
    fn policies_that_the_controller_would_refuse_are_not_tried() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("policies")).unwrap();
        fs::write(at("policies/default.toml"), "").unwrap();
        let settings = format!("[controller]\npolicies = {:?}", at("policies").display().to_string());
        fs::write(at("eirs.toml"), settings).unwrap();
        let global = Global { config: Some(at("eirs.toml")), state: Some(at("state")) };
        let run = |text: &str| {
            fs::write(at("default.toml"), text).unwrap();
            let trace = Some("burst:3@1m".to_owned());
            Try { file: at("default.toml"), trace, ..trial() }.run(&global)
        };
        assert_eq!(run("[pool]\nmax = 9").unwrap(), Exit::Ok);
        for (text, expected) in [
            ("[pool]\nmodel = 'cats'", "unknown model \"cats\""),
            ("[launch]\nmost = 3", "launch.most: only"),
        ] {
            let Err(Stop::Usage(said)) = run(text) else { panic!("{text} is refused") };
            assert!(said.contains("default.toml: ") && said.contains(expected), "{said}");
        }
    }

    #[test]
    fn a_limit_that_nothing_can_exceed_is_refused() {
        for text in ["nan", "inf", "-1", "much"] {
            assert!(limit(text).is_err(), "{text}");
        }
        assert_eq!(limit("1.05"), Ok(1.05));
    }

    #[test]
    fn a_recording_is_replayed_with_its_own_times_under_both() {
        let folder = tempfile::tempdir().unwrap();
        let line = |minute: u32, second: u32| {
            format!(
                "{{\"v\":1,\"at\":\"2026-01-01T00:{minute:02}:{second:02}Z\",\"pool\":\"p\",\"arrived\":5,\"service_s\":3.0,\"start_delay_s\":4.0}}\n"
            )
        };
        let text: String = (0..30).flat_map(|minute| [line(minute, 0), line(minute, 30)]).collect();
        let path = folder.path().join("t.jsonl");
        fs::write(&path, text).unwrap();
        let trace = Trace::of(&path.display().to_string(), "p", 1).unwrap();
        let of = |max: u32| {
            let text = format!("[pool]\nmax = {max}\n[[rule]]\nkind = 'backlog'\nper_instance = 2");
            trial().figures(&parse(&path, &text).unwrap(), &trace)
        };
        let (enough, none) = (of(5), of(0));
        assert!(enough.within_slo > 0.9 && enough.p50_s > 2.0, "{enough:?}");
        assert_eq!(trial().worse(&enough, &none).len(), 1, "a policy without cost is not more expensive");
    }
}
