//! The report as text, and sentences shared with the page.

use std::{collections::BTreeMap, fmt};

use super::{Accuracy, Bar, Class, Latency, Load, Punctuality, Report};
use crate::{
    tally::FailureKind,
    words::{count, milliseconds, plain},
};

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, text: String| writeln!(f, "{name:<12}{text}");
        line("Load", self.load.shown(self.concurrency))?;
        line("Images", self.images.to_string())?;
        let aside = [
            (self.cached, "stored before"),
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
        if let Some(remark) = self.cache_remark() {
            line("", remark)?;
        }
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
        if let Some(Accuracy { share, correct, of, against, unlabelled, remarks, worst }) = &self.accuracy {
            line(
                "Accuracy",
                match of {
                    0 => format!("unknown: no result matches an image of {against}"),
                    of => format!("{share:.4} ({correct}/{of}) against {against}"),
                },
            )?;
            for class in worst.iter().take(5) {
                let label = plain(&class.label);
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
            for remark in remarks {
                line("", remark.clone())?;
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

impl Load {
    /// Formats as `open loop, 0..200@60s, even arrivals`.
    pub(crate) fn shown(&self, concurrency: usize) -> String {
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
    /// Describes how the schedule was kept, for readers of the latencies.
    pub(crate) fn shown(&self) -> String {
        let Self { waited, never_begun, late_p50_ms, late_p99_ms, late_max_ms } = *self;
        let [p50, p99, max] = [late_p50_ms, late_p99_ms, late_max_ms].map(milliseconds);
        let mut text = format!("uploads began late by p50 {p50}, p99 {p99}, max {max}");
        if waited > 0 {
            text += &format!("; {waited} waited because too many were in flight");
        }
        if never_begun > 0 {
            text += &format!("; {never_begun} were due and never sent");
        }
        text
    }
}

impl Class {
    /// Formats the wrong labels as `circle (5), star (2)`.
    pub(crate) fn shown(&self) -> String {
        let taken = |(label, count): &(String, u64)| format!("{} ({count})", plain(label));
        self.taken_for.iter().take(3).map(taken).collect::<Vec<_>>().join(", ")
    }
}

impl Report {
    /// Returns a remark for readers of throughput and latency, if the service's cache affects them.
    pub(crate) fn cache_remark(&self) -> Option<String> {
        let percent = 100.0 * self.cached as f64 / self.results.max(1) as f64;
        (self.cached > 0).then(|| {
            format!(
                "{percent:.0} % of the labels were stored already: throughput and latency are not \
                those of the workers; use --unique"
            )
        })
    }

    /// Returns one line per pool about the fleet.
    pub(crate) fn fleet_lines(&self) -> Vec<String> {
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
            format!("{}: {ready} ready, at most {waiting} waiting", plain(name))
        };
        pools.iter().map(line).collect()
    }
}

/// Reduces a histogram to a few bars with round edges, each 2 or 2.5 times the previous one. Edges
/// of the fine bars match them within 1 %.
fn rough(bars: &[Bar]) -> Vec<Bar> {
    let mut rough: Vec<Bar> = Vec::new();
    for bar in bars {
        let power = 10f64.powf((bar.up_to_ms * 0.999).log10().floor());
        let edges = [1.0, 2.0, 5.0, 10.0].map(|times| times * power);
        let up_to_ms = edges.into_iter().find(|edge| bar.up_to_ms <= edge * 1.01).unwrap_or(bar.up_to_ms);
        match rough.last_mut().filter(|last| (last.up_to_ms / up_to_ms - 1.0).abs() < 1e-6) {
            Some(last) => last.count += bar.count,
            None => rough.push(Bar { up_to_ms, count: bar.count }),
        }
    }
    rough
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coarse_histogram_has_the_same_total_and_round_edges() {
        let bars: Vec<_> =
            (-20..=74).map(|place| Bar { up_to_ms: 10f64.powf(f64::from(place) / 20.0), count: 1 }).collect();
        let rough = rough(&bars);
        assert_eq!(rough.iter().map(|bar| bar.count).sum::<u64>(), 95);
        let edges: Vec<_> = rough.iter().map(|bar| (bar.up_to_ms * 1e3).round()).collect();
        assert_eq!(edges, [100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6, 2e6, 5e6]);
    }
}
