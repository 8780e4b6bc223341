//! What is shown while it runs: results on stdout; on stderr a few lines that change, or now and
//! then one where there is no terminal.

use std::{
    io::{self, IsTerminal, Write},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{State, Watch, fleet};
use crate::show::{self, milliseconds, plain};

/// How often progress is printed without a terminal.
const PLAIN_PROGRESS: Duration = Duration::from_secs(10);

/// How far a run can go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    /// Uploads, ...
    pub(crate) requests: Option<u64>,
    /// ... and time.
    pub(crate) duration: Option<Duration>,
}

/// Lines of results are collected and written ten times a second: writing each at once would cost
/// more than the uploads.
pub(crate) struct Live {
    extent: Extent,
    lines: Option<Mutex<Vec<u8>>>,
    told: Mutex<Duration>,
    view: Option<View>,
}

/// The lines on a terminal.
struct View {
    all: MultiProgress,
    bar: ProgressBar,
    rest: Mutex<Vec<ProgressBar>>,
}

impl Live {
    pub(crate) fn new(extent: Extent, lines: bool) -> Self {
        let view = io::stderr().is_terminal().then(|| View::new(extent));
        Self { extent, lines: lines.then(Mutex::default), told: Mutex::new(Duration::ZERO), view }
    }

    fn line(&self, text: std::fmt::Arguments<'_>) {
        if let Some(lines) = &self.lines {
            let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
            // Writing into memory does not fail.
            let _ok = writeln!(lines, "{text}");
        }
    }

    fn flush(&self) {
        let waiting = self
            .lines
            .iter()
            .map(|lines| std::mem::take(&mut *lines.lock().unwrap_or_else(PoisonError::into_inner)));
        for lines in waiting.filter(|lines| !lines.is_empty()) {
            let write = || {
                // A reader that went away does not make the run a failure.
                let mut stdout = io::stdout().lock();
                let _gone = stdout.write_all(&lines).and_then(|()| stdout.flush());
            };
            match &self.view {
                Some(view) => view.all.suspend(write),
                None => write(),
            }
        }
    }

    pub(crate) fn finish(&self) {
        self.flush();
        if let Some(view) = &self.view {
            view.bar.finish_and_clear();
            let rest = view.rest.lock().unwrap_or_else(PoisonError::into_inner);
            rest.iter().for_each(ProgressBar::finish_and_clear);
        }
    }

    fn tell(&self, state: &State<'_>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if state.elapsed.saturating_sub(*told) >= PLAIN_PROGRESS {
            *told = state.elapsed;
            let ended = state.tally.ended_images();
            let of = match self.extent.requests {
                Some(requests) => format!("{ended} of {}", show::count(requests, "image")),
                None => show::count(ended, "image"),
            };
            show::aside(format_args!("{of} in {}; {}", show::span(state.elapsed), lines(state).join("; ")));
        }
    }
}

impl Watch for Live {
    fn classified(&self, image: &str, label: &str, _took: Duration) {
        self.line(format_args!("{image} uploaded!\nClassification result: {}", plain(label)));
    }

    fn failed(&self, image: &str, why: &str) {
        self.line(format_args!("{image} failed: {}", plain(why)));
    }

    fn progress(&self, state: &State<'_>) {
        self.flush();
        match &self.view {
            Some(view) => view.show(self.extent, state),
            None => self.tell(state),
        }
    }
}

impl View {
    fn new(extent: Extent) -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        // What ends the run is what the bar shows: uploads, or else tenths of a second.
        let (length, template) = match extent {
            Extent { requests: Some(requests), .. } => {
                (Some(requests), "{bar:30} {pos}/{len} images, {elapsed}, {eta} left")
            }
            Extent { duration: Some(duration), .. } => {
                (Some(tenths(duration)), "{bar:30} {elapsed}, {eta} left")
            }
            _ => (None, "{spinner} {elapsed}"),
        };
        let bar = all.add(length.map_or_else(ProgressBar::no_length, ProgressBar::new));
        bar.set_style(style(template));
        Self { all, bar, rest: Mutex::default() }
    }

    fn show(&self, extent: Extent, state: &State<'_>) {
        self.bar.set_position(match extent {
            Extent { requests: None, duration: Some(_) } => tenths(state.elapsed),
            _ => state.tally.ended_images(),
        });
        let mut bars = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        for (number, line) in lines(state).into_iter().enumerate() {
            if number == bars.len() {
                let bar = self.all.add(ProgressBar::no_length());
                bar.set_style(style("{msg}"));
                bars.push(bar);
            }
            bars[number].set_message(line);
        }
    }
}

fn tenths(time: Duration) -> u64 {
    u64::try_from(time.as_millis() / 100).unwrap_or(u64::MAX)
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("a constant that is a template")
}

/// How things stand, in a line for each thing that there is.
fn lines(state: &State<'_>) -> Vec<String> {
    let State { tally, elapsed, in_flight, behind, fleet } = state;
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
    let answers: Vec<_> = statuses.chain(others.map(|(kind, count)| format!("{count} x {kind}"))).collect();
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

fn pool(pool: &fleet::Pool) -> String {
    let known = |number: Option<u64>| number.map_or("?".to_owned(), |number| number.to_string());
    let [ready, starting, leaving, visible, in_flight] =
        [pool.ready, pool.starting, pool.leaving, pool.visible, pool.in_flight].map(known);
    format!(
        "fleet {}: {ready} ready, {starting} starting, {leaving} leaving; {visible} jobs waiting, {in_flight} in flight",
        plain(&pool.name)
    )
}

#[cfg(test)]
mod tests {
    use super::{
        super::tally::{Tally, Times},
        *,
    };

    #[test]
    fn the_lines_say_rate_latency_answers_accuracy_and_fleet() {
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
            lines(&state),
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
