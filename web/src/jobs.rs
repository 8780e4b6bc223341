//! Jobs in flight: an image goes in, at most one job for it goes out, and everybody who asked is told how it ended.
//!
//! The order is the safety argument: image before job, waiter before job. Identical images in flight share one job. What is
//! sent is sent by a task of its own, so that a client that leaves takes nothing with it.

mod admission;
mod eta;

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use eirs_platform::{
    Error, Result,
    backend::Backend,
    blobs::SharedBlobs,
    clock::SharedClock,
    job::{self, Job, JobId, Outcome, Reply},
    queue::SharedQueue,
    settings::Settings,
    trace::{Scope, TARGET},
};
use quick_cache::sync::Cache;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug_span};

pub(crate) use self::admission::{Admission, Announced};
use crate::{report::Arrivals, responses::ResponseQueue, upload::Image};

/// A waiter looks into the store now and then: the answer may have gone to a neighbour that was killed.
const LOOK_IN_STORE: Duration = Duration::from_secs(5);
/// A job that was not answered for so long is not waited for; the next upload of its image sends another.
const FORGET_AFTER: Duration = Duration::from_secs(900);

/// An image for a model.
pub(crate) type Key = (JobId, Arc<str>);

/// How far a job is.
#[derive(Debug, Clone)]
pub(crate) enum Progress {
    /// It is being stored and sent.
    Sending,
    /// It is in the queue, or with a worker.
    Sent,
    /// It is over.
    Done(Arc<Reply>),
    /// It could not be sent.
    Failed(Error),
}

#[derive(Debug)]
pub(crate) struct Jobs {
    images: SharedBlobs,
    results: SharedBlobs,
    requests: BTreeMap<Arc<str>, SharedQueue>,
    responses: Arc<ResponseQueue>,
    arrivals: Arc<Arrivals>,
    admission: Arc<Admission>,
    clock: SharedClock,
    cache: Cache<Key, Arc<Reply>>,
    in_flight: Mutex<HashMap<Key, InFlight>>,
}

#[derive(Debug)]
struct InFlight {
    progress: watch::Sender<Progress>,
    since: Instant,
    announced: Announced,
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
        responses: Arc<ResponseQueue>,
        arrivals: Arc<Arrivals>,
        admission: Arc<Admission>,
        clock: SharedClock,
    ) -> Self {
        Self {
            images: backend.images().clone(),
            results: backend.results().clone(),
            requests: requests.into_iter().map(|(model, queue)| (model.into(), queue)).collect(),
            responses,
            arrivals,
            admission,
            clock,
            cache: Cache::new(settings.web.cached_results),
            in_flight: Mutex::default(),
        }
    }

    /// The model of this name and its queue.
    pub(crate) fn model(&self, name: &str) -> Option<(Arc<str>, &SharedQueue)> {
        self.requests.get_key_value(name).map(|(model, queue)| (model.clone(), queue))
    }

    /// The names of all models.
    pub(crate) fn models(&self) -> impl Iterator<Item = &str> {
        self.requests.keys().map(|model| &**model)
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

    /// The stored result of an image. One that was given up is no answer to a new upload, but it is a result.
    pub(crate) async fn stored(&self, key: &Key) -> Result<Option<Arc<Reply>>> {
        if let Some(reply) = self.cache.get(key) {
            return Ok(Some(reply));
        }
        let result_key = key.0.result_key(&key.1);
        let Some(body) = self.results.get(&result_key).await? else { return Ok(None) };
        match job::decode::<Reply>(&body) {
            Ok(reply) => Ok(Some(self.remember(key, reply))),
            Err(error) => Err(Error::broken(format!("reading {result_key}"), error)),
        }
    }

    /// Whether queues and store answer; `Err` says which do not.
    pub(crate) async fn reach(&self) -> std::result::Result<(), &'static str> {
        let failed = |what: &'static str| {
            move |error: Error| {
                tracing::debug!(%error, "{what}");
                what
            }
        };
        let nobodys = JobId::of(b"");
        self.images.exists(&nobodys.image_key()).await.map_err(failed("the store cannot be reached"))?;
        for queue in self.requests.values() {
            queue.depth().await.map_err(failed("the queue cannot be reached"))?;
        }
        Ok(())
    }

    /// Whether the image was uploaded, so that a result may come.
    pub(crate) async fn is_uploaded(&self, id: JobId) -> Result<bool> {
        self.images.exists(&id.image_key()).await
    }

    fn remember(&self, key: &Key, reply: Reply) -> Arc<Reply> {
        let reply = Arc::new(reply);
        if !matches!(reply.outcome, Outcome::GaveUp { .. }) {
            self.cache.insert(key.clone(), reply.clone());
        }
        reply
    }

    /// Joins the job in flight for this image, if there is one.
    fn join(&self, key: &Key) -> Option<Ticket> {
        let in_flight = self.lock();
        let progress = in_flight.get(key)?.progress.subscribe();
        Some(Ticket { key: key.clone(), progress, first: false })
    }

    /// The result of an image, or a place in the line of a job for it that is in flight.
    pub(crate) async fn find(&self, key: &Key) -> Result<Option<Submitted>> {
        if let Some(ticket) = self.join(key) {
            return Ok(Some(Submitted::Waits(ticket)));
        }
        match self.stored(key).await? {
            // Whoever uploads it again wants it tried again.
            Some(reply) if matches!(reply.outcome, Outcome::GaveUp { .. }) => {
                self.results.delete(&key.0.result_key(&key.1)).await?;
                Ok(None)
            }
            known => Ok(known.map(Submitted::Known)),
        }
    }

    /// After how many seconds the answer to a job will be there.
    pub(crate) async fn retry_after_s(&self, key: &Key) -> u64 {
        let (_, model) = key;
        if let Some(queue) = self.requests.get(model) {
            self.admission.refresh(model, queue).await;
        }
        let mut in_flight = self.lock();
        let announced = in_flight.get_mut(key).map(|job| &mut job.announced);
        self.admission.retry_after_s(model, announced)
    }

    /// Has a job admitted; `Err` holds the seconds after which to try again.
    pub(crate) async fn admit(
        &self,
        model: &str,
        queue: &SharedQueue,
    ) -> std::result::Result<Announced, u64> {
        self.admission.refresh(model, queue).await;
        self.admission.admit(model)
    }

    /// Stores an image and sends a job for it that was admitted, unless somebody else has just done so.
    pub(crate) fn send(
        self: &Arc<Self>,
        image: Image,
        model: &Arc<str>,
        announced: Announced,
        scope: &Scope,
    ) -> Ticket {
        let key: Key = (image.id, model.clone());
        let progress = watch::Sender::new(Progress::Sending);
        let ticket = Ticket { key: key.clone(), progress: progress.subscribe(), first: true };
        match self.lock().entry(key.clone()) {
            Entry::Occupied(other) => {
                self.admission.given_up(model);
                let progress = other.get().progress.subscribe();
                return Ticket { progress, first: false, ..ticket };
            }
            Entry::Vacant(free) => {
                free.insert(InFlight { progress, since: Instant::now(), announced });
            }
        }
        let (jobs, scope) = (self.clone(), scope.clone());
        tokio::spawn(async move {
            scope
                .run(async {
                    let sent = jobs.store_and_send(image, &key, &scope).await;
                    jobs.sent(&key, sent);
                })
                .await;
        });
        ticket
    }

    async fn store_and_send(&self, image: Image, key: &Key, scope: &Scope) -> Result<()> {
        let (id, model) = key;
        let queue =
            self.requests.get(model).ok_or_else(|| Error::broken("sending", format!("no model {model}")))?;
        let Image { name, content, .. } = image;
        let storing = debug_span!(target: TARGET, "store", image.id = %id, image.bytes = content.len());
        content.read(async |bytes| self.images.put(&id.image_key(), bytes).await).instrument(storing).await?;
        let sending = scope.part(debug_span!(target: TARGET, "send", otel.kind = "producer", image.id = %id));
        let job = Job {
            v: job::VERSION,
            id: *id,
            name,
            model: model.to_string(),
            reply_to: self.responses.current().name,
            sent_at: self.clock.now(),
            trace: Some(sending.context().clone()),
        };
        sending.run(queue.send(vec![job::encode(&job)])).await?;
        // Counted when it can be seen in the queue: the controller looks there as soon as the doorbell rings.
        self.arrivals.count(model);
        Ok(())
    }

    fn sent(&self, key: &Key, sent: Result<()>) {
        match sent {
            Ok(()) => {
                let in_flight = self.lock();
                let Some(job) = in_flight.get(key) else { return };
                // The answer may have been quicker than this.
                job.progress.send_if_modified(|progress| {
                    let sending = matches!(progress, Progress::Sending);
                    if sending {
                        *progress = Progress::Sent;
                    }
                    sending
                });
            }
            Err(error) => {
                tracing::error!(id = %key.0, model = %key.1, %error, "an image could not be queued");
                if let Some(job) = self.lock().remove(key) {
                    self.admission.given_up(&key.1);
                    job.progress.send_replace(Progress::Failed(error));
                }
            }
        }
    }

    /// A worker's answer has come: everybody who waits for it is told. Answers whether anybody could have.
    pub(crate) fn answered(&self, reply: Reply) -> bool {
        let key: Key = (reply.id, reply.model.as_str().into());
        let reply = self.remember(&key, reply);
        let job = self.lock().remove(&key);
        if job.is_some() {
            // One that was given up says nothing of how long the next one takes.
            let is_done = !matches!(reply.outcome, Outcome::GaveUp { .. });
            self.admission.ended(&key.1, is_done.then_some(reply.classify_ms / 1e3));
        }
        job.map(|job| job.progress.send_replace(Progress::Done(reply))).is_some()
    }

    /// Waits until the job is over, at most until `until` ends; `None` if it is not over by then.
    pub(crate) async fn wait(
        &self,
        ticket: &mut Ticket,
        until: impl Future<Output = ()>,
    ) -> Option<Result<Arc<Reply>>> {
        tokio::pin!(until);
        let mut next_look = Instant::now() + LOOK_IN_STORE;
        loop {
            match &*ticket.progress.borrow_and_update() {
                Progress::Done(reply) => return Some(Ok(reply.clone())),
                Progress::Failed(error) => return Some(Err(error.clone())),
                Progress::Sending | Progress::Sent => {}
            }
            tokio::select! {
                changed = ticket.progress.changed() => if changed.is_err() {
                    // Forgotten: the store is all there is.
                    return self.stored(&ticket.key).await.transpose();
                },
                () = &mut until => return None,
                () = tokio::time::sleep_until(next_look) => {
                    next_look += LOOK_IN_STORE;
                    if let Ok(Some(reply)) = self.stored(&ticket.key).await {
                        self.answered((*reply).clone());
                    }
                }
            }
        }
    }

    /// Waits until the job is safely in the queue, or over: what a 202 promises.
    pub(crate) async fn wait_until_sent(&self, ticket: &mut Ticket) -> Result<()> {
        let sent = ticket.progress.wait_for(|progress| !matches!(progress, Progress::Sending)).await;
        match sent.as_deref() {
            Ok(Progress::Failed(error)) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Drops jobs that were not answered for a long time, every minute.
    pub(crate) async fn forget_old(&self, stop: &CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(Duration::from_secs(60))).await.is_some() {
            self.lock().retain(|(_, model), job| {
                let is_young = job.since.elapsed() < FORGET_AFTER;
                if !is_young {
                    self.admission.given_up(model);
                }
                is_young
            });
        }
    }
}
