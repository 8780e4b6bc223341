//! How long jobs take, as the workers measured it.

use std::collections::BTreeMap;

use eirs_platform::job::WorkerReport;
use serde::{Deserialize, Serialize};

/// The number of versions that are remembered, for those that come back.
const MOST_VERSIONS: usize = 4;
/// The number of jobs for which counts what another version took.
const JOBS_OF_A_GUESS: f64 = 5.0;
/// A mean is made of about this number of jobs: it follows a change within minutes and no single
/// job sways it.
const JOBS_OF_A_MEAN: f64 = 500.0;

/// The service of one pool.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Service {
    pub(super) mean_s: f64,
    pub(super) p95_s: f64,
    /// Jobs that an instance classifies at the same time.
    pub(super) at_once: f64,
    jobs: f64,
}

/// The service of one pool for each version of its model: another version may take another time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Services {
    versions: BTreeMap<String, Service>,
    /// The one that counts.
    now: String,
}

impl Services {
    /// That of the version in force, or of the last that was measured.
    pub(super) fn now(&self) -> Option<Service> {
        self.versions.get(&self.now).copied()
    }

    /// Takes note of a report. A version that is new begins with what the last one took, until
    /// enough is known of it.
    pub(super) fn measured(&mut self, report: &WorkerReport, in_force: Option<&str>) {
        let guess = self.now().map(|service| Service { jobs: service.jobs.min(JOBS_OF_A_GUESS), ..service });
        match self.versions.get_mut(&report.version) {
            Some(known) => *known = Service::measured(Some(*known), report),
            None => {
                self.versions.insert(report.version.clone(), Service::measured(guess, report));
            }
        }
        let is_in_force = in_force.is_none_or(|in_force| in_force == report.version);
        if (is_in_force || self.versions.len() == 1) && self.now != report.version {
            self.now.clone_from(&report.version);
        }
        while self.versions.len() > MOST_VERSIONS {
            let now = &self.now;
            let Some(other) = self.versions.keys().find(|version| *version != now).cloned() else { break };
            self.versions.remove(&other);
        }
    }
}

impl Service {
    /// What was known before and the service times of a report, each job for what it is worth.
    pub(super) fn measured(before: Option<Self>, report: &WorkerReport) -> Self {
        let (count, mean_s) = (report.service.count as f64, report.service.mean_ms / 1e3);
        let at_once = f64::from(if report.at_once == 0 { report.slots } else { report.at_once }.max(1));
        let p95_s = report.service.p95_ms / 1e3;
        let before = before.unwrap_or(Self { mean_s, p95_s, at_once, jobs: 0.0 });
        let jobs = (before.jobs + count).min(JOBS_OF_A_MEAN);
        let part = (count / jobs).min(1.0);
        let towards = |from: f64, to: f64| from + (to - from) * part;
        Self {
            mean_s: towards(before.mean_s, mean_s),
            p95_s: towards(before.p95_s, p95_s),
            at_once: towards(before.at_once, at_once),
            jobs,
        }
    }

    /// The squared coefficient of variation of a normal distribution with this mean and 95th
    /// percentile.
    pub(super) fn variability(&self) -> f64 {
        let deviation = (self.p95_s - self.mean_s).max(0.0) / 1.645;
        (deviation / self.mean_s.max(1e-6)).powi(2).min(4.0)
    }
}

#[cfg(test)]
mod tests {
    use eirs_platform::job::{Phase, ServiceTimes};

    use super::*;
    use crate::decide::tests::{busy, says};

    fn report(count: u64, mean_ms: f64, p95_ms: f64) -> WorkerReport {
        let view = says(busy("p-1"), Phase::Ready, 1, None);
        let report = view.heard.expect("it spoke").report;
        WorkerReport { service: ServiceTimes { count, mean_ms, p95_ms }, slots: 4, at_once: 2, ..report }
    }

    #[test]
    fn each_job_counts_as_much_as_any_other_until_there_are_many() {
        let first = Service::measured(None, &report(10, 1000.0, 1000.0));
        assert_eq!((first.mean_s, first.at_once, first.variability()), (1.0, 2.0, 0.0));
        let second = Service::measured(Some(first), &report(30, 2000.0, 2000.0));
        assert!((second.mean_s - 1.75).abs() < 1e-9);
        let many = Service::measured(Some(second), &report(100_000, 3000.0, 3000.0));
        assert!((many.mean_s - 3.0).abs() < 1e-9, "what was long ago is forgotten");
    }

    #[test]
    fn a_new_version_of_the_model_has_times_of_its_own_and_an_earlier_one_is_remembered() {
        let of = |version: &str, mean_ms: f64| WorkerReport {
            version: version.to_owned(),
            ..report(100, mean_ms, mean_ms)
        };
        let mean_s = |services: &Services| services.now().unwrap().mean_s;
        let mut services = Services::default();
        services.measured(&of("a", 1000.0), Some("a"));
        services.measured(&of("b", 5000.0), Some("a"));
        assert_eq!(mean_s(&services), 1.0, "one that is not in force yet does not count");
        services.measured(&of("b", 5000.0), Some("b"));
        assert!(mean_s(&services) > 4.5, "{}", mean_s(&services));
        services.measured(&of("a", 1000.0), None);
        assert_eq!(mean_s(&services), 1.0);
        for version in ["c", "d", "e", "f"] {
            services.measured(&of(version, 2000.0), None);
        }
        assert_eq!(services.versions.len(), MOST_VERSIONS);
    }

    #[test]
    fn a_long_tail_is_irregular() {
        // An exponential time has its 95th percentile at three times its mean.
        let service = Service::measured(None, &report(10, 1000.0, 3000.0));
        assert!((1.0..2.0).contains(&service.variability()));
    }
}
