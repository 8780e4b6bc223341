//! Jobs in flight: an image goes in, at most one job for it goes out, and everybody who asked is
//! told how it ended.
//!
//! The order is the safety argument: image before job, waiter before job. Identical images in
//! flight share one job. What is sent is sent by a task of its own, so that a client that leaves
//! takes nothing with it.

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

/// An image for a model.
pub(crate) type Key = (JobId, Arc<str>);

/// Why nobody will answer a job.
#[derive(Debug, Clone)]
pub(crate) enum NoAnswer {
    /// It could not be sent, or its result cannot be read.
    Failed(Error),
    /// It is in its queue no more.
    Dropped,
    /// Its image was erased.
    Erased,
}

/// How far a job is.
#[derive(Debug, Clone)]
pub(crate) enum Progress {
    /// It is being stored and sent.
    Sending,
    /// It is in the queue, or with a worker.
    Sent,
    /// It is over.
    Done(Arc<Reply>),
    /// It was not sent: the image had been uploaded before, and has this result.
    Known(Arc<Reply>),
    /// Nobody will answer it.
    Over(NoAnswer),
}

/// What jobs need of the rest of this host.
#[derive(Debug)]
pub(crate) struct Beside {
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
    /// Whether a result is looked for before the image is stored. Where each look is a request, an
    /// image that is new to the store has no result, and only the other ones are looked for.
    looks_first: bool,
    requests: BTreeMap<Arc<str>, SharedQueue>,
    beside: Beside,
    /// For so long a job may wait for a worker.
    retention: Duration,
    cache: Cache<Key, Cached>,
    /// Versions that workers answer with and that are not in force here, with their models: what
    /// was told of once.
    other_versions: Mutex<BTreeSet<(String, String)>>,
    in_flight: Mutex<HashMap<Key, InFlight>>,
    /// Whose results came after they were erased, and are being taken away.
    erasing: Arc<Mutex<HashSet<Key>>>,
}

/// A result in memory. Another web host may have had it replaced since it was read.
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
    /// Where a result from before this moment is no answer: the upload asked for a fresh one.
    fresh_since: Option<DateTime<Utc>>,
    /// [`Job::sent_at`]; `None` until it is sent.
    sent_at: Option<DateTime<Utc>>,
    /// When it was last seen that the job is on its way.
    seen: Instant,
    /// It is not on its way any more, and nobody has sent it again yet.
    is_lost: bool,
    /// The client who sent it has one more in the queue.
    _counted: Option<Counted>,
    /// So many uploads of it were answered 202. They are counted when it is known how it ended.
    promised: u32,
    /// Its image was erased meanwhile, and so will be its result.
    is_erased: bool,
}

fn set(keys: &Mutex<HashSet<Key>>) -> MutexGuard<'_, HashSet<Key>> {
    keys.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An image as it came in.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) id: JobId,
    pub(crate) name: String,
    pub(crate) content: Whole,
}

/// How an image is sent.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) model: Arc<str>,
    /// A result that is stored already is not what is wanted.
    pub(crate) fresh: bool,
}

/// A job that may be sent.
#[derive(Debug)]
pub(crate) struct Admitted {
    announced: Announced,
    counted: Option<Counted>,
    /// Whose it is, as the queue is told.
    client: String,
}

/// What was done with an image.
pub(crate) enum Submitted {
    /// Its result was known.
    Known(Arc<Reply>),
    /// A job for it is in flight.
    Waits(Ticket),
}

/// A place in the line of those who wait for a job.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) key: Key,
    progress: watch::Receiver<Progress>,
    /// Whether this is the ticket of the job's own sender; others joined.
    pub(crate) first: bool,
}

impl Jobs {
    pub(crate) fn new(
        settings: &Settings,
        backend: &Backend,
        requests: BTreeMap<String, SharedQueue>,
        beside: Beside,
    ) -> Self {
        Self {
            images: backend.images().clone(),
            results: backend.results().clone(),
            looks_first: backend.results().in_database().is_some(),
            requests: requests.into_iter().map(|(model, queue)| (model.into(), queue)).collect(),
            beside,
            retention: settings.queue.retention,
            cache: Cache::new(settings.web.cached_results),
            other_versions: Mutex::default(),
            in_flight: Mutex::default(),
            erasing: Arc::default(),
        }
    }

    /// The model of this name and its queue.
    pub(crate) fn model(&self, name: &str) -> Option<(Arc<str>, &SharedQueue)> {
        self.requests.get_key_value(name).map(|(model, queue)| (model.clone(), queue))
    }

    /// The version of each model that is in force, as far as it is known.
    pub(crate) fn versions_in_force(&self) -> BTreeMap<String, String> {
        let version =
            |model: &str| Some((model.to_owned(), self.beside.versions.current(model)?.to_string()));
        self.models().filter_map(version).collect()
    }

    /// The names of all models.
    pub(crate) fn models(&self) -> impl Iterator<Item = &str> {
        self.requests.keys().map(|model| &**model)
    }

    /// The same, to be kept.
    pub(crate) fn model_names(&self) -> impl Iterator<Item = Arc<str>> {
        self.requests.keys().cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, InFlight>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Jobs of this host that nobody has answered yet.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().len()
    }

    /// Whether this host waits for the job.
    pub(crate) fn is_in_flight(&self, key: &Key) -> bool {
        self.lock().contains_key(key)
    }

    /// The result of an image, as far as a look costs nothing, or a place in the line of a job for
    /// it that is in flight. Where a fresh result is wanted, a job in flight will bring one.
    pub(crate) async fn find(&self, id: JobId, wanted: &Wanted) -> Result<Option<Submitted>> {
        let key: Key = (id, wanted.model.clone());
        self.look_for_lost(&key).await;
        if let Some(ticket) = self.join(&key) {
            if let Some(job) = self.lock().get_mut(&key) {
                // It was erased, and is wanted again.
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

    /// The result of an image that answers a new upload of it.
    pub(crate) async fn known(&self, key: &Key) -> Result<Option<Arc<Reply>>> {
        match self.stored(key).await? {
            // Whoever uploads it again wants it tried again.
            Some(reply) if !reply.is_final() => {
                self.results.delete(&key.0.result_key(&reply.model, &reply.version)).await?;
                Ok(None)
            }
            known => Ok(known),
        }
    }

    /// After how many seconds the answer to a job will be there.
    pub(crate) async fn eta_s(&self, key: &Key) -> f64 {
        let (_, model) = key;
        if let Some(queue) = self.requests.get(model) {
            self.beside.admission.refresh(model, queue).await;
        }
        let mut in_flight = self.lock();
        let announced = in_flight.get_mut(key).map(|job| &mut job.announced);
        if announced.is_none() && self.cache.get(key).is_some() {
            // It came while this was asked.
            return 0.0;
        }
        self.beside.admission.eta_s(model, announced)
    }

    /// Has a job of this client admitted.
    pub(crate) async fn admit(
        &self,
        model: &str,
        queue: &SharedQueue,
        client: Option<&Allowance>,
    ) -> std::result::Result<Admitted, Problem> {
        self.beside.admission.refresh(model, queue).await;
        let counted = client.map(Allowance::job).transpose();
        let counted = counted.map_err(|who| {
            // When a tenth of what it has sent will be done.
            let retry_after_s = (self.beside.admission.eta_s(model, None) / 10.0).ceil().max(1.0) as u64;
            Problem::backlog_of_client(who, retry_after_s)
        })?;
        let announced = self.beside.admission.admit(model).map_err(Problem::backlog_full)?;
        let client = client.map_or_else(|| "nobody".to_owned(), Allowance::client);
        Ok(Admitted { announced, counted, client })
    }

    /// Stores an image and sends a job for it that was admitted, unless somebody else has just done
    /// so.
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
        let fresh_since = fresh.then(|| self.beside.clock.now());
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
                self.beside.admission.given_up(&wanted.model);
                let progress = other.get().progress.subscribe();
                return Ticket { progress, first: false, ..ticket };
            }
            // Those who wait for the lost one wait for this one.
            Entry::Occupied(mut lost) => {
                self.beside.admission.given_up(&wanted.model);
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
                    // It may have been erased before it was stored.
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

    /// The store of the images.
    pub(crate) fn images(&self) -> &SharedBlobs {
        &self.images
    }
}
