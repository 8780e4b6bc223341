//! The reports of workers and web hosts: consumed from the events queue, kept while they say
//! something.
//!
//! Reports are timed by when they were sent, on the queue's clock, which is compared with the
//! controller's ([`Skew`]); what a web host counted is timed by the interval that the report names.
//! So a report that arrives late, or is read by a later controller, says the same. Nothing depends
//! on every one arriving.

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

/// As long as SQS lets a poll be: an idle controller is woken three times a minute.
const POLL: Duration = Duration::from_secs(20);
/// How often web hosts report; a host's first report counts what arrived since about then.
const REPORT_EVERY: Duration = Duration::from_secs(10);
/// More than a host writes in a minute, doorbells included; a second delivery comes sooner than
/// that.
const REMEMBERED_REPORTS: usize = 32;
/// A host that has been silent for so long may be gone for good.
const FORGET_HOST: Duration = Duration::from_secs(3600);
/// Counts of a model that no policy asks for are kept up to this number.
const MOST_COUNTS: usize = 4096;
/// Messages that one receive asks for. Fewer mean that nothing older is left in the queue.
const BATCH: usize = 10;
/// A new controller waits this long for the reports that were sent before it started.
const CATCH_UP: Duration = Duration::from_secs(3);

/// What was reported, by whom. Shared by the task that receives and the one that looks.
#[derive(Debug, Default)]
pub struct Reports {
    inner: Mutex<Inner>,
    /// Whether all that was sent before the controller started has been read.
    caught_up: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Inner {
    workers: BTreeMap<String, Worker>,
    last_arrival: BTreeMap<String, DateTime<Utc>>,
    /// By model, since the controller started.
    arrived: BTreeMap<String, u64>,
    /// By model, since the last look.
    counts: BTreeMap<String, Vec<Count>>,
    skew: Skew,
    /// When each host wrote its last reports: a queue may deliver one twice.
    counted: BTreeMap<String, VecDeque<DateTime<Utc>>>,
    failing: bool,
}

/// What the web hosts said of the jobs for a model.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Arrivals {
    /// When the last one was reported.
    pub last: Option<DateTime<Utc>>,
    /// All of them since the controller started.
    pub total: u64,
    /// Those that were reported since the last look.
    pub counts: Vec<Count>,
}

impl Arrivals {
    /// Together with the depth of the queue.
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
    /// Takes a report that was sent at this moment; answers whether the controller should look at
    /// once.
    pub fn take(&self, event: Event, sent_at: DateTime<Utc>) -> bool {
        let mut inner = self.lock();
        match event {
            Event::Worker(report) => inner.take_worker(report, sent_at),
            Event::Web(report) => inner.take_web(report, sent_at),
        }
    }

    /// Gives each instance the last report of its generation, and forgets those of other
    /// generations.
    pub fn assign(&self, instances: Vec<Instance>, now: DateTime<Utc>) -> Vec<InstanceView> {
        let mut views: Vec<_> =
            instances.into_iter().map(|instance| InstanceView { instance, heard: None }).collect();
        self.assign_to(&mut views, now);
        views
    }

    /// The same, where some have the report that they had the last time.
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
        // A report may be ahead of the list that knows its generation: it is kept until it has
        // expired.
        let has_expired = |worker: &Worker| age(worker.heard.at, now) > REPORT_EXPIRES;
        if inner.workers.values().any(has_expired) {
            let speak = views.iter().filter(|view| view.heard.is_some());
            let speak: BTreeSet<_> = speak.map(|view| view.instance.worker_name()).collect();
            inner.workers.retain(|id, worker| speak.contains(id.as_str()) || !has_expired(worker));
        }
    }

    /// Compares the queue's clock with the controller's, by the newest of some messages that
    /// nothing held up.
    pub(crate) fn note_skew(&self, newest: Option<DateTime<Utc>>, now: DateTime<Utc>) {
        self.lock().skew.note(newest, now);
    }

    /// A time of the queue's clock, by the controller's.
    pub(crate) fn corrected(&self, sent_at: DateTime<Utc>) -> DateTime<Utc> {
        self.lock().skew.corrected(sent_at)
    }

    /// What arrived for a model. The counts are handed out once.
    pub(crate) fn arrivals(&self, model: &str) -> Arrivals {
        let mut inner = self.lock();
        Arrivals {
            last: inner.last_arrival.get(model).copied(),
            total: inner.arrived.get(model).copied().unwrap_or(0),
            counts: inner.counts.get_mut(model).map(std::mem::take).unwrap_or_default(),
        }
    }

    /// Waits until the reports that were sent before the controller started have been read, for a
    /// few seconds at most: what is decided without them would be decided as if nothing had
    /// arrived.
    pub async fn catch_up(&self) {
        let mut caught_up = self.caught_up.subscribe();
        let _late = tokio::time::timeout(CATCH_UP, caught_up.wait_for(|done| *done)).await;
    }

    /// Whether reports are being received, or would be if there were any.
    pub fn are_received(&self) -> bool {
        !self.lock().failing
    }

    /// Notes whether the last receive failed; answers what it was before.
    fn note_failing(&self, failing: bool) -> bool {
        std::mem::replace(&mut self.lock().failing, failing)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// A new phase is news, and so is a new instance.
    fn take_worker(&mut self, report: WorkerReport, sent_at: DateTime<Utc>) -> bool {
        let idle_since = report.idle_since.map(|since| sent_at - age(since, report.at));
        let (phase, service) = (report.phase, (report.service.count > 0).then_some(report.service));
        let known = self.workers.get_mut(&report.instance);
        if let Some(worker) = known.filter(|worker| worker.heard.report.generation == report.generation) {
            // Queues do not keep the order.
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
        // A worker that begins to start tells nothing that its start did not.
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
        // Both ends by one clock. An older host names no beginning.
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

/// A count that grows, and how fast it grew over about the last ten seconds.
#[derive(Debug, Default)]
struct Meter {
    samples: VecDeque<(DateTime<Utc>, u64)>,
}

impl Meter {
    fn add_total(&mut self, at: DateTime<Utc>, total: u64) {
        let at = self.samples.back().map_or(at, |(last, _)| at.max(*last));
        self.samples.push_back((at, total));
        // The first sample is the last one that is old enough to measure from.
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

/// Receives reports until it is dropped. `news` is notified when one of them should be looked at
/// now.
///
/// A report that is dropped with this future is lost when it comes back to nobody; another one
/// follows in ten seconds.
pub async fn receive(events: SharedQueue, reports: Arc<Reports>, clock: SharedClock, news: Arc<Notify>) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
    // The first look does not wait for a message: it says whether there are old ones.
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
        // They come again and say the same.
        tracing::debug!(%error, "reports could not be acked");
    }
}
