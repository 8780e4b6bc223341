//! Inspects the service of one machine.

use std::time::Duration;

use bytesize::ByteSize;
use chrono::{DateTime, Utc};
use eirs_platform::{
    backend::Backend,
    blobs::{
        SharedBlobs,
        embedded::{Room, RoomSeen},
    },
    settings::Settings,
};

use super::{
    controller,
    queues::{self, Queue},
    report::Report,
    stores::{Store, Stores},
    units,
};
use crate::state;

/// The inspection of a machine.
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
    /// Creates the inspection without opening anything; failures become problems in the report.
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
        // If the controller does not run, its list of instances is outdated.
        report.pools = seen.filter(|_| controller.running).map(|seen| seen.pools).unwrap_or_default();
        report.controller = controller;
        report
    }
}

/// Reports a disk that is full, or nearly so.
fn short_of_room(seen: RoomSeen) -> Option<String> {
    let (free, floor) = (ByteSize(seen.free), ByteSize(seen.floor));
    if seen.below {
        return Some(format!(
            "new images are refused: {free} are free on the disk of the state folder, and {floor} \
            must stay free (local.keep_free)"
        ));
    }
    let nearly = seen.floor > 0 && seen.free < seen.floor + seen.floor / 2;
    nearly.then(|| {
        format!(
            "the disk of the state folder is nearly full: {free} are free, and below {floor} new images \
            are refused"
        )
    })
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
            Err(error) => report.problems.push(format!("the queues cannot be inspected: {error}")),
        }
        let counted = self.stores.look().await;
        (report.images, report.results, report.newest) = (counted.images, counted.results, counted.newest);
        report.problems.extend(counted.problems);
        report.problems.extend(self.backend.room().map(Room::look).and_then(short_of_room));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_or_nearly_full_disk_is_reported() {
        let seen = |free, below| RoomSeen { free, floor: 1000, below };
        assert_eq!(short_of_room(seen(1500, false)), None);
        assert!(short_of_room(seen(1499, false)).unwrap().contains("nearly full"));
        assert!(
            short_of_room(seen(999, true)).unwrap().starts_with("new images are refused: 999 B are free")
        );
        assert_eq!(short_of_room(RoomSeen { free: 0, floor: 0, below: false }), None, "no floor");
    }
}
