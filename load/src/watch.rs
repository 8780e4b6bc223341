//! Observes a run in progress.

use std::time::Duration;

use crate::{
    fleet,
    tally::Tally,
    words::{milliseconds, plain},
};

/// Receives events during a run. It is called from the tasks that generate the load, so it must
/// return quickly and must not block.
pub trait Watch: Send + Sync {
    /// An image got its label, `took` after it was due.
    fn classified(&self, _image: &str, _label: &str, _took: Duration) {}

    /// An image failed; `why` is a sentence.
    fn failed(&self, _image: &str, _why: &str) {}

    /// Called about ten times per second.
    fn progress(&self, _state: &State<'_>) {}
}

/// Ignores all events.
impl Watch for () {}

/// The state of a run.
#[derive(Debug)]
pub struct State<'a> {
    /// The counters so far.
    pub tally: &'a Tally,
    /// Time since the start.
    pub elapsed: Duration,
    /// Number of uploads without a response yet.
    pub in_flight: u64,
    /// How long the next upload has been due without a free connection; zero if it is on time.
    pub behind: Duration,
    /// The fleet of the service, if it reports one.
    pub fleet: Option<fleet::Sample>,
}

impl State<'_> {
    /// Returns one line each for the known parts of the state: rate, latency, statuses, accuracy
    /// and the pools of the service.
    pub fn lines(&self) -> Vec<String> {
        let State { tally, elapsed, in_flight, behind, fleet } = self;
        let recent = tally.recently(*elapsed);
        let behind = match behind.as_millis() {
            0..=100 => String::new(),
            late => format!(", {} behind the schedule", milliseconds(late as f64)),
        };
        let rate = recent.map_or(0.0, |(_, rate)| rate);
        let mut lines = vec![format!("{rate:.0}/s, {in_flight} in flight{behind}")];
        if let Some(([p50, p95, p99], _)) = recent {
            let [p50, p95, p99] = [p50, p95, p99].map(milliseconds);
            lines.push(format!("latency p50 {p50}, p95 {p95}, p99 {p99} in the last seconds"));
        }
        let statuses = tally.statuses.iter().map(|(status, count)| format!("{count} x {status}"));
        let others = tally.failures().filter(|(kind, _)| kind.parse::<u16>().is_err());
        let answers: Vec<_> =
            statuses.chain(others.map(|(kind, count)| format!("{count} x {kind}"))).collect();
        if !answers.is_empty() {
            lines.push(format!("answers {}", answers.join(", ")));
        }
        if tally.judged > 0 {
            let share = tally.correct as f64 / tally.judged as f64;
            lines.push(format!("accuracy {share:.4} ({}/{})", tally.correct, tally.judged));
        }
        lines.extend(fleet.iter().flat_map(|sample| sample.pools.iter().map(pool)));
        lines
    }
}

fn pool(pool: &fleet::Pool) -> String {
    let known = |number: Option<u64>| number.map_or("?".to_owned(), |number| number.to_string());
    let [ready, starting, leaving, visible, in_flight] =
        [pool.ready, pool.starting, pool.leaving, pool.visible, pool.in_flight].map(known);
    format!(
        "fleet {}: {ready} ready, {starting} starting, {leaving} leaving; {visible} jobs waiting, \
         {in_flight} in flight",
        plain(&pool.name)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::Times;

    #[test]
    fn the_lines_show_rate_latency_statuses_accuracy_and_fleet() {
        let mut tally = Tally::default();
        let times = Times { due: Duration::from_secs(3), took: Duration::from_millis(20) };
        (0..30).for_each(|_| tally.classified(times, "cat", Some("cat")));
        (0..10).for_each(|_| tally.classified(times, "dog", Some("cat")));
        tally.failed(times, "timeout".into(), "x".into());
        (0..40).for_each(|_| tally.answered(200));
        let pool = fleet::Pool {
            name: "default".into(),
            ready: Some(2),
            visible: Some(7),
            ..fleet::Pool::default()
        };
        let state = State {
            tally: &tally,
            elapsed: Duration::from_secs(4),
            in_flight: 3,
            behind: Duration::from_millis(1500),
            fleet: Some(fleet::Sample { at_s: 4.0, pools: vec![pool] }),
        };
        assert_eq!(
            state.lines(),
            [
                "10/s, 3 in flight, 1500 ms behind the schedule",
                "latency p50 20.1 ms, p95 20.1 ms, p99 20.1 ms in the last seconds",
                "answers 40 x 200, 1 x timeout",
                "accuracy 0.7500 (30/40)",
                "fleet default: 2 ready, ? starting, ? leaving; 7 jobs waiting, ? in flight",
            ]
        );
    }
}
