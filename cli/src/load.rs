//! The load generator: a closed loop of so many connections, each of which uploads an image, waits for its label and
//! takes the next one. `eirs load` is [`command`]; `eirs bench` calls [`run`].

pub(crate) mod command;
pub mod images;
pub mod report;
pub mod truth;

mod upload;

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hyper::Request;
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use self::{
    images::{ImageFile, Uniquely},
    report::{Report, Tally},
    truth::{Truth, same_label},
    upload::{Failure, Uploader},
};
use crate::http::{Answer, Connection, Lost, Pieces, Url};

/// What to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to.
    pub url: Url,
    /// What; when there are more uploads than images, they come round again.
    pub images: Vec<ImageFile>,
    /// How many uploads.
    pub requests: u64,
    /// How many at once.
    pub concurrency: usize,
    /// The name of the multipart field.
    pub field: String,
    /// Whether every upload shall be another image for a cache.
    pub unique: bool,
    /// The longest time from an upload to its label.
    pub timeout: Duration,
    /// What the images show.
    pub truth: Option<Truth>,
    /// Ends the run early, with a report of what was done.
    pub stop: CancellationToken,
}

impl Options {
    /// Each image once, 32 at a time.
    pub fn new(url: Url, images: Vec<ImageFile>) -> Self {
        Self {
            url,
            requests: images.len() as u64,
            images,
            concurrency: 32,
            field: "myfile".into(),
            unique: false,
            timeout: Duration::from_secs(300),
            truth: None,
            stop: CancellationToken::new(),
        }
    }
}

/// Is told what happens during a run. It is called from the loop that makes the load: it must be quick.
pub trait Watch: Send + Sync {
    /// An image got its label.
    fn classified(&self, _image: &str, _label: &str) {}

    /// An image failed.
    fn failed(&self, _image: &str, _why: &str) {}

    /// About ten times a second.
    fn progress(&self, _tally: &Tally) {}
}

/// Watches nothing.
impl Watch for () {}

/// How often a watcher is told of the progress.
const PROGRESS: Duration = Duration::from_millis(100);

/// Uploads the images and reports how that went.
///
/// # Errors
///
/// Where nobody listens at the address, or nothing is to be done.
pub async fn run(options: Options, watch: Arc<dyn Watch>) -> anyhow::Result<Report> {
    anyhow::ensure!(!options.images.is_empty(), "there is no image to upload");
    anyhow::ensure!(options.concurrency > 0, "at least one connection is needed");
    // A wrong address is said once, and not for every image.
    let first =
        Connection::open(&options.url).await.map_err(|lost| anyhow::anyhow!(lost.at(&options.url)))?;

    let connections = options.concurrency.min(usize::try_from(options.requests).unwrap_or(usize::MAX));
    let crew = Arc::new(Crew {
        uploader: Uploader::new(&options.url, &options.field, options.unique.then(Uniquely::default)),
        next: AtomicU64::new(0),
        tally: Mutex::default(),
        gone: CancellationToken::new(),
        start: Instant::now(),
        options,
        watch,
    });
    let mut kept = Some(first);
    let mut tasks: JoinSet<()> = (0..connections).map(|_| crew.clone().work(kept.take())).collect();

    let mut ticks = tokio::time::interval(PROGRESS);
    let stopped = loop {
        tokio::select! {
            biased;
            () = crew.options.stop.cancelled() => break Some("stopped by a signal".to_owned()),
            () = crew.gone.cancelled() => {
                break Some(format!("stopped: nothing has listened at {} for {GONE:?}", crew.options.url));
            }
            done = tasks.join_next() => match done {
                None => break None,
                Some(Err(panic)) => anyhow::bail!("a connection's task died: {panic}"),
                Some(Ok(())) => {}
            },
            _ = ticks.tick() => crew.watch.progress(&crew.tally()),
        }
    };
    // Everything is in the tally at every moment, so that tasks can be dropped at any of their awaits.
    tasks.shutdown().await;
    let tally = crew.tally();
    crew.watch.progress(&tally);
    Ok(Report::of(&crew.options, &tally, stopped))
}

/// A server that was there and is not connectable any more is restarting; after so long, it is gone.
const GONE: Duration = Duration::from_secs(10);

/// What the connections of a run share.
struct Crew {
    options: Options,
    uploader: Uploader,
    watch: Arc<dyn Watch>,
    next: AtomicU64,
    tally: Mutex<Tally>,
    start: Instant,
    gone: CancellationToken,
}

impl Crew {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        // Counters are never half-changed by a panic.
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn work(self: Arc<Self>, mut connection: Option<Connection>) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.options.requests {
                return;
            }
            let place = (number % self.options.images.len() as u64) as usize;
            let image = &self.options.images[place];
            let sent = Instant::now();
            let end = timeout(self.options.timeout, self.classify(image, number, &mut connection)).await;
            let end = end.unwrap_or_else(|_late| {
                // An answer that comes later must not be taken for that of the next image.
                connection = None;
                Err(Failure::Timeout(self.options.timeout))
            });
            self.note(place, end, sent.elapsed());
        }
    }

    /// One image, from its upload to its label.
    async fn classify(
        &self,
        image: &ImageFile,
        number: u64,
        connection: &mut Option<Connection>,
    ) -> Result<String, Failure> {
        let bytes = image.bytes().await.map_err(|error| Failure::Unreadable(error.to_string()))?;
        let mut result: Option<String> = None;
        loop {
            let request = || match &result {
                None => self.uploader.upload(image, &bytes, number),
                Some(path) => self.uploader.result(path),
            };
            let answer = self.ask(&request, connection).await?;
            match answer.status.as_u16() {
                200 => return upload::label(&answer),
                202 => {
                    if result.is_none() {
                        self.tally().pending += 1;
                        result = Some(answer.location().ok_or(Failure::NoLocation)?);
                    }
                }
                429 | 503 => self.tally().retried += 1,
                _ => return Err(Failure::Status(answer.status, answer.detail())),
            }
            tokio::time::sleep(answer.retry_after()).await;
        }
    }

    /// Asks on the connection there is, or on a new one.
    async fn ask(
        &self,
        request: &(dyn Fn() -> Request<Pieces> + Sync),
        connection: &mut Option<Connection>,
    ) -> Result<Answer, Failure> {
        loop {
            let kept = connection.take().filter(|connection| !connection.is_closed());
            let was_kept = kept.is_some();
            let mut open = match kept {
                Some(open) => open,
                None => self.connect().await?,
            };
            match open.ask(request()).await {
                Ok(answer) => {
                    *connection = Some(open);
                    return Ok(answer);
                }
                // A server may close a kept connection at the moment it is used again. Uploads are content-addressed:
                // sending one twice is safe.
                Err(Lost::HungUp(_)) if was_kept => self.tally().reconnects += 1,
                Err(lost) => return Err(Failure::Lost(lost.to_string())),
            }
        }
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        let start = Instant::now();
        loop {
            match Connection::open(&self.options.url).await {
                Ok(connection) => return Ok(connection),
                Err(lost) if lost.is_refused() => {
                    if start.elapsed() > GONE {
                        self.gone.cancel();
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(lost) => return Err(Failure::Lost(lost.to_string())),
            }
        }
    }

    fn note(&self, place: usize, end: Result<String, Failure>, took: Duration) {
        let image = &self.options.images[place].name;
        let mut tally = self.tally();
        tally.seconds = self.start.elapsed().as_secs_f64();
        match end {
            Ok(label) => {
                tally.classified(took);
                let truth = self.options.truth.as_ref().and_then(|truth| truth.labels[place].as_deref());
                if let Some(truth) = truth {
                    tally.judged += 1;
                    tally.correct += u64::from(same_label(truth, &label));
                }
                drop(tally);
                self.watch.classified(image, &label);
            }
            Err(failure) => {
                let why = failure.to_string();
                tally.failed(failure.kind(), format!("{image}: {why}"));
                drop(tally);
                self.watch.failed(image, &why);
            }
        }
    }
}

impl Options {
    /// The images that a run of this length uploads and that have no label, each once.
    fn unlabelled(&self) -> Vec<&str> {
        let used = usize::try_from(self.requests).unwrap_or(usize::MAX).min(self.images.len());
        let missing = self.truth.iter().flat_map(|truth| truth.missing(&self.images[..used]));
        let mut seen = HashSet::new();
        missing.filter(|name| seen.insert(*name)).collect()
    }
}

#[cfg(test)]
mod tests;
