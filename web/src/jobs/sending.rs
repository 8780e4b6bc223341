//! Stores an admitted image and sends its job, in this order.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use eirs_platform::{
    Error, Result,
    blobs::{Pieces, Staged},
    job::{self, Job, Reply},
    queue,
    trace::{Scope, TARGET},
};
use tracing::{Instrument, debug_span};

use super::{Image, Jobs, Key, NoAnswer, Progress};
use crate::metrics::Answered;

/// The result of storing an image.
enum Stage {
    Stored(Staged),
    Known(Arc<Reply>),
}

impl Jobs {
    /// Stores an image and sends its job. Returns the stored result instead if there is one.
    pub(super) async fn store_and_send(
        &self,
        image: Image,
        key: &Key,
        fresh: bool,
        client: String,
        scope: &Scope,
    ) -> Result<Option<Arc<Reply>>> {
        let (id, model) = key;
        let queue =
            self.requests.get(model).ok_or_else(|| Error::broken("sending", format!("no model {model}")))?;
        let Image { name, content, .. } = image;
        let storing = debug_span!(target: TARGET, "store", image.id = %id, image.bytes = content.len());
        let stage =
            content.read(self.images.stages_files(), async |image| self.stage(key, image, fresh).await);
        let mut stored = match stage.instrument(storing).await? {
            Stage::Stored(stored) => stored,
            Stage::Known(reply) => return Ok(Some(reply)),
        };
        if self.requests.len() > 1 {
            // The image is shared by all models, so note for which model it was uploaded: a later
            // look at results needs to know.
            match self.images.stage(&id.asked_key(model), Bytes::new().into()).await {
                Err(error) if error.is_transient() => return Err(error),
                // A role that predates these notes may lack permission for them. The job can do
                // without.
                Err(error) => tracing::warn!(%error, "the model of an upload could not be noted"),
                Ok(noted) => stored = stored.and(noted),
            }
        }
        let sending = scope.part(debug_span!(target: TARGET, "send", otel.kind = "producer", image.id = %id));
        let sent_at = self.services.clock.now();
        if let Some(job) = self.lock().get_mut(key) {
            job.sent_at = Some(sent_at);
        }
        let job = Job {
            v: job::VERSION,
            id: *id,
            name,
            model: model.to_string(),
            reply_to: self.services.responses.current().name,
            sent_at,
            fresh,
            trace: Some(sending.context().clone()),
        };
        // A queue in a database has no calls to batch, so do not wait for more jobs.
        let waits = queue.in_database().is_none();
        let line = if waits { self.services.admission.line(model) } else { Duration::ZERO };
        let patience = queue::patience(line);
        let sent = queue.send_for(&client, job::encode(&job), stored, patience);
        sending.run(sent).await?;
        // Counted once the queue shows the job, because the controller looks there as soon as the
        // doorbell rings.
        self.services.arrivals.count(model);
        Ok(None)
    }

    /// Stores an image, or returns its result if it was stored before and has one.
    async fn stage(&self, key: &Key, image: Pieces, fresh: bool) -> Result<Stage> {
        let name = key.0.image_key();
        if self.looks_first || fresh {
            return self.images.stage(&name, image).await.map(Stage::Stored);
        }
        let image = image.read().await?;
        if self.images.put_new(&name, image.clone()).await? {
            return Ok(Stage::Stored(Staged::stored()));
        }
        match self.known(key).await? {
            Some(reply) => Ok(Stage::Known(reply)),
            // Stored again, so that the image does not expire before the job ends.
            None => self.images.stage(&name, image.into()).await.map(Stage::Stored),
        }
    }

    /// Ends a job that is not sent because a result is stored.
    fn ended_by(&self, key: &Key, reply: Arc<Reply>) {
        let Some(job) = self.lock().remove(key) else { return };
        self.services.admission.given_up(&key.1);
        for _ in 0..job.promised {
            self.services.metrics.answered(Answered::of(&reply.outcome, true));
        }
        job.progress.send_replace(Progress::Known(reply));
    }

    /// Records the outcome of storing and sending.
    pub(super) fn sent(&self, key: &Key, sent: Result<Option<Arc<Reply>>>) {
        match sent {
            Ok(Some(reply)) => self.ended_by(key, reply),
            Ok(None) => {
                self.services.metrics.jobs_sent.inc();
                let in_flight = self.lock();
                let Some(job) = in_flight.get(key) else { return };
                // The reply may have arrived already.
                job.progress.send_if_modified(|progress| {
                    let sending = matches!(progress, Progress::Sending);
                    if sending {
                        *progress = Progress::Sent;
                    }
                    sending
                });
            }
            Err(error) => {
                let (id, model) = key;
                // The store logs a full disk once, so do not log it for each refused image.
                if matches!(error, Error::Full { .. }) {
                    tracing::debug!(%id, %model, %error, "an image could not be queued");
                } else {
                    tracing::error!(%id, %model, %error, "an image could not be queued");
                }
                if let Some(job) = self.lock().remove(key) {
                    self.services.admission.given_up(&key.1);
                    job.progress.send_replace(Progress::Over(NoAnswer::Failed(error)));
                }
            }
        }
    }
}
