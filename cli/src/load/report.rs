//! What came of a run.

use std::{collections::BTreeMap, fmt};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{
    crew::Crew,
    fleet,
    schedule::Arrivals,
    slo::Verdict,
    tally::{FailureKind, Tally},
    timeline::Point,
};
use crate::show::{count, milliseconds};

/// So many classes are told that went wrong most often.
const WORST: usize = 10;
/// Bars of a histogram for each power of ten; their edges are as far from each other as 1 from 1.12.
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
    /// Uploads that the service asked to repeat later.
    pub retried: u64,
    /// Kept connections that the server closed before they were used again.
    pub reconnects: u64,
    /// From the first upload to the last label.
    pub seconds: f64,
    /// Labels in one second.
    pub per_second: f64,
    /// From the moment at which an upload was due to its label, in milliseconds; absent without a single result.
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
    /// The service's fleet meanwhile; empty where it told of none.
    pub fleet: Vec<fleet::Sample>,
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
        /// How uploads lie in it; a trace has its own moments.
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
    /// Uploads that were due while as many as allowed were in flight, and had to wait for one of these to end.
    pub waited: u64,
    /// Uploads that were due and never begun, because the run was stopped.
    pub never_begun: u64,
    /// From the moment at which an upload was due to that at which it was begun, in milliseconds: half were faster.
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
    /// Of so many results with a known truth.
    pub of: u64,
    /// Where the truth is from.
    pub against: String,
    /// Images of which the truth is not known.
    pub unlabelled: Vec<String>,
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
    pub(super) fn of(crew: &Crew, stopped: Option<String>) -> Self {
        let (options, tally) = (&crew.options, crew.tally());
        let begun = crew.begun();
        let never_begun = if stopped.is_some() { crew.never_begun(crew.elapsed()) } else { 0 };
        let accuracy = options.truth.as_ref().map(|truth| Accuracy {
            share: if tally.judged > 0 { tally.correct as f64 / tally.judged as f64 } else { 0.0 },
            correct: tally.correct,
            of: tally.judged,
            against: truth.source.clone(),
            unlabelled: options.unlabelled(begun).into_iter().map(str::to_owned).collect(),
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
            concurrency: options.concurrency,
            results: tally.results,
            failed: tally.failed_images(),
            failures: tally.failures.clone(),
            statuses: tally.statuses.clone(),
            pending: tally.pending,
            retried: tally.retried,
            reconnects: tally.reconnects,
            seconds: tally.seconds,
            per_second: if tally.seconds > 0.0 { tally.results as f64 / tally.seconds } else { 0.0 },
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

    /// Whether the run ended by itself and met its goals; without goals, whether every image got its label.
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

/// The latencies in bars whose edges are powers of one number: as fine at a millisecond as at a minute.
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

/// A histogram in a few lines: bars with round edges, each up to twice or two and a half times the one before.
fn rough(bars: &[Bar]) -> Vec<Bar> {
    let mut rough: Vec<Bar> = Vec::new();
    for bar in bars {
        let power = 10f64.powf((bar.up_to_ms * 0.999).log10().floor());
        let edges = [1.0, 2.0, 5.0, 10.0].map(|times| times * power);
        let up_to_ms = edges.into_iter().find(|edge| bar.up_to_ms <= edge * 1.001).unwrap_or(bar.up_to_ms);
        match rough.last_mut().filter(|last| (last.up_to_ms / up_to_ms - 1.0).abs() < 1e-6) {
            Some(last) => last.count += bar.count,
            None => rough.push(Bar { up_to_ms, count: bar.count }),
        }
    }
    rough
}

impl Load {
    /// `open loop, 0..200@60s, even arrivals`
    pub(super) fn shown(&self, concurrency: usize) -> String {
        match self {
            Self::Closed => format!("closed loop on {}", count(concurrency as u64, "connection")),
            Self::Open { rate, arrivals } => {
                let arrivals = arrivals.map_or(String::new(), |arrivals| format!(", {arrivals} arrivals"));
                format!("open loop, {rate}{arrivals}, at most {concurrency} in flight")
            }
        }
    }
}

impl Punctuality {
    /// What a reader of the latencies should know of the schedule.
    pub(super) fn shown(&self) -> String {
        let Self { waited, never_begun, late_p50_ms, late_p99_ms, late_max_ms } = *self;
        let [p50, p99, max] = [late_p50_ms, late_p99_ms, late_max_ms].map(milliseconds);
        let mut text = format!("uploads began late by p50 {p50}, p99 {p99}, max {max}");
        if waited > 0 {
            text += &format!("; {waited} had to wait because too many were in flight");
        }
        if never_begun > 0 {
            text += &format!("; {never_begun} were due and never begun");
        }
        text
    }
}

impl Class {
    /// `circle (5), star (2)`
    pub(super) fn shown(&self) -> String {
        let taken = |(label, count): &(String, u64)| format!("{} ({count})", crate::show::plain(label));
        self.taken_for.iter().take(3).map(taken).collect::<Vec<_>>().join(", ")
    }
}

impl Report {
    /// What the fleet did, in a line for each pool.
    pub(super) fn fleet_lines(&self) -> Vec<String> {
        let mut pools: BTreeMap<&str, [u64; 3]> = BTreeMap::new();
        for (number, sample) in self.fleet.iter().enumerate() {
            for pool in &sample.pools {
                let ready = pool.ready.unwrap_or(0);
                let seen = pools.entry(&pool.name).or_insert([ready, ready, 0]);
                if number > 0 {
                    seen[0] = seen[0].min(ready);
                }
                seen[1] = seen[1].max(ready);
                seen[2] = seen[2].max(pool.visible.unwrap_or(0));
            }
        }
        let line = |(name, [least, most, waiting]): (&&str, &[u64; 3])| {
            let ready = if least == most { format!("{most}") } else { format!("{least} to {most}") };
            format!("{}: {ready} ready, at most {waiting} waiting", crate::show::plain(name))
        };
        pools.iter().map(line).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, text: String| writeln!(f, "{name:<12}{text}");
        line("Load", self.load.shown(self.concurrency))?;
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
        if self.statuses.keys().any(|status| *status != 200) {
            let all = self.statuses.iter().map(|(status, count)| format!("{count} x {status}"));
            line("Answers", all.collect::<Vec<_>>().join(", "))?;
        }
        line("Total time", format!("{:.2} s", self.seconds))?;
        line("Throughput", format!("{:.1} images/s", self.per_second))?;
        if let Some(Latency { mean, p50, p95, p99, max }) = self.latency_ms {
            let [mean, p50, p95, p99, max] = [mean, p50, p95, p99, max].map(milliseconds);
            line("Latency", format!("mean {mean}, p50 {p50}, p95 {p95}, p99 {p99}, max {max}"))?;
        }
        let rough = rough(&self.histogram);
        let highest = rough.iter().map(|bar| bar.count).max().unwrap_or(0).max(1);
        for Bar { up_to_ms, count } in &rough {
            let stars = "#".repeat((count * 40).div_ceil(highest) as usize);
            line(
                "",
                format!("up to {:>8} {count:>9} {stars}", milliseconds(*up_to_ms)).trim_end().to_owned(),
            )?;
        }
        if let Some(punctuality) = &self.punctuality {
            line("Schedule", punctuality.shown())?;
        }
        if let Some(Accuracy { share, correct, of, against, unlabelled, worst }) = &self.accuracy {
            line(
                "Accuracy",
                match of {
                    0 => format!("unknown: no result could be compared with {against}"),
                    of => format!("{share:.4} ({correct}/{of}) against {against}"),
                },
            )?;
            for class in worst.iter().take(5) {
                let label = crate::show::plain(&class.label);
                line(
                    "",
                    format!("{label}: {} of {} right, else {}", class.correct, class.of, class.shown()),
                )?;
            }
            if let [first, others @ ..] = unlabelled.as_slice() {
                let others =
                    if others.is_empty() { String::new() } else { format!(" and {} others", others.len()) };
                line("", format!("no label is known for {first}{others}"))?;
            }
        }
        for (number, pool) in self.fleet_lines().into_iter().enumerate() {
            line(if number == 0 { "Fleet" } else { "" }, pool)?;
        }
        for (number, goal) in self.slo.iter().flat_map(|slo| &slo.goals).enumerate() {
            let met = if goal.met { "met" } else { "missed" };
            line(
                if number == 0 { "Goals" } else { "" },
                format!("{met}: {}, it was {}", goal.asked(), goal.found()),
            )?;
        }
        self.stopped.iter().try_for_each(|why| line("Ended early", why.clone()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::tally::Times, *};

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
        assert_eq!(rough(&bars).iter().map(|bar| bar.count).sum::<u64>(), 8);
        let edges: Vec<_> = rough(&bars).iter().map(|bar| (bar.up_to_ms * 1e3).round()).collect();
        assert!(edges.windows(2).all(|pair| pair[0] < pair[1]), "{edges:?}");
        assert!(
            edges.contains(&1000.0) && edges.contains(&100_000.0) && edges.ends_with(&[5_000_000.0]),
            "{edges:?}"
        );
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
