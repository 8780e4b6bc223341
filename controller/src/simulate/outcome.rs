//! The outcome of a run: the latency of each request, and the figures by which runs are compared.

use std::time::Duration;

use serde::Serialize;

use super::{setup::Micros, site::Site};

/// Length of a month as AWS defines it, in seconds.
const MONTH_S: f64 = 730.0 * 3600.0;

/// The outcome of one run.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The figures by which runs are compared.
    pub figures: Figures,
    /// Latency of each request from arrival to result, in seconds; NaN without a result when the
    /// run ended.
    pub latencies_s: Vec<f32>,
    /// Time at which the run ended.
    pub end: Micros,
    /// Integral of the number of jobs in the system over time, in job seconds.
    pub job_seconds: f64,
    /// Time that all instances ran, in seconds, without the rest of billing minimums.
    pub ran_s: f64,
    /// From the start order to the end of the last job, for each run of an instance that had a job.
    pub worked: Vec<(Micros, Micros)>,
    /// Begin and end of each run of an instance.
    pub spans: Vec<(Micros, Micros)>,
    /// Actions that are never right, and rules that a plan broke, one sentence each.
    pub wrong: Vec<String>,
    /// The samples of the state, if they were requested.
    pub samples: Vec<Sample>,
}

/// The figures by which runs are compared. Latencies are from arrival to result. A request without
/// a result counts as if it had one at the end of the run, and as one outside the SLO.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Number of requests that arrived.
    pub requests: u64,
    /// Number of requests without a result when the run ended.
    pub unfinished: u64,
    /// Mean latency, in seconds.
    pub mean_s: f64,
    /// Median latency, in seconds.
    pub p50_s: f64,
    /// 95th percentile of the latency, in seconds.
    pub p95_s: f64,
    /// 99th percentile of the latency, in seconds.
    pub p99_s: f64,
    /// Longest latency, in seconds.
    pub max_s: f64,
    /// Share of requests with a latency within the SLO, from 0 to 1.
    pub within_slo: f64,
    /// Number of jobs in flight on instances that were stopped by force.
    pub killed: u64,
    /// Number of times that a job returned to the queue, for any reason.
    pub redelivered: u64,
    /// Number of starts of instances.
    pub starts: u64,
    /// Billed hours, including billing minimums.
    pub instance_hours: f64,
    /// Part of `instance_hours` of launched instances.
    pub launched_hours: f64,
    /// Cost of `instance_hours`, in US dollars.
    pub cost_usd: f64,
    /// Cost of the disks of all instances for the length of the trace, in US dollars, including
    /// parked ones. It is the same for all drivers and not part of `cost_usd`.
    pub disks_usd: f64,
    /// Cost per thousand requests, in US dollars.
    pub cost_usd_per_1000: f64,
}

/// The state at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Sample {
    /// Time of the sample.
    pub at: Micros,
    /// Number of waiting jobs.
    pub visible: u64,
    /// Number of jobs that are processed or have a lease.
    pub in_flight: u64,
    /// Number of instances that take jobs.
    pub ready: u32,
    /// Number of instances that were started and are not ready.
    pub starting: u32,
    /// Number of instances that drain or stop.
    pub leaving: u32,
    /// Number of orders to instances so far.
    pub orders: u64,
}

impl Outcome {
    /// Computes the outcome of a run that has ended.
    pub(super) fn of(site: Site<'_>) -> Self {
        let setup = site.setup;
        let end_s = site.now as f64 / 1e6;
        let until_end = |job: usize| (end_s - site.load.trace.arrivals[job] as f64 / 1e6) as f32;
        let finished =
            |(job, latency): (usize, &f32)| if latency.is_nan() { until_end(job) } else { *latency };
        let sorted = in_order(site.latencies_s.iter().enumerate().map(finished).collect());
        let within = site.latencies_s.iter().filter(|latency| is_within(**latency, setup.slo)).count();
        let requests = sorted.len() as u64;
        let per_request = 1.0 / requests.max(1) as f64;
        let instance_hours = site.billed as f64 / 3.6e9;
        let launched_hours = site.billed_launched as f64 / 3.6e9;
        let launched_usd = setup.launched_usd_per_hour.unwrap_or(setup.price.usd_per_hour);
        let cost_usd =
            (instance_hours - launched_hours) * setup.price.usd_per_hour + launched_hours * launched_usd;
        let figures = Figures {
            requests,
            unfinished: requests - site.ended as u64,
            mean_s: sorted.iter().map(|latency| f64::from(*latency)).sum::<f64>() * per_request,
            p50_s: percentile(&sorted, 50),
            p95_s: percentile(&sorted, 95),
            p99_s: percentile(&sorted, 99),
            max_s: percentile(&sorted, 100),
            within_slo: within as f64 / requests.max(1) as f64,
            killed: site.killed,
            redelivered: site.redelivered,
            starts: site.starts,
            instance_hours,
            launched_hours,
            cost_usd,
            // The disk of a launched instance is deleted with it.
            disks_usd: site.machines.len().min(site.parked) as f64 * site.load.trace.seconds() / MONTH_S
                * setup.price.disk_usd_per_month,
            cost_usd_per_1000: cost_usd * 1000.0 * per_request,
        };
        Self {
            figures,
            end: site.now,
            job_seconds: site.job_micros as f64 / 1e6,
            ran_s: site.ran as f64 / 1e6,
            latencies_s: site.latencies_s,
            worked: site.worked,
            spans: site.spans,
            wrong: site.wrong,
            samples: site.samples,
        }
    }
}

/// Whether a request met the SLO; one without a result did not. Half a millisecond allows for the
/// rounding of stored values.
fn is_within(latency_s: f32, slo: Duration) -> bool {
    f64::from(latency_s) <= slo.as_secs_f64() + 5e-4
}

/// Sorts non-negative latencies, whose bits have the order of their values. A radix sort by digits
/// of eleven bits takes a quarter of the time of a comparison sort.
fn in_order(mut values: Vec<f32>) -> Vec<f32> {
    const DIGIT: u32 = 11;
    const MASK: u32 = (1 << DIGIT) - 1;
    if values.len() < 1 << DIGIT || values.iter().any(|value| value.is_sign_negative()) {
        values.sort_unstable_by(f32::total_cmp);
        return values;
    }
    let mut sorted = vec![0.0; values.len()];
    for shift in [0, DIGIT, 2 * DIGIT] {
        let digit = |value: f32| (value.to_bits() >> shift & MASK) as usize;
        let mut places = vec![0; 1 << DIGIT];
        values.iter().for_each(|value| places[digit(*value)] += 1);
        let mut place = 0;
        for count in &mut places {
            place += std::mem::replace(count, place);
        }
        for value in &values {
            let place = &mut places[digit(*value)];
            sorted[*place] = *value;
            *place += 1;
        }
        std::mem::swap(&mut values, &mut sorted);
    }
    values
}

/// The percentile by the nearest rank: the smallest value that `percent` per cent of the values do
/// not exceed.
fn percentile(sorted: &[f32], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    rank.checked_sub(1).and_then(|place| sorted.get(place)).map_or(0.0, |value| f64::from(*value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Zero, microseconds, or anything up to months.
    fn seconds() -> impl Strategy<Value = f32> {
        let parts = |parts_per_s: f32| (1u32..100_000_000).prop_map(move |count| count as f32 / parts_per_s);
        prop_oneof![Just(0.0f32), parts(1e11), parts(10.0)]
    }

    proptest! {
        #[test]
        fn the_radix_sort_equals_a_comparison_sort(
            // Not ranges of floats: proptest 1.12 occasionally panics when it draws from one.
            few in prop::collection::vec(seconds(), 0..50),
            many in prop::collection::vec(seconds(), 2048..2500),
        ) {
            for values in [few, many] {
                let mut expected = values.clone();
                expected.sort_unstable_by(f32::total_cmp);
                prop_assert_eq!(in_order(values), expected);
            }
        }
    }
}
