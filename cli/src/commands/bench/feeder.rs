//! Sends jobs for already stored images directly to a queue, to measure a worker with a backlog.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use chrono::Utc;
use eirs_platform::{
    backend::{Backend, responses_name},
    clock::SystemClock,
    job::{self, Job, JobId},
    settings::{Model, Settings},
};
use tokio::time::{Instant, sleep};

use super::service::Service;

pub(super) struct Feeder {
    backend: Backend,
    next: u64,
    /// Number of stored images, which are then repeated, so that creating a million files is not
    /// measured.
    distinct: u64,
}

impl Feeder {
    /// Creates a feeder with a different image for each job.
    pub(super) async fn new(state: &Path) -> anyhow::Result<Self> {
        Self::with_images(state, u64::MAX).await
    }

    /// Creates a feeder with this number of different images.
    pub(super) async fn with_images(state: &Path, distinct: u64) -> anyhow::Result<Self> {
        let mut settings = Settings::default();
        settings.local.state = state.to_owned();
        Ok(Self { backend: Backend::open(&settings, Arc::new(SystemClock)).await?, next: 0, distinct })
    }

    async fn feed(&mut self, jobs: u64) -> anyhow::Result<()> {
        let requests = self.backend.requests(Model::DEFAULT).await?;
        let mut bodies = Vec::new();
        for number in self.next..self.next + jobs {
            let image = Bytes::from(format!("BM{}", number % self.distinct));
            let id = JobId::of(&image);
            if number < self.distinct {
                self.backend.images().put(&id.image_key(), image).await?;
            }
            let (model, reply_to) = (Model::DEFAULT.to_owned(), responses_name("local"));
            let job = Job {
                v: job::VERSION,
                id,
                name: "x".into(),
                model,
                reply_to,
                sent_at: Utc::now(),
                fresh: false,
                trace: None,
            };
            bodies.push(job::encode(&job));
        }
        self.next += jobs;
        Ok(requests.send(bodies).await?)
    }

    /// Returns the jobs per second of a worker over a number of seconds, while the backlog stays
    /// about constant.
    pub(super) async fn rate(
        &mut self,
        service: &Service,
        backlog: u64,
        seconds: f64,
    ) -> anyhow::Result<f64> {
        for _ in 0..backlog.div_ceil(1000) {
            self.feed(backlog.min(1000)).await?;
        }
        let requests = self.backend.requests(Model::DEFAULT).await?;
        let mut worker = service.worker()?;
        let depth = || async { requests.depth().await.map(|depth| depth.backlog()) };
        let waiting = Instant::now();
        while depth().await? >= backlog {
            anyhow::ensure!(waiting.elapsed() < Duration::from_secs(30), "the worker takes nothing");
            sleep(Duration::from_millis(5)).await;
        }
        let (start, fed_before, depth_before) = (Instant::now(), self.next, depth().await?);
        while start.elapsed().as_secs_f64() < seconds {
            let missing = backlog.saturating_sub(depth().await?);
            if missing > 0 {
                self.feed(missing).await?;
            }
            sleep(Duration::from_millis(2)).await;
        }
        let done =
            self.next - fed_before + depth_before - depth().await?.min(self.next - fed_before + depth_before);
        let rate = done as f64 / start.elapsed().as_secs_f64();
        worker.kill()?;
        worker.wait()?;
        Ok(rate)
    }
}
