//! Number of servers that keep a queue short: pure queueing theory.

/// Part of all jobs that may exceed their slack: the complement of the 95th percentile.
const LATE: f64 = 0.05;

/// Below this variability arrivals count as deterministic: no queue grows as long as there are as
/// many servers as are busy.
const CLOCKWORK: f64 = 0.05;
/// Relative error that is assumed for a measured rate of deterministic arrivals.
const RATE_ERROR: f64 = 0.02;

/// Number of quantiles that stand for the distribution of the service time, each for an equal part
/// of the jobs.
const PARTS: usize = 8;
/// The median of each part in a standard normal distribution.
const NORMAL: [f64; PARTS] = [-1.534, -0.887, -0.489, -0.157, 0.157, 0.489, 0.887, 1.534];

/// The arrivals and their service times.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    /// Arrival rate, in jobs per second.
    pub(crate) arrivals_per_s: f64,
    /// Mean service time, in seconds.
    pub(crate) service_s: f64,
    /// Squared coefficient of variation of the service time.
    pub(crate) service_scv: f64,
    /// Mean of the squared coefficients of variation of arrivals and of service times.
    pub(crate) variability: f64,
}

impl Work {
    /// Medians of the parts of a log-normal distribution with this mean and variation, in seconds.
    fn service_times_s(&self) -> [f64; PARTS] {
        let variance = (1.0 + self.service_scv.max(0.0)).ln();
        let median_s = self.service_s / (variance / 2.0).exp();
        NORMAL.map(|normal| median_s * (variance.sqrt() * normal).exp())
    }
}

/// Number of servers such that fewer than 5 of 100 jobs take longer than `most_s` from arrival to
/// completion; at most `most`.
///
/// The waiting time in an M/M/k queue: P(W > t) = C(k, a) exp(-(k - a) t / s), with the offered
/// load a = λ s in Erlangs and Erlang's C formula (L. Kleinrock, Queueing Systems I, 1975, section
/// 3.5). For other arrivals and service times the wait scales with their `variability` (A. O.
/// Allen, Probability, Statistics and Queueing Theory, 1978, after Cunneen; exact for one server as
/// the load approaches one, Kingman 1961). For each part of the service times, the slack is
/// `most_s` minus the service time. Jobs that take longer than `most_s` by themselves are late in
/// any case, and do not count.
pub(crate) fn servers_in_time(work: &Work, most_s: f64, most: u32) -> u32 {
    let Work { arrivals_per_s, service_s, variability, .. } = *work;
    let offered = arrivals_per_s * service_s;
    if offered <= 0.0 {
        return 0;
    }
    if variability < CLOCKWORK {
        return ((offered * (1.0 - RATE_ERROR)).ceil() as u32).clamp(1, most);
    }
    let slacks_s = work.service_times_s().map(|time_s| most_s - time_s);
    let doomed = slacks_s.iter().filter(|slack_s| **slack_s < 0.0).count();
    // A variability below 1 is not trusted: it saves little, and a wrong guess builds up a queue.
    let variability = variability.max(1.0);
    let mut blocking = 1.0;
    for servers in 1..=most {
        let k = f64::from(servers);
        blocking = next_blocking(blocking, servers, offered);
        if k > offered {
            let waits = waiting(blocking, servers, offered);
            let late = |slack_s: f64| waits * (-(k - offered) * slack_s / service_s / variability).exp();
            let in_time = slacks_s.iter().filter(|slack_s| **slack_s >= 0.0);
            let late: f64 = in_time.map(|slack_s| late(*slack_s)).sum();
            let judged = if doomed == PARTS { waits } else { late / (PARTS - doomed) as f64 };
            if judged < LATE {
                return servers;
            }
        }
    }
    most
}

/// Erlang's B formula for one more server (A. K. Erlang, 1917), by the recursion that never
/// overflows: B(k) = a B(k-1) / (k + a B(k-1)), from B(0) = 1.
fn next_blocking(before: f64, servers: u32, offered: f64) -> f64 {
    offered * before / (f64::from(servers) + offered * before)
}

/// Erlang's C formula, the probability that a job waits at all: C = B / (1 - (a / k) (1 - B)).
/// Valid only if there are more servers than the offered load.
fn waiting(blocking: f64, servers: u32, offered: f64) -> f64 {
    blocking / (1.0 - offered / f64::from(servers) * (1.0 - blocking))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Servers for jobs that all take `service_s` and may wait `slack_s`.
    fn servers_for_wait(
        arrivals_per_s: f64,
        service_s: f64,
        slack_s: f64,
        variability: f64,
        most: u32,
    ) -> u32 {
        let work = Work { arrivals_per_s, service_s, service_scv: 0.0, variability };
        servers_in_time(&work, service_s + slack_s, most)
    }

    #[test]
    fn varying_service_times_need_more_servers_but_jobs_that_are_late_anyway_do_not_count() {
        let servers = |service_scv, most_s| {
            let work = Work { arrivals_per_s: 5.0, service_s: 2.0, service_scv, variability: 1.0 };
            servers_in_time(&work, most_s, 100)
        };
        assert!(servers(1.0, 5.2) > servers(0.0, 5.2));
        assert_eq!(servers(1.0, 600.0), servers(0.0, 600.0));
        // Half of the jobs take longer than 1.4 s by themselves. The others may hardly wait, and
        // still 100 servers are not needed.
        assert!(servers(1.0, 1.4) < 25, "{}", servers(1.0, 1.4));
    }

    #[test]
    fn the_parts_of_the_service_time_average_to_its_mean() {
        for service_scv in [0.0, 0.3, 1.0] {
            let work = Work { arrivals_per_s: 1.0, service_s: 2.0, service_scv, variability: 1.0 };
            let mean = work.service_times_s().iter().sum::<f64>() / PARTS as f64;
            assert!((mean - 2.0).abs() < 0.25, "{service_scv}: {mean}");
        }
    }

    fn waiting_of(servers: u32, offered: f64) -> f64 {
        let blocking = (1..=servers).fold(1.0, |before, k| next_blocking(before, k, offered));
        waiting(blocking, servers, offered)
    }

    /// The definition: C = (a^k / k!) (k / (k - a)) / (sum of a^i / i! for i < k, plus the
    /// numerator).
    fn by_definition(servers: u32, offered: f64) -> f64 {
        let term = |i: u32| (1..=i).fold(1.0, |product, j| product * offered / f64::from(j));
        let k = f64::from(servers);
        let last = term(servers) * k / (k - offered);
        last / ((0..servers).map(term).sum::<f64>() + last)
    }

    #[test]
    fn the_probability_of_waiting_equals_the_published_tables() {
        // Kleinrock I, and the tables of call-centre handbooks.
        for (servers, offered, expected) in
            [(1, 0.5, 0.5), (2, 1.0, 1.0 / 3.0), (3, 2.0, 0.4444), (5, 4.0, 0.5541), (10, 8.0, 0.4092)]
        {
            assert!((waiting_of(servers, offered) - expected).abs() < 5e-5, "{servers} {offered}");
        }
    }

    #[test]
    fn the_recursion_equals_the_definition() {
        for servers in 1..60 {
            for part in 1..20 {
                let offered = f64::from(servers) * f64::from(part) / 20.0;
                let (ours, theirs) = (waiting_of(servers, offered), by_definition(servers, offered));
                assert!((ours - theirs).abs() < 1e-9, "{servers} {offered}: {ours} {theirs}");
            }
        }
    }

    #[test]
    fn the_number_of_servers_is_the_smallest_that_keeps_the_wait() {
        for (arrivals, service, slack) in
            [(5.0, 2.0, 28.0), (5.0, 2.0, 0.0), (0.1, 2.0, 5.0), (400.0, 0.3, 1.0)]
        {
            let servers = servers_for_wait(arrivals, service, slack, 1.0, 1000);
            let late = |k: u32| {
                let offered = arrivals * service;
                if f64::from(k) <= offered {
                    return 1.0;
                }
                by_definition(k, offered) * (-(f64::from(k) - offered) * slack / service).exp()
            };
            assert!(late(servers) < LATE, "{arrivals} {service} {slack}: {servers}");
            assert!(servers == 1 || late(servers - 1) >= LATE, "{arrivals} {service} {slack}: {servers}");
        }
    }

    #[test]
    fn regular_arrivals_need_fewer_servers_and_irregular_ones_more() {
        let servers = |variability| servers_for_wait(5.0, 2.0, 10.0, variability, 100);
        assert_eq!([0.0, 0.5, 1.0, 3.0].map(servers), [10, 11, 11, 12]);
        assert_eq!(servers_for_wait(1.003, 2.0, 10.0, 0.0, 100), 2);
    }

    #[test]
    fn no_arrivals_need_no_server_and_the_number_is_bounded() {
        assert_eq!(servers_for_wait(0.0, 2.0, 1.0, 1.0, 100), 0);
        assert_eq!(servers_for_wait(1e9, 2.0, 1.0, 1.0, 100), 100);
        assert_eq!(servers_for_wait(1.0, 0.0, 1.0, 1.0, 100), 0);
        assert_eq!(servers_for_wait(1e-9, 1.0, 1.0, 1.0, 100), 1);
    }
}
