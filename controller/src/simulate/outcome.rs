//! What came of a run: for each request its latency, for all of them what people compare.

use std::time::Duration;

use serde::Serialize;

use super::{setup::Micros, site::Site};

/// As AWS counts a month.
const MONTH_S: f64 = 730.0 * 3600.0;

/// What came of one run.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// What people compare.
    pub figures: Figures,
    /// From arrival to result in seconds, by request; NaN where there was none before the run
    /// ended.
    pub latencies_s: Vec<f32>,
    /// When the run ended.
    pub end: Micros,
    /// Jobs in the system, times seconds: their time average, times the length of the run.
    pub job_seconds: f64,
    /// For how long instances ran, in seconds, without what is billed beyond that by the minimum.
    pub ran_s: f64,
    /// From its order to the end of its last job, for each instance that had one.
    pub worked: Vec<(Micros, Micros)>,
    /// From when to when each instance ran.
    pub spans: Vec<(Micros, Micros)>,
    /// What nobody should have done, and rules that a plan broke, in sentences. Empty, if all is
    /// well.
    pub wrong: Vec<String>,
    /// How things stood from time to time, where that was asked for.
    pub samples: Vec<Sample>,
}

/// What people compare. Latencies are from arrival to result; a request that had no result when the
/// run ended counts as if it had one then, and as one beyond the SLO.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Requests that arrived.
    pub requests: u64,
    /// Those that had no result when the run ended.
    pub unfinished: u64,
    /// The mean latency in seconds.
    pub mean_s: f64,
    /// Half of them are at most this, in seconds.
    pub p50_s: f64,
    /// 95 of 100 are at most this.
    pub p95_s: f64,
    /// 99 of 100 are at most this.
    pub p99_s: f64,
    /// The longest.
    pub max_s: f64,
    /// The share whose latency is at most the SLO, from 0 to 1.
    pub within_slo: f64,
    /// Jobs that were being worked on when somebody stopped their instance.
    pub killed: u64,
    /// Jobs that went back to the queue, for whatever reason, counted each time.
    pub redelivered: u64,
    /// Instances started.
    pub starts: u64,
    /// Hours that are billed, with the minimum of each start.
    pub instance_hours: f64,
    /// The part of these that was launched.
    pub launched_hours: f64,
    /// What they cost in US dollars.
    pub cost_usd: f64,
    /// What the disks of all instances cost in the time of the trace, the parked ones too; the same
    /// for everybody, and not in the cost.
    pub disks_usd: f64,
    /// The same for each thousand requests.
    pub cost_usd_per_1000: f64,
}

/// How things stood at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Sample {
    /// When.
    pub at: Micros,
    /// Jobs that wait.
    pub visible: u64,
    /// Jobs that are worked on, or whose lease has not run out.
    pub in_flight: u64,
    /// Instances that take jobs.
    pub ready: u32,
    /// Instances that were started and are not ready.
    pub starting: u32,
    /// Instances that drain or stop.
    pub leaving: u32,
    /// Orders that were given to instances until then.
    pub orders: u64,
}

impl Outcome {
    /// Sums up a run that is over.
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
            // The disk of one that is launched is gone with it.
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

/// Whether a request met the SLO; one without a result did not. Half a millisecond is for the
/// rounding of what is stored.
fn is_within(latency_s: f32, slo: Duration) -> bool {
    f64::from(latency_s) <= slo.as_secs_f64() + 5e-4
}

/// Sorts latencies, none of which is negative: their bits are in the order of their values. By
/// digits of eleven bits, which takes a quarter of the time of comparing them.
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

/// The nearest rank: the smallest value that `percent` of a hundred do not exceed.
fn percentile(sorted: &[f32], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    rank.checked_sub(1).and_then(|place| sorted.get(place)).map_or(0.0, |value| f64::from(*value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// None, microseconds, or anything up to months.
    fn seconds() -> impl Strategy<Value = f32> {
        let parts = |parts_per_s: f32| (1u32..100_000_000).prop_map(move |count| count as f32 / parts_per_s);
        prop_oneof![Just(0.0f32), parts(1e11), parts(10.0)]
    }

    proptest! {
        #[test]
        fn latencies_are_in_the_order_that_comparing_gives(
            // Not as ranges of floats: now and then proptest 1.12 panics in drawing from one.
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
