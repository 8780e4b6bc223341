//! The services of one installation, opened by the settings: which queues and stores there are, and what they are called.

use std::{fs, io::ErrorKind, path::Path, sync::Arc, time::Duration};

use crate::{
    blobs::{SharedBlobs, dir::DirBlobs, memory::MemoryBlobs},
    clock::SharedClock,
    error::{Error, Result},
    queue::{DeadLetters, QueueOptions, SharedQueue, memory::MemoryQueues, sqlite::SqliteQueues},
    settings::{self, BackendKind, Settings},
};

/// The layout of the state folder. Raise it when an older program would misread what a newer one wrote.
const LAYOUT: &str = "1";
/// An answer that no web host fetched for so long has nobody waiting for it; the result is stored anyway.
const RESPONSE_RETENTION: Duration = Duration::from_secs(3600);
/// A report that is older says nothing about now.
const EVENT_RETENTION: Duration = Duration::from_secs(600);
/// Workers give a job up themselves, with a result and an answer. Only a job that kills every worker before even that
/// gets this many receives further, and then the queue itself puts it away.
const RECEIVES_BEYOND_GIVING_UP: u32 = 3;

/// The queues and stores of one installation. Clones share them.
#[derive(Debug, Clone)]
pub struct Backend {
    queues: Queues,
    images: SharedBlobs,
    results: SharedBlobs,
    queue_settings: settings::Queue,
    #[cfg(any(test, feature = "testing"))]
    wrapped: std::collections::HashMap<String, SharedQueue>,
}

#[derive(Debug, Clone)]
enum Queues {
    Memory(MemoryQueues),
    Sqlite(SqliteQueues),
}

impl Backend {
    /// Opens what the settings choose.
    pub fn open(settings: &Settings, clock: SharedClock) -> Result<Self> {
        match settings.backend {
            BackendKind::Local => Self::open_local(settings, clock),
            BackendKind::Aws => {
                Err(Error::broken("backend = \"aws\"", "this version has the local backend only"))
            }
        }
    }

    fn open_local(settings: &Settings, clock: SharedClock) -> Result<Self> {
        let (state, sync) = (&settings.local.state, settings.local.sync);
        fs::create_dir_all(state).map_err(|error| {
            Error::from_io(format!("making the state folder {}", state.display()), &error)
        })?;
        check_layout(state)?;
        let blobs: SharedBlobs = Arc::new(DirBlobs::open(&state.join("blobs"), sync)?);
        Ok(Self {
            queues: Queues::Sqlite(SqliteQueues::open(state, sync, clock)?),
            images: blobs.clone(),
            results: blobs,
            queue_settings: settings.queue.clone(),
            #[cfg(any(test, feature = "testing"))]
            wrapped: std::collections::HashMap::new(),
        })
    }

    /// All in this process's memory, for tests.
    pub fn in_memory(settings: &Settings, clock: SharedClock) -> Self {
        let blobs: SharedBlobs = Arc::new(MemoryBlobs::new(clock.clone()));
        let queues = Queues::Memory(MemoryQueues::new(clock));
        Self {
            queues,
            images: blobs.clone(),
            results: blobs,
            queue_settings: settings.queue.clone(),
            #[cfg(any(test, feature = "testing"))]
            wrapped: std::collections::HashMap::new(),
        }
    }

    /// The same, but for this queue, which others then see too: to let it fail by a script.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn with_queue(mut self, name: &str, queue: SharedQueue) -> Self {
        self.wrapped.insert(name.to_owned(), queue);
        self
    }

    /// The same, but for these stores.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn with_blobs(self, images: SharedBlobs, results: SharedBlobs) -> Self {
        Self { images, results, ..self }
    }

    /// The store of uploaded images, `images/{id}`.
    pub fn images(&self) -> &SharedBlobs {
        &self.images
    }

    /// The store of results, `results/{model}/{id}.json`.
    pub fn results(&self) -> &SharedBlobs {
        &self.results
    }

    /// The jobs for one model.
    pub async fn requests(&self, model: &str) -> Result<SharedQueue> {
        let rule = DeadLetters {
            queue: dead_letters_name(model),
            max_receives: self.queue_settings.max_receives + RECEIVES_BEYOND_GIVING_UP,
        };
        self.queue(&requests_name(model), QueueOptions { dead_letters: Some(rule), ..self.options() }).await
    }

    /// The jobs of one model that were given up. They stay until an operator looks at them, for a fortnight at most.
    pub async fn dead_letters(&self, model: &str) -> Result<SharedQueue> {
        let retention = Duration::from_secs(14 * 24 * 3600);
        self.queue(&dead_letters_name(model), QueueOptions { retention, ..self.options() }).await
    }

    /// The answers for one web host.
    pub async fn responses(&self, host: &str) -> Result<SharedQueue> {
        self.reply_queue(&responses_name(host)).await
    }

    /// The response queue that a job names in `reply_to`.
    pub async fn reply_queue(&self, name: &str) -> Result<SharedQueue> {
        self.queue(name, QueueOptions { retention: RESPONSE_RETENTION, ..self.options() }).await
    }

    /// The reports for the controller.
    pub async fn events(&self) -> Result<SharedQueue> {
        self.queue("events", QueueOptions { retention: EVENT_RETENTION, ..self.options() }).await
    }

    /// Every queue there is, for `eirs check` and `eirs cleanup`.
    pub async fn queue_names(&self) -> Result<Vec<String>> {
        match &self.queues {
            Queues::Memory(queues) => Ok(queues.names()),
            Queues::Sqlite(queues) => queues.names().await,
        }
    }

    /// A queue by its name, with plain options: to count it or to empty it.
    pub async fn any_queue(&self, name: &str) -> Result<SharedQueue> {
        self.queue(name, QueueOptions { retention: Duration::from_secs(14 * 24 * 3600), ..self.options() })
            .await
    }

    fn options(&self) -> QueueOptions {
        QueueOptions {
            visibility: self.queue_settings.visibility,
            retention: self.queue_settings.retention,
            dead_letters: None,
        }
    }

    async fn queue(&self, name: &str, options: QueueOptions) -> Result<SharedQueue> {
        #[cfg(any(test, feature = "testing"))]
        if let Some(queue) = self.wrapped.get(name) {
            return Ok(queue.clone());
        }
        match &self.queues {
            Queues::Memory(queues) => Ok(queues.open(name, options)),
            Queues::Sqlite(queues) => queues.queue(name, options).await,
        }
    }
}

/// The request queue of a model.
pub fn requests_name(model: &str) -> String {
    format!("requests-{model}")
}

/// The dead letters of a model.
pub fn dead_letters_name(model: &str) -> String {
    format!("dead-{model}")
}

/// The response queue of a web host.
pub fn responses_name(host: &str) -> String {
    format!("responses-{host}")
}

/// Marks a new state folder with the layout that this program writes, and refuses one of another layout.
fn check_layout(state: &Path) -> Result<()> {
    let path = state.join("layout");
    match fs::read_to_string(&path) {
        Ok(found) if found.trim() == LAYOUT => Ok(()),
        Ok(found) => Err(Error::broken(
            format!("the state folder {}", state.display()),
            format!(
                "has layout {:?}, this version of EIRS knows {LAYOUT:?}; use the version that made it, or another folder",
                found.trim()
            ),
        )),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // Written aside and moved: a program that starts at the same moment must not read half of it.
            let beside = state.join(format!("layout.{}", std::process::id()));
            fs::write(&beside, LAYOUT)
                .and_then(|()| fs::rename(&beside, &path))
                .map_err(|error| Error::from_io(format!("writing {}", path.display()), &error))
        }
        Err(error) => Err(Error::from_io(format!("reading {}", path.display()), &error)),
    }
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
        let open = || Backend::open(&settings(folder.path()), Arc::new(SystemClock));
        open().unwrap();
        open().unwrap();
        fs::write(folder.path().join("layout"), "2\n").unwrap();
        let error = open().unwrap_err().to_string();
        assert!(error.contains("has layout \"2\", this version of EIRS knows \"1\""), "{error}");
        assert!(!error.contains('\n'));
    }

    #[tokio::test]
    async fn a_state_folder_that_cannot_be_made_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        let state = folder.path().join("file/state");
        let error = Backend::open(&settings(&state), Arc::new(SystemClock)).unwrap_err().to_string();
        assert!(error.contains("file/state"), "{error}");
    }
}
