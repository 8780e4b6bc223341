//! Records a run as a limited number of time intervals, enough for a chart: as the run becomes
//! longer, pairs of intervals are merged.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::histogram::{coarse, note};

/// The initial length of intervals; it doubles with each merge.
const FINEST: Duration = Duration::from_millis(250);
/// Maximum number of intervals, enough for a chart.
const MOST: usize = 400;
/// Number of seconds from which intervals in a report are at least a second.
const FEW: usize = 20;

/// The events in each interval.
#[derive(Debug)]
pub(crate) struct Timeline {
    width: Duration,
    /// The time of the last event.
    end: Duration,
    bins: Vec<Bin>,
}

#[derive(Debug, Clone)]
struct Bin {
    asked: u64,
    classified: u64,
    failed: u64,
    latency_us: Histogram<u32>,
}

/// One interval of a report.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Point {
    /// The start, in seconds since the start of the run.
    pub at_s: f64,
    /// The length in seconds; the last interval may be shorter or longer than the others.
    pub length_s: f64,
    /// Due uploads per second.
    pub asked_per_s: f64,
    /// Labels per second.
    pub results_per_s: f64,
    /// Failed images per second.
    pub failed_per_s: f64,
    /// Median latency of the images due in this interval, in milliseconds; absent if none of them
    /// got a label.
    pub p50_ms: Option<f64>,
    /// The 95th percentile.
    pub p95_ms: Option<f64>,
    /// The maximum.
    pub max_ms: Option<f64>,
}

impl Default for Timeline {
    fn default() -> Self {
        Self { width: FINEST, end: Duration::ZERO, bins: Vec::new() }
    }
}

impl Bin {
    fn empty() -> Self {
        Self { asked: 0, classified: 0, failed: 0, latency_us: coarse() }
    }

    fn add(&mut self, other: &Self) {
        self.asked += other.asked;
        self.classified += other.classified;
        self.failed += other.failed;
        self.latency_us.add(&other.latency_us).expect("a histogram that grows takes everything");
    }
}

impl Timeline {
    pub(crate) fn asked(&mut self, at: Duration) {
        self.bin(at).asked += 1;
    }

    pub(crate) fn classified(&mut self, end: Duration) {
        self.bin(end).classified += 1;
    }

    pub(crate) fn failed(&mut self, end: Duration) {
        self.bin(end).failed += 1;
    }

    /// Records the latency of an image that was due at `due`.
    pub(crate) fn latency(&mut self, due: Duration, us: u64) {
        note(&mut self.bin(due).latency_us, us);
    }

    fn bin(&mut self, at: Duration) -> &mut Bin {
        self.end = self.end.max(at);
        let place = |width: Duration| (at.as_nanos() / width.as_nanos()) as usize;
        while place(self.width) >= MOST {
            self.halve();
        }
        let place = place(self.width);
        if place >= self.bins.len() {
            self.bins.resize_with(place + 1, Bin::empty);
        }
        &mut self.bins[place]
    }

    fn halve(&mut self) {
        self.bins = halved(&self.bins);
        self.width *= 2;
    }

    /// Returns all intervals in order.
    pub(crate) fn points(&self) -> Vec<Point> {
        let run_s = self.end.as_secs_f64();
        let (mut width, mut bins) = (self.width, self.bins.clone());
        while width < Duration::from_secs(1) && bins.len() >= 2 * FEW {
            bins = halved(&bins);
            width *= 2;
        }
        let width = width.as_secs_f64();
        // The run ends within an interval. The rates of a short rest would look like a breakdown.
        let piece_s = run_s - (bins.len() as f64 - 1.0) * width;
        if bins.len() > 1 && piece_s < width / 2.0 {
            let piece = bins.pop().expect("there are two at least");
            bins.last_mut().expect("there was another one").add(&piece);
        }
        let count = bins.len();
        let point = |(number, bin): (usize, &Bin)| {
            let at_s = number as f64 * width;
            let length_s = if number + 1 == count { (run_s - at_s).max(1e-3) } else { width };
            let latency = &bin.latency_us;
            let ms = |us: u64| (!latency.is_empty()).then_some(us as f64 / 1e3);
            Point {
                at_s,
                length_s,
                asked_per_s: bin.asked as f64 / length_s,
                results_per_s: bin.classified as f64 / length_s,
                failed_per_s: bin.failed as f64 / length_s,
                p50_ms: ms(latency.value_at_quantile(0.5)),
                p95_ms: ms(latency.value_at_quantile(0.95)),
                max_ms: ms(latency.max()),
            }
        };
        bins.iter().enumerate().map(point).collect()
    }
}

fn halved(bins: &[Bin]) -> Vec<Bin> {
    let both = |pair: &[Bin]| {
        let mut both = pair[0].clone();
        pair[1..].iter().for_each(|other| both.add(other));
        both
    };
    bins.chunks(2).map(both).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_loses_nothing_and_a_day_has_as_few_points_as_a_minute() {
        for length_s in [1u64, 60, 86_400] {
            let mut timeline = Timeline::default();
            for second in 0..length_s {
                let at = Duration::from_secs(second);
                timeline.asked(at);
                timeline.latency(at, 1000 + second);
                timeline.classified(at + Duration::from_millis(500));
            }
            let points = timeline.points();
            assert!(points.len() <= MOST, "{}", points.len());
            let sum = |value: fn(&Point) -> f64| {
                points.iter().map(|point| value(point) * point.length_s).sum::<f64>().round()
            };
            assert_eq!(sum(|point| point.asked_per_s), length_s as f64);
            assert_eq!(sum(|point| point.results_per_s), length_s as f64);
            let last = points.iter().rev().find_map(|point| point.max_ms).unwrap();
            assert!((last / (0.999 + length_s as f64 / 1e3) - 1.0).abs() < 0.02, "{last}");
        }
        assert!(Timeline::default().points().is_empty());
    }

    #[test]
    fn a_report_of_twenty_seconds_or_more_has_intervals_of_a_second() {
        for (length_s, width) in [(3u64, 0.25), (21, 1.0), (99, 1.0), (101, 1.0), (500, 2.0)] {
            let mut timeline = Timeline::default();
            (0..length_s * 4).for_each(|quarter| timeline.asked(Duration::from_millis(quarter * 250)));
            assert_eq!(timeline.points()[0].length_s, width, "{length_s}");
        }
    }

    #[test]
    fn the_last_interval_does_not_look_like_a_breakdown() {
        let mut timeline = Timeline::default();
        for number in 0..=3005 {
            let at = Duration::from_millis(number * 10);
            timeline.asked(at);
            timeline.classified(at);
        }
        let points = timeline.points();
        assert_eq!(points.len(), 30);
        for point in points {
            assert!((99.0..101.0).contains(&point.results_per_s), "{point:?}");
        }
    }
}
