//! The objects that requests share, created at the start. Each gets what it needs and does not know
//! this module.

use std::{collections::BTreeMap, sync::Arc};

use eirs_platform::{
    Result, backend::Backend, clock::SharedClock, lifecycle::Lifecycle, settings::Settings,
    version::watch::Versions,
};
use tokio_util::sync::CancellationToken;

use crate::{
    access::Access,
    jobs::{Admission, Arrivals, Jobs, Reporter, ResponseQueue, Services, replies},
    listen::Tls,
    metrics::{Connections, DeadLetters, Metrics},
    operator::{Operator, live, ready},
    renewal,
    upload::Uploads,
    webhook::{self, Webhook},
};

/// The state of the web server; one per process.
#[derive(Debug)]
pub struct App {
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) uploads: Arc<Uploads>,
    pub(crate) operator: Arc<Operator>,
    pub(crate) metrics: Arc<Metrics>,
    responses: Arc<ResponseQueue>,
    reporter: Arc<Reporter>,
    webhook: Option<Arc<Webhook>>,
    versions: Versions,
}

impl App {
    /// Opens the web server's part of the backend. `draining` is the process's token, `tls` is only
    /// read for `/metrics`, and `versions` is kept up to date while
    /// [`run_background`](Self::run_background) runs.
    pub async fn new(
        settings: Settings,
        backend: &Backend,
        clock: SharedClock,
        draining: CancellationToken,
        tls: Option<Arc<Tls>>,
        versions: Versions,
        webhook: Option<webhook::Config>,
    ) -> Result<Arc<Self>> {
        let mut requests = BTreeMap::new();
        for model in settings.models.keys() {
            requests.insert(model.clone(), backend.requests(model).await?);
        }
        let metrics = Arc::new(Metrics::new(settings.models.keys().map(String::as_str)));
        let dead_letters = DeadLetters::new(backend.clone(), settings.models.keys().cloned());
        let arrivals = Arc::new(Arrivals::default());
        let admission = Admission::new(settings.web.max_backlog, settings.status_file(), clock.clone());
        let host = settings.web_host();
        let responses = Arc::new(ResponseQueue::open(backend, &host).await?);
        let webhook = match webhook {
            Some(config) => {
                Some(Arc::new(Webhook::open(config, backend, metrics.clone(), clock.clone()).await?))
            }
            None => None,
        };
        let services = Services {
            responses: responses.clone(),
            arrivals: arrivals.clone(),
            admission: Arc::new(admission),
            metrics: metrics.clone(),
            webhook: webhook.clone(),
            versions: versions.clone(),
            clock: clock.clone(),
        };
        let jobs = Arc::new(Jobs::new(&settings, backend, requests, services));
        let events = backend.events().await?;
        let reporter = Arc::new(Reporter { arrivals, events, host, clock: clock.clone() });
        let uploads = Arc::new(Uploads::new(settings, jobs.clone(), metrics.clone(), clock, draining)?);
        let operator = Arc::new(Operator {
            uploads: uploads.clone(),
            jobs: jobs.clone(),
            reporter: reporter.clone(),
            metrics: metrics.clone(),
            dead_letters,
            webhook: webhook.clone(),
            disk: backend.room().cloned(),
            tls,
            live: live::Live::default(),
            reach: ready::Reach::default(),
        });
        Ok(Arc::new(Self { jobs, uploads, operator, metrics, responses, reporter, webhook, versions }))
    }

    /// Runs the background tasks: receiving replies, reporting to the controller, live events, the
    /// webhook, and forgetting jobs without a result. Returns once `stop` is cancelled and the
    /// response queue is closed.
    pub async fn run_background(self: Arc<Self>, stop: CancellationToken) {
        tokio::join!(
            replies::consume(&self.jobs, &stop),
            self.responses.keep(&stop),
            self.reporter.keep(&stop),
            live::keep(&self.operator, &stop),
            self.jobs.forget_old(&stop),
            self.versions.keep(&stop, || {}),
            async {
                if let Some(webhook) = &self.webhook {
                    webhook.keep(&stop).await;
                }
            }
        );
        self.responses.close().await;
    }

    /// Returns what reads the webhook's keys again when they change.
    fn renewal(&self) -> Option<Box<dyn renewal::Renewal>> {
        self.webhook.as_ref().map(|webhook| webhook.renewal())
    }

    /// The counters of the listener for uploads.
    pub fn connections(&self) -> Connections {
        self.metrics.connections.clone()
    }

    /// Answers held requests with 202 now.
    pub fn give_up_waiting(&self) {
        self.uploads.give_up_waiting();
    }

    /// Returns a short summary for the service manager's status.
    pub fn summary(&self) -> String {
        format!("{} uploads in flight, {} jobs not answered", self.uploads_in_flight(), self.jobs.waiting())
    }

    /// Returns the number of uploads in flight.
    pub fn uploads_in_flight(&self) -> usize {
        self.uploads.in_flight()
    }
}

/// Reads the files of tokens, certificates and keys again when they change. Runs until it is
/// dropped.
pub async fn keep_renewed(app: Arc<App>, access: Arc<Access>, tls: Option<Arc<Tls>>, lifecycle: Lifecycle) {
    let files = access.renewal().into_iter().chain(tls.map(|tls| tls.renewal()));
    let renewals = files.chain(app.renewal()).collect();
    let sweep = access.counts_addresses().then_some(|| access.sweep());
    renewal::keep(renewals, sweep, lifecycle).await;
}
