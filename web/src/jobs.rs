//! Jobs in flight: an image goes in, at most one job for it goes out, and everybody who asked is told how it ended.
//!
//! The order is the safety argument: image before job, waiter before job. Identical images in flight share one job. What is
//! sent is sent by a task of its own, so that a client that leaves takes nothing with it.

mod admission;
pub(crate) mod arrivals;
mod eta;
pub(crate) mod replies;
mod response_queue;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use eirs_platform::{
    Error, Result,
    backend::Backend,
    blobs::SharedBlobs,
    clock::SharedClock,
    job::{self, Job, JobId, Reply},
    queue::SharedQueue,
    results,
    settings::Settings,
    trace::{Scope, TARGET},
    version::watch::Versions,
};
use quick_cache::sync::Cache;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug_span};

pub(crate) use self::{
    admission::{Admission, Announced},
    arrivals::Arrivals,
    response_queue::ResponseQueue,
};
use crate::{
    access::{Allowance, Counted},
    metrics::{Answered, Metrics},
    problem::Problem,
    upload::{Image, how_it_ended},
};

/// A waiter looks into the store now and then: the answer may have gone to a neighbour that was killed.
const LOOK_IN_STORE: Duration = Duration::from_secs(5);
/// A job of another host is looked for so often by who waits for it here.
const LOOK_FOR_OTHERS: Duration = Duration::from_secs(1);
/// A job that was not answered for so long is not waited for; the next upload of its image sends another.
const FORGET_AFTER: Duration = Duration::from_secs(900);
/// A job that is older, and whose queue is empty, was lost on the way: it was dropped for its age, or purged. It is looked for so
/// often, and where it was not lost after all, its image is classified twice.
const LOST_AFTER: Duration = Duration::from_secs(5);
/// A result that was read longer ago is read again.
const READ_AGAIN: Duration = Duration::from_secs(60);

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

/// What jobs need of the rest of this host.
#[derive(Debug)]
pub(crate) struct Beside {
    pub(crate) responses: Arc<ResponseQueue>,
    pub(crate) arrivals: Arc<Arrivals>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) versions: Versions,
    pub(crate) clock: SharedClock,
}

#[derive(Debug)]
pub(crate) struct Jobs {
    images: SharedBlobs,
    results: SharedBlobs,
    requests: BTreeMap<Arc<str>, SharedQueue>,
    beside: Beside,
    cache: Cache<Key, Cached>,
    /// Versions that workers answer with and that are not in force here, with their models: what was told of once.
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
            requests: requests.into_iter().map(|(model, queue)| (model.into(), queue)).collect(),
            beside,
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

    /// The stored result of an image by the version of the model that is in force. One that was given up is no answer to a new
    /// upload, but it is a result. While a fresh one is on its way, an older one is none.
    pub(crate) async fn stored(&self, key: &Key) -> Result<Option<Arc<Reply>>> {
        let Some(version) = self.beside.versions.current(&key.1) else { return Ok(None) };
        let fresh_since = self.lock().get(key).and_then(|job| job.fresh_since);
        let is_answer = |reply: &Arc<Reply>| {
            *reply.version == *version && fresh_since.is_none_or(|since| reply.at >= since)
        };
        let cached = self.cache.get(key).filter(|cached| cached.read.elapsed() < READ_AGAIN);
        if let Some(reply) = cached.map(|cached| cached.reply).filter(is_answer) {
            return Ok(Some(reply));
        }
        let found = results::get(&*self.results, key.0, &key.1, &version).await?.reply();
        Ok(found.map(|reply| self.remember(key, reply)).filter(is_answer))
    }

    /// Ends when there may be news of an image, and after this time at the latest.
    pub(crate) async fn news_of(&self, id: &str, within: Duration) {
        let Ok(id) = id.parse::<JobId>() else { return };
        let tickets: Vec<_> =
            self.requests.keys().filter_map(|model| self.join(&(id, model.clone()))).collect();
        if tickets.is_empty() {
            // It is another host's.
            return tokio::time::sleep(within.min(LOOK_FOR_OTHERS)).await;
        }
        let ends = tickets.into_iter().map(|mut ticket| {
            Box::pin(async move {
                let is_over =
                    |progress: &Progress| matches!(progress, Progress::Done(_) | Progress::Failed(_));
                let _over_or_forgotten = ticket.progress.wait_for(is_over).await;
            })
        });
        // The answer may have gone elsewhere: the store is looked into now and then.
        let _in_time =
            tokio::time::timeout(within.min(LOOK_IN_STORE), futures::future::select_all(ends)).await;
    }

    /// Takes an image away, and all its results. Answers whether there was anything.
    pub(crate) async fn erase(&self, id: JobId) -> Result<bool> {
        let mut was_there = self.images.exists(&id.image_key()).await?;
        // From now on nothing that is on its way is kept.
        for model in self.requests.keys() {
            let key: Key = (id, model.clone());
            if let Some(job) = self.lock().get_mut(&key) {
                job.is_erased = true;
                was_there = true;
            }
            was_there |= self.erase_results(&key).await?;
        }
        self.images.delete(&id.image_key()).await?;
        Ok(was_there)
    }

    /// Whether the image was erased while a job for it was under way, of which something may be left for a moment.
    pub(crate) fn is_erased(&self, id: JobId) -> bool {
        self.requests.keys().any(|model| {
            let key: Key = (id, model.clone());
            let is_so = self.lock().get(&key).is_some_and(|job| job.is_erased);
            is_so || set(&self.erasing).contains(&key)
        })
    }

    async fn erase_results(&self, key: &Key) -> Result<bool> {
        self.cache.remove(key);
        let (id, model) = key;
        let all = results::all(&*self.results, *id, model).await?;
        for reply in &all {
            self.results.delete(&id.result_key(model, &reply.version)).await?;
        }
        self.images.delete(&id.asked_key(model)).await?;
        Ok(!all.is_empty())
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

    /// The result of an image by one version of a model.
    pub(crate) async fn of_version(&self, key: &Key, version: &str) -> Result<Option<Reply>> {
        Ok(results::get(&*self.results, key.0, &key.1, version).await?.reply())
    }

    /// The newest result of an image by any version of a model.
    pub(crate) async fn newest(&self, key: &Key) -> Result<Option<Reply>> {
        results::newest(&*self.results, key.0, &key.1).await
    }

    /// When the image was last uploaded for this model; `None` where it was not. Where there is one model only, all are.
    pub(crate) async fn asked_at(&self, key: &Key) -> Result<Option<DateTime<Utc>>> {
        let (id, model) = key;
        let mut is_asked_for_any = false;
        if self.requests.len() > 1 {
            for other in self.requests.keys() {
                let Some(asked) = self.images.info(&id.asked_key(other)).await? else { continue };
                if other == model {
                    return Ok(Some(asked.modified));
                }
                is_asked_for_any = true;
            }
        }
        let image = if is_asked_for_any { None } else { self.images.info(&id.image_key()).await? };
        Ok(image.map(|image| image.modified))
    }

    fn remember(&self, key: &Key, reply: Reply) -> Arc<Reply> {
        let reply = Arc::new(reply);
        let in_force = self.beside.versions.current(&key.1);
        if reply.is_final() && in_force.as_deref() == Some(&*reply.version) {
            self.cache.insert(key.clone(), Cached { reply: reply.clone(), read: Instant::now() });
        }
        reply
    }

    /// Joins the job in flight for this image, if there is one.
    fn join(&self, key: &Key) -> Option<Ticket> {
        let in_flight = self.lock();
        let job = in_flight.get(key).filter(|job| !job.is_lost)?;
        Some(Ticket { key: key.clone(), progress: job.progress.subscribe(), first: false })
    }

    /// The result of an image, or a place in the line of a job for it that is in flight. Where a fresh result is wanted, a job
    /// in flight will bring one.
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
        if wanted.fresh {
            return Ok(None);
        }
        match self.stored(&key).await? {
            // Whoever uploads it again wants it tried again.
            Some(reply) if !reply.is_final() => {
                self.results.delete(&id.result_key(&reply.model, &reply.version)).await?;
                Ok(None)
            }
            known => Ok(known.map(Submitted::Known)),
        }
    }

    /// Notes that a job is lost whose queue is empty, and that has no result.
    async fn look_for_lost(&self, key: &Key) {
        {
            let mut in_flight = self.lock();
            let Some(job) = in_flight.get_mut(key) else { return };
            let is_sent = matches!(*job.progress.borrow(), Progress::Sent);
            if !is_sent || job.seen.elapsed() < LOST_AFTER {
                return;
            }
            job.seen = Instant::now();
        }
        if self.has_jobs(&key.1).await || !matches!(self.stored(key).await, Ok(None)) {
            return;
        }
        if let Some(job) =
            self.lock().get_mut(key).filter(|job| matches!(*job.progress.borrow(), Progress::Sent))
        {
            tracing::warn!(id = %key.0, model = %key.1, "a job is in its queue no more, and has no result: the next upload sends it again");
            job.is_lost = true;
        }
    }

    /// Whether any job for this model waits or is being worked on; a queue that does not say has some.
    pub(crate) async fn has_jobs(&self, model: &str) -> bool {
        match self.requests.get(model) {
            Some(queue) => queue.depth().await.map_or(true, |depth| depth.backlog() > 0),
            None => false,
        }
    }

    /// Stores an image again whose job is in flight, if what is stored is not all of it: the job needs it.
    pub(crate) async fn keep_whole(&self, ticket: &Ticket, image: Image) -> Result<()> {
        if matches!(*ticket.progress.borrow(), Progress::Sending) {
            return Ok(());
        }
        let key = ticket.key.0.image_key();
        let stored = self.images.info(&key).await?;
        if stored.is_some_and(|stored| stored.bytes == image.content.len()) {
            return Ok(());
        }
        tracing::warn!(id = %ticket.key.0, "the image of a job in flight was no longer stored whole; it is stored again");
        image.content.read(async |bytes| self.images.put(&key, bytes).await).await
    }

    /// After how many seconds the answer to a job will be there.
    pub(crate) async fn retry_after_s(&self, key: &Key) -> u64 {
        let (_, model) = key;
        if let Some(queue) = self.requests.get(model) {
            self.beside.admission.refresh(model, queue).await;
        }
        let mut in_flight = self.lock();
        let announced = in_flight.get_mut(key).map(|job| &mut job.announced);
        self.beside.admission.retry_after_s(model, announced)
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
            let retry_after_s = self.beside.admission.retry_after_s(model, None).div_ceil(10);
            Problem::backlog_of_client(who, retry_after_s)
        })?;
        let announced = self.beside.admission.admit(model).map_err(Problem::backlog_full)?;
        Ok(Admitted { announced, counted })
    }

    /// Stores an image and sends a job for it that was admitted, unless somebody else has just done so.
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
        let (jobs, scope) = (self.clone(), scope.clone());
        tokio::spawn(async move {
            scope
                .run(async {
                    let sent = jobs.store_and_send(image, &key, fresh, &scope).await;
                    jobs.sent(&key, sent);
                })
                .await;
        });
        ticket
    }

    async fn store_and_send(&self, image: Image, key: &Key, fresh: bool, scope: &Scope) -> Result<()> {
        let (id, model) = key;
        let queue =
            self.requests.get(model).ok_or_else(|| Error::broken("sending", format!("no model {model}")))?;
        let Image { name, content, .. } = image;
        let storing = debug_span!(target: TARGET, "store", image.id = %id, image.bytes = content.len());
        let stage = content.read(async |bytes| self.images.stage(&id.image_key(), bytes).await);
        let stored = stage.instrument(storing).await?;
        if self.requests.len() > 1 {
            // The images of all models are the same: who asks for a result later must know of which it may come.
            match self.images.put(&id.asked_key(model), Bytes::new()).await {
                Err(error) if error.is_transient() => return Err(error),
                // A role from before there were such notes may not write it. That costs a job nothing.
                Err(error) => tracing::warn!(%error, "for which model an image was uploaded cannot be noted"),
                Ok(()) => {}
            }
        }
        let sending = scope.part(debug_span!(target: TARGET, "send", otel.kind = "producer", image.id = %id));
        let job = Job {
            v: job::VERSION,
            id: *id,
            name,
            model: model.to_string(),
            reply_to: self.beside.responses.current().name,
            sent_at: self.beside.clock.now(),
            fresh,
            trace: Some(sending.context().clone()),
        };
        sending.run(queue.send_with(job::encode(&job), stored)).await?;
        // Counted when it can be seen in the queue: the controller looks there as soon as the doorbell rings.
        self.beside.arrivals.count(model);
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
                    self.beside.admission.given_up(&key.1);
                    job.progress.send_replace(Progress::Failed(error));
                }
            }
        }
    }

    /// A worker's answer has come: everybody who waits for it is told. Answers whether anybody could have.
    ///
    /// It may be of another version than the one in force: of a worker that has not been replaced yet, or of one elsewhere. It says
    /// so, and is no answer to the next upload.
    pub(crate) fn answered(&self, reply: Reply) -> bool {
        self.beside.versions.learn(&reply.model, &reply.version);
        self.tell_of_other_version(&reply);
        let key: Key = (reply.id, reply.model.as_str().into());
        let reply = self.remember(&key, reply);
        let job = {
            let mut in_flight = self.lock();
            let job = in_flight.remove(&key);
            if job.as_ref().is_some_and(|job| job.is_erased) {
                set(&self.erasing).insert(key.clone());
            }
            job
        };
        if job.is_some() {
            // One that was given up says nothing of how long the next one takes.
            let is_done = reply.is_final();
            self.beside.admission.ended(&key.1, is_done.then_some(reply.classify_ms / 1e3));
        }
        for _ in 0..job.as_ref().map_or(0, |job| job.promised) {
            self.beside.metrics.answered(how_it_ended(&reply.outcome, false));
        }
        if job.as_ref().is_some_and(|job| job.is_erased) {
            self.cache.remove(&key);
            let (results, erasing) = (self.results.clone(), self.erasing.clone());
            let result_key = key.0.result_key(&key.1, &reply.version);
            tokio::spawn(async move {
                if let Err(error) = results.delete(&result_key).await {
                    tracing::error!(%error, "{result_key} should be erased and is still there");
                }
                set(&erasing).remove(&key);
            });
        }
        job.map(|job| job.progress.send_replace(Progress::Done(reply))).is_some()
    }

    /// For some seconds after a change this is as it should be. Later it means that what workers load is not what is here.
    fn tell_of_other_version(&self, reply: &Reply) {
        let Some(in_force) = self.beside.versions.current(&reply.model) else { return };
        if *in_force == *reply.version {
            return;
        }
        let (model, version) = (reply.model.clone(), reply.version.clone());
        let mut told = self.other_versions.lock().unwrap_or_else(PoisonError::into_inner);
        if told.insert((model, version)) {
            let Reply { worker, model, version, .. } = reply;
            tracing::info!(
                worker,
                model,
                version,
                "{worker} answers with version {version} of {model}, and {in_force} is in force here: such answers are given, but are \
                 not kept as answers to further uploads"
            );
        }
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

    /// An upload of it is answered 202. Answers whether the job is still under way.
    pub(crate) fn promise(&self, key: &Key) -> bool {
        self.lock().get_mut(key).map(|job| job.promised += 1).is_some()
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
                    self.beside.admission.given_up(model);
                    for _ in 0..job.promised {
                        self.beside.metrics.answered(Answered::Pending);
                    }
                }
                is_young
            });
        }
    }
}
