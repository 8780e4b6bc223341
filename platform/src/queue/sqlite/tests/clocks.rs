//! Regardless of the wall clock and of the times in the file, no message is lost or hidden, and the
//! oldest comes first.

use std::sync::Mutex;

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use rusqlite::Connection;

use super::*;
use crate::{
    clock::Clock,
    queue::model::{self, Model, Step},
};

/// A clock that is set by hand.
#[derive(Debug, Default)]
struct HandSet(Mutex<TimeDelta>);

impl HandSet {
    fn jump(&self, days: i64) {
        *self.0.lock().unwrap() += TimeDelta::days(days);
    }
}

impl Clock for HandSet {
    fn now(&self) -> DateTime<Utc> {
        Utc::now() + *self.0.lock().unwrap()
    }
}

async fn jobs(folder: &Path, clock: &Arc<HandSet>) -> SharedQueue {
    SqliteQueues::open(folder, false, clock.clone())
        .unwrap()
        .queue("jobs", QueueOptions::default())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_jump_of_the_wall_clock_changes_neither_ages_nor_leases() {
    for days in [7, -7] {
        let (folder, clock) = (tempfile::tempdir().unwrap(), Arc::new(HandSet::default()));
        let queue = jobs(folder.path(), &clock).await;
        queue.send(vec!["a".into(), "b".into()]).await.unwrap();
        let held = queue.receive(1, Duration::ZERO).await.unwrap();
        clock.jump(days);
        // Also in a process that starts after the jump.
        let queue = jobs(folder.path(), &clock).await;
        assert_eq!(queue.depth().await.unwrap(), Depth { visible: 1, in_flight: 1 });
        assert!(queue.extend(&[held[0].receipt.clone()]).await.unwrap().is_empty(), "the lease is held");
        assert_eq!(queue.receive(10, Duration::ZERO).await.unwrap()[0].body, "b");
    }
}

#[tokio::test]
async fn a_reboot_ends_leases_and_keeps_ages() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Arc::new(HandSet::default()));
    let queue = jobs(folder.path(), &clock).await;
    queue.send(vec!["a".into()]).await.unwrap();
    queue.receive(1, Duration::ZERO).await.unwrap();
    drop(queue);
    let file = Connection::open(folder.path().join("queue.db")).unwrap();
    file.execute("UPDATE time SET boot = 'another', base = base - 1000000000000", []).unwrap();
    clock.jump(365);
    let queue = jobs(folder.path(), &clock).await;
    assert_eq!(queue.depth().await.unwrap(), Depth { visible: 1, in_flight: 0 });
    let again = queue.receive(1, Duration::ZERO).await.unwrap();
    assert_eq!((again.len(), again[0].receives), (1, 2));
}

#[tokio::test]
async fn a_lease_that_ends_in_days_counts_as_expired() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Arc::new(HandSet::default()));
    let queue = jobs(folder.path(), &clock).await;
    queue.send(vec!["a".into()]).await.unwrap();
    queue.receive(1, Duration::ZERO).await.unwrap();
    let file = Connection::open(folder.path().join("queue.db")).unwrap();
    file.execute("UPDATE messages SET visible_from = visible_from + 5 * 86400000", []).unwrap();
    assert_eq!(queue.depth().await.unwrap(), Depth { visible: 1, in_flight: 0 });
    assert_eq!(queue.receive(1, Duration::from_secs(20)).await.unwrap().len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_oldest_visible_message_comes_first_and_none_is_lost(steps in model::steps(9)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        runtime.block_on(follow(folder.path(), steps))?;
    }
}

/// Runs the steps on the statements and the model, at simulated times.
async fn follow(folder: &Path, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let writer = Writer::open(folder, false, 0).unwrap();
    let table = writer.run("opening", |batch| table::table(batch, "q")).await.unwrap();
    let (mut model, mut now) = (Model::default(), Now { now: 1 << 41, visibility: model::VISIBILITY });
    for step in steps {
        match step {
            Step::Send(count) => {
                let bodies = model.send(count);
                let send = move |batch: &mut Batch<'_>| statements::send(batch, table, &bodies, now.now, 0);
                writer.run("sending", send).await.unwrap();
            }
            Step::Receive(max) => {
                let receive = move |batch: &mut Batch<'_>| {
                    let any = statements::anything_visible(batch.reader(), table, now)?;
                    Ok((any, statements::lease(batch, table, max, now)?))
                };
                let (any, leased) = writer.run("receiving", receive).await.unwrap();
                prop_assert_eq!(any, !leased.is_empty());
                model.received(max, now.now, leased)?;
            }
            Step::Release(index) => {
                let receipts: Vec<_> = model.release(index).into_iter().collect();
                let release =
                    move |batch: &mut Batch<'_>| statements::extend(batch, &receipts, statements::AT_ONCE);
                prop_assert!(writer.run("releasing", release).await.unwrap().is_empty());
            }
            Step::Ack(index) => {
                let receipts: Vec<_> = model.ack(index).into_iter().collect();
                let ack = move |batch: &mut Batch<'_>| statements::ack(batch, table, &receipts);
                writer.run("acking", ack).await.unwrap();
            }
            Step::Pass(time) => now.now = (now.now + time).max(1),
        }
        let depth = move |batch: &mut Batch<'_>| statements::depth(batch.reader(), table, now);
        prop_assert_eq!(writer.run("counting", depth).await.unwrap(), model.depth(now.now));
    }
    Ok(())
}
