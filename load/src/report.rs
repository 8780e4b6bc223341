//! The report of a run.

mod text;

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::{crew::Crew, schedule::Arrivals, tally::Tally};
pub use crate::{
    fleet::{Pool, Sample},
    slo::{Goal, Verdict},
    tally::FailureKind,
    timeline::Point,
};

/// Number of labels with the most errors that are listed.
const WORST: usize = 10;
/// Number of histogram bars per power of ten; the ratio of adjacent edges is 1.12.
const BARS_PER_DECADE: i32 = 20;

/// The report of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The URL of the service.
    pub url: String,
    /// The kind of load.
    pub load: Load,
    /// The number of images that were to be uploaded.
    pub images: u64,
    /// The files of the folder that are not images, and were not uploaded.
    pub passed_over: Vec<String>,
    /// The number of concurrent uploads; in an open loop, the maximum.
    pub concurrency: usize,
    /// The number of images with a label.
    pub results: u64,
    /// The number of images without a label.
    pub failed: u64,
    /// The failures by status or category.
    pub failures: BTreeMap<String, FailureKind>,
    /// The number of responses by status, including those that ask to retry.
    pub statuses: BTreeMap<u16, u64>,
    /// The number of images that first got a 202 and were polled.
    pub pending: u64,
    /// The number of labels that the service had stored from earlier uploads of the same images,
    /// according to its responses: no worker computed them.
    pub cached: u64,
    /// The number of uploads repeated at the request of the service.
    pub retried: u64,
    /// The number of idle connections that the server closed before they were used again.
    pub reconnects: u64,
    /// Seconds from the first upload to the last label, or to the last failure if there is no
    /// label.
    pub seconds: f64,
    /// Labels per second.
    pub per_second: f64,
    /// Latency from the due time of an upload to its label, in milliseconds; absent without
    /// results.
    pub latency_ms: Option<Latency>,
    /// The distribution of the latencies, fastest first.
    pub histogram: Vec<Bar>,
    /// How well an open loop kept its schedule.
    pub punctuality: Option<Punctuality>,
    /// The comparison with known labels, if there are any.
    pub accuracy: Option<Accuracy>,
    /// Whether the goals were met, if there are any.
    pub slo: Option<Verdict>,
    /// The run over time.
    pub timeline: Vec<Point>,
    /// The fleet of the service during the run; empty if it reported none.
    pub fleet: Vec<Sample>,
    /// The reason if the run ended early.
    pub stopped: Option<String>,
}

/// The kind of load.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case", tag = "loop")]
pub enum Load {
    /// Each connection sends one upload after the other.
    Closed,
    /// Uploads are sent at scheduled times.
    Open {
        /// The rate, or the name of the trace.
        rate: String,
        /// The distribution of arrivals at a rate; absent for a trace.
        arrivals: Option<&'static str>,
    },
}

/// Latency from upload to label, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Latency {
    /// The mean.
    pub mean: f64,
    /// The median.
    pub p50: f64,
    /// The 95th percentile.
    pub p95: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The maximum.
    pub max: f64,
}

/// A bar of the histogram: the latencies above the previous bar's edge, up to this one.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Bar {
    /// The upper edge, in milliseconds.
    pub up_to_ms: f64,
    /// The number of images.
    pub count: u64,
}

/// How well an open loop kept its schedule. All delays here are part of the latencies.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Punctuality {
    /// The number of uploads that were due while the maximum was in flight, and had to wait.
    pub waited: u64,
    /// The number of uploads that were due but never started, because the run was stopped.
    pub never_begun: u64,
    /// The delay from the due time of an upload to its start, in milliseconds: the median.
    pub late_p50_ms: f64,
    /// The 99th percentile.
    pub late_p99_ms: f64,
    /// The maximum.
    pub late_max_ms: f64,
}

/// The accuracy of the labels.
#[derive(Debug, Clone, Serialize)]
pub struct Accuracy {
    /// The share of correct labels, in [0, 1].
    pub share: f64,
    /// The number of correct labels.
    pub correct: u64,
    /// The number of results with a known label.
    pub of: u64,
    /// The source of the known labels.
    pub against: String,
    /// The images without a known label.
    pub unlabelled: Vec<String>,
    /// Remarks about the sheet of labels, in sentences.
    pub remarks: Vec<String>,
    /// The labels with the most errors.
    pub worst: Vec<Class>,
}

/// The results for the images with one known label.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Class {
    /// The known label.
    pub label: String,
    /// The number of images.
    pub of: u64,
    /// The number of correct results.
    pub correct: u64,
    /// The wrong labels with their numbers, most frequent first.
    pub taken_for: Vec<(String, u64)>,
}

impl Report {
    pub(crate) fn of(crew: &Crew, stopped: Option<String>) -> Self {
        let (options, tally) = (&crew.options, crew.tally());
        let (begun, seconds) = (crew.begun(), tally.seconds());
        let never_begun = if stopped.is_some() { crew.never_begun(crew.elapsed()) } else { 0 };
        let accuracy = options.truth.as_ref().map(|truth| Accuracy {
            share: if tally.judged > 0 { tally.correct as f64 / tally.judged as f64 } else { 0.0 },
            correct: tally.correct,
            of: tally.judged,
            against: truth.source.clone(),
            unlabelled: options.unlabelled(begun).into_iter().map(str::to_owned).collect(),
            remarks: truth.remarks.clone(),
            worst: worst(&tally),
        });
        let ms = |histogram: &Histogram<u64>, quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        let latency = &tally.latency_us;
        Self {
            url: options.url.to_string(),
            load: match &options.open {
                None => Load::Closed,
                Some(open) => Load::Open {
                    rate: open.words.clone(),
                    arrivals: (!open.schedule.is_trace()).then_some(match open.arrivals {
                        Arrivals::Even => "even",
                        Arrivals::Poisson => "poisson",
                    }),
                },
            },
            // A stopped run reports the planned number of images.
            images: stopped.as_ref().map_or(begun, |_| options.requests.unwrap_or(begun + never_begun)),
            passed_over: Vec::new(),
            concurrency: options.concurrency,
            results: tally.results,
            failed: tally.failed_images(),
            failures: tally.failures.clone(),
            statuses: tally.statuses.clone(),
            pending: tally.pending,
            cached: tally.cached,
            retried: tally.retried,
            reconnects: tally.reconnects,
            seconds,
            per_second: if seconds > 0.0 { tally.results as f64 / seconds } else { 0.0 },
            latency_ms: (tally.results > 0).then(|| Latency {
                mean: latency.mean() / 1e3,
                p50: ms(latency, 0.5),
                p95: ms(latency, 0.95),
                p99: ms(latency, 0.99),
                max: latency.max() as f64 / 1e3,
            }),
            histogram: bars(latency),
            punctuality: options.open.as_ref().map(|_| Punctuality {
                waited: tally.waited,
                never_begun,
                late_p50_ms: ms(&tally.late_us, 0.5),
                late_p99_ms: ms(&tally.late_us, 0.99),
                late_max_ms: tally.late_us.max() as f64 / 1e3,
            }),
            accuracy,
            slo: options.slo.judge(&tally),
            timeline: tally.timeline.points(),
            fleet: crew.fleet.samples(),
            stopped,
        }
    }

    /// Returns whether every image got a label.
    pub fn is_complete(&self) -> bool {
        self.results == self.images
    }

    /// Returns whether the run ended by itself and met its goals, or, without goals, whether every
    /// image got a label.
    pub fn is_well(&self) -> bool {
        self.stopped.is_none() && self.slo.as_ref().map_or_else(|| self.is_complete(), |slo| slo.met)
    }
}

/// Returns the labels with the most errors, worst first.
fn worst(tally: &Tally) -> Vec<Class> {
    let class = |(truth, labels): (&String, &BTreeMap<String, u64>)| {
        let of = labels.values().sum();
        let correct = labels.get(truth).copied().unwrap_or(0);
        let others = labels.iter().filter(|(label, _)| *label != truth);
        let mut taken_for: Vec<_> = others.map(|(label, count)| (label.clone(), *count)).collect();
        taken_for.sort_by(|(a, most), (b, other)| other.cmp(most).then(a.cmp(b)));
        taken_for.truncate(WORST);
        Class { label: truth.clone(), of, correct, taken_for }
    };
    let mut classes: Vec<_> =
        tally.confusion.iter().map(class).filter(|class| class.correct < class.of).collect();
    classes.sort_by(|a, b| (b.of - b.correct).cmp(&(a.of - a.correct)).then(a.label.cmp(&b.label)));
    classes.truncate(WORST);
    classes
}

/// Returns the latencies as bars whose edges have a constant ratio, for the same relative
/// resolution everywhere.
fn bars(latency: &Histogram<u64>) -> Vec<Bar> {
    if latency.is_empty() {
        return Vec::new();
    }
    let per_decade = f64::from(BARS_PER_DECADE);
    let place = |us: u64| ((us.max(1) as f64).log10() * per_decade - 1e-9).ceil() as i32;
    let (first, last) = (place(latency.min()), place(latency.max()));
    let mut bars: Vec<_> = (first..=last)
        .map(|place| Bar { up_to_ms: 10f64.powf(f64::from(place) / per_decade) / 1e3, count: 0 })
        .collect();
    for value in latency.iter_recorded() {
        let place = (place(value.value_iterated_to()) - first).clamp(0, last - first);
        bars[place as usize].count += value.count_since_last_iteration();
    }
    bars
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::tally::Times;

    #[test]
    fn every_latency_is_in_one_bar_between_its_edges() {
        let mut latency = Histogram::new_with_bounds(1, 3_600_000_000, 3).unwrap();
        for us in [1, 999, 1000, 1001, 5000, 5000, 70_000, 3_000_000] {
            latency.record(us).unwrap();
        }
        let bars = bars(&latency);
        assert_eq!(bars.iter().map(|bar| bar.count).sum::<u64>(), 8);
        let within = |low: f64, high: f64| {
            let bars = bars.iter().filter(|bar| low < bar.up_to_ms && bar.up_to_ms <= high * 1.0001);
            bars.map(|bar| bar.count).sum::<u64>()
        };
        assert_eq!((within(0.5, 1.0), within(1.0, 1.13), within(4.0, 5.1)), (2, 1, 2));
    }

    #[test]
    fn the_worst_labels_have_the_most_errors_and_list_the_wrong_labels() {
        let mut tally = Tally::default();
        let times = Times { due: Duration::ZERO, took: Duration::from_millis(1) };
        for (truth, label, count) in [
            ("cat", "Cat", 5),
            ("cat", "dog", 1),
            ("dog", "cat", 2),
            ("dog", "wolf", 3),
            ("dog", "dog", 9),
            ("ant", "ant", 1),
        ] {
            (0..count).for_each(|_| tally.classified(times, label, Some(truth)));
        }
        let worst = worst(&tally);
        let rows: Vec<_> = worst
            .iter()
            .map(|class| (class.label.as_str(), class.correct, class.of, class.shown()))
            .collect();
        assert_eq!(
            rows,
            [("dog", 9, 14, "wolf (3), cat (2)".to_owned()), ("cat", 5, 6, "dog (1)".to_owned())]
        );
    }
}
