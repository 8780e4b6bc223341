//! What this host knows about the load: how long the queue is, and how fast answers come. The limit on the backlog and
//! every `Retry-After` come from here.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use eirs_platform::queue::SharedQueue;
use tokio::time::Instant;

/// A depth that is older is read again at the next upload.
const FRESH: Duration = Duration::from_secs(1);
/// Answers are counted over so long.
const WINDOW: Duration = Duration::from_secs(10);
/// Before anything was answered, a start from zero is what an upload waits for.
const GUESS_S: u64 = 5;
/// Nobody should be told to come back later than this: the fleet grows meanwhile.
const LONGEST_S: u64 = 300;

#[derive(Debug)]
pub(crate) struct Load {
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

#[derive(Debug, Clone, Copy, Default)]
struct Backlog {
    read: u64,
    sent_since: u64,
    read_at: Option<Instant>,
    being_read: bool,
}

impl Load {
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

    /// Reads the depth of a queue if the last reading is old and nobody else is at it.
    pub(crate) async fn refresh(&self, model: &str, queue: &SharedQueue) {
        {
            let mut inner = self.lock();
            let backlog = inner.backlogs.entry(model.to_owned()).or_default();
            if backlog.being_read || backlog.read_at.is_some_and(|at| at.elapsed() < FRESH) {
                return;
            }
            backlog.being_read = true;
        }
        let depth = queue.depth().await;
        let mut inner = self.lock();
        let backlog = inner.backlogs.entry(model.to_owned()).or_default();
        backlog.being_read = false;
        backlog.read_at = Some(Instant::now());
        match depth {
            Ok(depth) => (backlog.read, backlog.sent_since) = (depth.backlog(), 0),
            // The old reading and what was sent since are the better guess.
            Err(error) => tracing::warn!(model, %error, "the queue cannot be counted"),
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
    use std::sync::Arc;

    use eirs_platform::{
        clock::SystemClock,
        queue::{QueueOptions, memory::MemoryQueues},
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_backlog_counts_what_was_sent_since_it_was_read() {
        let queues = MemoryQueues::new(Arc::new(SystemClock));
        let queue = queues.open("q", QueueOptions::default());
        let load = Load::new(3);
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
        let load = Load::new(1000);
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
