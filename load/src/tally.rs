//! The counters of a run in progress.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::{
    histogram::{coarse, note},
    timeline::Timeline,
    truth::same_label,
};

/// Maximum recorded latency in microseconds: an hour.
const LONGEST_US: u64 = 3_600_000_000;
/// Number of failures of each kind that are shown in full.
const TOLD: usize = 3;
/// Maximum number of pairs of known and given label that are counted separately, so that a service
/// with ever new labels does not fill the memory.
const PAIRS: usize = 10_000;
/// The label for all pairs beyond the maximum.
pub(crate) const OTHERS: &str = "(others)";
/// Number of seconds whose latencies the live view shows.
const RECENT_S: u64 = 5;

/// The counters of a run so far.
#[derive(Debug)]
pub struct Tally {
    /// Images with a label.
    pub results: u64,
    /// Images that first got a 202.
    pub pending: u64,
    /// Responses that asked to retry.
    pub retried: u64,
    /// Idle connections that the server had closed.
    pub reconnects: u64,
    /// Results with a known label.
    pub judged: u64,
    /// Results that equal the known label.
    pub correct: u64,
    /// Labels that the service had stored from an earlier upload, according to its responses.
    pub cached: u64,
    /// Uploads that were due while all connections were busy.
    pub waited: u64,
    /// Responses by status, including those that asked to retry.
    pub statuses: BTreeMap<u16, u64>,
    pub(crate) failures: BTreeMap<String, FailureKind>,
    pub(crate) latency_us: Histogram<u64>,
    pub(crate) late_us: Histogram<u64>,
    pub(crate) confusion: BTreeMap<String, BTreeMap<String, u64>>,
    pub(crate) timeline: Timeline,
    /// The limits of the goals, each with the number of labels within it, because a histogram is
    /// not exact.
    within: Vec<(Duration, u64)>,
    first_due: Option<Duration>,
    last_label: Option<Duration>,
    last_end: Duration,
    pairs: usize,
    recent: VecDeque<(u64, Histogram<u32>)>,
}

/// Images that failed in the same way.
#[derive(Debug, Clone, Default, Serialize)]
pub struct FailureKind {
    /// The number of images.
    pub count: u64,
    /// The first few, in sentences.
    pub first: Vec<String>,
}

impl Default for Tally {
    fn default() -> Self {
        let histogram =
            |digits| Histogram::new_with_bounds(1, LONGEST_US, digits).expect("these are possible bounds");
        Self {
            results: 0,
            pending: 0,
            retried: 0,
            reconnects: 0,
            judged: 0,
            correct: 0,
            cached: 0,
            waited: 0,
            statuses: BTreeMap::new(),
            failures: BTreeMap::new(),
            latency_us: histogram(4),
            late_us: histogram(3),
            confusion: BTreeMap::new(),
            timeline: Timeline::default(),
            within: Vec::new(),
            first_due: None,
            last_label: None,
            last_end: Duration::ZERO,
            pairs: 0,
            recent: VecDeque::new(),
        }
    }
}

/// The due time of an image, and the duration from then to its end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) due: Duration,
    pub(crate) took: Duration,
}

impl Tally {
    /// Creates a tally that also counts labels within these limits.
    pub(crate) fn with_limits(limits: impl Iterator<Item = Duration>) -> Self {
        Self { within: limits.map(|limit| (limit, 0)).collect(), ..Self::default() }
    }

    /// Returns the number of labels within a limit, one of those given at creation.
    pub(crate) fn within(&self, limit: Duration) -> u64 {
        self.within.iter().find(|(one, _)| *one == limit).map_or(0, |(_, count)| *count)
    }

    /// Returns the seconds from the first upload to the last label, or to the last failure if there
    /// is no label.
    pub fn seconds(&self) -> f64 {
        let end = self.last_label.unwrap_or(self.last_end);
        end.saturating_sub(self.first_due.unwrap_or_default()).as_secs_f64()
    }

    /// Notes that an image was started, `late` after it was due.
    pub(crate) fn begun(&mut self, due: Duration, late: Duration, waited: bool) {
        self.timeline.asked(due);
        self.first_due = Some(self.first_due.map_or(due, |first| first.min(due)));
        self.late_us.saturating_record(micros(late));
        self.waited += u64::from(waited);
    }

    pub(crate) fn answered(&mut self, status: u16) {
        *self.statuses.entry(status).or_default() += 1;
    }

    pub(crate) fn classified(&mut self, times: Times, label: &str, truth: Option<&str>) {
        self.results += 1;
        let end = times.due + times.took;
        self.last_label = Some(self.last_label.map_or(end, |last| last.max(end)));
        for (limit, count) in &mut self.within {
            *count += u64::from(times.took <= *limit);
        }
        let took = micros(times.took);
        self.latency_us.saturating_record(took);
        self.timeline.classified(end);
        self.timeline.latency(times.due, took);
        let second = end.as_secs();
        if self.recent.back().is_none_or(|(latest, _)| *latest < second) {
            self.recent.push_back((second, coarse()));
        }
        self.recent.retain(|(then, _)| then + RECENT_S > second);
        if let Some((_, histogram)) = self.recent.back_mut() {
            note(histogram, took);
        }
        if let Some(truth) = truth {
            let is_right = same_label(truth, label);
            self.judged += 1;
            self.correct += u64::from(is_right);
            self.note_pair(truth, if is_right { truth } else { label });
        }
    }

    fn note_pair(&mut self, truth: &str, label: &str) {
        if let Some(count) = self.confusion.get_mut(truth).and_then(|labels| labels.get_mut(label)) {
            *count += 1;
            return;
        }
        self.pairs += 1;
        // The known labels are always kept: there are at most as many as images.
        let label = if self.pairs > PAIRS && label != truth { OTHERS } else { label };
        *self.confusion.entry(truth.to_owned()).or_default().entry(label.to_owned()).or_default() += 1;
    }

    pub(crate) fn failed(&mut self, times: Times, kind: String, sentence: String) {
        let end = times.due + times.took;
        self.last_end = self.last_end.max(end);
        self.timeline.failed(end);
        let failures = self.failures.entry(kind).or_default();
        failures.count += 1;
        if failures.first.len() < TOLD {
            failures.first.push(sentence);
        }
    }

    /// Returns the number of images without a label.
    pub fn failed_images(&self) -> u64 {
        self.failures.values().map(|kind| kind.count).sum()
    }

    /// Returns the number of finished images.
    pub fn ended_images(&self) -> u64 {
        self.results + self.failed_images()
    }

    /// Returns the number of failures by kind.
    pub fn failures(&self) -> impl Iterator<Item = (&str, u64)> {
        self.failures.iter().map(|(kind, failures)| (kind.as_str(), failures.count))
    }

    /// Returns the 50th, 95th and 99th percentile of the last seconds, in milliseconds, and the
    /// results per second.
    pub fn recently(&self, now: Duration) -> Option<([f64; 3], f64)> {
        // The current second counts in proportion.
        let since = now.as_secs().saturating_sub(RECENT_S - 1);
        let mut all = coarse();
        for (_, histogram) in self.recent.iter().filter(|(second, _)| *second >= since) {
            all.add(histogram).expect("a histogram that grows takes everything");
        }
        let span = (now.as_secs_f64() - since as f64).max(0.1);
        let quantiles = [0.5, 0.95, 0.99].map(|quantile| all.value_at_quantile(quantile) as f64 / 1e3);
        (!all.is_empty()).then(|| (quantiles, all.len() as f64 / span))
    }
}

pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX).min(LONGEST_US)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ever_new_labels_do_not_fill_the_memory() {
        let mut tally = Tally::default();
        let times = Times { due: Duration::ZERO, took: Duration::from_millis(1) };
        for number in 0..PAIRS + 100 {
            tally.classified(times, &number.to_string(), Some("cat"));
        }
        tally.classified(times, "Cat", Some("cat"));
        let labels = &tally.confusion["cat"];
        assert_eq!((labels.len(), labels[OTHERS], labels["cat"]), (PAIRS + 2, 100, 1));
        assert_eq!((tally.judged, tally.correct), (PAIRS as u64 + 101, 1));
    }

    #[test]
    fn the_time_of_a_run_is_from_the_first_upload_to_the_last_label() {
        let at = |due, took| Times { due: Duration::from_secs(due), took: Duration::from_secs(took) };
        let mut tally = Tally::default();
        for due in [3, 4, 5] {
            tally.begun(Duration::from_secs(due), Duration::ZERO, false);
        }
        assert_eq!(tally.seconds(), 0.0);
        tally.failed(at(3, 60), "timeout".into(), String::new());
        assert_eq!(tally.seconds(), 60.0);
        tally.classified(at(5, 6), "x", None);
        tally.classified(at(4, 2), "x", None);
        assert_eq!(tally.seconds(), 8.0);
    }

    #[test]
    fn recent_figures_are_those_of_the_last_seconds() {
        let mut tally = Tally::default();
        for (second, ms) in [(1, 5000), (10, 10), (13, 30)] {
            for _ in 0..30 {
                let took = Duration::from_millis(ms);
                tally.classified(
                    Times {
                        due: Duration::from_millis(second * 1000 + 500) - took.min(Duration::from_secs(1)),
                        took,
                    },
                    "x",
                    None,
                );
            }
        }
        let ([p50, p95, p99], rate) = tally.recently(Duration::from_secs(14)).unwrap();
        assert!((p50 - 10.0).abs() < 0.2 && (p95 - 30.0).abs() < 0.5 && p99 >= p95, "{p50} {p95}");
        assert_eq!(rate, 60.0 / 4.0);
        assert!(tally.recently(Duration::from_secs(60)).is_none());
    }
}
