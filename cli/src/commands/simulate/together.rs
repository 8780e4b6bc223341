//! Simulates several pools under one limit.

use std::collections::BTreeMap;

use eirs_controller::{
    policy::load_dir,
    simulate::{Figures, Trace, simulate_together},
};
use eirs_platform::settings::is_name;
use serde::Serialize;

use super::{Simulate, text};
use crate::{Exit, Global, Stop, show};

/// The output of `--json`.
#[derive(Debug, Serialize)]
struct Report {
    pools: BTreeMap<String, Figures>,
    /// The starts of all pools.
    starts: u64,
    cost_usd: f64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    wrong: Vec<String>,
}

/// Returns the pool of `POOL=TRACE`. A trace may contain `=`, but only after a colon or a comma.
pub(super) fn pool_of(words: &str) -> Option<(&str, &str)> {
    words.split_once('=').filter(|(pool, _)| is_name(pool))
}

impl Simulate {
    pub(super) fn together(self, global: &Global) -> Result<Exit, Stop> {
        if let Some(option) = self.of_one_pool() {
            return Err(Stop::Usage(format!(
                "{option} is for one pool, whose --trace has no `POOL=`; with several pools leave it out"
            )));
        }
        let folder = match &self.policy {
            Some(path) if path.is_dir() => path.clone(),
            Some(path) => {
                let problem = "several pools are simulated from a folder of policies, a file for each";
                return Err(Stop::Usage(format!("{}: {problem}", path.display())));
            }
            None => global.settings()?.controller.policies,
        };
        let mut policies = load_dir(&folder).map_err(|complaints| {
            Stop::Usage(complaints.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
        })?;
        let mut traces = BTreeMap::new();
        for words in &self.trace {
            let Some((pool, trace)) = pool_of(words) else {
                return Err(Stop::Usage(format!(
                    "--trace {words}: with several pools each should be POOL=TRACE, like default={words}"
                )));
            };
            if !policies.pools.contains_key(pool) {
                let there: Vec<_> = policies.pools.keys().map(String::as_str).collect();
                return Err(Stop::Usage(format!(
                    "{} has no pool `{pool}`; there is {}",
                    folder.display(),
                    there.join(", ")
                )));
            }
            let trace = Trace::of(trace, pool, self.seed).map_err(Stop::Usage)?;
            if traces.insert(pool.to_owned(), trace).is_some() {
                return Err(Stop::Usage(format!("--trace {words}: the pool `{pool}` has a trace already")));
            }
        }
        policies.pools.retain(|pool, _| traces.contains_key(pool));
        let recorded = traces.values().find_map(|trace| trace.recorded.limit);
        policies.instance_limit = self.limit.or(recorded).filter(|limit| *limit > 0);
        let mut loads = BTreeMap::new();
        for (pool, trace) in traces {
            let setup = self.setup(&policies.pools[&pool], &trace.recorded)?;
            loads.insert(pool, (trace, setup));
        }
        let outcomes = simulate_together(&policies, &loads, 0);
        let report = Report {
            starts: outcomes.values().map(|outcome| outcome.figures.starts).sum(),
            cost_usd: outcomes.values().map(|outcome| outcome.figures.cost_usd).sum(),
            wrong: outcomes.values().flat_map(|outcome| outcome.wrong.clone()).collect(),
            pools: outcomes.into_iter().map(|(pool, outcome)| (pool, outcome.figures)).collect(),
        };
        self.voice.show(&report, || {
            let row = |(pool, figures): (&String, &Figures)| {
                [vec![pool.clone()], text::cells(figures, 0.0)].concat()
            };
            let rows: Vec<_> = report.pools.iter().map(row).collect();
            let head = [&["pool"], &text::HEADS[..]].concat();
            let all = format!("together: {} starts, {:.4} USD", report.starts, report.cost_usd);
            format!("{}\n{all}\n{}", show::table(&head, &rows), text::wrong(&report.wrong))
                .trim_end()
                .to_owned()
        });
        Ok(if report.wrong.is_empty() { Exit::Ok } else { Exit::Failed })
    }

    /// Returns an option that has no effect with several pools.
    fn of_one_pool(&self) -> Option<&'static str> {
        let compares = self.compare.join(",");
        let given = [
            ("--set", !self.set.is_empty()),
            ("--sweep", !self.sweep.is_empty()),
            ("--plot", self.plot.is_some()),
            ("--front", self.front.is_some()),
            ("--pool", self.pool.is_some()),
            ("--seeds", self.seeds.is_some()),
            ("--compare", compares != super::REFERENCES && compares != "none"),
        ];
        given.into_iter().find_map(|(option, is_given)| is_given.then_some(option))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        simulate: Simulate,
    }

    /// The result of `eirs simulate` for two pools, one of which has its own price.
    fn run(options: &[&str]) -> Result<Exit, Stop> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.toml"), "[pool]\nmax = 3").unwrap();
        fs::write(folder.path().join("b.toml"), "[pool]\nmodel = 'b'\n[instance]\nusd_per_hour = 1").unwrap();
        let policies = folder.path().display().to_string();
        let line = ["simulate", "--policy", &policies, "--trace", "a=burst:3@1m"];
        let simulate = Line::try_parse_from(line.iter().chain(options)).unwrap().simulate;
        simulate.run(&Global { config: None, state: None })
    }

    #[test]
    fn options_without_effect_on_several_pools_are_refused() {
        assert_eq!(run(&["--trace", "b=burst:3@1m"]).unwrap(), Exit::Ok);
        assert_eq!(run(&["--compare", "none"]).unwrap(), Exit::Ok);
        for options in [
            ["--set", "pool.max=2"],
            ["--sweep", "pool.max=1..3"],
            ["--plot", "x.svg"],
            ["--front", "x.svg"],
            ["--pool", "a"],
            ["--seeds", "2"],
            ["--compare", "keda"],
        ] {
            let Err(Stop::Usage(said)) = run(&options) else { panic!("{options:?} is refused") };
            assert!(said.starts_with(options[0]) && said.contains("is for one pool"), "{said}");
        }
        let Err(Stop::Usage(said)) = run(&["--trace", "a=burst:5@1m"]) else { panic!("twice is refused") };
        assert!(said.contains("the pool `a` has a trace already"), "{said}");
    }

    #[test]
    fn the_pool_precedes_its_trace_and_generator_keys_are_not_pools() {
        assert_eq!(pool_of("dogs=burst:3/10m"), Some(("dogs", "burst:3/10m")));
        assert_eq!(pool_of("a=onoff:4/s,on=5m"), Some(("a", "onoff:4/s,on=5m")));
        assert_eq!(pool_of("onoff:4/s,on=5m,off=15m@2h"), None);
        assert_eq!(pool_of("diurnal"), None);
    }
}
