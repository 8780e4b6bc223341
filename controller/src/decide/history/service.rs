//! Service times, as measured by the workers.

use std::collections::BTreeMap;

use eirs_platform::job::WorkerReport;
use serde::{Deserialize, Serialize};

/// Number of model versions that are remembered, in case one comes back.
const MOST_VERSIONS: usize = 4;
/// Weight, in jobs, of the service time of another version when a new one begins.
const JOBS_OF_A_GUESS: f64 = 5.0;
/// Number of jobs over which the mean is taken: few enough to follow a change within minutes, and
/// enough that a single job does not matter.
const JOBS_OF_A_MEAN: f64 = 500.0;

/// The service times of one version of a pool's model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Service {
    pub(super) mean_s: f64,
    pub(super) p95_s: f64,
    /// Number of jobs that an instance classifies at the same time.
    pub(super) at_once: f64,
    jobs: f64,
}

/// The service times of one pool for each version of its model, as versions may differ in speed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Services {
    versions: BTreeMap<String, Service>,
    /// The version whose times count.
    now: String,
}

impl Services {
    /// The service times of the version in force, or of the last one measured.
    pub(super) fn now(&self) -> Option<Service> {
        self.versions.get(&self.now).copied()
    }

    /// Adds a report. A new version begins with the times of the previous one until enough of its
    /// own are known.
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
    /// Adds the service times of a report, with every job weighted equally.
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

    /// Squared coefficient of variation of a normal distribution with this mean and 95th
    /// percentile; at most 4.
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
        let report = view.heard.expect("it has reported").report;
        WorkerReport { service: ServiceTimes { count, mean_ms, p95_ms }, slots: 4, at_once: 2, ..report }
    }

    #[test]
    fn all_jobs_have_equal_weight_until_there_are_many() {
        let first = Service::measured(None, &report(10, 1000.0, 1000.0));
        assert_eq!((first.mean_s, first.at_once, first.variability()), (1.0, 2.0, 0.0));
        let second = Service::measured(Some(first), &report(30, 2000.0, 2000.0));
        assert!((second.mean_s - 1.75).abs() < 1e-9);
        let many = Service::measured(Some(second), &report(100_000, 3000.0, 3000.0));
        assert!((many.mean_s - 3.0).abs() < 1e-9, "old jobs are forgotten");
    }

    #[test]
    fn each_model_version_has_its_own_times_and_earlier_ones_are_remembered() {
        let of = |version: &str, mean_ms: f64| WorkerReport {
            version: version.to_owned(),
            ..report(100, mean_ms, mean_ms)
        };
        let mean_s = |services: &Services| services.now().unwrap().mean_s;
        let mut services = Services::default();
        services.measured(&of("a", 1000.0), Some("a"));
        services.measured(&of("b", 5000.0), Some("a"));
        assert_eq!(mean_s(&services), 1.0, "a version that is not in force yet does not count");
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
    fn a_long_tail_gives_a_high_variability() {
        // An exponential distribution has its 95th percentile at three times its mean.
        let service = Service::measured(None, &report(10, 1000.0, 3000.0));
        assert!((1.0..2.0).contains(&service.variability()));
    }
}
