//! A lower bound of the cost of any schedule.
//!
//! All work must be done, and an instance runs while it is done. In addition, work that must be in
//! time ties instances to moments. Requests that arrive within the limit of each other form a
//! cluster; between two clusters nothing that is in time can be processed. An instance that serves
//! both is either paid through that gap or started again. The relaxation takes the cheaper of the
//! two for each gap, ignores that instances are indivisible except for the number that a cluster
//! needs at the same time, does late requests in the gaps for free, and leaves out clusters that
//! the allowed late requests cover.

use crate::simulate::{load::Load, setup::Micros};

/// Upper bound of the number of instances that a cluster needs.
const MOST_NEEDED: u32 = 10_000;

/// A cluster of requests, in seconds.
struct Cluster {
    from_s: f64,
    /// Time of the last arrival.
    to_s: f64,
    work_s: f64,
    jobs: usize,
}

/// Lower bound of the cost, in US dollars, of all schedules in which this share of the requests
/// takes at most `limit_s`.
pub(in crate::simulate) fn least_cost(load: &Load<'_>, limit_s: f64, share: f64) -> f64 {
    let setup = load.setup;
    let slots = f64::from(setup.concurrency.max(1));
    let jobs = load.trace.arrivals.len();
    let late = ((1.0 - share.clamp(0.0, 1.0)) * jobs as f64).floor() as usize;
    // The shortest of the start delays is a lower bound for a start.
    let seconds = |micros: Micros| micros as f64 / 1e6;
    let boot = |number: u64| load.start_delay(number);
    let boot_s = (1..=64).map(boot).min().map_or(0.0, |least| seconds(least) - setup.pending.as_secs_f64());
    let boot_s = boot_s.max(0.0);
    let minimum_s = setup.price.billing_minimum.as_secs_f64();

    let clusters = clusters(load, limit_s);
    let work_s: f64 = clusters.iter().map(|cluster| cluster.work_s).sum::<f64>() / slots;
    let mut longest: Vec<f64> = load.service.iter().map(|time| f64::from(*time) / 1e6).collect();
    longest.sort_unstable_by(f64::total_cmp);
    let late_s: f64 = longest.iter().rev().take(late).sum::<f64>() / slots;

    // Instances that a cluster needs at the same time: its work, minus what may be late, divided by
    // the time from its begin to its end.
    let needs = |cluster: &Cluster| {
        let span_s = (cluster.to_s - cluster.from_s + limit_s).max(1e-6);
        let work_s = (cluster.work_s / slots - late_s).max(0.0);
        (work_s / span_s - 1e-9).ceil().max(1.0)
    };
    // For each number of instances, the sum of the gaps since a cluster last needed that many.
    let mut since_s: Vec<f64> = Vec::new();
    let mut tied: Vec<(f64, usize)> = Vec::new();
    let mut end_s = f64::NEG_INFINITY;
    for cluster in &clusters {
        let gap_s = (cluster.from_s - end_s).max(0.0);
        since_s.iter_mut().for_each(|since_s| *since_s += gap_s);
        let needed = needs(cluster).min(f64::from(MOST_NEEDED)) as usize;
        since_s.resize(since_s.len().max(needed), f64::INFINITY);
        // Each instance is paid through the gaps or started again.
        let cost_s = since_s[..needed].iter().map(|since_s| since_s.min(boot_s)).sum();
        since_s[..needed].fill(0.0);
        tied.push((cost_s, cluster.jobs));
        end_s = cluster.to_s + limit_s;
    }
    // Late requests may form whole clusters: leave out those with the highest cost per request.
    tied.sort_by(|(a, jobs_a), (b, jobs_b)| (b / *jobs_b as f64).total_cmp(&(a / *jobs_a as f64)));
    let (mut spared, mut tied_s) = (late, 0.0);
    for (cost_s, jobs) in tied {
        if spared >= jobs {
            spared -= jobs;
        } else {
            // The last cluster is left out in part, which can only lower the bound.
            tied_s += cost_s * (1.0 - spared as f64 / jobs as f64);
            spared = 0;
        }
    }
    // Instances that are kept through gaps may do the late work there.
    let least_s = work_s + (tied_s - late_s).max(0.0);
    let starts_at_least = if jobs > late { 1.0 } else { 0.0 };
    least_s.max(starts_at_least * minimum_s) / 3600.0 * setup.price.usd_per_hour
}

fn clusters(load: &Load<'_>, limit_s: f64) -> Vec<Cluster> {
    let mut clusters: Vec<Cluster> = Vec::new();
    for (at, work) in load.jobs() {
        let (at_s, work_s) = (at as f64 / 1e6, work as f64 / 1e6);
        match clusters.last_mut() {
            Some(last) if at_s - last.to_s <= limit_s => {
                last.to_s = at_s;
                last.work_s += work_s;
                last.jobs += 1;
            }
            _ => clusters.push(Cluster { from_s: at_s, to_s: at_s, work_s, jobs: 1 }),
        }
    }
    clusters
}
