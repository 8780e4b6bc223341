//! Reports arrivals to the controller: exact counts every ten seconds, and at once after a quiet
//! time, so that the first upload of the morning does not wait for a tick.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use eirs_platform::{
    Result,
    clock::SharedClock,
    job::{self, Event, WebReport},
    queue::SharedQueue,
};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

const EVERY: Duration = Duration::from_secs(10);
/// Time without arrivals after which the next one is reported at once.
const QUIET: Duration = Duration::from_secs(2);

/// Counts what arrives.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    unreported: Mutex<Unreported>,
    doorbell: Notify,
}

#[derive(Debug, Default)]
struct Unreported {
    models: BTreeMap<String, Model>,
    /// Start of the period of the counts; `None` before the first report.
    since: Option<DateTime<Utc>>,
}

/// Arrivals of a period by model.
#[derive(Debug, Clone, PartialEq)]
struct Counts {
    since: Option<DateTime<Utc>>,
    arrivals: BTreeMap<String, u64>,
}

/// Arrivals for one model. Each model has its own workers, and so its own quiet time.
#[derive(Debug, Default)]
struct Model {
    /// Not reported yet.
    count: u64,
    last: Option<Instant>,
}

impl Arrivals {
    /// Counts a job that was sent.
    pub(crate) fn count(&self, model: &str) {
        let models = &mut self.lock().models;
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

    /// Begins the first period.
    fn begin(&self, now: DateTime<Utc>) {
        self.lock().since.get_or_insert(now);
    }

    /// Returns the counts up to now and begins the next period.
    fn take(&self, now: DateTime<Utc>) -> Counts {
        let mut unreported = self.lock();
        let since = unreported.since.replace(now);
        let counts = unreported.models.iter_mut();
        let counts = counts.map(|(name, model)| (name.clone(), std::mem::take(&mut model.count)));
        Counts { since, arrivals: counts.filter(|(_, count)| *count > 0).collect() }
    }

    /// Puts back counts that could not be reported, with their period, for the next report.
    fn put_back(&self, counts: Counts) {
        let mut unreported = self.lock();
        unreported.since = counts.since.or(unreported.since);
        for (name, count) in counts.arrivals {
            unreported.models.entry(name).or_default().count += count;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Unreported> {
        self.unreported.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reports arrivals to the controller.
#[derive(Debug)]
pub(crate) struct Reporter {
    pub(crate) arrivals: Arc<Arrivals>,
    /// The queue that the controller reads.
    pub(crate) events: SharedQueue,
    /// The name of this host.
    pub(crate) host: String,
    pub(crate) clock: SharedClock,
}

impl Reporter {
    /// Runs until `stop`. Sends nothing if nothing arrived.
    pub(crate) async fn keep(&self, stop: &CancellationToken) {
        self.arrivals.begin(self.clock.now());
        let mut next = Instant::now() + EVERY;
        loop {
            let doorbell = tokio::select! {
                () = self.arrivals.doorbell.notified() => true,
                () = tokio::time::sleep_until(next) => false,
                () = stop.cancelled() => return,
            };
            let now = self.clock.now();
            let counts = self.arrivals.take(now);
            next = Instant::now() + EVERY;
            if counts.arrivals.is_empty() {
                continue;
            }
            if let Err(error) = self.send(counts, now, doorbell).await {
                tracing::warn!(%error, "arrivals could not be reported to the controller; its next \
                    tick sees them in the queue");
            }
        }
    }

    /// Makes the controller run a pass now, at the request of an operator.
    pub(crate) async fn ring(&self) -> Result<()> {
        let now = self.clock.now();
        self.send(self.arrivals.take(now), now, true).await
    }

    async fn send(&self, counts: Counts, at: DateTime<Utc>, doorbell: bool) -> Result<()> {
        let Counts { since, arrivals } = counts.clone();
        let host = self.host.clone();
        let report = Event::Web(WebReport { v: job::VERSION, host, arrivals, doorbell, since, at });
        let sent = self.events.send(vec![job::encode(&report)]).await;
        sent.inspect_err(|_not_sent| self.arrivals.put_back(counts))
    }
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
    fn counts_and_their_period_are_exact_even_if_a_report_could_not_be_sent() {
        let at = |second| DateTime::UNIX_EPOCH + Duration::from_secs(second);
        let counts = |since: Option<u64>, counts: &[(&str, u64)]| Counts {
            since: since.map(at),
            arrivals: counts.iter().map(|(model, count)| ((*model).to_owned(), *count)).collect(),
        };
        let arrivals = Arrivals::default();
        for model in ["a", "b", "a"] {
            arrivals.count(model);
        }
        let taken = arrivals.take(at(10));
        assert_eq!(taken, counts(None, &[("a", 2), ("b", 1)]));
        arrivals.count("a");
        let later = arrivals.take(at(20));
        assert_eq!(later, counts(Some(10), &[("a", 1)]));
        arrivals.put_back(later);
        arrivals.count("b");
        assert_eq!(arrivals.take(at(30)), counts(Some(10), &[("a", 1), ("b", 1)]));
        assert_eq!(arrivals.take(at(40)), counts(Some(30), &[]));
    }
}
