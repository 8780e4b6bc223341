//! Jobs in flight. An image is stored, at most one job for it is sent, and every waiting client
//! gets its outcome.
//!
//! The order ensures that no job is lost: the image is stored before the job is sent, and a waiter
//! registers before the job is sent. Identical images in flight share one job. Storing and sending
//! run in a task of their own, so that a client that disconnects does not stop them.

mod admission;
mod arrivals;
pub(crate) mod eta;
mod lost;
pub(crate) mod replies;
mod response_queue;
mod sending;
mod stored;
mod waiting;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use eirs_platform::{
    Error, Result,
    backend::Backend,
    blobs::SharedBlobs,
    clock::SharedClock,
    job::{JobId, Reply},
    queue::SharedQueue,
    settings::Settings,
    trace::Scope,
    version::watch::Versions,
};
use quick_cache::sync::Cache;
use tokio::{sync::watch, time::Instant};

pub(crate) use self::{
    admission::{Admission, Announced},
    arrivals::{Arrivals, Reporter},
    response_queue::ResponseQueue,
    waiting::Answer,
};
use crate::{
    access::{Allowance, Counted},
    metrics::Metrics,
    problem::Problem,
    spool::Whole,
    webhook::Webhook,
};

/// An image and the model for it.
pub(crate) type Key = (JobId, Arc<str>);

/// The reason why a job gets no result.
#[derive(Debug, Clone)]
pub(crate) enum NoAnswer {
    /// It could not be sent, or its result could not be read.
    Failed(Error),
    /// It is no longer in its queue.
    Dropped,
    /// Its image was erased.
    Erased,
}

/// The state of a job.
#[derive(Debug, Clone)]
pub(crate) enum Progress {
    /// It is being stored and sent.
    Sending,
    /// It is in the queue or leased by a worker.
    Sent,
    /// It has ended.
    Done(Arc<Reply>),
    /// It was not sent: the image was uploaded before and has this result.
    Known(Arc<Reply>),
    /// It gets no result.
    Over(NoAnswer),
}

/// The other parts of this host that jobs need.
#[derive(Debug)]
pub(crate) struct Services {
    pub(crate) responses: Arc<ResponseQueue>,
    pub(crate) arrivals: Arc<Arrivals>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) webhook: Option<Arc<Webhook>>,
    pub(crate) versions: Versions,
    pub(crate) clock: SharedClock,
}

#[derive(Debug)]
pub(crate) struct Jobs {
    images: SharedBlobs,
    results: SharedBlobs,
    /// True if results are looked up before the image is stored. False if each lookup is a request
    /// to a remote store: then only images that are already stored are looked up.
    looks_first: bool,
    requests: BTreeMap<Arc<str>, SharedQueue>,
    services: Services,
    /// Maximum time that a job may wait for a worker.
    retention: Duration,
    cache: Cache<Key, Cached>,
    /// Versions, with their models, that were logged because replies had them although they are not
    /// in force here.
    other_versions: Mutex<BTreeSet<(String, String)>>,
    in_flight: Mutex<HashMap<Key, InFlight>>,
    /// Keys whose results arrived after the erasure and are being deleted.
    erasing: Arc<Mutex<HashSet<Key>>>,
}

/// A cached result. Another web host may have had it replaced since it was read.
#[derive(Debug, Clone)]
struct Cached {
    reply: Arc<Reply>,
    read: Instant,
}

#[derive(Debug)]
struct InFlight {
    progress: watch::Sender<Progress>,
    since: Instant,
    announced: Announced,
    /// Set if the upload asked for a fresh result: results from before this time do not count.
    fresh_since: Option<DateTime<Utc>>,
    /// [`Job::sent_at`]; `None` until it is sent.
    sent_at: Option<DateTime<Utc>>,
    /// When the job was last known to be in its queue or with a worker.
    seen: Instant,
    /// The job is lost and was not sent again yet.
    is_lost: bool,
    /// Counts the job against the maximum of the client that sent it.
    _counted: Option<Counted>,
    /// Number of uploads of it that were answered 202. They are counted in the metrics when the job
    /// ends.
    promised: u32,
    /// Its image was erased meanwhile; its result will be erased as well.
    is_erased: bool,
}

fn set(keys: &Mutex<HashSet<Key>>) -> MutexGuard<'_, HashSet<Key>> {
    keys.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An image that was received.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) id: JobId,
    pub(crate) name: String,
    pub(crate) content: Whole,
}

/// The result that an upload asks for.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) model: Arc<str>,
    /// Do not use a stored result.
    pub(crate) fresh: bool,
}

/// Permission to send a job.
#[derive(Debug)]
pub(crate) struct Admitted {
    announced: Announced,
    counted: Option<Counted>,
    /// The client's digest, by which the queue is fair to clients.
    client: String,
}

/// The state of a submitted image.
pub(crate) enum Submitted {
    /// Its result is stored.
    Known(Arc<Reply>),
    /// A job for it is in flight.
    Waits(Ticket),
}

/// A waiting client's handle on a job.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) key: Key,
    progress: watch::Receiver<Progress>,
    /// True for the upload that sent the job, false for those that joined.
    pub(crate) first: bool,
}

impl Jobs {
    pub(crate) fn new(
        settings: &Settings,
        backend: &Backend,
        requests: BTreeMap<String, SharedQueue>,
        services: Services,
    ) -> Self {
        Self {
            images: backend.images().clone(),
            results: backend.results().clone(),
            looks_first: backend.results().in_database().is_some(),
            requests: requests.into_iter().map(|(model, queue)| (model.into(), queue)).collect(),
            services,
            retention: settings.queue.retention,
            cache: Cache::new(settings.web.cached_results),
            other_versions: Mutex::default(),
            in_flight: Mutex::default(),
            erasing: Arc::default(),
        }
    }

    /// Returns a model by its name, with its queue.
    pub(crate) fn model(&self, name: &str) -> Option<(Arc<str>, &SharedQueue)> {
        self.requests.get_key_value(name).map(|(model, queue)| (model.clone(), queue))
    }

    /// Returns the version in force of each model, as far as known.
    pub(crate) fn versions_in_force(&self) -> BTreeMap<String, String> {
        let version =
            |model: &str| Some((model.to_owned(), self.services.versions.current(model)?.to_string()));
        self.models().filter_map(version).collect()
    }

    /// Returns the names of all models.
    pub(crate) fn models(&self) -> impl Iterator<Item = &str> {
        self.requests.keys().map(|model| &**model)
    }

    /// Like [`models`](Self::models), as shared names.
    pub(crate) fn model_names(&self) -> impl Iterator<Item = Arc<str>> {
        self.requests.keys().cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, InFlight>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of jobs of this host that have no result yet.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().len()
    }

    /// Returns whether this host waits for the job.
    pub(crate) fn is_in_flight(&self, key: &Key) -> bool {
        self.lock().contains_key(key)
    }

    /// Returns the result of an image if the lookup is cheap, or joins a job for it that is in
    /// flight. If a fresh result is wanted, only joins a job.
    pub(crate) async fn find(&self, id: JobId, wanted: &Wanted) -> Result<Option<Submitted>> {
        let key: Key = (id, wanted.model.clone());
        self.look_for_lost(&key).await;
        if let Some(ticket) = self.join(&key) {
            if let Some(job) = self.lock().get_mut(&key) {
                // It was erased, and is now uploaded again.
                job.is_erased = false;
            }
            return Ok(Some(Submitted::Waits(ticket)));
        }
        let known = match () {
            () if wanted.fresh => None,
            () if self.looks_first => self.known(&key).await?,
            () => self.in_memory(&key),
        };
        Ok(known.map(Submitted::Known))
    }

    /// Returns the stored result that answers a new upload of the image.
    pub(crate) async fn known(&self, key: &Key) -> Result<Option<Arc<Reply>>> {
        match self.stored(key).await? {
            // A new upload tries again if the last job was given up.
            Some(reply) if !reply.is_final() => {
                self.results.delete(&key.0.result_key(&reply.model, &reply.version)).await?;
                Ok(None)
            }
            known => Ok(known),
        }
    }

    /// Returns the estimated number of seconds until a job ends.
    pub(crate) async fn eta_s(&self, key: &Key) -> f64 {
        let (_, model) = key;
        if let Some(queue) = self.requests.get(model) {
            self.services.admission.refresh(model, queue).await;
        }
        let mut in_flight = self.lock();
        let announced = in_flight.get_mut(key).map(|job| &mut job.announced);
        if announced.is_none() && self.cache.get(key).is_some() {
            // The job ended in the meantime.
            return 0.0;
        }
        self.services.admission.eta_s(model, announced)
    }

    /// Admits one more job of this client, or returns the refusal.
    pub(crate) async fn admit(
        &self,
        model: &str,
        queue: &SharedQueue,
        client: Option<&Allowance>,
    ) -> std::result::Result<Admitted, Problem> {
        self.services.admission.refresh(model, queue).await;
        let counted = client.map(Allowance::job).transpose();
        let counted = counted.map_err(|who| {
            // The time in which a tenth of the backlog will be done.
            let retry_after_s = (self.services.admission.eta_s(model, None) / 10.0).ceil().max(1.0) as u64;
            Problem::backlog_of_client(who, retry_after_s)
        })?;
        let announced = self.services.admission.admit(model).map_err(Problem::backlog_full)?;
        let client = client.map_or_else(|| "nobody".to_owned(), Allowance::client);
        Ok(Admitted { announced, counted, client })
    }

    /// Stores an image and sends its job. Joins another job for it instead if one is in flight by
    /// now.
    pub(crate) fn send(
        self: &Arc<Self>,
        image: Image,
        wanted: &Wanted,
        admitted: Admitted,
        scope: &Scope,
    ) -> Ticket {
        let key: Key = (image.id, wanted.model.clone());
        let progress = watch::Sender::new(Progress::Sending);
        let ticket = Ticket { key: key.clone(), progress: progress.subscribe(), first: true };
        let (now, fresh) = (Instant::now(), wanted.fresh);
        let fresh_since = fresh.then(|| self.services.clock.now());
        let job = InFlight {
            progress,
            since: now,
            announced: admitted.announced,
            fresh_since,
            sent_at: None,
            seen: now,
            is_lost: false,
            _counted: admitted.counted,
            promised: 0,
            is_erased: false,
        };
        let ticket = match self.lock().entry(key.clone()) {
            Entry::Occupied(other) if !other.get().is_lost => {
                self.services.admission.given_up(&wanted.model);
                let progress = other.get().progress.subscribe();
                return Ticket { progress, first: false, ..ticket };
            }
            // Clients that wait for the lost job wait for this one.
            Entry::Occupied(mut lost) => {
                self.services.admission.given_up(&wanted.model);
                let (progress, promised) = (lost.get().progress.clone(), lost.get().promised);
                progress.send_replace(Progress::Sending);
                let ticket = Ticket { progress: progress.subscribe(), ..ticket };
                lost.insert(InFlight { progress, promised, ..job });
                ticket
            }
            Entry::Vacant(free) => {
                free.insert(job);
                ticket
            }
        };
        let (jobs, scope, client) = (self.clone(), scope.clone(), admitted.client);
        tokio::spawn(async move {
            scope
                .run(async {
                    let sent = jobs.store_and_send(image, &key, fresh, client, &scope).await;
                    jobs.sent(&key, sent);
                    // The image may have been erased before it was stored.
                    if jobs.lock().get(&key).is_some_and(|job| job.is_erased)
                        && let Err(error) = jobs.erase(key.0).await
                    {
                        tracing::error!(id = %key.0, %error, "an image could not be erased");
                    }
                })
                .await;
        });
        ticket
    }

    /// Returns the store of the images.
    pub(crate) fn images(&self) -> &SharedBlobs {
        &self.images
    }
}
