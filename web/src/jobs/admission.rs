//! What this host knows about the load: how long the queue is, and how fast answers come. The limit on the backlog and
//! every `Retry-After` come from here.
//!
//! The depth of a queue is read by a task of its own, which no client takes with it when it leaves; an upload waits for it a
//! moment, so that the limit holds from the first upload on, and goes by what was known before where the queue is slow.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use eirs_platform::queue::SharedQueue;
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A depth that is older is read again at the next upload.
const FRESH: Duration = Duration::from_secs(1);
/// How long an upload waits for the depth.
const PATIENCE: Duration = Duration::from_millis(500);
/// A queue that does not say its depth in this time is asked again.
const READING: Duration = Duration::from_secs(30);
/// Answers are counted over so long.
const WINDOW: Duration = Duration::from_secs(10);
/// Before anything was answered, a start from zero is what an upload waits for.
const GUESS_S: u64 = 5;
/// Nobody should be told to come back later than this: the fleet grows meanwhile.
const LONGEST_S: u64 = 300;

#[derive(Debug)]
pub(crate) struct Admission {
    max_backlog: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The backlog of each model when it was last read, what was sent since, and when it was read.
    backlogs: BTreeMap<String, Backlog>,
    /// Answers in the current window and the one before, and when the current one began.
    answers: (u64, u64),
    window_began: Option<Instant>,
}

#[derive(Debug, Default)]
struct Backlog {
    read: u64,
    sent_since: u64,
    read_at: Option<Instant>,
    /// The reading under way. Cancelled when it is over, however it ends.
    being_read: Option<CancellationToken>,
}

impl Admission {
    pub(crate) fn new(max_backlog: u64) -> Self {
        Self { max_backlog, inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one more job may be sent; `Err` holds the seconds after which to try again. Counts the job if so.
    pub(crate) fn admit(&self, model: &str) -> Result<(), u64> {
        let mut inner = self.lock();
        let backlog = inner.backlogs.entry(model.to_owned()).or_default();
        if backlog.read + backlog.sent_since >= self.max_backlog {
            drop(inner);
            return Err(self.retry_after_s(model));
        }
        backlog.sent_since += 1;
        Ok(())
    }

    /// Sees to it that the depth of a queue is read, if the last reading is old, and waits for that a moment.
    pub(crate) async fn refresh(self: &Arc<Self>, model: &str, queue: &SharedQueue) {
        let read = {
            let mut inner = self.lock();
            let backlog = inner.backlogs.entry(model.to_owned()).or_default();
            if backlog.read_at.is_some_and(|at| at.elapsed() < FRESH) {
                return;
            }
            let under_way = backlog.being_read.clone().filter(|read| !read.is_cancelled());
            under_way.unwrap_or_else(|| {
                let read = CancellationToken::new();
                backlog.being_read = Some(read.clone());
                let reading = self.clone().read(model.to_owned(), queue.clone(), read.clone().drop_guard());
                tokio::spawn(reading);
                read
            })
        };
        let _in_time = timeout(PATIENCE, read.cancelled()).await;
    }

    async fn read(self: Arc<Self>, model: String, queue: SharedQueue, _over: DropGuard) {
        let depth = timeout(READING, queue.depth()).await;
        let mut inner = self.lock();
        let backlog = inner.backlogs.entry(model.clone()).or_default();
        backlog.read_at = Some(Instant::now());
        match depth {
            Ok(Ok(depth)) => (backlog.read, backlog.sent_since) = (depth.backlog(), 0),
            // The old reading and what was sent since are the better guess.
            Ok(Err(error)) => tracing::warn!(model, %error, "the queue cannot be counted"),
            Err(_late) => tracing::warn!(model, "the queue did not say its depth in {READING:?}"),
        }
    }

    /// One job was answered.
    pub(crate) fn answered(&self) {
        let mut inner = self.lock();
        let now = Instant::now();
        match inner.window_began {
            Some(began) if now - began < WINDOW => inner.answers.0 += 1,
            Some(began) => {
                let before = if now - began < 2 * WINDOW { inner.answers.0 } else { 0 };
                (inner.answers, inner.window_began) = ((1, before), Some(now));
            }
            None => (inner.answers, inner.window_began) = ((1, 0), Some(now)),
        }
    }

    /// After how many seconds the backlog of now will be answered, if all goes on as it does.
    pub(crate) fn retry_after_s(&self, model: &str) -> u64 {
        let inner = self.lock();
        let backlog = inner.backlogs.get(model).map_or(0, |backlog| backlog.read + backlog.sent_since);
        let Some(began) = inner.window_began.filter(|began| began.elapsed() < 2 * WINDOW) else {
            return GUESS_S;
        };
        let (now, before) = inner.answers;
        let seconds = began.elapsed() + if before > 0 { WINDOW } else { Duration::from_secs(1) };
        let per_second = (now + before) as f64 / seconds.as_secs_f64();
        ((backlog as f64 / per_second).ceil() as u64).clamp(1, LONGEST_S)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        task::{Context, Poll},
    };

    use eirs_platform::{
        clock::SystemClock,
        fault::{Fault, Faulty},
        queue::{QueueOptions, memory::MemoryQueues},
    };
    use futures::task::noop_waker;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_leaves_at_any_moment_keeps_nobody_from_counting() {
        for polls in 0..4 {
            let queues = MemoryQueues::new(Arc::new(SystemClock));
            let queue = queues.open("q", QueueOptions::default());
            let slow = Arc::new(Faulty::new(queue.clone()));
            slow.next("depth", Fault::Delay(Duration::from_secs(3)));
            let slow: SharedQueue = slow;
            let admission = Arc::new(Admission::new(3));
            for _ in 0..3 {
                admission.admit("m").unwrap();
            }
            let mut left = Box::pin(admission.refresh("m", &slow));
            for _ in 0..polls {
                assert_eq!(left.as_mut().poll(&mut Context::from_waker(&noop_waker())), Poll::Pending);
                tokio::task::yield_now().await;
            }
            drop(left);
            let began = Instant::now();
            while admission.admit("m").is_err() {
                admission.refresh("m", &slow).await;
                tokio::time::advance(Duration::from_millis(10)).await;
                assert!(
                    began.elapsed() < Duration::from_secs(5),
                    "after {polls} polls the depth is never read"
                );
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_backlog_counts_what_was_sent_since_it_was_read() {
        let queues = MemoryQueues::new(Arc::new(SystemClock));
        let queue = queues.open("q", QueueOptions::default());
        let load = Arc::new(Admission::new(3));
        assert_eq!(load.admit("m"), Ok(()));
        assert_eq!(load.admit("m"), Ok(()));
        assert_eq!(load.admit("m"), Ok(()));
        assert_eq!(load.admit("m"), Err(GUESS_S), "nothing was answered yet: a guess");
        load.refresh("m", &queue).await;
        assert_eq!(load.admit("m"), Ok(()), "the queue is empty after all");
    }

    #[tokio::test(start_paused = true)]
    async fn the_estimate_is_the_backlog_over_the_rate_of_answers() {
        let queues = MemoryQueues::new(Arc::new(SystemClock));
        let queue = queues.open("q", QueueOptions::default());
        queue.send(vec!["x".into(); 100]).await.unwrap();
        let load = Arc::new(Admission::new(1000));
        load.refresh("m", &queue).await;
        for _ in 0..40 {
            load.answered();
            tokio::time::advance(Duration::from_millis(250)).await;
        }
        // About 4 a second.
        let seconds = load.retry_after_s("m");
        assert!((20..=35).contains(&seconds), "{seconds}");
    }
}
