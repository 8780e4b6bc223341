//! The reports of workers and web hosts: received from the events queue, and kept as long as they
//! are useful.
//!
//! A report counts from the time at which it was sent, on the queue's clock, which is compared with
//! the controller's ([`Skew`]). The counts of a web host belong to the interval that the report
//! names. A report that arrives late, or is read by a later controller, thus has the same meaning.
//! Single reports may be lost.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use eirs_platform::{
    backoff::Backoff,
    clock::SharedClock,
    job::{self, Event, Phase, WebReport, WorkerReport},
    queue::{Delivery, Depth, SharedQueue},
};
use tokio::sync::{Notify, watch};

use super::{Count, Heard, InstanceView, PoolView, REPORT_EXPIRES, age, clocks::Skew};
use crate::fleet::{Instance, State};

/// Longest poll that SQS allows: an idle controller wakes up three times a minute.
const POLL: Duration = Duration::from_secs(20);
/// Interval of the web hosts' reports. The first report of a host covers about this time.
const REPORT_EVERY: Duration = Duration::from_secs(10);
/// Number of reports per host by which duplicates are detected: more than a host sends in a minute,
/// doorbells included. A second delivery comes sooner.
const REMEMBERED_REPORTS: usize = 32;
/// Time after which a silent host is forgotten.
const FORGET_HOST: Duration = Duration::from_secs(3600);
/// Maximum number of counts that are kept for a model without a policy.
const MOST_COUNTS: usize = 4096;
/// Maximum number of messages per receive. A receive with fewer has emptied the queue.
const BATCH: usize = 10;
/// Maximum time that a new controller waits for reports that were sent before it started.
const CATCH_UP: Duration = Duration::from_secs(3);

/// The last reports, shared by the task that receives and the one that observes.
#[derive(Debug, Default)]
pub struct Reports {
    inner: Mutex<Inner>,
    /// Whether all reports that were sent before the controller started have been read.
    caught_up: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Inner {
    workers: BTreeMap<String, Worker>,
    last_arrival: BTreeMap<String, DateTime<Utc>>,
    /// Number of jobs by model, since the controller started.
    arrived: BTreeMap<String, u64>,
    /// Counts by model, since the last observation.
    counts: BTreeMap<String, Vec<Count>>,
    skew: Skew,
    /// Send times of each host's last reports, as a queue may deliver a report twice.
    counted: BTreeMap<String, VecDeque<DateTime<Utc>>>,
    failing: bool,
}

/// The arrivals for a model, as reported by the web hosts.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Arrivals {
    /// Time of the last reported job.
    pub last: Option<DateTime<Utc>>,
    /// Number of jobs since the controller started.
    pub total: u64,
    /// Counts since the last observation.
    pub counts: Vec<Count>,
}

impl Arrivals {
    /// Combines the arrivals with the depth of the queue.
    pub(crate) fn view(self, depth: Option<Depth>) -> PoolView {
        let Self { last, total, counts } = self;
        PoolView { depth, last_arrival: last, arrived: total, counts }
    }
}

#[derive(Debug)]
struct Worker {
    heard: Heard,
    done: Meter,
}

impl Reports {
    /// Adds a report that was sent at `sent_at`. Returns whether the controller should make a pass
    /// now.
    pub fn take(&self, event: Event, sent_at: DateTime<Utc>) -> bool {
        let mut inner = self.lock();
        match event {
            Event::Worker(report) => inner.take_worker(report, sent_at),
            Event::Web(report) => inner.take_web(report, sent_at),
        }
    }

    /// Adds to each instance the last report of its generation. Expired reports of other
    /// generations are dropped.
    pub fn assign(&self, instances: Vec<Instance>, now: DateTime<Utc>) -> Vec<InstanceView> {
        let mut views: Vec<_> =
            instances.into_iter().map(|instance| InstanceView { instance, heard: None }).collect();
        self.assign_to(&mut views, now);
        views
    }

    /// Does the same for views that may already have a report.
    pub(crate) fn assign_to(&self, views: &mut [InstanceView], now: DateTime<Utc>) {
        let mut inner = self.lock();
        for InstanceView { instance, heard } in views.iter_mut() {
            let worker = inner.workers.get(instance.worker_name()).filter(|worker| {
                instance.state != State::Stopped
                    && Some(&worker.heard.report.generation) == instance.generation.as_ref()
            });
            match (worker, heard.as_mut()) {
                (Some(worker), Some(before))
                    if before.at == worker.heard.at && before.report.at == worker.heard.report.at => {}
                (worker, _) => *heard = worker.map(|worker| worker.heard.clone()),
            }
            if let (Some(worker), Some(heard)) = (worker, heard) {
                heard.done_per_s = worker.done.per_second(now);
            }
        }
        // A report may be ahead of the list that contains its generation, so it is kept until it
        // has expired.
        let has_expired = |worker: &Worker| age(worker.heard.at, now) > REPORT_EXPIRES;
        if inner.workers.values().any(has_expired) {
            let speak = views.iter().filter(|view| view.heard.is_some());
            let speak: BTreeSet<_> = speak.map(|view| view.instance.worker_name()).collect();
            inner.workers.retain(|id, worker| speak.contains(id.as_str()) || !has_expired(worker));
        }
    }

    /// Adds a receipt to compare the clocks by: the newest of some messages that were not delayed.
    pub(crate) fn note_skew(&self, newest: Option<DateTime<Utc>>, now: DateTime<Utc>) {
        self.lock().skew.note(newest, now);
    }

    /// Converts a time on the queue's clock to the controller's.
    pub(crate) fn corrected(&self, sent_at: DateTime<Utc>) -> DateTime<Utc> {
        self.lock().skew.corrected(sent_at)
    }

    /// The arrivals for a model. Each count is returned only once.
    pub(crate) fn arrivals(&self, model: &str) -> Arrivals {
        let mut inner = self.lock();
        Arrivals {
            last: inner.last_arrival.get(model).copied(),
            total: inner.arrived.get(model).copied().unwrap_or(0),
            counts: inner.counts.get_mut(model).map(std::mem::take).unwrap_or_default(),
        }
    }

    /// Waits, for a few seconds at most, until the reports that were sent before the controller
    /// started have been read. Without them a decision would assume that nothing arrived.
    pub async fn catch_up(&self) {
        let mut caught_up = self.caught_up.subscribe();
        let _late = tokio::time::timeout(CATCH_UP, caught_up.wait_for(|done| *done)).await;
    }

    /// Whether reports are being received: the last receive did not fail.
    pub fn are_received(&self) -> bool {
        !self.lock().failing
    }

    /// Sets whether the last receive failed, and returns the previous value.
    fn note_failing(&self, failing: bool) -> bool {
        std::mem::replace(&mut self.lock().failing, failing)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Returns true for a new phase or a new instance.
    fn take_worker(&mut self, report: WorkerReport, sent_at: DateTime<Utc>) -> bool {
        let idle_since = report.idle_since.map(|since| sent_at - age(since, report.at));
        let (phase, service) = (report.phase, (report.service.count > 0).then_some(report.service));
        let known = self.workers.get_mut(&report.instance);
        if let Some(worker) = known.filter(|worker| worker.heard.report.generation == report.generation) {
            // Queues do not preserve the order.
            if worker.heard.report.at > report.at {
                return false;
            }
            worker.done.add_total(sent_at, report.done);
            let is_news = worker.heard.report.phase != phase;
            let service = service.or(worker.heard.service);
            worker.heard = Heard { at: sent_at, report, idle_since, service, done_per_s: 0.0 };
            return is_news;
        }
        let mut done = Meter::default();
        done.add_total(sent_at, report.done);
        let instance = report.instance.clone();
        let heard = Heard { at: sent_at, report, idle_since, service, done_per_s: 0.0 };
        self.workers.insert(instance, Worker { heard, done });
        // The start of a worker's process is no news: the controller ordered it.
        phase != Phase::Starting
    }

    fn take_web(&mut self, report: WebReport, sent_at: DateTime<Utc>) -> bool {
        let counted = self.counted.entry(report.host.clone()).or_default();
        if counted.contains(&report.at) {
            return false;
        }
        counted.push_back(report.at);
        if counted.len() > REMEMBERED_REPORTS {
            counted.pop_front();
        }
        self.counted
            .retain(|_, reports| reports.back().is_some_and(|last| age(*last, sent_at) <= FORGET_HOST));
        // Both ends by one clock. Older web hosts send no begin.
        let counted_for = report.since.map_or(REPORT_EVERY, |since| age(since, report.at));
        for (model, count) in report.arrivals {
            if count > 0 {
                let last = self.last_arrival.entry(model.clone()).or_insert(sent_at);
                *last = sent_at.max(*last);
                let arrived = self.arrived.entry(model.clone()).or_default();
                *arrived = arrived.saturating_add(count);
                let counts = self.counts.entry(model).or_default();
                counts.push(Count { from: sent_at - counted_for, to: sent_at, jobs: count });
                let forgotten = counts.len().saturating_sub(MOST_COUNTS);
                counts.drain(..forgotten);
            }
        }
        report.doorbell
    }
}

/// A growing count, and its rate over about the last ten seconds.
#[derive(Debug, Default)]
struct Meter {
    samples: VecDeque<(DateTime<Utc>, u64)>,
}

impl Meter {
    fn add_total(&mut self, at: DateTime<Utc>, total: u64) {
        let at = self.samples.back().map_or(at, |(last, _)| at.max(*last));
        self.samples.push_back((at, total));
        // Keep one sample that is old enough to measure from.
        while self.samples.get(1).is_some_and(|(second, _)| age(*second, at) >= REPORT_EVERY) {
            self.samples.pop_front();
        }
    }

    fn is_fresh(&self, now: DateTime<Utc>) -> bool {
        self.samples.back().is_some_and(|(last, _)| age(*last, now) <= REPORT_EXPIRES)
    }

    fn per_second(&self, now: DateTime<Utc>) -> f64 {
        let (Some((from, low)), Some((to, high))) = (self.samples.front(), self.samples.back()) else {
            return 0.0;
        };
        let span = age(*from, *to).as_secs_f64();
        if self.is_fresh(now) && span > 0.0 { high.saturating_sub(*low) as f64 / span } else { 0.0 }
    }
}

/// Receives reports until it is dropped, and notifies `news` if the controller should make a pass
/// now.
///
/// Reports that were received and not yet added when this future is dropped are lost; the next ones
/// follow within ten seconds.
pub async fn receive(events: SharedQueue, reports: Arc<Reports>, clock: SharedClock, news: Arc<Notify>) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
    // The first receive does not wait, as it only finds out whether there are old messages.
    let mut poll = Duration::ZERO;
    loop {
        match events.receive(BATCH, poll).await {
            Ok(deliveries) => {
                if reports.note_failing(false) {
                    tracing::info!("reports are received again");
                }
                backoff.reset();
                let is_last = deliveries.len() < BATCH;
                if is_last {
                    let newest = deliveries.iter().map(|delivery| delivery.sent_at).max();
                    reports.note_skew(newest, clock.now());
                    poll = POLL;
                }
                take_all(&events, &reports, &news, deliveries).await;
                if is_last {
                    reports.caught_up.send_replace(true);
                }
            }
            Err(error) => {
                if !reports.note_failing(true) {
                    tracing::warn!(%error, "no reports can be received: {error}");
                }
                backoff.wait().await;
            }
        }
    }
}

async fn take_all(events: &SharedQueue, reports: &Reports, news: &Notify, deliveries: Vec<Delivery>) {
    for delivery in &deliveries {
        match job::decode::<Event>(&delivery.body) {
            Ok(event) => {
                let sent_at = reports.corrected(delivery.sent_at);
                if reports.take(event, sent_at) {
                    news.notify_one();
                }
            }
            Err(error) => tracing::warn!(%error, "a report that cannot be read was discarded: \
                {error}"),
        }
    }
    let receipts: Vec<_> = deliveries.into_iter().map(|delivery| delivery.receipt).collect();
    if !receipts.is_empty()
        && let Err(error) = events.ack(&receipts).await
    {
        // They are delivered again and have the same meaning.
        tracing::debug!(%error, "reports could not be acked");
    }
}
