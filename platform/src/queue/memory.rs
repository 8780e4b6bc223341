//! A queue in the memory of this process: the fast reference for tests, with the same contract as
//! the others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Delivery, Depth, Queue, QueueOptions, Receipt, SharedQueue};
use crate::{clock::SharedClock, error::Result};

/// Queues by name, which dead letters need. Clones share everything.
#[derive(Debug, Clone)]
pub struct MemoryQueues {
    clock: SharedClock,
    queues: Arc<Mutex<HashMap<String, State>>>,
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    messages: Vec<Message>,
}

#[derive(Debug)]
struct Message {
    number: u64,
    body: Bytes,
    sent_at: DateTime<Utc>,
    /// When it was added to this queue.
    since: Instant,
    visible_from: Instant,
    receives: u32,
}

impl Message {
    fn receipt(&self) -> Receipt {
        Receipt(format!("{}-{}", self.number, self.receives))
    }
}

impl MemoryQueues {
    /// Creates an empty set; a queue exists once it is used.
    pub fn new(clock: SharedClock) -> Self {
        Self { clock, queues: Arc::default(), changed: Arc::default() }
    }

    /// Returns the queue with this name.
    pub fn open(&self, name: &str, options: QueueOptions) -> SharedQueue {
        Arc::new(MemoryQueue { name: name.to_owned(), options, all: self.clone() })
    }

    /// Returns the names of all queues, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.lock().keys().cloned().collect();
        names.sort_unstable();
        names
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, State>> {
        self.queues.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct MemoryQueue {
    name: String,
    options: QueueOptions,
    all: MemoryQueues,
}

impl MemoryQueue {
    /// Moves old messages away, then calls `f` with this queue's messages.
    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let now = Instant::now();
        let mut queues = self.all.lock();
        let state = queues.entry(self.name.clone()).or_default();
        let is_old = |message: &mut Message| {
            message.visible_from <= now && now.duration_since(message.since) >= self.options.retention
        };
        let old: Vec<_> = state.messages.extract_if(.., is_old).collect();
        let done = f(state);
        drop(queues);
        if let Some(rule) = &self.options.dead_letters {
            self.bury(&rule.queue, old);
        }
        done
    }

    fn bury(&self, queue: &str, dead: Vec<Message>) {
        // Only if there are any, because a push wakes all receivers, and they look again.
        if !dead.is_empty() {
            self.push(queue, dead.into_iter().map(|message| (message.body, message.sent_at)));
        }
    }

    fn push(&self, queue: &str, bodies: impl IntoIterator<Item = (Bytes, DateTime<Utc>)>) {
        let now = Instant::now();
        let mut queues = self.all.lock();
        let state = queues.entry(queue.to_owned()).or_default();
        for (body, sent_at) in bodies {
            state.next += 1;
            let number = state.next;
            state.messages.push(Message {
                number,
                body,
                sent_at,
                since: now,
                visible_from: now,
                receives: 0,
            });
        }
        drop(queues);
        self.all.changed.notify_waiters();
    }

    /// Leases visible messages, after moving dead ones away.
    fn lease(&self, max: usize) -> Vec<Delivery> {
        let now = Instant::now();
        let dead_after = self.options.dead_letters.as_ref().map_or(u32::MAX, |dead| dead.max_receives);
        let (dead, leased) = self.with(|state| {
            let (dead, alive) =
                std::mem::take(&mut state.messages).into_iter().partition::<Vec<_>, _>(|message| {
                    message.visible_from <= now && message.receives >= dead_after
                });
            state.messages = alive;
            let visible = state.messages.iter_mut().filter(|message| message.visible_from <= now).take(max);
            let lease = |message: &mut Message| {
                message.receives += 1;
                message.visible_from = now + self.options.visibility;
                Delivery {
                    body: message.body.clone(),
                    receipt: message.receipt(),
                    receives: message.receives,
                    sent_at: message.sent_at,
                }
            };
            (dead, visible.map(lease).collect())
        });
        if let Some(rule) = &self.options.dead_letters {
            self.bury(&rule.queue, dead);
        }
        leased
    }

    fn next_visible(&self) -> Option<Instant> {
        self.with(|state| state.messages.iter().map(|message| message.visible_from).min())
    }
}

#[async_trait]
impl Queue for MemoryQueue {
    async fn send(&self, bodies: Vec<Bytes>) -> Result<()> {
        let now = self.all.clock.now();
        self.push(&self.name, bodies.into_iter().map(|body| (body, now)));
        Ok(())
    }

    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        self.receive_unless(&CancellationToken::new(), max, wait).await
    }

    async fn receive_unless(
        &self,
        stop: &CancellationToken,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Delivery>> {
        let deadline = Instant::now() + wait;
        loop {
            // Registered before the look, so that a message in between is not missed.
            let changed = self.all.changed.notified();
            let leased = self.lease(max);
            if !leased.is_empty() || Instant::now() >= deadline || stop.is_cancelled() {
                return Ok(leased);
            }
            let next_look = self.next_visible().map_or(deadline, |visible| visible.min(deadline));
            tokio::select! {
                () = changed => {}
                () = stop.cancelled() => {}
                () = tokio::time::sleep_until(next_look) => {}
            }
        }
    }

    async fn extend(&self, receipts: &[Receipt]) -> Result<Vec<Receipt>> {
        let visible_from = Instant::now() + self.options.visibility;
        Ok(self.with(|state| {
            let extend = |receipt: &&Receipt| {
                let held = state.messages.iter_mut().find(|message| message.receipt() == **receipt);
                held.map(|message| message.visible_from = visible_from).is_none()
            };
            receipts.iter().filter(extend).cloned().collect()
        }))
    }

    async fn ack(&self, receipts: &[Receipt]) -> Result<()> {
        self.with(|state| state.messages.retain(|message| !receipts.contains(&message.receipt())));
        Ok(())
    }

    async fn release(&self, receipts: &[Receipt]) -> Result<()> {
        let now = Instant::now();
        self.with(|state| {
            let held = state.messages.iter_mut().filter(|message| receipts.contains(&message.receipt()));
            held.for_each(|message| message.visible_from = now);
        });
        self.all.changed.notify_waiters();
        Ok(())
    }

    async fn depth(&self) -> Result<Depth> {
        let now = Instant::now();
        Ok(self.with(|state| {
            let visible = state.messages.iter().filter(|message| message.visible_from <= now).count() as u64;
            Depth { visible, in_flight: state.messages.len() as u64 - visible }
        }))
    }

    async fn purge(&self) -> Result<()> {
        self.with(|state| state.messages.clear());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        clock::SystemClock,
        queue::{
            contract,
            model::{self, Model, Step},
        },
    };

    #[tokio::test]
    async fn the_memory_queue_keeps_the_contract() {
        let queues = MemoryQueues::new(Arc::new(SystemClock));
        contract::suite(&|name, options| queues.open(name, options)).await;
        contract::suite_of_order_and_age(&|name, options| queues.open(name, options)).await;
    }

    proptest! {
        #[test]
        fn the_oldest_visible_message_comes_first_and_none_is_lost(steps in model::steps(0)) {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_time().start_paused(true).build().unwrap();
            runtime.block_on(follow(steps))?;
        }
    }

    /// Runs the steps on the queue and the model; time passes only by steps.
    async fn follow(steps: Vec<Step>) -> std::result::Result<(), TestCaseError> {
        let visibility = Duration::from_millis(model::VISIBILITY as u64);
        let queues = MemoryQueues::new(Arc::new(SystemClock));
        let queue = queues.open("q", QueueOptions { visibility, ..QueueOptions::default() });
        let (mut model, mut now) = (Model::default(), 1);
        for step in steps {
            match step {
                Step::Send(count) => queue.send(model.send(count)).await.unwrap(),
                Step::Receive(max) => {
                    let received = queue.receive(max, Duration::ZERO).await.unwrap();
                    model.received(max, now, received)?;
                }
                Step::Release(index) => {
                    let receipts: Vec<_> = model.release(index).into_iter().collect();
                    queue.release(&receipts).await.unwrap();
                }
                Step::Ack(index) => {
                    let receipts: Vec<_> = model.ack(index).into_iter().collect();
                    queue.ack(&receipts).await.unwrap();
                }
                Step::Pass(time) => {
                    now += time;
                    tokio::time::advance(Duration::from_millis(time as u64)).await;
                }
            }
            prop_assert_eq!(queue.depth().await.unwrap(), model.depth(now));
        }
        Ok(())
    }
}
