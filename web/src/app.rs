//! What the rooms share, put together at the start.

use std::{collections::BTreeMap, sync::Arc};

use eirs_platform::{
    Result, backend::Backend, blobs::embedded::Room, clock::SharedClock, queue::SharedQueue,
    settings::Settings, version::watch::Versions,
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    jobs::{self, arrivals, replies},
    listen::Tls,
    metrics,
    operator::{live, ready},
    spool, upload,
};

/// Everything a request may touch. One for each process.
#[derive(Debug)]
pub struct App {
    pub(crate) settings: Settings,
    pub(crate) clock: SharedClock,
    pub(crate) jobs: Arc<jobs::Jobs>,
    pub(crate) versions: Versions,
    pub(crate) live: live::Live,
    pub(crate) arrivals: Arc<arrivals::Arrivals>,
    pub(crate) metrics: Arc<metrics::Metrics>,
    pub(crate) reach: ready::Reach,
    pub(crate) dead_letters: metrics::DeadLetters,
    /// The disk that images are stored on, where that is this machine's.
    pub(crate) disk: Option<Room>,
    /// How many uploads may be in hand at once.
    pub(crate) uploads: Arc<Semaphore>,
    /// Memory and disk for arriving bodies.
    pub(crate) room: Arc<spool::Room>,
    /// Where uploads come encrypted.
    pub(crate) tls: Option<Arc<Tls>>,
    /// Told to stop: no new uploads.
    pub(crate) draining: CancellationToken,
    /// The time for draining is over: held requests get their 202 now.
    pub(crate) give_up: CancellationToken,
    /// The answers for this host.
    pub(crate) responses: Arc<jobs::ResponseQueue>,
    pub(crate) events: SharedQueue,
}

impl App {
    /// Opens what the web server needs of the backend. `draining` is the process's own; `tls` is looked at for `/metrics`;
    /// `versions` are kept up to date as long as [`run_background`](Self::run_background) runs.
    pub async fn new(
        settings: Settings,
        backend: &Backend,
        clock: SharedClock,
        draining: CancellationToken,
        tls: Option<Arc<Tls>>,
        versions: Versions,
    ) -> Result<Arc<Self>> {
        let mut requests = BTreeMap::new();
        for model in settings.models.keys() {
            requests.insert(model.clone(), backend.requests(model).await?);
        }
        let metrics = Arc::new(metrics::Metrics::new(settings.models.keys().map(String::as_str)));
        let dead_letters = metrics::DeadLetters::new(backend.clone(), settings.models.keys().cloned());
        let arrivals = Arc::new(arrivals::Arrivals::default());
        let admission = jobs::Admission::new(settings.web.max_backlog, settings.status_file(), clock.clone());
        let responses = Arc::new(jobs::ResponseQueue::open(backend, &settings.web_host()).await?);
        let web = &settings.web;
        let room = spool::Room::new(
            web.upload_memory.as_u64(),
            web.upload_disk.as_u64(),
            &settings.upload_folder(),
            web.max_image.as_u64(),
        )?;
        let beside = jobs::Beside {
            responses: responses.clone(),
            arrivals: arrivals.clone(),
            admission: Arc::new(admission),
            metrics: metrics.clone(),
            versions: versions.clone(),
            clock: clock.clone(),
        };
        Ok(Arc::new(Self {
            jobs: Arc::new(jobs::Jobs::new(&settings, backend, requests, beside)),
            versions,
            live: live::Live::default(),
            arrivals,
            metrics,
            reach: ready::Reach::default(),
            dead_letters,
            disk: backend.room().cloned(),
            uploads: Arc::new(Semaphore::new(settings.web.max_uploads.min(Semaphore::MAX_PERMITS))),
            room,
            tls,
            draining,
            give_up: CancellationToken::new(),
            responses,
            events: backend.events().await?,
            settings,
            clock,
        }))
    }

    /// What runs beside the requests: the consumer of answers, the reports to the controller, the looks for those
    /// who watch, the forgetting of jobs that
    /// nobody answers. Ends when `stop` is cancelled, and the response queue is closed.
    pub async fn run_background(self: Arc<Self>, stop: CancellationToken) {
        tokio::join!(
            replies::consume(&self, &stop),
            self.responses.keep(&stop),
            arrivals::send_reports(&self, &stop),
            live::keep(&self, &stop),
            self.jobs.forget_old(&stop),
            self.versions.keep(&stop, || {})
        );
        self.responses.close().await;
    }

    /// Held requests get their 202 now.
    pub fn give_up_waiting(&self) {
        self.give_up.cancel();
    }

    /// What it does, in a few words.
    pub fn summary(&self) -> String {
        format!("{} uploads in hand, {} jobs not answered", self.uploads_in_hand(), self.jobs.waiting())
    }

    /// Uploads in hand now.
    pub fn uploads_in_hand(&self) -> usize {
        self.settings.web.max_uploads - self.uploads.available_permits()
    }
}
