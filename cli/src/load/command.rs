//! `eirs load`

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use super::{Options, Watch, images, report::Tally, truth::Truth};
use crate::{Exit, Stop, http::Url, show};

/// Upload the images of a folder, many at once, and report throughput, latency and accuracy
///
/// Each of C connections uploads an image, waits for its label and takes the next one. Images answered 202 are asked
/// for until their label is there; 429 and 503 are obeyed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  eirs load --num-request 100 --url http://127.0.0.1:8000 --image-folder photos --labels label.xlsx"
)]
pub struct Load {
    /// How many images to upload; more than there are go round again [default: each image once]
    #[arg(long, alias = "num_request", value_name = "N")]
    num_request: Option<u64>,
    /// The service; /upload is added where only the host is named
    #[arg(long, default_value = "http://127.0.0.1:8000")]
    url: Url,
    /// Where the images lie, in folders within it too
    #[arg(long, alias = "image_folder", value_name = "FOLDER")]
    image_folder: PathBuf,
    /// How many uploads at once
    #[arg(long, default_value_t = 32, value_name = "C", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    concurrency: u16,
    /// What the images show: a workbook or CSV file with the columns Input and Result [default: the names of the
    /// folders, where there are several]
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Make every upload another file (a comment in the image), so that none is answered from a stored result
    #[arg(long)]
    unique: bool,
    /// The name of the multipart field
    #[arg(long, default_value = "myfile")]
    field: String,
    /// The longest time from an upload to its label
    #[arg(long, default_value = "300s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Print the report as one JSON object, and no lines for single images
    #[arg(long)]
    json: bool,
    /// Print no lines for single images
    #[arg(long, short)]
    quiet: bool,
}

impl Load {
    /// Runs it; it fails when an image does.
    pub async fn run(self) -> Result<Exit, Stop> {
        let images = images::read_folder(&self.image_folder, self.num_request)?;
        let truth = match &self.labels {
            Some(path) => Some(Truth::from_file(path, &images)?),
            None => Truth::from_folders(&images),
        };
        let mut options = Options {
            concurrency: self.concurrency.into(),
            field: self.field,
            unique: self.unique,
            timeout: self.timeout,
            truth,
            ..Options::new(self.url, images)
        };
        options.requests = self.num_request.unwrap_or(options.requests);
        if options.requests == 0 {
            return Err(Stop::Usage("--num-request 0: there is nothing to upload".into()));
        }
        show::stop_on_signal(options.stop.clone());

        let live = Arc::new(Live::new(options.requests, !self.quiet && !self.json));
        let report = super::run(options, live.clone()).await;
        live.finish();
        let report = report?;
        if self.json {
            show::json(&report);
        } else {
            show::out(report.to_string().trim_end());
        }
        Ok(if report.is_complete() { Exit::Ok } else { Exit::Failed })
    }
}

/// How often those who have no terminal are told how far it is.
const PLAIN_PROGRESS: Duration = Duration::from_secs(10);

/// What is shown while it runs: results on stdout, a bar or now and then a line on stderr. Lines are collected and
/// written ten times a second: writing each at once would cost more than the uploads.
struct Live {
    bar: ProgressBar,
    lines: Option<Mutex<Vec<u8>>>,
    total: u64,
    start: Instant,
    told: Mutex<Option<Instant>>,
}

impl Live {
    fn new(total: u64, lines: bool) -> Self {
        let bar = if io::stderr().is_terminal() {
            ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(5))
        } else {
            ProgressBar::hidden()
        };
        let style = "{bar:30} {pos}/{len} images, {msg}, {elapsed} gone, {eta} to go";
        bar.set_style(ProgressStyle::with_template(style).expect("a constant that is a template"));
        Self { bar, lines: lines.then(Mutex::default), total, start: Instant::now(), told: Mutex::default() }
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
            self.bar.suspend(|| {
                // A reader that went away does not make the run a failure.
                let mut stdout = io::stdout().lock();
                let _gone = stdout.write_all(&lines).and_then(|()| stdout.flush());
            });
        }
    }

    fn finish(&self) {
        self.flush();
        self.bar.finish_and_clear();
    }

    fn tell(&self, tally: &Tally) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.unwrap_or(self.start).elapsed() >= PLAIN_PROGRESS {
            *told = Some(Instant::now());
            let ended = tally.results + tally.failed_images();
            show::aside(format_args!(
                "{ended} of {}, {}",
                show::count(self.total, "image"),
                self.state(tally)
            ));
        }
    }

    fn state(&self, tally: &Tally) -> String {
        let rate = tally.results as f64 / self.start.elapsed().as_secs_f64().max(1e-3);
        let failed = tally.failed_images();
        let failures = if failed > 0 { format!(", {failed} failed") } else { String::new() };
        format!("{rate:.0}/s{failures}")
    }
}

impl Watch for Live {
    fn classified(&self, image: &str, label: &str) {
        self.line(format_args!("{image} uploaded!\nClassification result: {label}"));
    }

    fn failed(&self, image: &str, why: &str) {
        self.line(format_args!("{image} failed: {why}"));
    }

    fn progress(&self, tally: &Tally) {
        self.flush();
        if self.bar.is_hidden() {
            self.tell(tally);
        } else {
            self.bar.set_message(self.state(tally));
            self.bar.set_position(tally.results + tally.failed_images());
        }
    }
}
