//! Runs the queue forward: how long until the servers have ended a number of jobs.

/// A slot that works on one job at a time and takes the next one from the line as soon as it has
/// ended one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Server {
    /// Seconds until it ends its current job, or else its first.
    pub(super) next_end_s: f64,
    /// Seconds for each job after that.
    pub(super) each_s: f64,
}

impl Server {
    /// Returns the number of jobs that it ends within `seconds`.
    fn ends_in(&self, seconds: f64) -> f64 {
        if seconds < self.next_end_s {
            return 0.0;
        }
        1.0 + ((seconds - self.next_end_s) / self.each_s).floor()
    }
}

/// Returns the seconds until the servers have ended `jobs` jobs (at least 1); infinite without
/// servers.
///
/// The result never grows if a server ends jobs sooner, if a server is added, or with fewer jobs.
pub(super) fn end_s(servers: &[Server], jobs: u64) -> f64 {
    let jobs = jobs.max(1) as f64;
    let alone = |server: &Server| server.next_end_s + (jobs - 1.0) * server.each_s;
    // Bounds: no later than one server alone would end all, no sooner than the first end.
    let mut late = servers.iter().map(alone).fold(f64::INFINITY, f64::min);
    let mut early = servers.iter().map(|server| server.next_end_s).fold(f64::INFINITY, f64::min);
    if !late.is_finite() || jobs <= 1.0 {
        return early;
    }
    let are_ended = |seconds: f64| servers.iter().map(|server| server.ends_in(seconds)).sum::<f64>() >= jobs;
    // To a tenth of a millisecond, or the precision of the numbers.
    while late - early > 1e-4_f64.max(late * 1e-12) {
        let middle = early + (late - early) / 2.0;
        if are_ended(middle) {
            late = middle;
        } else {
            early = middle;
        }
    }
    late
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same, step by step.
    fn simulated(servers: &[Server], jobs: u64) -> f64 {
        let mut servers = servers.to_vec();
        let mut last = f64::INFINITY;
        for _ in 0..jobs {
            let next = servers.iter_mut().min_by(|a, b| a.next_end_s.total_cmp(&b.next_end_s)).unwrap();
            last = next.next_end_s;
            next.next_end_s += next.each_s;
        }
        last
    }

    fn servers() -> impl Strategy<Value = Vec<Server>> {
        let server =
            (0.0..100.0_f64, 0.05..60.0_f64).prop_map(|(next_end_s, each_s)| Server { next_end_s, each_s });
        proptest::collection::vec(server, 1..20)
    }

    proptest! {
        #[test]
        fn the_result_equals_a_step_by_step_simulation(servers in servers(), jobs in 1_u64..200) {
            let (formula, steps) = (end_s(&servers, jobs), simulated(&servers, jobs));
            prop_assert!((formula - steps).abs() < 1e-3, "{formula} and {steps}");
        }

        #[test]
        fn fewer_jobs_or_more_servers_never_make_the_end_later(
            servers in servers(), jobs in 2_u64..200, sooner in 0.0..10.0_f64,
            which in any::<prop::sample::Index>(),
        ) {
            let before = end_s(&servers, jobs) + 1e-3;
            prop_assert!(end_s(&servers, jobs - 1) <= before, "one job fewer");
            let mut better = servers.clone();
            let server = &mut better[which.index(servers.len())];
            server.next_end_s = (server.next_end_s - sooner).max(0.0);
            prop_assert!(end_s(&better, jobs) <= before, "an end sooner");
            better.push(Server { next_end_s: sooner, each_s: 1.0 });
            prop_assert!(end_s(&better, jobs) <= before, "one server more");
        }
    }

    #[test]
    fn two_servers_that_are_half_done_end_the_jobs_in_turn() {
        let servers = [(4.0, 10.0), (9.0, 10.0)].map(|(next_end_s, each_s)| Server { next_end_s, each_s });
        let ends: Vec<_> = (1..=5).map(|jobs| end_s(&servers, jobs).round()).collect();
        assert_eq!(ends, [4.0, 9.0, 14.0, 19.0, 24.0]);
        assert_eq!(end_s(&[], 3), f64::INFINITY);
    }
}
