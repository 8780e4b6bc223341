//! Tells the controller what arrives: exact counts every ten seconds, and a doorbell at once after a quiet time, so that the
//! first upload of the morning does not wait for a tick.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use eirs_platform::{
    Result,
    job::{self, Event, WebReport},
};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::App;

const EVERY: Duration = Duration::from_secs(10);
/// After so long without an arrival, the next one rings.
const QUIET: Duration = Duration::from_secs(2);

/// Counts what arrives.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    models: Mutex<BTreeMap<String, Model>>,
    doorbell: Notify,
}

/// What arrived for one model. Each has workers of its own, so that each has a quiet time of its own.
#[derive(Debug, Default)]
struct Model {
    /// Not reported yet.
    count: u64,
    last: Option<Instant>,
}

impl Arrivals {
    /// A job was sent.
    pub(crate) fn count(&self, model: &str) {
        let mut models = self.models();
        if !models.contains_key(model) {
            models.insert(model.to_owned(), Model::default());
        }
        let Some(model) = models.get_mut(model) else { return };
        model.count += 1;
        let now = Instant::now();
        if model.last.replace(now).is_none_or(|last| now - last > QUIET) {
            self.doorbell.notify_one();
        }
    }

    fn take(&self) -> BTreeMap<String, u64> {
        let mut models = self.models();
        let counts = models.iter_mut().map(|(name, model)| (name.clone(), std::mem::take(&mut model.count)));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// What could not be reported is reported later.
    fn put_back(&self, counts: BTreeMap<String, u64>) {
        let mut models = self.models();
        for (name, count) in counts {
            models.entry(name).or_default().count += count;
        }
    }

    fn models(&self) -> MutexGuard<'_, BTreeMap<String, Model>> {
        self.models.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs until `stop`. Where nothing arrives, nothing is sent.
pub(crate) async fn send_reports(app: &App, stop: &CancellationToken) {
    let mut next = Instant::now() + EVERY;
    loop {
        let doorbell = tokio::select! {
            () = app.arrivals.doorbell.notified() => true,
            () = tokio::time::sleep_until(next) => false,
            () = stop.cancelled() => return,
        };
        let arrivals = app.arrivals.take();
        next = Instant::now() + EVERY;
        if arrivals.is_empty() {
            continue;
        }
        if let Err(error) = send(app, arrivals, doorbell).await {
            tracing::warn!(%error, "the controller could not be told of arrivals; its next tick sees them in the queue");
        }
    }
}

/// Has the controller look now, because an operator says so.
pub(crate) async fn ring(app: &App) -> Result<()> {
    send(app, app.arrivals.take(), true).await
}

async fn send(app: &App, arrivals: BTreeMap<String, u64>, doorbell: bool) -> Result<()> {
    let (host, at) = (app.settings.web_host(), app.clock.now());
    let report = Event::Web(WebReport { v: job::VERSION, host, arrivals: arrivals.clone(), doorbell, at });
    let sent = app.events.send(vec![job::encode(&report)]).await;
    sent.inspect_err(|_not_sent| app.arrivals.put_back(arrivals))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn rings(arrivals: &Arrivals) -> bool {
        tokio::time::timeout(Duration::ZERO, arrivals.doorbell.notified()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_upload_for_each_model_after_its_quiet_time_rings() {
        let arrivals = Arrivals::default();
        for (model, expected) in [("a", true), ("a", false), ("b", true), ("b", false)] {
            arrivals.count(model);
            assert_eq!(rings(&arrivals).await, expected, "{model}");
        }
        tokio::time::advance(QUIET + Duration::from_millis(1)).await;
        arrivals.count("a");
        assert!(rings(&arrivals).await);
    }

    #[test]
    fn counts_are_exact_also_when_a_report_could_not_be_sent() {
        let arrivals = Arrivals::default();
        for model in ["a", "b", "a"] {
            arrivals.count(model);
        }
        let taken = arrivals.take();
        assert_eq!(taken, BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 1)]));
        arrivals.count("a");
        arrivals.put_back(taken);
        assert_eq!(arrivals.take(), BTreeMap::from([("a".to_owned(), 3), ("b".to_owned(), 1)]));
        assert_eq!(arrivals.take(), BTreeMap::new());
    }
}
