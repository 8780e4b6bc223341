//! The reports of the worker to the controller: at regular intervals, and at once when it becomes
//! ready, idle, draining or drained.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use eirs_platform::job::{self, Event, Phase, ServiceTimes, WorkerReport};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::Worker;

/// A worker is idle when it has held no job for this long, since it holds none for a moment between
/// two jobs, too.
const IDLE_AFTER: Duration = Duration::from_secs(1);
/// Maximum number of service times per report; the first ones stand for the rest.
const MOST_TIMES: usize = 10_000;

/// The activity of the worker, as recorded by the jobs and the main loop.
#[derive(Debug)]
pub(crate) struct Activity {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug)]
struct Inner {
    phase: Phase,
    idle_since: Option<DateTime<Utc>>,
    done: u64,
    times_ms: Vec<f64>,
    /// Moving average of the service time, weighted towards recent jobs.
    usual: Option<Duration>,
}

/// A job that takes less is short: fetching the next one in advance pays more than leaving it to
/// another worker.
const SHORT: Duration = Duration::from_millis(200);

impl Activity {
    pub(crate) fn new(now: DateTime<Utc>) -> Self {
        let inner = Inner {
            phase: Phase::Starting,
            idle_since: Some(now),
            done: 0,
            times_ms: Vec::new(),
            usual: None,
        };
        Self { inner: Mutex::new(inner), changed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.lock().phase = phase;
        self.changed.notify_one();
    }

    /// Returns whether jobs are so short that holding one more pays.
    pub(crate) fn jobs_are_short(&self) -> bool {
        self.lock().usual.is_some_and(|usual| usual < SHORT)
    }

    /// Returns the number of finished jobs.
    pub(crate) fn jobs_done(&self) -> u64 {
        self.lock().done
    }

    /// Notes that a job was taken.
    pub(crate) fn busy(&self) {
        self.lock().idle_since = None;
    }

    /// Notes that no job is held.
    pub(crate) fn idle(&self, now: DateTime<Utc>) {
        self.lock().idle_since = Some(now);
    }

    /// Returns for how long no job has been held; `None` while one is.
    pub(crate) fn idle_for(&self, now: DateTime<Utc>) -> Option<Duration> {
        self.lock().idle_since.map(|since| (now - since).to_std().unwrap_or_default())
    }

    /// Notes a finished job and its service time, without its wait for a thread.
    pub(crate) fn done(&self, taken: Duration) {
        let mut inner = self.lock();
        inner.done += 1;
        inner.usual = Some(inner.usual.map_or(taken, |usual| (usual * 3 + taken) / 4));
        if inner.times_ms.len() < MOST_TIMES {
            inner.times_ms.push(taken.as_secs_f64() * 1e3);
        }
    }
}

/// Sends reports until `stop`, and then a last one.
pub(crate) async fn send_reports(worker: Arc<Worker>, stop: CancellationToken) {
    let every = worker.settings.worker.report_every;
    let mut next = Instant::now();
    let mut told_idle = false;
    loop {
        let idle = worker
            .activity
            .lock()
            .idle_since
            .filter(|since| worker.clock.now() - since >= as_delta(IDLE_AFTER));
        let newly_idle = idle.is_some() && !told_idle;
        if newly_idle || Instant::now() >= next {
            told_idle = idle.is_some();
            next = Instant::now() + every;
            send(&worker).await;
        }
        if stop.is_cancelled() {
            return;
        }
        tokio::select! {
            // A change of phase is reported at once.
            () = worker.activity.changed.notified() => next = Instant::now(),
            () = stop.cancelled() => next = Instant::now(),
            () = tokio::time::sleep(IDLE_AFTER) => {}
        }
    }
}

fn as_delta(duration: Duration) -> chrono::TimeDelta {
    chrono::TimeDelta::from_std(duration).unwrap_or(chrono::TimeDelta::MAX)
}

async fn send(worker: &Worker) {
    let report = Event::Worker(report(worker));
    if let Err(error) = worker.events.send(vec![job::encode(&report)]).await {
        tracing::warn!(%error, "a report to the controller was not sent; the next one follows");
    }
}

fn report(worker: &Worker) -> WorkerReport {
    let in_flight = worker.in_flight();
    let mut activity = worker.activity.lock();
    let times_ms = std::mem::take(&mut activity.times_ms);
    WorkerReport {
        v: job::VERSION,
        instance: worker.identity.instance.clone(),
        generation: worker.identity.generation.clone(),
        model: worker.identity.model.clone(),
        version: worker.version().to_owned(),
        engine: worker.engine().to_owned(),
        phase: activity.phase,
        in_flight,
        slots: worker.slot_count,
        at_once: worker.pool.at_once(),
        done: activity.done,
        idle_since: activity.idle_since,
        failing: worker.health.failing(),
        service: summary(times_ms),
        at: worker.clock.now(),
    }
}

fn summary(mut times_ms: Vec<f64>) -> ServiceTimes {
    if times_ms.is_empty() {
        return ServiceTimes::default();
    }
    times_ms.sort_unstable_by(f64::total_cmp);
    let count = times_ms.len();
    // The nearest rank: the smallest time that 95 % do not exceed.
    let p95_ms = times_ms[(count * 95).div_ceil(100) - 1];
    ServiceTimes { count: count as u64, mean_ms: times_ms.iter().sum::<f64>() / count as f64, p95_ms }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_1_to_100_have_mean_50_5_and_p95_95() {
        let summary = summary((1..=100).rev().map(f64::from).collect());
        assert_eq!(summary, ServiceTimes { count: 100, mean_ms: 50.5, p95_ms: 95.0 });
    }
}
