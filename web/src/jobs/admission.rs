//! What this host knows about the load: how long the line of each model is, and how fast it moves.
//! The limit on the backlog and every `Retry-After` come from here.
//!
//! The depth of a queue is read by a task of its own, which no client takes with it when it leaves;
//! a caller waits for it a moment, so that the limit holds from the first upload on, and uses the
//! previous value if the queue is slow.

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

/// A depth that is older is read again when somebody asks.
const FRESH: Duration = Duration::from_secs(1);
/// How long somebody waits for the depth.
const PATIENCE: Duration = Duration::from_millis(500);
/// A queue that does not say its depth in this time is asked again.
const READING: Duration = Duration::from_secs(30);
/// Before it is seen how many jobs bring another instance.
const JOBS_EACH: f64 = 10.0;
/// The controller sees a line within this time; the start itself comes after it.
const SEES_S: f64 = 5.0;
/// What is said is so many times what is expected: who comes a moment too early has to come again.
const LATER: f64 = 1.08;
/// What is guessed at most of a backlog that is full, where nothing is known of how long a job
/// takes.
const LONGEST_GUESS_OF_ALL_S: u64 = 300;

/// The lines of all models.
#[derive(Debug)]
pub(crate) struct Admission {
    max_backlog: u64,
    /// What the controller writes.
    status_file: PathBuf,
    clock: SharedClock,
    models: Mutex<BTreeMap<String, Model>>,
}

#[derive(Debug, Default)]
struct Model {
    line: Line,
    read_at: Option<Instant>,
    /// The reading under way. Cancelled when it is over, however it ends.
    being_read: Option<CancellationToken>,
    /// How many jobs of the line bring one more instance, as far as it was seen.
    jobs_each: Option<f64>,
    /// Since when there has been a line, and how long it was at most.
    stretch: Option<(Instant, f64)>,
}

impl Model {
    /// What was read of the line and of those who serve it.
    fn saw(&mut self, fleet: Option<Fleet>) {
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
            let had_time = since.elapsed().as_secs_f64() > growth.delay_s + SEES_S;
            let is_other = serve > expected || had_time && serve < expected.min(growth.most);
            if serve > 0.0 && *peak > 0.0 && is_other {
                self.jobs_each = Some(each);
            }
            growth.jobs_each = self.jobs_each.unwrap_or(JOBS_EACH);
        }
        self.line.served_by(now, Some(fleet));
    }
}

/// A job's place in its line, and what was said of it last.
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

    /// Whether one more job may be sent; `Err` holds the seconds after which to try again. Counts
    /// the job if so, until [`ended`](Self::ended).
    pub(crate) fn admit(&self, model: &str) -> Result<Announced, u64> {
        let mut models = self.lock();
        let line = &mut models.entry(model.to_owned()).or_default().line;
        if line.backlog() < self.max_backlog {
            return Ok(Announced { place: line.join(Instant::now()), last: None });
        }
        // When a tenth of it will be done: not all who are refused come back for the first place.
        let all = line
            .remaining(Instant::now(), None)
            .unwrap_or(Duration::from_secs(LONGEST_GUESS_OF_ALL_S.min(line.backlog())));
        Err(in_seconds(all / 10))
    }

    /// A job that was admitted is over; by whom it was done, where that says something of the next.
    pub(crate) fn ended(&self, model: &str, done: Option<Done<'_>>) {
        if let Some(model) = self.lock().get_mut(model) {
            model.line.end(Instant::now(), done);
        }
    }

    /// A job that was admitted was not sent, or nobody waits for it any more.
    pub(crate) fn given_up(&self, model: &str) {
        if let Some(model) = self.lock().get_mut(model) {
            model.line.leave(Instant::now());
        }
    }

    /// In how many seconds the job at this place will be answered; without one, a job that came
    /// now. While the line before a job gets shorter, what is said never gets longer.
    pub(crate) fn eta_s(&self, model: &str, announced: Option<&mut Announced>) -> f64 {
        let mut models = self.lock();
        let line = &mut models.entry(model.to_owned()).or_default().line;
        let place = announced.as_ref().map(|announced| announced.place);
        let position = line.position(place);
        let Some(remaining) = line.remaining(Instant::now(), place) else {
            return line.guess_s(Instant::now(), position);
        };
        let mut seconds = remaining.as_secs_f64() * LATER;
        if let Some(announced) = announced {
            if let Some((before, said)) = announced.last
                // Where nothing moves, it may turn out to take much longer, and is not corrected by
                // a little.
                && (position < before || position == before && seconds < said * 1.5 + 1.0)
            {
                seconds = seconds.min(said);
            }
            announced.last = Some((position, seconds));
        }
        seconds
    }

    /// How long the line takes that a job joins, by a guess where no job was seen yet; zero where
    /// it is alone.
    pub(crate) fn line(&self, model: &str) -> Duration {
        let (models, now) = (self.lock(), Instant::now());
        let Some(line) = models.get(model).map(|model| &model.line).filter(|line| line.backlog() > 1) else {
            return Duration::ZERO;
        };
        let guess = || Duration::try_from_secs_f64(line.guess_s(now, line.position(None)));
        line.remaining(now, None).or_else(|| guess().ok()).unwrap_or_default()
    }

    /// Sees to it that the depth of a queue is read, if the last reading is old, and waits for that
    /// a moment.
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
        state.saw(fleet);
        match depth {
            Ok(Ok(depth)) => state.line.count(Instant::now(), depth.backlog(), depth.in_flight, own),
            // The old reading and what was sent since are the better guess.
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
    async fn a_client_that_leaves_at_any_moment_keeps_nobody_from_counting() {
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
    async fn a_job_that_is_alone_has_no_line_and_one_after_others_has_theirs() {
        let admission = admission(1000);
        admission.admit("m").unwrap();
        assert_eq!(admission.line("m"), Duration::ZERO);
        // How long a job takes is not known yet.
        admission.admit("m").unwrap();
        assert!(admission.line("m") >= Duration::from_millis(100), "{:?}", admission.line("m"));
        tokio::time::advance(Duration::from_secs(1)).await;
        admission.ended("m", Some(done(1.0)));
        (0..30).for_each(|_| _ = admission.admit("m").unwrap());
        assert!(admission.line("m") >= Duration::from_secs(20), "{:?}", admission.line("m"));
        assert_eq!(admission.line("other"), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn the_backlog_is_what_the_queue_holds_and_what_was_sent_and_has_not_ended() {
        let queues = MemoryQueues::new(Arc::new(SystemClock));
        let queue = queues.open("q", QueueOptions::default());
        let admission = admission(3);
        for _ in 0..3 {
            assert!(admission.admit("m").is_ok());
        }
        assert_eq!(admission.admit("m").unwrap_err(), 1, "nothing was answered yet: a guess");
        admission.ended("m", Some(done(1.0)));
        assert!(admission.admit("m").is_ok());
        admission.ended("m", Some(done(1.0)));
        queue.send(vec!["of another host".into(); 3]).await.unwrap();
        admission.refresh("m", &queue).await;
        assert!(admission.admit("m").is_err(), "others sent as well");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_said_of_a_job_never_gets_longer_while_the_line_before_it_gets_shorter() {
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
