//! The worker: takes jobs from the request queue, classifies, stores the result, answers, acks; and
//! drains when told to.
//!
//! A job's way: `consume.rs` receives it (as many as there are free slots), `lease.rs` keeps it
//! ours, `process.rs` takes it to its end, or `failures.rs` says how long it is tried again;
//! `begun.rs` finds out which job kills its workers, `health.rs` whether it is the worker that
//! fails. `pool.rs` is where the cores work, and `classify.rs` is what they do.

mod arguments;

pub mod abandoned;
pub mod consume;
pub mod replace;

mod begun;
mod failures;
mod health;

mod lease;
mod outcome;
mod process;
mod retry;

mod pool;

pub mod classify;
pub mod image;

mod report;

#[cfg(feature = "aws")]
pub mod identity;
#[cfg(feature = "aws")]
mod interrupted;
mod self_test;

use std::{collections::HashMap, sync::Arc, time::Duration};

use eirs_platform::{
    Result,
    backend::Backend,
    blobs::{SharedBlobs, memory::MemoryBlobs},
    clock::SharedClock,
    erased,
    queue::{QueueOptions, SharedQueue, memory::MemoryQueues},
    settings::{Model, Settings},
    version,
};
use tokio::sync::{Mutex, Semaphore};

pub use self::arguments::Arguments;
pub use self::self_test::{grey, self_test};
use self::{begun::Note, health::Health, lease::Leases, pool::Pool, report::Activity};

/// Behind the drain deadline jobs are given back and the last report is sent; a queue that is slow
/// answers within this.
const GIVING_BACK: Duration = Duration::from_secs(10);

/// A failed job that rests is a lease that must be renewed.
const MOST_RESTING: usize = 100;
/// How long scripts may take to go by themselves when the worker leaves.
const FAREWELL: Duration = Duration::from_secs(1);

/// Who this worker is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The instance it runs on.
    pub instance: String,
    /// Which boot of the instance this is.
    pub generation: String,
    /// The model that it serves.
    pub model: String,
    /// Whether it is tried before it serves: it takes the jobs of the trial only, and its results
    /// are stored nowhere.
    pub is_tried: bool,
}

/// Everything a job may touch. One for each process.
#[derive(Debug)]
pub struct Worker {
    identity: Identity,
    settings: Settings,
    clock: SharedClock,
    requests: SharedQueue,
    dead_letters: SharedQueue,
    events: SharedQueue,
    images: SharedBlobs,
    results: SharedBlobs,
    backend: Backend,
    /// The response queues that were answered to, by name.
    responses: Mutex<HashMap<String, SharedQueue>>,
    leases: Leases,
    pool: Pool,
    /// The version of the model that the pool has loaded.
    version: Arc<str>,
    noted: outcome::Noted,
    erased: erased::Watch,
    /// One permit for each job that can be held: the limit, the count and, when all are back, the
    /// end of a drain.
    slots: Arc<Semaphore>,
    slot_count: u32,
    activity: Activity,
    health: Health,
    /// Failed jobs that rest here; further ones go back into the line at once.
    resting: Semaphore,
    /// The job that runs alone, because its last worker may have died of it.
    begun: std::sync::Mutex<Option<Note>>,
}

impl Worker {
    /// Loads the model and opens what the worker needs. This takes as long as the model does.
    pub async fn new(
        identity: Identity,
        settings: Settings,
        backend: Backend,
        clock: SharedClock,
    ) -> anyhow::Result<Arc<Self>> {
        let model = settings.models.get(&identity.model).cloned();
        let model = model.ok_or_else(|| anyhow::anyhow!("models: unknown model `{}`", identity.model))?;
        image::memory::limit(settings.worker.decode_memory.as_u64());
        let threads = match settings.worker.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let slots = match settings.worker.slots {
            0 => threads + 1,
            slots => slots,
        };
        let (pool, version) = tokio::task::spawn_blocking(move || load(&model, threads)).await??;
        let Work { requests, dead_letters, results } = Work::of(&identity, &backend, &clock).await?;
        Ok(Arc::new(Self {
            dead_letters,
            events: backend.events().await?,
            images: backend.images().clone(),
            results,
            responses: Mutex::default(),
            leases: Leases::new(requests.clone(), settings.worker.heartbeat),
            requests,
            backend,
            pool,
            version: version.into(),
            noted: outcome::Noted::default(),
            erased: erased::Watch::default(),
            slots: Arc::new(Semaphore::new(slots)),
            slot_count: u32::try_from(slots)?,
            activity: Activity::new(clock.now()),
            health: Health::new(),
            resting: Semaphore::new(MOST_RESTING),
            begun: std::sync::Mutex::default(),
            clock,
            identity,
            settings,
        }))
    }

    /// What classifies.
    pub fn engine(&self) -> &str {
        self.pool.engine()
    }

    /// The version of the model that it has loaded.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// What it does, in a few words.
    pub fn summary(&self) -> String {
        let (held, done) = (self.in_flight(), self.activity.jobs_done());
        let failing = self.health.failing().map(|why| format!("every job fails: {why}; "));
        let (failing, engine) = (failing.unwrap_or_default(), self.engine());
        format!("{failing}{held} jobs in flight, {done} done, {engine} for {}", self.identity.model)
    }

    /// To be called at the end: the scripts go.
    pub fn close(&self) {
        self.pool.close(FAREWELL);
    }

    /// Notes which job runs alone now; answers which did.
    fn note_begun(&self, note: Option<Note>) -> Option<Note> {
        std::mem::replace(&mut *self.begun.lock().unwrap_or_else(std::sync::PoisonError::into_inner), note)
    }

    /// How long its drain may take: a long poll may have to end first.
    pub fn longest_drain(&self) -> Duration {
        let worker = &self.settings.worker;
        worker.poll + worker.drain_deadline + GIVING_BACK
    }

    /// Jobs held now. Not the slots that are taken: the loop takes the free ones while it asks for
    /// jobs.
    fn in_flight(&self) -> u32 {
        self.leases.count() as u32
    }

    async fn response_queue(&self, name: &str) -> Result<SharedQueue> {
        let mut responses = self.responses.lock().await;
        if let Some(queue) = responses.get(name) {
            return Ok(queue.clone());
        }
        let queue = self.backend.reply_queue(name).await?;
        responses.insert(name.to_owned(), queue.clone());
        Ok(queue)
    }

    async fn forget_response_queue(&self, name: &str) {
        self.responses.lock().await.remove(name);
    }
}

/// Where jobs come from, and where they go.
struct Work {
    requests: SharedQueue,
    dead_letters: SharedQueue,
    results: SharedBlobs,
}

impl Work {
    /// What becomes of a trial is told to who sent it, and to nobody else: it is kept in memory.
    async fn of(identity: &Identity, backend: &Backend, clock: &SharedClock) -> Result<Self> {
        let model = &identity.model;
        Ok(if identity.is_tried {
            Self {
                requests: backend.trial(model).await?,
                dead_letters: MemoryQueues::new(clock.clone()).open(model, QueueOptions::default()),
                results: Arc::new(MemoryBlobs::new(clock.clone())),
            }
        } else {
            Self {
                requests: backend.requests(model).await?,
                dead_letters: backend.dead_letters(model).await?,
                results: backend.results().clone(),
            }
        })
    }
}

/// Files that are being replaced while they are loaded are loaded again, so often.
const LOADS: u32 = 5;

/// Loads the model and says which version it is. The two must belong together: a file that changed
/// in between was loaded as nobody knows what.
fn load(model: &Model, threads: usize) -> anyhow::Result<(Pool, String)> {
    for _ in 0..LOADS {
        let files = version::stamps(model);
        // Hashing a large file takes half as long as loading it, and another core. What is wrong
        // with a model is said best by who loads it.
        let (pool, version) = std::thread::scope(|scope| {
            let version = scope.spawn(|| version::of(model));
            let pool = Pool::start(model, threads);
            (pool, version.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        if version::stamps(model) == files {
            return Ok((pool?, version?));
        }
        tracing::info!("the files of the model changed while they were read; reading them again");
    }
    anyhow::bail!("the files of the model keep changing, and cannot be read as one version")
}
