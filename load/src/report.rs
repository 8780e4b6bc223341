//! What came of a run.

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

/// How many of the classes with the most wrong labels are listed.
const WORST: usize = 10;
/// Bars of a histogram for each power of ten; their edges are as far from each other as 1 from
/// 1.12.
const BARS_PER_DECADE: i32 = 20;

/// What came of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The service.
    pub url: String,
    /// How the load was made.
    pub load: Load,
    /// Images that were to be uploaded.
    pub images: u64,
    /// The files of the folder that are no images, and were not uploaded.
    pub passed_over: Vec<String>,
    /// Uploads at once; in an open loop, at most.
    pub concurrency: usize,
    /// Images with a label.
    pub results: u64,
    /// Images without one.
    pub failed: u64,
    /// Why, by status or another short word.
    pub failures: BTreeMap<String, FailureKind>,
    /// All answers by their status, those that said to come again included.
    pub statuses: BTreeMap<u16, u64>,
    /// Images that were first answered with a 202 and then asked for.
    pub pending: u64,
    /// Labels that the service had stored from earlier uploads of the same images, where it says
    /// so: no worker made these.
    pub cached: u64,
    /// Uploads that the service asked to repeat later.
    pub retried: u64,
    /// Kept connections that the server closed before they were used again.
    pub reconnects: u64,
    /// From the first upload to the last label; to the last failure where there is no label.
    pub seconds: f64,
    /// Labels in one second.
    pub per_second: f64,
    /// From the moment at which an upload was due to its label, in milliseconds; absent without a
    /// single result.
    pub latency_ms: Option<Latency>,
    /// How these latencies are spread, from the fastest to the slowest.
    pub histogram: Vec<Bar>,
    /// How well the schedule of an open loop was kept.
    pub punctuality: Option<Punctuality>,
    /// Compared with the truth, if there is one.
    pub accuracy: Option<Accuracy>,
    /// Whether the goals were met, if there were some.
    pub slo: Option<Verdict>,
    /// How it went, stretch by stretch.
    pub timeline: Vec<Point>,
    /// The service's fleet meanwhile; empty if it reported none.
    pub fleet: Vec<Sample>,
    /// Why the run ended early, if it did.
    pub stopped: Option<String>,
}

/// How the load was made.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case", tag = "loop")]
pub enum Load {
    /// An upload after the other on each connection.
    Closed,
    /// At the moments of a schedule.
    Open {
        /// The rate, or the name of the trace.
        rate: String,
        /// How uploads are spread over it; a trace has its own times.
        arrivals: Option<&'static str>,
    },
}

/// Milliseconds from upload to label.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Latency {
    /// The mean.
    pub mean: f64,
    /// Half were faster.
    pub p50: f64,
    /// 95 of 100 were faster.
    pub p95: f64,
    /// 99 of 100 were faster.
    pub p99: f64,
    /// The slowest.
    pub max: f64,
}

/// The images whose latency is up to this, and more than that of the bar before.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Bar {
    /// The upper edge.
    pub up_to_ms: f64,
    /// How many.
    pub count: u64,
}

/// How well the schedule of an open loop was kept. All that is said here is part of the latencies.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Punctuality {
    /// Uploads that were due while as many as allowed were in flight, and had to wait for one of
    /// these to end.
    pub waited: u64,
    /// Uploads that were due and never begun, because the run was stopped.
    pub never_begun: u64,
    /// From the moment at which an upload was due to that at which it was begun, in milliseconds:
    /// half were faster.
    pub late_p50_ms: f64,
    /// 99 of 100 were faster.
    pub late_p99_ms: f64,
    /// The slowest.
    pub late_max_ms: f64,
}

/// How many labels were right.
#[derive(Debug, Clone, Serialize)]
pub struct Accuracy {
    /// The share of right ones, from 0 to 1.
    pub share: f64,
    /// Right ones.
    pub correct: u64,
    /// Of this many results with a known label.
    pub of: u64,
    /// Where the truth is from.
    pub against: String,
    /// Images of which the truth is not known.
    pub unlabelled: Vec<String>,
    /// What the reader should know of the sheet of labels, in sentences.
    pub remarks: Vec<String>,
    /// The classes with the most wrong labels.
    pub worst: Vec<Class>,
}

/// What became of the images that show one thing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Class {
    /// What they show.
    pub label: String,
    /// How many there were.
    pub of: u64,
    /// How many were recognised.
    pub correct: u64,
    /// What the others were taken for, the most frequent first.
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
            // Where it was stopped, what was to be done is not what was done.
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

    /// Whether every image got its label.
    pub fn is_complete(&self) -> bool {
        self.results == self.images
    }

    /// Whether the run ended by itself and met its goals; without goals, whether every image got
    /// its label.
    pub fn is_well(&self) -> bool {
        self.stopped.is_none() && self.slo.as_ref().map_or_else(|| self.is_complete(), |slo| slo.met)
    }
}

/// The classes with the most wrong labels, the worst first.
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

/// The latencies in bars whose edges are powers of one number: as fine at a millisecond as at a
/// minute.
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
    fn the_bars_hold_every_latency_once_between_their_edges() {
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
    fn the_worst_classes_are_those_with_the_most_wrong_labels_and_say_what_they_were_taken_for() {
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
        let told: Vec<_> = worst
            .iter()
            .map(|class| (class.label.as_str(), class.correct, class.of, class.shown()))
            .collect();
        assert_eq!(
            told,
            [("dog", 9, 14, "wolf (3), cat (2)".to_owned()), ("cat", 5, 6, "dog (1)".to_owned())]
        );
    }
}
