//! The services of one installation, opened by the settings: its queues and stores, and their
//! names.

mod claim;
mod control;
pub mod responses;

use std::{
    fs::{self, File, Permissions},
    io::ErrorKind,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio_util::sync::CancellationToken;

pub use self::{
    claim::{Claim, Own, Standby},
    control::Control,
    responses::Responses,
};
#[cfg(feature = "aws")]
use crate::queue::sqs::SqsQueues;
pub use crate::{
    blobs::Slot,
    names::{EVENTS, WEBHOOK, dead_letters_name, requests_name, responses_name, trial_name},
};
use crate::{
    blobs::{
        SharedBlobs,
        embedded::{EmbeddedStores, Room},
        memory::MemoryBlobs,
    },
    clock::SharedClock,
    error::{Error, Result},
    queue::{DeadLetters, QueueOptions, SharedQueue, memory::MemoryQueues, sqlite::SqliteQueues},
    settings::{self, BackendKind, Settings},
    state_folder::{self, Writers, write_aside},
};

/// The layout of the state folder. Raise it when an older program would misread what a newer one
/// writes.
const LAYOUT: &str = "2";
/// The previous layout, in which images and results were files. It is migrated.
const LAYOUT_OF_FILES: &str = "1";
/// Interval between passes that delete old images and results.
const EXPIRE_EVERY: Duration = Duration::from_secs(30);
/// Maximum age of a reply: no client waits any more after that, and the result is stored anyway.
const RESPONSE_RETENTION: Duration = Duration::from_secs(3600);
/// Maximum duration of a trial.
const TRIAL_RETENTION: Duration = Duration::from_secs(3600);
/// Maximum age of a report to the controller; older ones say nothing about the present.
const EVENT_RETENTION: Duration = Duration::from_secs(600);
/// Maximum age of an event of the webhook.
const WEBHOOK_RETENTION: Duration = Duration::from_secs(4 * 24 * 3600);
/// Longer than the timeout for the webhook's receiver; the lease is renewed if it waits longer.
const WEBHOOK_VISIBILITY: Duration = Duration::from_secs(60);
/// The maximum of SQS.
const DEAD_LETTER_RETENTION: Duration = Duration::from_secs(14 * 24 * 3600);
/// Workers give up a job themselves, with a result and a reply, because they know which deliveries
/// were attempts: not those of jobs that were released, or that another job's crash interrupted.
/// The queue only puts away jobs that never get that far, after this number of deliveries for each
/// attempt that the settings allow, ...
const RECEIVES_FOR_EACH: u32 = 20;
/// ... and at most the maximum of SQS.
const MOST_RECEIVES: u32 = 1000;

/// The queues and stores of an installation. Clones share them.
#[derive(Debug, Clone)]
pub struct Backend {
    queues: Queues,
    images: SharedBlobs,
    results: SharedBlobs,
    /// The stores, if they are on this machine.
    embedded: Option<EmbeddedStores>,
    queue_settings: settings::Queue,
    /// The controller's claim, if several machines may run a controller.
    claim: Option<Arc<dyn Slot>>,
    #[cfg(any(test, feature = "testing"))]
    wrapped: std::collections::HashMap<String, SharedQueue>,
}

#[derive(Debug, Clone)]
enum Queues {
    Memory(MemoryQueues),
    Sqlite(SqliteQueues),
    #[cfg(feature = "aws")]
    Sqs(SqsQueues),
}

impl Backend {
    /// Opens the backend that the settings select.
    pub async fn open(settings: &Settings, clock: SharedClock) -> Result<Self> {
        match settings.backend {
            BackendKind::Local => Self::open_local(settings, clock).await,
            #[cfg(feature = "aws")]
            BackendKind::Aws => Self::open_aws(settings).await,
            #[cfg(not(feature = "aws"))]
            BackendKind::Aws => Err(Error::broken(
                "backend = \"aws\"",
                "this program was built without AWS, as by `make run`; `cargo build --release` \
                builds it with AWS",
            )),
        }
    }

    /// Makes no calls yet: missing queues and buckets are reported when they are used.
    #[cfg(feature = "aws")]
    async fn open_aws(settings: &Settings) -> Result<Self> {
        let config = crate::aws::sdk_config(&settings.aws).await;
        if config.region().is_none() {
            let hint = "no region is set; set aws.region, $AWS_REGION, or the region of the profile";
            return Err(Error::broken("backend = \"aws\"", hint));
        }
        Ok(Self::of_config(settings, &config))
    }

    /// Creates the queues and stores for this configuration of the SDK.
    #[cfg(feature = "aws")]
    pub(crate) fn of_config(settings: &Settings, config: &aws_config::SdkConfig) -> Self {
        use crate::blobs::s3;

        let s3 = s3::client(config, &settings.aws);
        let bucket =
            |name: &Option<String>| s3::S3Blobs::new(s3.clone(), name.as_deref().unwrap_or_default());
        let images = bucket(&settings.aws.input_bucket);
        Self {
            queues: Queues::Sqs(SqsQueues::of_settings(config, &settings.aws)),
            images: Arc::new(images.clone()),
            results: Arc::new(bucket(&settings.aws.output_bucket)),
            embedded: None,
            queue_settings: settings.queue.clone(),
            claim: Some(Arc::new(s3::S3Slot::new(images, CLAIM))),
            #[cfg(any(test, feature = "testing"))]
            wrapped: std::collections::HashMap::new(),
        }
    }

    async fn open_local(settings: &Settings, clock: SharedClock) -> Result<Self> {
        let (state, sync) = (&settings.local.state, settings.local.sync);
        fs::create_dir_all(state).map_err(|error| {
            Error::from_io(format!("making the state folder {}", state.display()), &error)
        })?;
        state_folder::expect_local(state)?;
        check_layout(state)?;
        let queues = SqliteQueues::open(state, sync, clock.clone())?;
        let (writer, reader) = queues.database()?;
        let embedded = EmbeddedStores::open(&settings.local, writer, reader, clock).await?;
        Ok(Self {
            queues: Queues::Sqlite(queues),
            images: embedded.images().clone(),
            results: embedded.results().clone(),
            embedded: Some(embedded),
            queue_settings: settings.queue.clone(),
            claim: None,
            #[cfg(any(test, feature = "testing"))]
            wrapped: std::collections::HashMap::new(),
        })
    }

    /// Creates everything in the memory of this process, for tests.
    pub fn in_memory(settings: &Settings, clock: SharedClock) -> Self {
        let blobs: SharedBlobs = Arc::new(MemoryBlobs::new(clock.clone()));
        let queues = Queues::Memory(MemoryQueues::new(clock));
        Self {
            queues,
            images: blobs.clone(),
            results: blobs,
            embedded: None,
            queue_settings: settings.queue.clone(),
            claim: None,
            #[cfg(any(test, feature = "testing"))]
            wrapped: std::collections::HashMap::new(),
        }
    }

    /// Replaces a queue for all users of this backend, to let it fail in tests.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn with_queue(mut self, name: &str, queue: SharedQueue) -> Self {
        self.wrapped.insert(name.to_owned(), queue);
        self
    }

    /// Replaces the stores.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn with_blobs(self, images: SharedBlobs, results: SharedBlobs) -> Self {
        Self { images, results, ..self }
    }

    /// The store of images, `images/{id}`.
    pub fn images(&self) -> &SharedBlobs {
        &self.images
    }

    /// The store of results, `results/{model}/{version}/{id}.json`.
    pub fn results(&self) -> &SharedBlobs {
        &self.results
    }

    /// The room on the disk of the state folder; `None` if images are stored elsewhere.
    pub fn room(&self) -> Option<&Room> {
        self.embedded.as_ref().map(EmbeddedStores::room)
    }

    /// Deletes old images and results, a few at a time, until `stop`. Only one process of an
    /// installation does this; in a cloud, the buckets do.
    pub async fn expire(&self, stop: &CancellationToken) {
        if let Some(embedded) = &self.embedded {
            embedded.keep(stop, EXPIRE_EVERY).await;
        }
    }

    /// Opens the queue of jobs for a model.
    pub async fn requests(&self, model: &str) -> Result<SharedQueue> {
        self.queue(&requests_name(model), requests_options(&self.queue_settings, model)).await
    }

    /// Opens the queue of trial jobs, by which instances are tested; their results are not stored.
    pub async fn trial(&self, model: &str) -> Result<SharedQueue> {
        self.queue(&trial_name(model), trial_options(&self.queue_settings)).await
    }

    /// Opens the queue of a model's dead letters, which are kept for 14 days.
    pub async fn dead_letters(&self, model: &str) -> Result<SharedQueue> {
        self.queue(&dead_letters_name(model), dead_letters_options(&self.queue_settings)).await
    }

    /// Opens the response queue that a job names in `reply_to`. If its web host has ended, the
    /// queue may no longer exist.
    pub async fn reply_queue(&self, name: &str) -> Result<SharedQueue> {
        self.queue(name, responses_options(&self.queue_settings)).await
    }

    /// Opens the queue of reports to the controller.
    pub async fn events(&self) -> Result<SharedQueue> {
        self.queue(EVENTS, events_options(&self.queue_settings)).await
    }

    /// Opens the queue of events for the webhook.
    pub async fn webhook(&self) -> Result<SharedQueue> {
        self.queue(WEBHOOK, webhook_options()).await
    }

    /// Returns the names of all queues, for `eirs check` and `eirs cleanup`.
    pub async fn queue_names(&self) -> Result<Vec<String>> {
        match &self.queues {
            Queues::Memory(queues) => Ok(queues.names()),
            Queues::Sqlite(queues) => queues.names().await,
            #[cfg(feature = "aws")]
            Queues::Sqs(queues) => queues.names("").await,
        }
    }

    /// Opens a queue by its name with plain options, to count or purge it.
    pub async fn any_queue(&self, name: &str) -> Result<SharedQueue> {
        self.queue(name, dead_letters_options(&self.queue_settings)).await
    }

    async fn queue(&self, name: &str, options: QueueOptions) -> Result<SharedQueue> {
        #[cfg(any(test, feature = "testing"))]
        if let Some(queue) = self.wrapped.get(name) {
            return Ok(queue.clone());
        }
        match &self.queues {
            Queues::Memory(queues) => Ok(queues.open(name, options)),
            Queues::Sqlite(queues) => queues.queue(name, options).await,
            #[cfg(feature = "aws")]
            Queues::Sqs(queues) => queues.open(name, options).await.map_err(with_hint),
        }
    }
}

/// Adds a hint: the queue was not set up, or has another prefix.
#[cfg(feature = "aws")]
fn with_hint(error: Error) -> Error {
    match error {
        Error::Missing { what, why } => Error::Missing { what, why: format!("{why}; `eirs setup` makes it") },
        other => other,
    }
}

/// The key of the controller's claim in the bucket of images.
#[cfg(feature = "aws")]
const CLAIM: &str = "control/claim.json";

/// Returns the options of a request queue, ...
pub fn requests_options(settings: &settings::Queue, model: &str) -> QueueOptions {
    let rule = DeadLetters {
        queue: dead_letters_name(model),
        max_receives: settings.max_receives.saturating_mul(RECEIVES_FOR_EACH).min(MOST_RECEIVES),
    };
    QueueOptions { dead_letters: Some(rule), ..plain(settings) }
}

/// ... of its dead letters, which keep the time of sending and so must be kept longer than jobs,
/// ...
pub fn dead_letters_options(settings: &settings::Queue) -> QueueOptions {
    QueueOptions { retention: DEAD_LETTER_RETENTION, ..plain(settings) }
}

/// ... of trials, ...
pub fn trial_options(settings: &settings::Queue) -> QueueOptions {
    QueueOptions { retention: TRIAL_RETENTION, ..plain(settings) }
}

/// ... of response queues, ...
pub fn responses_options(settings: &settings::Queue) -> QueueOptions {
    QueueOptions { retention: RESPONSE_RETENTION, ..plain(settings) }
}

/// ... of reports, ...
pub fn events_options(settings: &settings::Queue) -> QueueOptions {
    QueueOptions { retention: EVENT_RETENTION, ..plain(settings) }
}

/// ... and of the webhook's events.
pub fn webhook_options() -> QueueOptions {
    QueueOptions { visibility: WEBHOOK_VISIBILITY, retention: WEBHOOK_RETENTION, dead_letters: None }
}

fn plain(settings: &settings::Queue) -> QueueOptions {
    QueueOptions { visibility: settings.visibility, retention: settings.retention, dead_letters: None }
}

/// Writes the layout into a new state folder or one of the previous layout, and refuses any other
/// layout.
fn check_layout(state: &Path) -> Result<()> {
    let path = state.join(state_folder::LAYOUT);
    match fs::read_to_string(&path) {
        Ok(found) if found.trim() == LAYOUT => Ok(()),
        Ok(found) if found.trim() == LAYOUT_OF_FILES => {
            tracing::info!(
                "the state folder {} was made by an earlier version; its images and results are \
                read where they are, and earlier versions will refuse it from now on",
                state.display()
            );
            write_layout(&path)
        }
        Ok(found) => Err(Error::broken(
            format!("the state folder {}", state.display()),
            format!(
                "has layout {:?}, this version of EIRS reads {LAYOUT:?}; use the version that made \
                it, or another folder",
                found.trim()
            ),
        )),
        Err(error) if error.kind() == ErrorKind::NotFound => write_layout(&path),
        Err(error) => Err(Error::from_io(format!("reading {}", path.display()), &error)),
    }
}

/// Written atomically, because another program may start at the same moment.
fn write_layout(path: &Path) -> Result<()> {
    let readable_by_all = |file: &File| file.set_permissions(Permissions::from_mode(0o644));
    write_aside(path, LAYOUT.as_bytes(), Writers::Several, readable_by_all)
        .map_err(|error| Error::from_io(format!("writing {}", path.display()), &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    fn settings(state: &Path) -> Settings {
        let mut settings = Settings::default();
        settings.local.state = state.to_owned();
        settings
    }

    #[tokio::test]
    async fn a_state_folder_of_another_layout_is_refused_in_one_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let open = async || Backend::open(&settings(folder.path()), Arc::new(SystemClock)).await;
        open().await.unwrap();
        open().await.unwrap();
        fs::write(folder.path().join("layout"), "3\n").unwrap();
        let error = open().await.unwrap_err().to_string();
        assert!(error.contains("has layout \"3\", this version of EIRS reads \"2\""), "{error}");
        assert!(!error.contains('\n'));
    }

    #[tokio::test]
    async fn a_state_folder_that_cannot_be_made_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        let state = folder.path().join("file/state");
        let opened = Backend::open(&settings(&state), Arc::new(SystemClock)).await;
        let error = opened.unwrap_err().to_string();
        assert!(error.contains("file/state"), "{error}");
    }
}
