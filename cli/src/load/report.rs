//! What came of a run.

use std::{collections::BTreeMap, fmt, time::Duration};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::Options;
use crate::show::{count, milliseconds};

/// A latency that is longer counts as this one: an hour, in microseconds.
const LONGEST_US: u64 = 3_600_000_000;
/// So many failures of a kind are told in full.
const TOLD: usize = 3;

/// The counters of a run that goes on.
#[derive(Debug)]
pub struct Tally {
    /// Images with a label.
    pub results: u64,
    /// Images that were first answered with a 202.
    pub pending: u64,
    /// Answers that said to come again later.
    pub retried: u64,
    /// Kept connections that the server had closed.
    pub reconnects: u64,
    /// Results that could be compared with the truth ...
    pub judged: u64,
    /// ... and those that agreed with it.
    pub correct: u64,
    /// Seconds from the start to the last end of an image.
    pub seconds: f64,
    failures: BTreeMap<String, FailureKind>,
    latency_us: Histogram<u64>,
}

impl Default for Tally {
    fn default() -> Self {
        let latency_us = Histogram::new_with_bounds(1, LONGEST_US, 3).expect("these are possible bounds");
        Self {
            results: 0,
            pending: 0,
            retried: 0,
            reconnects: 0,
            judged: 0,
            correct: 0,
            seconds: 0.0,
            failures: BTreeMap::new(),
            latency_us,
        }
    }
}

impl Tally {
    pub(super) fn classified(&mut self, took: Duration) {
        self.results += 1;
        self.latency_us.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    pub(super) fn failed(&mut self, kind: String, sentence: String) {
        let failures = self.failures.entry(kind).or_default();
        failures.count += 1;
        if failures.first.len() < TOLD {
            failures.first.push(sentence);
        }
    }

    /// Images without a label, of all kinds.
    pub fn failed_images(&self) -> u64 {
        self.failures.values().map(|kind| kind.count).sum()
    }
}

/// Images that failed in the same way.
#[derive(Debug, Clone, Default, Serialize)]
pub struct FailureKind {
    /// How many.
    pub count: u64,
    /// The first few, in sentences.
    pub first: Vec<String>,
}

/// What came of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The service.
    pub url: String,
    /// Images that were to be uploaded.
    pub images: u64,
    /// Connections at once.
    pub concurrency: usize,
    /// Images with a label.
    pub results: u64,
    /// Images without one.
    pub failed: u64,
    /// Why, by status or another short word.
    pub failures: BTreeMap<String, FailureKind>,
    /// Images that were first answered with a 202 and then asked for.
    pub pending: u64,
    /// Uploads that the service asked to repeat later.
    pub retried: u64,
    /// Kept connections that the server closed before they were used again.
    pub reconnects: u64,
    /// From the first upload to the last label.
    pub seconds: f64,
    /// Labels in one second.
    pub per_second: f64,
    /// From upload to label, in milliseconds; absent without a single result.
    pub latency_ms: Option<Latency>,
    /// Compared with the truth, if there is one.
    pub accuracy: Option<Accuracy>,
    /// Why the run ended early, if it did.
    pub stopped: Option<String>,
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

/// How many labels were right.
#[derive(Debug, Clone, Serialize)]
pub struct Accuracy {
    /// The share of right ones, from 0 to 1.
    pub share: f64,
    /// Right ones.
    pub correct: u64,
    /// Of so many results with a known truth.
    pub of: u64,
    /// Where the truth is from.
    pub against: String,
    /// Images of which the truth is not known.
    pub unlabelled: Vec<String>,
}

impl Report {
    pub(super) fn of(options: &Options, tally: &Tally, stopped: Option<String>) -> Self {
        let latency = &tally.latency_us;
        let ms = |quantile| latency.value_at_quantile(quantile) as f64 / 1e3;
        let accuracy = options.truth.as_ref().map(|truth| Accuracy {
            share: if tally.judged > 0 { tally.correct as f64 / tally.judged as f64 } else { 0.0 },
            correct: tally.correct,
            of: tally.judged,
            against: truth.source.clone(),
            unlabelled: options.unlabelled().into_iter().map(str::to_owned).collect(),
        });
        Self {
            url: options.url.to_string(),
            images: options.requests,
            concurrency: options.concurrency,
            results: tally.results,
            failed: tally.failed_images(),
            failures: tally.failures.clone(),
            pending: tally.pending,
            retried: tally.retried,
            reconnects: tally.reconnects,
            seconds: tally.seconds,
            per_second: if tally.seconds > 0.0 { tally.results as f64 / tally.seconds } else { 0.0 },
            latency_ms: (tally.results > 0).then(|| Latency {
                mean: latency.mean() / 1e3,
                p50: ms(0.5),
                p95: ms(0.95),
                p99: ms(0.99),
                max: latency.max() as f64 / 1e3,
            }),
            accuracy,
            stopped,
        }
    }

    /// Whether every image got its label.
    pub fn is_complete(&self) -> bool {
        self.results == self.images
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, text: String| writeln!(f, "{name:<12}{text}");
        line("Images", self.images.to_string())?;
        let aside = [
            (self.pending, "first answered 202"),
            (self.retried, "sent again after a 429 or 503"),
            (self.reconnects, "sent again on a new connection"),
        ];
        let aside: Vec<_> = aside
            .iter()
            .filter(|(times, _)| *times > 0)
            .map(|(times, what)| format!("{times} {what}"))
            .collect();
        let aside = if aside.is_empty() { String::new() } else { format!(" ({})", aside.join(", ")) };
        line("Results", format!("{}{aside}", self.results))?;
        line("Failures", self.failed.to_string())?;
        for (kind, FailureKind { count, first }) in &self.failures {
            line("", format!("{count} x {kind}, e.g. {}", first.join("\n              ")))?;
        }
        line("Total time", format!("{:.2} s", self.seconds))?;
        line(
            "Throughput",
            format!("{:.1} images/s on {}", self.per_second, count(self.concurrency as u64, "connection")),
        )?;
        if let Some(Latency { mean, p50, p95, p99, max }) = self.latency_ms {
            let [mean, p50, p95, p99, max] = [mean, p50, p95, p99, max].map(milliseconds);
            line("Latency", format!("mean {mean}, p50 {p50}, p95 {p95}, p99 {p99}, max {max}"))?;
        }
        if let Some(Accuracy { share, correct, of, against, unlabelled }) = &self.accuracy {
            line(
                "Accuracy",
                match of {
                    0 => format!("unknown: no result could be compared with {against}"),
                    of => format!("{share:.4} ({correct}/{of}) against {against}"),
                },
            )?;
            if let [first, others @ ..] = unlabelled.as_slice() {
                let others =
                    if others.is_empty() { String::new() } else { format!(" and {} others", others.len()) };
                line("", format!("no label is known for {first}{others}"))?;
            }
        }
        self.stopped.iter().try_for_each(|why| line("Ended early", why.clone()))
    }
}
