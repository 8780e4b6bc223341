//! A look at the service of one machine.

use std::time::Duration;

use chrono::{DateTime, Utc};
use eirs_platform::{backend::Backend, blobs::SharedBlobs, settings::Settings};

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
    /// `None` until queue and stores could be opened.
    place: Option<Place>,
}

struct Place {
    backend: Backend,
    stores: Stores,
}

impl Look {
    /// Nothing is opened yet: what cannot be is a problem in the report.
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, place: None }
    }

    pub(super) async fn look(&mut self, now: DateTime<Utc>) -> Report {
        let (units, problems) = units::look().await;
        let (controller, seen) = controller::look(&self.settings);
        let state = self.settings.local.state.display().to_string();
        let mut report = Report { at: now, state, units, problems, ..Report::default() };
        let opened = match &mut self.place {
            Some(place) => Ok(place),
            none => Place::open(&self.settings).await.map(|place| none.insert(place)),
        };
        match opened {
            Ok(place) => place.look(&mut report).await,
            Err(error) => report.problems.push(format!("{error:#}")),
        }
        report.problems.extend(controller::problems(&controller, seen.as_ref(), &report.queues, now));
        report.problems.extend(queues::problems(&report.queues));
        report.problems.extend(eirs_web::tls::aged(&self.settings.web.tls, now));
        // The instances of a controller that does not run are history.
        report.pools = seen.filter(|_| controller.running).map(|seen| seen.pools).unwrap_or_default();
        report.controller = controller;
        report
    }
}

impl Place {
    async fn open(settings: &Settings) -> anyhow::Result<Self> {
        let backend = state::open(settings).await?;
        let store = |blobs: &SharedBlobs| Store { blobs: blobs.clone(), bucket: None };
        let stores = Stores::new(store(backend.images()), store(backend.results()), Duration::ZERO);
        Ok(Self { backend, stores })
    }

    async fn look(&mut self, report: &mut Report) {
        match self.queues().await {
            Ok(queues) => report.queues = queues,
            Err(error) => report.problems.push(format!("the queues cannot be looked at: {error}")),
        }
        let counted = self.stores.look().await;
        (report.images, report.results, report.newest) = (counted.images, counted.results, counted.newest);
        report.problems.extend(counted.problems);
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
