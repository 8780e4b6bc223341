//! Tells the controller what arrives: exact counts every ten seconds, and a doorbell at once after a quiet time, so that the
//! first upload of the morning does not wait for a tick.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use eirs_platform::job::{self, Event, WebReport};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::App;

const EVERY: Duration = Duration::from_secs(10);
/// After so long without an arrival, the next one rings.
const QUIET: Duration = Duration::from_secs(2);

/// Counts what arrives.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    inner: Mutex<(BTreeMap<String, u64>, Option<Instant>)>,
    doorbell: Notify,
}

impl Arrivals {
    /// A job was sent.
    pub(crate) fn count(&self, model: &str) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (counts, last) = &mut *inner;
        match counts.get_mut(model) {
            Some(count) => *count += 1,
            None => _ = counts.insert(model.to_owned(), 1),
        }
        let now = Instant::now();
        if last.replace(now).is_none_or(|last| now - last > QUIET) {
            self.doorbell.notify_one();
        }
    }

    fn take(&self) -> BTreeMap<String, u64> {
        std::mem::take(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner).0)
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
        let (host, at) = (app.settings.web.host.clone(), app.clock.now());
        let report = Event::Web(WebReport { v: job::VERSION, host, arrivals, doorbell, at });
        if let Err(error) = app.events.send(vec![job::encode(&report)]).await {
            tracing::warn!(%error, "the controller could not be told of arrivals; its next tick sees them in the queue");
        }
    }
}
