//! A look at the service of one machine.

use std::time::Duration;

use chrono::{DateTime, Utc};
use eirs_platform::{backend::Backend, settings::Settings};

use super::{
    controller,
    queues::{self, Queue},
    report::Report,
    stores::{Store, Stores},
    units,
};
use crate::state;

/// What is looked at.
pub(super) struct Look {
    settings: Settings,
    backend: Backend,
    stores: Stores,
}

impl Look {
    pub(super) async fn open(settings: Settings) -> anyhow::Result<Self> {
        let backend = state::open(&settings).await?;
        let store = |blobs: &eirs_platform::blobs::SharedBlobs| Store { blobs: blobs.clone(), bucket: None };
        let stores = Stores::new(store(backend.images()), store(backend.results()), Duration::ZERO);
        Ok(Self { settings, backend, stores })
    }

    pub(super) async fn look(&mut self, now: DateTime<Utc>) -> Report {
        let mut problems = Vec::new();
        let queues = match self.queues().await {
            Ok(queues) => queues,
            Err(error) => {
                problems.push(format!("the queues cannot be looked at: {error}"));
                Vec::new()
            }
        };
        let counted = self.stores.look().await;
        let (units, unit_problems) = units::look().await;
        let (controller, seen) = controller::look(&self.settings);
        problems.extend(counted.problems);
        problems.extend(unit_problems);
        problems.extend(controller::problems(&controller, seen.as_ref(), &queues, now));
        problems.extend(queues::problems(&queues));
        Report {
            at: now,
            state: self.settings.local.state.display().to_string(),
            // The instances of a controller that does not run are history.
            pools: seen.filter(|_| controller.running).map(|seen| seen.pools).unwrap_or_default(),
            controller,
            units,
            queues,
            images: counted.images,
            results: counted.results,
            newest: counted.newest,
            problems,
            ..Report::default()
        }
    }

    async fn queues(&self) -> eirs_platform::Result<Vec<Queue>> {
        let mut queues = Vec::new();
        for name in self.backend.queue_names().await? {
            let depth = self.backend.any_queue(&name).await?.depth().await?;
            queues.push(Queue::new(&name, depth));
        }
        Ok(queues)
    }
}
