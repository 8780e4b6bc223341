//! The worker: takes jobs from the request queue, classifies their images, stores the results,
//! replies and acks. It drains on request.
//!
//! The way of a job: `consume.rs` receives it if a slot is free, `lease.rs` renews its lease, and
//! `process.rs` runs it. `failures.rs` decides how long a failed job is retried, `begun.rs` finds
//! jobs that kill workers, and `health.rs` detects that all jobs fail on this worker. `pool.rs` has
//! the threads, and `classify.rs` the classifiers that run on them.

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

/// The time after the drain deadline for giving jobs back and sending the last report, even if the
/// queue is slow.
const GIVING_BACK: Duration = Duration::from_secs(10);

/// Maximum number of failed jobs that rest here; the lease of each must be renewed.
const MOST_RESTING: usize = 100;
/// How long scripts may take to end when the worker ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// The identity of a worker.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The instance it runs on.
    pub instance: String,
    /// The generation (boot) of the instance.
    pub generation: String,
    /// The model it serves.
    pub model: String,
    /// Whether an update tries this worker before it serves: it takes only the jobs of the trial,
    /// and its results are not stored.
    pub is_tried: bool,
}

/// The state shared by all jobs of this process.
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
    /// The open response queues, by name.
    responses: Mutex<HashMap<String, SharedQueue>>,
    leases: Leases,
    pool: Pool,
    /// The version of the loaded model.
    version: Arc<str>,
    noted: outcome::Noted,
    erased: erased::Watch,
    /// One permit for each job that can be held. A drain is complete when all permits are back.
    slots: Arc<Semaphore>,
    slot_count: u32,
    activity: Activity,
    health: Health,
    /// Failed jobs that rest here; any more return to the queue at once.
    resting: Semaphore,
    /// The redelivered job that runs alone, because it may have killed its last worker.
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

    /// Returns the name of the engine, see [`classify::Loaded::engine`].
    pub fn engine(&self) -> &str {
        self.pool.engine()
    }

    /// Returns the version of the loaded model.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Returns a short summary of what the worker does.
    pub fn summary(&self) -> String {
        let (held, done) = (self.in_flight(), self.activity.jobs_done());
        let failing = self.health.failing().map(|why| format!("every job fails: {why}; "));
        let (failing, engine) = (failing.unwrap_or_default(), self.engine());
        format!("{failing}{held} jobs in flight, {done} done, {engine} for {}", self.identity.model)
    }

    /// Ends the scripts; call it last.
    pub fn close(&self) {
        self.pool.close(FAREWELL);
    }

    /// Sets the note of the job that runs alone; returns the previous one.
    fn note_begun(&self, note: Option<Note>) -> Option<Note> {
        std::mem::replace(&mut *self.begun.lock().unwrap_or_else(std::sync::PoisonError::into_inner), note)
    }

    /// Returns the maximum duration of a drain, including a long poll that must end first.
    pub fn longest_drain(&self) -> Duration {
        let worker = &self.settings.worker;
        worker.poll + worker.drain_deadline + GIVING_BACK
    }

    /// Returns the number of jobs held. This is not the number of taken slots: the loop takes the
    /// free ones while it asks for jobs.
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

/// The queues and the store for the jobs of this worker.
struct Work {
    requests: SharedQueue,
    dead_letters: SharedQueue,
    results: SharedBlobs,
}

impl Work {
    /// The results of a trial only go to its sender; here they are kept in memory.
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

/// Maximum number of attempts to load files that change meanwhile.
const LOADS: u32 = 5;

/// Loads the model and computes its version. The two must belong together, so it loads again if a
/// file changes meanwhile.
fn load(model: &Model, threads: usize) -> anyhow::Result<(Pool, String)> {
    for _ in 0..LOADS {
        let files = version::stamps(model);
        // Hashing a large file takes half as long as loading it, and runs on another core. The
        // loader gives the better error for a bad model, so both run.
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
