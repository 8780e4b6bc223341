//! Several pools under one limit.

use std::collections::BTreeMap;

use eirs_controller::{
    policy::load_dir,
    simulate::{Figures, Recorded, Trace, simulate_together},
};
use eirs_platform::settings::is_name;
use serde::Serialize;

use super::{Simulate, text};
use crate::{Exit, Global, Stop, show};

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    pools: BTreeMap<String, Figures>,
    /// Starts of all pools together.
    starts: u64,
    cost_usd: f64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    wrong: Vec<String>,
}

/// The pool of `POOL=TRACE`. A trace has an `=`, too, but after a colon or a comma.
pub(super) fn pool_of(words: &str) -> Option<(&str, &str)> {
    words.split_once('=').filter(|(pool, _)| is_name(pool))
}

impl Simulate {
    pub(super) fn together(self, global: &Global) -> Result<Exit, Stop> {
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
            traces.insert(pool.to_owned(), trace);
        }
        policies.pools.retain(|pool, _| traces.contains_key(pool));
        let recorded = traces.values().next().map_or_else(Recorded::default, |trace| trace.recorded);
        policies.instance_limit = self.limit.or(recorded.limit);
        let Some(policy) = policies.pools.values().next() else { return Ok(Exit::Ok) };
        let setup = self.setup(policy, &recorded)?;
        let outcomes = simulate_together(&policies, &traces, &setup, 0);
        let report = Report {
            starts: outcomes.values().map(|outcome| outcome.figures.starts).sum(),
            cost_usd: outcomes.values().map(|outcome| outcome.figures.cost_usd).sum(),
            wrong: outcomes.values().flat_map(|outcome| outcome.wrong.clone()).collect(),
            pools: outcomes.into_iter().map(|(pool, outcome)| (pool, outcome.figures)).collect(),
        };
        self.voice.tell(&report, || {
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
}

#[cfg(test)]
mod tests {
    use super::pool_of;

    #[test]
    fn a_pool_stands_before_its_trace_and_the_keys_of_a_generator_are_none() {
        assert_eq!(pool_of("dogs=burst:3/10m"), Some(("dogs", "burst:3/10m")));
        assert_eq!(pool_of("a=onoff:4/s,on=5m"), Some(("a", "onoff:4/s,on=5m")));
        assert_eq!(pool_of("onoff:4/s,on=5m,off=15m@2h"), None);
        assert_eq!(pool_of("diurnal"), None);
    }
}
