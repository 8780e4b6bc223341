//! Whatever the wall clock does, and whatever times the file has: nothing is lost, nothing is hidden, the oldest comes first.

use std::{collections::BTreeMap, sync::Mutex};

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use rusqlite::Connection;

use super::*;
use crate::clock::Clock;

/// A clock that is set by hand.
#[derive(Debug, Default)]
struct HandSet(Mutex<TimeDelta>);

impl HandSet {
    fn leap(&self, days: i64) {
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
async fn no_leap_of_the_wall_clock_makes_a_job_old_or_ends_or_prolongs_a_lease() {
    for days in [7, -7] {
        let (folder, clock) = (tempfile::tempdir().unwrap(), Arc::new(HandSet::default()));
        let queue = jobs(folder.path(), &clock).await;
        queue.send(vec!["a".into(), "b".into()]).await.unwrap();
        let held = queue.receive(1, Duration::ZERO).await.unwrap();
        clock.leap(days);
        // Also for a process that starts after the leap.
        let queue = jobs(folder.path(), &clock).await;
        assert_eq!(queue.depth().await.unwrap(), Depth { visible: 1, in_flight: 1 });
        assert!(queue.extend(&[held[0].receipt.clone()]).await.unwrap().is_empty(), "the lease is held");
        assert_eq!(queue.receive(10, Duration::ZERO).await.unwrap()[0].body, "b");
    }
}

#[tokio::test]
async fn after_a_restart_of_the_machine_leases_are_over_and_ages_go_on() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Arc::new(HandSet::default()));
    let queue = jobs(folder.path(), &clock).await;
    queue.send(vec!["a".into()]).await.unwrap();
    queue.receive(1, Duration::ZERO).await.unwrap();
    drop(queue);
    let file = Connection::open(folder.path().join("queue.db")).unwrap();
    file.execute("UPDATE time SET boot = 'another', base = base - 1000000000000", []).unwrap();
    clock.leap(365);
    let queue = jobs(folder.path(), &clock).await;
    assert_eq!(queue.depth().await.unwrap(), Depth { visible: 1, in_flight: 0 });
    let again = queue.receive(1, Duration::ZERO).await.unwrap();
    assert_eq!((again.len(), again[0].receives), (1, 2));
}

#[tokio::test]
async fn a_lease_that_ends_in_days_is_over() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Arc::new(HandSet::default()));
    let queue = jobs(folder.path(), &clock).await;
    queue.send(vec!["a".into()]).await.unwrap();
    queue.receive(1, Duration::ZERO).await.unwrap();
    let file = Connection::open(folder.path().join("queue.db")).unwrap();
    file.execute("UPDATE messages SET visible_from = visible_from + 5 * 86400000", []).unwrap();
    assert_eq!(queue.depth().await.unwrap(), Depth { visible: 1, in_flight: 0 });
    assert_eq!(queue.receive(1, Duration::from_secs(20)).await.unwrap().len(), 1);
}

#[derive(Debug, Clone)]
enum Step {
    Send(u8),
    Receive(u8),
    Release(prop::sample::Index),
    Ack(prop::sample::Index),
    /// Milliseconds pass, or the time leaps.
    Pass(i64),
}

fn step() -> impl Strategy<Value = Step> {
    let day = 86_400_000_i64;
    prop_oneof![
        (1u8..4).prop_map(Step::Send),
        (1u8..4).prop_map(Step::Receive),
        any::<prop::sample::Index>().prop_map(Step::Release),
        any::<prop::sample::Index>().prop_map(Step::Ack),
        (0i64..40_000).prop_map(Step::Pass),
        (-9 * day..9 * day).prop_map(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_oldest_of_all_that_nobody_holds_comes_first_and_nothing_is_lost(
        steps in prop::collection::vec(step(), 1..40)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        runtime.block_on(follow(folder.path(), steps))?;
    }
}

/// Takes the steps, and a model of the queue along: each message with the end of its lease.
async fn follow(folder: &Path, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let writer = Writer::open(folder, false, 0).unwrap();
    let table = writer.run("opening", |batch| statements::table(batch, "q")).await.unwrap();
    let mut model: BTreeMap<i64, i64> = BTreeMap::new();
    let mut held: BTreeMap<i64, Receipt> = BTreeMap::new();
    let (mut next, mut now) = (0i64, Now { now: 1 << 41, visibility: 30_000 });
    for step in steps {
        let is_free = |until: &i64| *until <= now.now || *until > now.now + 2 * now.visibility + 60_000;
        match step {
            Step::Send(count) => {
                let numbers = next..next + i64::from(count);
                next = numbers.end;
                let bodies: Vec<Bytes> = numbers.clone().map(|number| number.to_string().into()).collect();
                let send =
                    move |batch: &mut writer::Batch<'_>| statements::send(batch, table, &bodies, now.now, 0);
                writer.run("sending", send).await.unwrap();
                model.extend(numbers.map(|number| (number, 0)));
            }
            Step::Receive(max) => {
                let max = usize::from(max);
                let free = model.iter().filter(|(_, until)| is_free(until)).map(|(number, _)| *number);
                let wanted: Vec<i64> = free.take(max).collect();
                let receive = move |batch: &mut writer::Batch<'_>| {
                    let any = statements::anything_visible(batch.reader(), table, now)?;
                    Ok((any, statements::lease(batch, table, max, now)?))
                };
                let (any, leased) = writer.run("receiving", receive).await.unwrap();
                let number = |body: &Bytes| String::from_utf8_lossy(body).parse::<i64>().unwrap();
                let got: Vec<i64> = leased.iter().map(|delivery| number(&delivery.body)).collect();
                prop_assert_eq!(&got, &wanted);
                prop_assert_eq!(any, !wanted.is_empty());
                for delivery in leased {
                    let number = number(&delivery.body);
                    model.insert(number, now.until());
                    held.insert(number, delivery.receipt);
                }
            }
            Step::Release(index) if !held.is_empty() => {
                let (number, receipt) = held.iter().nth(index.index(held.len())).unwrap();
                let (number, receipts) = (*number, [receipt.clone()]);
                let release = move |batch: &mut writer::Batch<'_>| {
                    statements::extend(batch, &receipts, statements::AT_ONCE)
                };
                prop_assert!(writer.run("releasing", release).await.unwrap().is_empty());
                held.remove(&number);
                model.insert(number, 0);
            }
            Step::Ack(index) if !held.is_empty() => {
                let (number, receipt) = held.iter().nth(index.index(held.len())).unwrap();
                let (number, receipts) = (*number, [receipt.clone()]);
                let ack = move |batch: &mut writer::Batch<'_>| statements::ack(batch, table, &receipts);
                writer.run("acking", ack).await.unwrap();
                held.remove(&number);
                model.remove(&number);
            }
            Step::Release(_) | Step::Ack(_) => {}
            Step::Pass(time) => now.now = (now.now + time).max(1),
        }
        let depth = move |batch: &mut writer::Batch<'_>| statements::depth(batch.reader(), table, now);
        let depth = writer.run("counting", depth).await.unwrap();
        let is_free = |until: &i64| *until <= now.now || *until > now.now + 2 * now.visibility + 60_000;
        let visible = model.values().filter(|until| is_free(until)).count() as u64;
        prop_assert_eq!(depth, Depth { visible, in_flight: model.len() as u64 - visible });
    }
    Ok(())
}
