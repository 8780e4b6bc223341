//! What this host knows of the load: the length of each model's line, and how fast it moves. The
//! backlog limit and every `Retry-After` are computed from it.
//!
//! A task reads the depth of a queue, so that a client that disconnects does not stop it. A caller
//! waits briefly for the first reading, so that the limit holds from the first upload on, and uses
//! the previous value if the queue is slow.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use eirs_platform::{clock::SharedClock, queue::SharedQueue};
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::eta::{Done, Fleet, Line, Place, in_seconds};

/// Maximum age of a depth before it is read again.
const FRESH: Duration = Duration::from_secs(1);
/// How long a caller waits for the depth.
const PATIENCE: Duration = Duration::from_millis(500);
/// Timeout for reading the depth.
const READING: Duration = Duration::from_secs(30);
/// Jobs per additional instance, until that is observed.
const JOBS_EACH: f64 = 10.0;
/// Maximum time until the controller notices a line, in seconds; the start of an instance comes
/// after it.
const NOTICE_S: f64 = 5.0;
/// Factor on the expected time, because a client that retries too early must retry again.
const MARGIN: f64 = 1.08;
/// Maximum estimate for a full backlog, in seconds, if the time of a job is unknown.
const LONGEST_GUESS_OF_ALL_S: u64 = 300;

/// The lines of all models, and the limit on them.
#[derive(Debug)]
pub(crate) struct Admission {
    max_backlog: u64,
    /// The status file of the controller.
    status_file: PathBuf,
    clock: SharedClock,
    models: Mutex<BTreeMap<String, Model>>,
}

#[derive(Debug, Default)]
struct Model {
    line: Line,
    read_at: Option<Instant>,
    /// The reading in progress. Cancelled when that ends, for whatever reason.
    being_read: Option<CancellationToken>,
    /// The observed number of jobs in line per additional instance.
    jobs_each: Option<f64>,
    /// When the current line began, and its maximum length.
    stretch: Option<(Instant, f64)>,
}

impl Model {
    /// Updates the line with the controller's status of the fleet.
    fn update(&mut self, fleet: Option<Fleet>) {
        let backlog = self.line.backlog() as f64;
        let now = Instant::now();
        if backlog == 0.0 {
            self.stretch = None;
        }
        let (since, peak) = self.stretch.get_or_insert((now, 0.0));
        *peak = peak.max(backlog);
        let Some(mut fleet) = fleet else { return self.line.served_by(now, None) };
        let serve = fleet.serving(now) as f64;
        if let Some(growth) = &mut fleet.growth {
            let known = self.jobs_each.unwrap_or(JOBS_EACH);
            let expected = (*peak / known).ceil();
            let each = (*peak / serve.max(1.0)).max(1.0);
            let had_time = since.elapsed().as_secs_f64() > growth.delay_s + NOTICE_S;
            let is_other = serve > expected || had_time && serve < expected.min(growth.most);
            if serve > 0.0 && *peak > 0.0 && is_other {
                self.jobs_each = Some(each);
            }
            growth.jobs_each = self.jobs_each.unwrap_or(JOBS_EACH);
        }
        self.line.served_by(now, Some(fleet));
    }
}

/// A job's place in its line, and the last estimate for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Announced {
    place: Place,
    /// The position and the seconds.
    last: Option<(u64, f64)>,
}

impl Admission {
    pub(crate) fn new(max_backlog: u64, status_file: PathBuf, clock: SharedClock) -> Self {
        Self { max_backlog, status_file, clock, models: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Model>> {
        self.models.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits one more job and counts it until [`ended`](Self::ended). `Err` holds the seconds
    /// after which to try again.
    pub(crate) fn admit(&self, model: &str) -> Result<Announced, u64> {
        let mut models = self.lock();
        let line = &mut models.entry(model.to_owned()).or_default().line;
        if line.backlog() < self.max_backlog {
            return Ok(Announced { place: line.join(Instant::now()), last: None });
        }
        // The time in which a tenth of the backlog will be done: not all refused clients come back
        // for the first free place.
        let all = line
            .remaining(Instant::now(), None)
            .unwrap_or(Duration::from_secs(LONGEST_GUESS_OF_ALL_S.min(line.backlog())));
        Err(in_seconds(all / 10))
    }

    /// Records that an admitted job has ended. `done` says how a worker did it, if that helps to
    /// estimate the next ones.
    pub(crate) fn ended(&self, model: &str, done: Option<Done<'_>>) {
        if let Some(model) = self.lock().get_mut(model) {
            model.line.end(Instant::now(), done);
        }
    }

    /// Records that an admitted job was not sent, or that no client waits for it any more.
    pub(crate) fn given_up(&self, model: &str) {
        if let Some(model) = self.lock().get_mut(model) {
            model.line.leave(Instant::now());
        }
    }

    /// Returns the estimated seconds until the job with this place ends, or until a new one would.
    /// The estimate for a job never grows while the line before it gets shorter.
    pub(crate) fn eta_s(&self, model: &str, announced: Option<&mut Announced>) -> f64 {
        let mut models = self.lock();
        let line = &mut models.entry(model.to_owned()).or_default().line;
        let place = announced.as_ref().map(|announced| announced.place);
        let position = line.position(place);
        let Some(remaining) = line.remaining(Instant::now(), place) else {
            return line.guess_s(Instant::now(), position);
        };
        let mut seconds = remaining.as_secs_f64() * MARGIN;
        if let Some(announced) = announced {
            if let Some((before, said)) = announced.last
                // If the line does not move, the job may take much longer, but small corrections
                // are ignored.
                && (position < before || position == before && seconds < said * 1.5 + 1.0)
            {
                seconds = seconds.min(said);
            }
            announced.last = Some((position, seconds));
        }
        seconds
    }

    /// Returns how long the line takes that a new job joins; estimated if no job was observed yet,
    /// zero if the line is empty.
    pub(crate) fn line(&self, model: &str) -> Duration {
        let (models, now) = (self.lock(), Instant::now());
        let Some(line) = models.get(model).map(|model| &model.line).filter(|line| line.backlog() > 1) else {
            return Duration::ZERO;
        };
        let guess = || Duration::try_from_secs_f64(line.guess_s(now, line.position(None)));
        line.remaining(now, None).or_else(|| guess().ok()).unwrap_or_default()
    }

    /// Starts reading the depth of a queue if the last reading is old, and waits briefly for it.
    pub(crate) async fn refresh(self: &Arc<Self>, model: &str, queue: &SharedQueue) {
        let read = {
            let mut models = self.lock();
            let state = models.entry(model.to_owned()).or_default();
            if state.read_at.is_some_and(|at| at.elapsed() < FRESH) {
                return;
            }
            let under_way = state.being_read.clone().filter(|read| !read.is_cancelled());
            under_way.unwrap_or_else(|| {
                let read = CancellationToken::new();
                state.being_read = Some(read.clone());
                let reading = self.clone().read(model.to_owned(), queue.clone(), read.clone().drop_guard());
                tokio::spawn(reading);
                read
            })
        };
        let _in_time = timeout(PATIENCE, read.cancelled()).await;
    }

    async fn read(self: Arc<Self>, model: String, queue: SharedQueue, _over: DropGuard) {
        let status = tokio::fs::read(&self.status_file).await.unwrap_or_default();
        let status = serde_json::from_slice(&status).unwrap_or_default();
        let fleet = Fleet::of_status(&status, &model, self.clock.now());
        let own = self.lock().get(&model).map_or(0, |state| state.line.own());
        let depth = timeout(READING, queue.depth()).await;
        let mut models = self.lock();
        let state = models.entry(model.clone()).or_default();
        state.read_at = Some(Instant::now());
        state.update(fleet);
        match depth {
            Ok(Ok(depth)) => state.line.count(Instant::now(), depth.backlog(), depth.in_flight, own),
            // The last reading and the jobs sent since are the better estimate.
            Ok(Err(error)) => tracing::warn!(model, %error, "the depth of the queue cannot be read"),
            Err(_late) => tracing::warn!(
                model,
                "the depth of the queue was not read within \
                {READING:?}"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        task::{Context, Poll},
    };

    use super::*;
    use eirs_platform::{
        clock::SystemClock,
        fault::{Fault, Faulty},
        queue::{QueueOptions, memory::MemoryQueues},
    };
    use futures::task::noop_waker;

    fn done(busy_s: f64) -> Done<'static> {
        Done { worker: "w", took_s: busy_s, busy_s, ago_s: 0.0 }
    }

    fn admission(max_backlog: u64) -> Arc<Admission> {
        Arc::new(Admission::new(max_backlog, "/nowhere/status.json".into(), Arc::new(SystemClock)))
    }

    #[tokio::test(start_paused = true)]
    async fn the_depth_is_read_whenever_the_client_disconnects() {
        for polls in 0..4 {
            let queues = MemoryQueues::new(Arc::new(SystemClock));
            let queue = queues.open("q", QueueOptions::default());
            queue.send(vec!["x".into(); 3]).await.unwrap();
            let slow = Arc::new(Faulty::new(queue.clone()));
            slow.next("depth", Fault::Delay(Duration::from_secs(3)));
            let slow: SharedQueue = slow;
            let admission = admission(3);
            let mut left = Box::pin(admission.refresh("m", &slow));
            for _ in 0..polls {
                assert_eq!(left.as_mut().poll(&mut Context::from_waker(&noop_waker())), Poll::Pending);
                tokio::task::yield_now().await;
            }
            drop(left);
            let began = Instant::now();
            while admission.admit("m").is_ok() {
                admission.given_up("m");
                admission.refresh("m", &slow).await;
                tokio::time::advance(Duration::from_millis(10)).await;
                assert!(
                    began.elapsed() < Duration::from_secs(6),
                    "after {polls} polls the depth is never read"
                );
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_has_a_line_only_if_others_are_before_it() {
        let admission = admission(1000);
        admission.admit("m").unwrap();
        assert_eq!(admission.line("m"), Duration::ZERO);
        // The time of a job is not known yet.
        admission.admit("m").unwrap();
        assert!(admission.line("m") >= Duration::from_millis(100), "{:?}", admission.line("m"));
        tokio::time::advance(Duration::from_secs(1)).await;
        admission.ended("m", Some(done(1.0)));
        (0..30).for_each(|_| _ = admission.admit("m").unwrap());
        assert!(admission.line("m") >= Duration::from_secs(20), "{:?}", admission.line("m"));
        assert_eq!(admission.line("other"), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn the_backlog_is_the_depth_of_the_queue_and_the_jobs_sent_since() {
        let queues = MemoryQueues::new(Arc::new(SystemClock));
        let queue = queues.open("q", QueueOptions::default());
        let admission = admission(3);
        for _ in 0..3 {
            assert!(admission.admit("m").is_ok());
        }
        assert_eq!(admission.admit("m").unwrap_err(), 1, "no job has ended yet: an estimate");
        admission.ended("m", Some(done(1.0)));
        assert!(admission.admit("m").is_ok());
        admission.ended("m", Some(done(1.0)));
        queue.send(vec!["of another host".into(); 3]).await.unwrap();
        admission.refresh("m", &queue).await;
        assert!(admission.admit("m").is_err(), "other hosts sent as well");
    }

    #[tokio::test(start_paused = true)]
    async fn an_estimate_never_grows_while_the_line_before_the_job_gets_shorter() {
        let admission = admission(1000);
        admission.admit("m").unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        admission.ended("m", Some(done(1.0)));
        let mut jobs: Vec<_> = (0..30).map(|_| admission.admit("m").unwrap()).collect();
        let mut said = jobs.last_mut().map(|last| admission.eta_s("m", Some(last))).unwrap();
        assert!((24.0..=45.0).contains(&said), "{said}");
        for n in 0..29 {
            // Each takes longer than the one before.
            tokio::time::advance(Duration::from_millis(800 + n * 40)).await;
            admission.ended("m", Some(done(1.0)));
            let now = jobs.last_mut().map(|last| admission.eta_s("m", Some(last))).unwrap();
            assert!(now <= said, "{now} after {said}");
            said = now;
        }
        assert!(said <= 3.0, "{said}");
    }
}
