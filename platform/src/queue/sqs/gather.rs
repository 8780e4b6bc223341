//! Decides when a call starts, and with which entries. SQS bills and throttles calls, and takes up
//! to ten entries in one; but a caller waits for most entries. So an entry that arrives while no
//! call is in progress starts one at once, and the entries that arrive during it share the next
//! one.
//!
//! That next call starts when it is full, or else a quarter of the usual duration of a call after
//! the last one began. So no entry takes much more than a quarter longer than in a call of its own,
//! and at most five calls that are not full are in progress, at any load. A longer wait (`linger`)
//! saves calls and costs time; docs/AWS.md compares both.
//!
//! An entry may be able to wait longer (its patience). Of the entries of a call, the shortest
//! patience counts.

use std::{collections::VecDeque, time::Duration};

use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::BATCH;

/// "The maximum total payload size (the sum of the individual lengths of all of the batched
/// messages)" is 1 MiB (SQS API reference, SendMessageBatch, read on 2026-11-29).
const CALL_BYTES: usize = 1024 * 1024;
/// Maximum number of concurrent calls for each queue and operation. Full calls of 10 ms carry
/// 16,000 entries per second.
const CALLS: usize = 16;
/// Maximum wait for other entries, if calls take long because SQS has trouble.
const LONGEST_QUARTER: Duration = Duration::from_millis(25);
/// The weight of the latest call in the usual duration of a call.
const WEIGHT: f64 = 0.2;

/// Carries out the received entries in calls, until all senders are dropped and everything is done.
/// `carry_out` returns the duration of the call, or `None` if that would be misleading, such as
/// after a failure.
pub(super) async fn gather<T, F>(
    mut received: mpsc::UnboundedReceiver<Vec<T>>,
    linger: Duration,
    size: impl Fn(&T) -> usize,
    patience: impl Fn(&T) -> Duration,
    carry_out: impl Fn(Vec<T>) -> F,
) where
    F: Future<Output = Option<Duration>> + Send + 'static,
{
    let (mut waiting, mut arrived) = (VecDeque::<Waiting<T>>::new(), Vec::new());
    let size = |waiting: &Waiting<T>| size(&waiting.entry);
    let (mut calls, mut usual, mut open) = (JoinSet::new(), Usual::default(), true);
    // When the next call starts if it is not full.
    let (mut began, mut due) = (Instant::now(), Instant::now());
    while open || !waiting.is_empty() || !calls.is_empty() {
        let starts = due.max(soonest(&waiting).unwrap_or(due));
        tokio::select! {
            count = received.recv_many(&mut arrived, CALLS * BATCH), if open => {
                open = count > 0;
                if waiting.is_empty() {
                    let alone = calls.is_empty();
                    due = if alone { Instant::now() } else { began + usual.quarter().max(linger) };
                }
                let now = Instant::now();
                let entries = arrived.drain(..).flatten();
                waiting.extend(entries.map(|entry| Waiting { until: now + patience(&entry), entry }));
            }
            Some(ended) = calls.join_next() => {
                if let Ok(Some(took)) = ended {
                    usual.note(took);
                }
            }
            () = sleep_until(starts), if !waiting.is_empty() && calls.len() < CALLS => {}
        }
        while calls.len() < CALLS {
            let (count, is_full) = next(&waiting, size);
            let is_due = soonest(&waiting).is_some_and(|until| due.max(until) <= Instant::now());
            if count == 0 || !(is_full || is_due || !open) {
                break;
            }
            calls.spawn(carry_out(waiting.drain(..count).map(|waiting| waiting.entry).collect()));
            began = Instant::now();
            due = began + usual.quarter().max(linger);
        }
    }
}

struct Waiting<T> {
    entry: T,
    until: Instant,
}

/// Returns the time until which all entries of the next call can wait.
fn soonest<T>(waiting: &VecDeque<Waiting<T>>) -> Option<Instant> {
    waiting.iter().take(BATCH).map(|waiting| waiting.until).min()
}

/// Returns the number of waiting entries that the next call takes, and whether it is full. An entry
/// that is too large by itself is sent alone, because the error of SQS explains it best.
fn next<T>(waiting: &VecDeque<T>, size: impl Fn(&T) -> usize) -> (usize, bool) {
    let (mut count, mut bytes) = (0, 0);
    for entry in waiting.iter().take(BATCH) {
        bytes += size(entry);
        if count > 0 && bytes > CALL_BYTES {
            return (count, true);
        }
        count += 1;
    }
    (count, count == BATCH)
}

/// The usual duration of a call.
#[derive(Debug, Default)]
struct Usual(Option<Duration>);

impl Usual {
    fn note(&mut self, took: Duration) {
        let before = self.0.unwrap_or(took);
        self.0 = Some(before.mul_f64(1.0 - WEIGHT) + took.mul_f64(WEIGHT));
    }

    /// Zero before the first call, whose duration is not known.
    fn quarter(&self) -> Duration {
        self.0.map_or(Duration::ZERO, |usual| usual / 4).min(LONGEST_QUARTER)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use futures::future::join_all;
    use proptest::prelude::*;
    use tokio::sync::oneshot;

    use super::*;

    /// The duration of a call in these tests.
    const CALL: Duration = Duration::from_millis(10);

    /// The size of an entry, its patience and its completion.
    type Entry = (usize, Duration, oneshot::Sender<()>);

    /// A gatherer whose calls take [`CALL`], and the number of entries in each of them.
    #[derive(Clone)]
    struct Line {
        entries: mpsc::UnboundedSender<Vec<Entry>>,
        calls: Arc<Mutex<Vec<usize>>>,
        under_way: Arc<Mutex<(usize, usize)>>,
    }

    impl Line {
        fn new(linger: Duration) -> Self {
            let (entries, received) = mpsc::unbounded_channel();
            let line = Self { entries, calls: Arc::default(), under_way: Arc::default() };
            let (calls, under_way) = (line.calls.clone(), line.under_way.clone());
            let carry_out = move |batch: Vec<Entry>| {
                let (calls, under_way) = (calls.clone(), under_way.clone());
                async move {
                    calls.lock().unwrap().push(batch.len());
                    {
                        let (now, most) = &mut *under_way.lock().unwrap();
                        *now += 1;
                        *most = (*most).max(*now);
                    }
                    tokio::time::sleep(CALL).await;
                    under_way.lock().unwrap().0 -= 1;
                    batch.into_iter().for_each(|(.., done)| _ = done.send(()));
                    Some(CALL)
                }
            };
            let patience = |(_, patience, _): &Entry| *patience;
            tokio::spawn(gather(received, linger, |(bytes, ..): &Entry| *bytes, patience, carry_out));
            line
        }

        /// Adds entries of these sizes together; returns the time until all are carried out.
        async fn add(&self, sizes: &[usize]) -> Duration {
            self.add_within(sizes, Duration::ZERO).await
        }

        async fn add_within(&self, sizes: &[usize], patience: Duration) -> Duration {
            let began = Instant::now();
            let (entries, done): (Vec<_>, Vec<_>) = sizes
                .iter()
                .map(|bytes| {
                    let (done, answer) = oneshot::channel();
                    ((*bytes, patience, done), answer)
                })
                .unzip();
            self.entries.send(entries).unwrap_or_else(|_| panic!("it gathers"));
            join_all(done).await.into_iter().for_each(|answer| answer.expect("an answer"));
            began.elapsed()
        }

        fn calls(&self) -> Vec<usize> {
            self.calls.lock().unwrap().clone()
        }
    }

    /// Returns the median time of an entry, and the entries per call, with clients that each send
    /// one entry after the other.
    async fn clients(line: &Line, clients: u64) -> (Duration, f64) {
        let client = async |number: u64| {
            let mut took = Vec::new();
            // Pause for a different time in each round and client, as real clients do.
            for round in 0..200_u64 {
                tokio::time::sleep(Duration::from_micros((number * 7919 + round * 104_729) % 9000)).await;
                took.push(line.add(&[100]).await);
            }
            took
        };
        let mut took = join_all((0..clients).map(client)).await.concat();
        took.sort_unstable();
        (took[took.len() / 2], took.len() as f64 / line.calls().len() as f64)
    }

    #[tokio::test(start_paused = true)]
    async fn the_median_entry_takes_at_most_half_as_long_again_in_shared_calls() {
        let (alone, _) = clients(&Line::new(Duration::ZERO), 1).await;
        assert!(alone <= CALL + Duration::from_millis(1), "{alone:?}");
        let mut shared = Vec::new();
        for count in [4, 16, 64, 128] {
            let (median, entries) = clients(&Line::new(Duration::ZERO), count).await;
            assert!(median <= alone.mul_f64(1.5), "{count} clients: {median:?}, alone {alone:?}");
            shared.push(entries);
        }
        assert!(shared.is_sorted() && shared[3] > 8.0, "more clients share a call better: {shared:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_sequential_sender_never_lingers() {
        let line = Line::new(Duration::from_millis(100));
        for _ in 0..20 {
            assert!(line.add(&[1]).await <= CALL + Duration::from_millis(1));
        }
        assert_eq!(line.calls(), [1; 20]);
    }

    #[tokio::test(start_paused = true)]
    async fn entries_that_arrive_during_a_call_share_the_next_one_after_the_linger() {
        let line = Line::new(Duration::from_millis(100));
        let entry = async |at: u64| {
            tokio::time::sleep(Duration::from_millis(at)).await;
            line.add(&[1]).await
        };
        let took = join_all([0, 5, 30, 60, 90].map(entry)).await;
        assert_eq!(line.calls(), [1, 4]);
        assert!(took[1] >= Duration::from_millis(100) && took[4] <= Duration::from_millis(25), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn patient_entries_share_a_call_even_if_none_is_in_progress() {
        let line = Line::new(Duration::ZERO);
        let patience = Duration::from_millis(50);
        let entry = async |at: u64| {
            tokio::time::sleep(Duration::from_millis(at)).await;
            line.add_within(&[1], patience).await
        };
        let took = join_all([0, 10, 20, 45].map(entry)).await;
        assert_eq!(line.calls(), [4]);
        assert!(took.iter().all(|took| *took <= patience + CALL + Duration::from_millis(1)), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn no_entry_waits_beyond_its_own_patience() {
        let line = Line::new(Duration::ZERO);
        let hurried = async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            line.add(&[1]).await
        };
        let (patient, hurried) = tokio::join!(line.add_within(&[1], Duration::from_secs(1)), hurried);
        assert!(hurried <= CALL + Duration::from_millis(1), "{hurried:?}");
        assert!(patient <= 2 * CALL, "it shares the call: {patient:?}");
        assert_eq!(line.calls(), [2]);
        let full = line.add_within(&[1; 10], Duration::from_secs(1)).await;
        assert!(full <= CALL + Duration::from_millis(1), "a full call starts at once: {full:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn full_calls_start_at_once_but_at_most_sixteen_are_in_progress() {
        let line = Line::new(Duration::from_secs(10));
        let took = line.add(&[1; 400]).await;
        assert_eq!(line.calls(), [10; 40]);
        assert_eq!(line.under_way.lock().unwrap().1, CALLS);
        assert!(took < CALL * 4, "three rounds: {took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_exceeds_the_size_limit_only_for_a_single_oversized_entry() {
        let line = Line::new(Duration::ZERO);
        line.add(&[CALL_BYTES / 2, CALL_BYTES / 2, 1, CALL_BYTES + 1, CALL_BYTES, 1]).await;
        assert_eq!(line.calls(), [2, 1, 1, 1, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_entries_are_carried_out_at_once_when_the_last_sender_is_dropped() {
        let line = Line::new(Duration::from_secs(3600));
        let calls = line.calls.clone();
        let (done, answers): (Vec<_>, Vec<_>) = (0..3).map(|_| oneshot::channel()).unzip();
        for done in done {
            line.entries.send(vec![(1, Duration::ZERO, done)]).unwrap_or_else(|_| panic!("it gathers"));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(line);
        let began = Instant::now();
        join_all(answers).await.into_iter().for_each(|answer| answer.expect("carried out"));
        assert!(began.elapsed() <= 2 * CALL);
        assert_eq!(*calls.lock().unwrap(), [1, 2]);
    }

    proptest! {
        #[test]
        fn every_entry_is_carried_out_once_in_calls_of_at_most_ten(
            groups in prop::collection::vec((0_u64..40, 1_usize..30, 0_u64..40), 1..20),
            linger in 0_u64..50,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            runtime.unwrap().block_on(async {
                let line = Line::new(Duration::from_millis(linger));
                let group = async |(at, count, patience): (u64, usize, u64)| {
                    tokio::time::sleep(Duration::from_millis(at)).await;
                    line.add_within(&vec![1; count], Duration::from_millis(patience)).await
                };
                let all: usize = groups.iter().map(|(_, count, _)| count).sum();
                join_all(groups.into_iter().map(group)).await;
                let calls = line.calls();
                assert!(calls.iter().all(|count| (1..=BATCH).contains(count)), "{calls:?}");
                assert_eq!(calls.iter().sum::<usize>(), all);
            });
        }
    }
}
