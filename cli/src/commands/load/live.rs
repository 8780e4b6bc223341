//! The output during a run: results on stdout; on stderr a few lines that are updated or, without a
//! terminal, one line now and then.

use std::{
    io::{self, IsTerminal, Write},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use eirs_load::{State, Watch};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::show::{self, plain};

/// The interval of progress lines without a terminal.
const PLAIN_PROGRESS: Duration = Duration::from_secs(10);

/// The planned extent of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    /// The number of uploads.
    pub(super) requests: Option<u64>,
    /// The duration.
    pub(super) duration: Option<Duration>,
}

/// Lines of results are buffered and written ten times per second, since single writes would cost
/// more than the uploads.
pub(super) struct Live {
    extent: Extent,
    lines: Option<Mutex<Vec<u8>>>,
    last_progress: Mutex<Duration>,
    view: Option<View>,
}

/// The lines on a terminal.
struct View {
    all: MultiProgress,
    bar: ProgressBar,
    rest: Mutex<Vec<ProgressBar>>,
}

impl Live {
    pub(super) fn new(extent: Extent, lines: bool) -> Self {
        let view = io::stderr().is_terminal().then(|| View::new(extent));
        Self { extent, lines: lines.then(Mutex::default), last_progress: Mutex::new(Duration::ZERO), view }
    }

    fn line(&self, text: std::fmt::Arguments<'_>) {
        if let Some(lines) = &self.lines {
            let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
            // Writing to memory does not fail.
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
                // A closed stdout does not make the run a failure.
                let mut stdout = io::stdout().lock();
                let _gone = stdout.write_all(&lines).and_then(|()| stdout.flush());
            };
            match &self.view {
                Some(view) => view.all.suspend(write),
                None => write(),
            }
        }
    }

    pub(super) fn finish(&self) {
        self.flush();
        if let Some(view) = &self.view {
            view.bar.finish_and_clear();
            let rest = view.rest.lock().unwrap_or_else(PoisonError::into_inner);
            rest.iter().for_each(ProgressBar::finish_and_clear);
        }
    }

    fn print(&self, state: &State<'_>) {
        let mut last_progress = self.last_progress.lock().unwrap_or_else(PoisonError::into_inner);
        if state.elapsed.saturating_sub(*last_progress) >= PLAIN_PROGRESS {
            *last_progress = state.elapsed;
            let ended = state.tally.ended_images();
            let of = match self.extent.requests {
                Some(requests) => format!("{ended} of {}", show::count(requests, "image")),
                None => show::count(ended, "image"),
            };
            show::aside(format_args!("{of} in {}; {}", show::span(state.elapsed), state.lines().join("; ")));
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
            None => self.print(state),
        }
    }
}

impl View {
    fn new(extent: Extent) -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        // The bar shows what ends the run: uploads, or else tenths of a second.
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
        for (number, line) in state.lines().into_iter().enumerate() {
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
