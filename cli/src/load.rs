//! The load generator. A *closed* loop is a number of connections, each of which uploads an image,
//! waits for its label and takes the next one: it asks for no more than the service gives. An
//! *open* loop sends at the moments of a schedule, whatever the service does with it, and counts
//! each latency from the moment at which the upload was due, so that a service that stalls does not
//! hide what it held up.
//!
//! `eirs load` and `eirs bench` call [`run`].

pub mod images;
pub mod schedule;
pub mod truth;

mod crew;
mod pace;
mod upload;

pub mod expect;
pub mod fleet;
pub mod report;
pub mod slo;
pub mod tally;
pub mod timeline;

pub(crate) mod live;
pub(crate) mod page;

use std::{collections::HashSet, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use hyper::header::{self, HeaderMap, HeaderValue};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use self::{
    crew::{Crew, GONE},
    expect::Expect,
    images::ImageFile,
    report::Report,
    schedule::{Arrivals, Schedule},
    slo::Slo,
    tally::Tally,
    truth::Truth,
};
use crate::http::{Connection, Url};

/// What to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to.
    pub url: Url,
    /// What; when there are more uploads than images, they come round again.
    pub images: Vec<ImageFile>,
    /// How many uploads at most.
    pub requests: Option<u64>,
    /// How long uploads are begun.
    pub duration: Option<Duration>,
    /// How many at once; in an open loop, at most.
    pub concurrency: usize,
    /// When to send; a closed loop where there is nothing.
    pub open: Option<OpenLoop>,
    /// The name of the multipart field.
    pub field: String,
    /// Whether the image is the whole body, without a form around it.
    pub bare: bool,
    /// Whether every upload must be another image for a cache.
    pub unique: bool,
    /// What a good answer is.
    pub expect: Expect,
    /// What the service knows the caller by.
    pub token: Option<HeaderValue>,
    /// The longest time from an upload to its label.
    pub timeout: Duration,
    /// What the images show.
    pub truth: Option<Truth>,
    /// What the service should keep.
    pub slo: Slo,
    /// Ends the run early, with a report of what was done.
    pub stop: CancellationToken,
}

/// When the uploads of an open loop are due.
#[derive(Debug, Clone)]
pub struct OpenLoop {
    /// What was asked for, for the reader of a report.
    pub words: String,
    /// The rates, or the trace.
    pub schedule: Schedule,
    /// How uploads are spread at a rate.
    pub arrivals: Arrivals,
    /// Of the arrivals at random.
    pub seed: u64,
}

impl OpenLoop {
    /// Evenly at this rate per second.
    pub fn constant(per_second: u32) -> Self {
        let words = per_second.to_string();
        let schedule = Schedule::of(&words, "", 1, 1.0).expect("a positive number is a rate");
        Self { words, schedule, arrivals: Arrivals::Even, seed: 1 }
    }
}

impl Options {
    /// Each image once, 32 at a time.
    pub fn new(url: Url, images: Vec<ImageFile>) -> Self {
        Self {
            url,
            requests: Some(images.len() as u64),
            images,
            duration: None,
            concurrency: 32,
            open: None,
            field: "myfile".into(),
            bare: false,
            unique: false,
            expect: Expect::Eirs,
            token: None,
            timeout: Duration::from_secs(300),
            truth: None,
            slo: Slo::default(),
            stop: CancellationToken::new(),
        }
    }

    /// What every request of the run has.
    fn headers(&self) -> HeaderMap {
        self.token.iter().map(|token| (header::AUTHORIZATION, token.clone())).collect()
    }

    /// The images that a run uses and that have no label, each once.
    fn unlabelled(&self, uploads: u64) -> Vec<&str> {
        let used = usize::try_from(uploads).unwrap_or(usize::MAX).min(self.images.len());
        let missing = self.truth.iter().flat_map(|truth| truth.missing(&self.images[..used]));
        let mut seen = HashSet::new();
        missing.filter(|name| seen.insert(*name)).collect()
    }
}

/// Gets what happens during a run. It is called from the loop that makes the load: it must be
/// quick.
pub trait Watch: Send + Sync {
    /// An image got its label, so long after it was due.
    fn classified(&self, _image: &str, _label: &str, _took: Duration) {}

    /// An image failed.
    fn failed(&self, _image: &str, _why: &str) {}

    /// About ten times a second.
    fn progress(&self, _state: &State<'_>) {}
}

/// Watches nothing.
impl Watch for () {}

/// How things stand in a run.
#[derive(Debug)]
pub struct State<'a> {
    /// What has happened.
    pub tally: &'a Tally,
    /// Since the start.
    pub elapsed: Duration,
    /// Uploads without an answer yet.
    pub in_flight: u64,
    /// How long the next upload has been due and could not be sent.
    pub behind: Duration,
    /// The service's fleet, if it reports one.
    pub fleet: Option<fleet::Sample>,
}

/// How often progress is reported.
const PROGRESS: Duration = Duration::from_millis(100);
/// A process has some files open besides its connections.
const OTHER_FILES: u64 = 40;

/// Uploads the images and reports how that went.
///
/// # Errors
///
/// Where nobody listens at the address, or nothing is to be done.
pub async fn run(options: Options, watch: Arc<dyn Watch>) -> anyhow::Result<Report> {
    ensure!(!options.images.is_empty(), "no image to upload");
    ensure!(options.concurrency > 0, "at least one connection is needed");
    let has_end = options.requests.is_some()
        || options.duration.is_some()
        || options.open.as_ref().is_some_and(|open| open.schedule.end().is_some());
    ensure!(has_end, "this run never ends: it needs a number of uploads or a duration");
    allow_connections(options.concurrency)?;
    // A wrong address is said once, and not for every image.
    let first =
        Connection::open(&options.url).await.map_err(|lost| anyhow::anyhow!(lost.at(&options.url)))?;

    let crew = Arc::new(Crew::new(options, watch, first));
    let _listening = AbortOnDropHandle::new(tokio::spawn(crew.clone().listen()));
    let stopped = {
        let mut drive = std::pin::pin!(crew.clone().drive());
        let mut ticks = tokio::time::interval(PROGRESS);
        loop {
            tokio::select! {
                biased;
                () = crew.options.stop.cancelled() => break Some("stopped by a signal".to_owned()),
                () = crew.gone.cancelled() => {
                    break Some(format!("stopped: nothing has listened at {} for {GONE:?}", crew.options.url));
                }
                done = &mut drive => {
                    done?;
                    break None;
                }
                _ = ticks.tick() => crew.tell(),
            }
        }
        // Everything is in the tally at every moment, so that uploads can be dropped at any of
        // their awaits, as they are here.
    };
    crew.tell();
    Ok(Report::of(&crew, stopped))
}

/// A process may have fewer files open than a run needs connections; most may have more, if they
/// ask.
fn allow_connections(most: usize) -> anyhow::Result<()> {
    let needed = most as u64 + OTHER_FILES;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|current| current < needed) {
        ensure!(
            maximum.is_none_or(|maximum| maximum >= needed),
            "{most} connections are more than this process may open: its limit is {} files (see `ulimit -Hn`)",
            maximum.unwrap_or_default()
        );
        setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum })
            .context("raising the number of open files")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
