//! The response queue of this host: opened at the start, kept alive, created again if it was
//! deleted, and closed at the end.

use std::sync::{PoisonError, RwLock};

use eirs_platform::{
    Result,
    backend::{Backend, Responses},
};
use tokio_util::sync::CancellationToken;

/// The queue that this host's jobs name in `reply_to`.
#[derive(Debug)]
pub(crate) struct ResponseQueue {
    backend: Backend,
    host: String,
    current: RwLock<Responses>,
}

impl ResponseQueue {
    pub(crate) async fn open(backend: &Backend, host: &str) -> Result<Self> {
        let current = RwLock::new(backend.responses(host).await?);
        Ok(Self { backend: backend.clone(), host: host.to_owned(), current })
    }

    /// Returns the current queue. A name used before may be gone, so waiting clients also look into
    /// the store.
    pub(crate) fn current(&self) -> Responses {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Creates the queue again. Another host deleted it because it took this one for dead, as after
    /// a suspend. Replies to jobs in flight are found in the store.
    pub(crate) async fn reopen(&self) -> Result<()> {
        let fresh = self.backend.responses(&self.host).await?;
        tracing::warn!(name = fresh.name, "the response queue was deleted; replies now go to {}", fresh.name);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// Renews the queue periodically, so that other hosts see that this one is alive, and deletes
    /// the queues of dead hosts. Runs until `stop`.
    pub(crate) async fn keep(&self, stop: &CancellationToken) {
        loop {
            match self.backend.sweep_responses().await {
                Ok(swept) if swept.is_empty() => {}
                Ok(swept) => tracing::info!("deleted response queues without a host: {}", swept.join(", ")),
                Err(error) => {
                    tracing::warn!(%error, "response queues without a host could not be searched")
                }
            }
            if stop.run_until_cancelled(tokio::time::sleep(Responses::RENEW)).await.is_none() {
                return;
            }
            // The consumer notices a missing queue and creates it again.
            if let Err(error) = self.backend.renew_responses(&self.current()).await {
                tracing::warn!(%error, "the response queue could not be renewed");
            }
        }
    }

    /// Deletes the queue; no client waits for a reply any more.
    pub(crate) async fn close(&self) {
        if let Err(error) = self.backend.close_responses(&self.current()).await {
            tracing::warn!(%error, "the response queue could not be deleted; another host will \
                delete it");
        }
    }
}
