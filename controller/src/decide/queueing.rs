//! How many servers keep a line short: the mathematics of queues, as numbers in and numbers out.

/// Of all jobs, the part that may wait longer than their slack: what a 95th percentile leaves.
const LATE: f64 = 0.05;

/// Less variability than this is clockwork, in which no line grows while there are as many servers
/// as are busy, ...
const CLOCKWORK: f64 = 0.05;
/// ... give or take what the rate is not known to.
const RATE_ERROR: f64 = 0.02;

/// Quantiles of the service time that stand for its distribution, each for as large a part of all
/// jobs.
const PARTS: usize = 8;
/// The middle of each part in a standard normal distribution.
const NORMAL: [f64; PARTS] = [-1.534, -0.887, -0.489, -0.157, 0.157, 0.489, 0.887, 1.534];

/// What arrives and what it takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    /// Jobs that come each second.
    pub(crate) arrivals_per_s: f64,
    /// How long each keeps a server busy, on the average ...
    pub(crate) service_s: f64,
    /// ... and by its squared coefficient of variation.
    pub(crate) service_scv: f64,
    /// How irregular arrivals and service times are: the mean of both squared coefficients of
    /// variation.
    pub(crate) variability: f64,
}

impl Work {
    /// The parts of a log-normal distribution with this mean and variation.
    fn service_times_s(&self) -> [f64; PARTS] {
        let variance = (1.0 + self.service_scv.max(0.0)).ln();
        let median_s = self.service_s / (variance / 2.0).exp();
        NORMAL.map(|normal| median_s * (variance.sqrt() * normal).exp())
    }
}

/// How many servers it takes so that fewer than 5 of 100 jobs take longer than `most_s` from their
/// arrival to their end; at most `most`.
///
/// The wait in a line of M/M/k: P(W > t) = C(k, a) exp(-(k - a) t / s), with the offered load a = λ
/// s in Erlangs and Erlang's C formula (L. Kleinrock, Queueing Systems I, 1975, section 3.5). Other
/// arrivals and service times wait longer or shorter in proportion to their `variability` (A. O.
/// Allen, Probability, Statistics and Queueing Theory, 1978, after Cunneen; it is exact for one
/// server as a load of one is neared, Kingman 1961). Of each part of the service times what is left
/// of `most_s` may be waited. Jobs that alone take longer are late whatever there is, and nobody is
/// started for them.
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
    // Somewhat regular is not believed: it saves little, and a wrong guess makes a line.
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

/// Erlang's B formula for one server more (A. K. Erlang, 1917), by the recursion that never
/// overflows: B(k) = a B(k-1) / (k + a B(k-1)), from B(0) = 1.
fn next_blocking(before: f64, servers: u32, offered: f64) -> f64 {
    offered * before / (f64::from(servers) + offered * before)
}

/// Erlang's C formula, the probability that a job waits at all: C = B / (1 - (a / k) (1 - B)). Only
/// for more servers than offered load.
fn waiting(blocking: f64, servers: u32, offered: f64) -> f64 {
    blocking / (1.0 - offered / f64::from(servers) * (1.0 - blocking))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of jobs that all take equally long, by what they may wait.
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
    fn where_jobs_differ_what_the_long_ones_leave_counts_and_the_doomed_do_not() {
        let servers = |service_scv, most_s| {
            let work = Work { arrivals_per_s: 5.0, service_s: 2.0, service_scv, variability: 1.0 };
            servers_in_time(&work, most_s, 100)
        };
        assert!(servers(1.0, 5.2) > servers(0.0, 5.2));
        assert_eq!(servers(1.0, 600.0), servers(0.0, 600.0));
        // Half of the jobs take longer than this by themselves. The others may hardly wait, and
        // nobody buys a hundred for all.
        assert!(servers(1.0, 1.4) < 25, "{}", servers(1.0, 1.4));
    }

    #[test]
    fn the_parts_of_the_service_times_have_their_mean() {
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

    /// By the definition: C = (a^k / k!) (k / (k - a)) / (sum of a^i / i! for i < k, and that).
    fn by_definition(servers: u32, offered: f64) -> f64 {
        let term = |i: u32| (1..=i).fold(1.0, |product, j| product * offered / f64::from(j));
        let k = f64::from(servers);
        let last = term(servers) * k / (k - offered);
        last / ((0..servers).map(term).sum::<f64>() + last)
    }

    #[test]
    fn the_probability_to_wait_is_that_of_the_published_tables() {
        // Kleinrock I, and the tables of any call-centre handbook.
        for (servers, offered, expected) in
            [(1, 0.5, 0.5), (2, 1.0, 1.0 / 3.0), (3, 2.0, 0.4444), (5, 4.0, 0.5541), (10, 8.0, 0.4092)]
        {
            assert!((waiting_of(servers, offered) - expected).abs() < 5e-5, "{servers} {offered}");
        }
    }

    #[test]
    fn the_recursion_gives_what_the_definition_gives() {
        for servers in 1..60 {
            for part in 1..20 {
                let offered = f64::from(servers) * f64::from(part) / 20.0;
                let (ours, theirs) = (waiting_of(servers, offered), by_definition(servers, offered));
                assert!((ours - theirs).abs() < 1e-9, "{servers} {offered}: {ours} {theirs}");
            }
        }
    }

    #[test]
    fn enough_servers_are_the_fewest_that_keep_the_wait() {
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
    fn what_is_regular_needs_fewer_and_what_is_irregular_more() {
        let servers = |variability| servers_for_wait(5.0, 2.0, 10.0, variability, 100);
        assert_eq!([0.0, 0.5, 1.0, 3.0].map(servers), [10, 11, 11, 12]);
        assert_eq!(servers_for_wait(1.003, 2.0, 10.0, 0.0, 100), 2);
    }

    #[test]
    fn nothing_arriving_needs_nobody_and_there_is_an_end_to_it() {
        assert_eq!(servers_for_wait(0.0, 2.0, 1.0, 1.0, 100), 0);
        assert_eq!(servers_for_wait(1e9, 2.0, 1.0, 1.0, 100), 100);
        assert_eq!(servers_for_wait(1.0, 0.0, 1.0, 1.0, 100), 0);
        assert_eq!(servers_for_wait(1e-9, 1.0, 1.0, 1.0, 100), 1);
    }
}
