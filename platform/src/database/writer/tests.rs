use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use super::*;
use crate::{clock::SystemClock, queue::sqlite::SqliteQueues};

fn writer(folder: &Path) -> Writer {
    SqliteQueues::open(folder, false, Arc::new(SystemClock)).unwrap().database().unwrap().0
}

/// Writes; returns whether this began the transaction.
async fn begins(writer: &Writer) -> bool {
    let work = |batch: &mut Batch<'_>| {
        let begins = !batch.begun;
        batch.writer().map(|_connection| begins)
    };
    writer.run("writing", work).await.unwrap()
}

fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test]
async fn a_single_operation_does_not_wait() {
    let folder = tempfile::tempdir().unwrap();
    let writer = writer(folder.path());
    let mut alone = pin!(begins(&writer));
    // Other ready tasks run once.
    assert_eq!(poll(alone.as_mut()), Poll::Pending);
    assert_eq!(poll(alone.as_mut()), Poll::Ready(true));
}

#[tokio::test]
async fn an_operation_waits_while_others_join_up_to_eight() {
    let folder = tempfile::tempdir().unwrap();
    let writer = writer(folder.path());
    let mut first = pin!(begins(&writer));
    assert_eq!(poll(first.as_mut()), Poll::Pending);
    let mut others = Vec::new();
    let began = loop {
        let mut other = Box::pin(begins(&writer));
        assert_eq!(poll(other.as_mut()), Poll::Pending);
        others.push(other);
        if let Poll::Ready(began) = poll(first.as_mut()) {
            break began;
        }
    };
    assert!(began && others.len() == COMPANY - 1, "{}", others.len());
    for mut other in others {
        assert_eq!(poll(other.as_mut()), Poll::Ready(false));
    }
}

#[tokio::test]
async fn concurrent_operations_share_a_transaction() {
    let folder = tempfile::tempdir().unwrap();
    let writer = writer(folder.path());
    let together = (0..20).map(|_| {
        let writer = writer.clone();
        tokio::spawn(async move { begins(&writer).await })
    });
    let mut begun = 0;
    for one in together.collect::<Vec<_>>() {
        begun += usize::from(one.await.unwrap());
    }
    assert_eq!(begun, 1);
}

/// Writes unhurried; returns whether this joined a transaction.
async fn joins(writer: &Writer) -> bool {
    let work = |batch: &mut Batch<'_>| {
        let joins = batch.begun;
        batch.writer().map(|_connection| joins)
    };
    writer.run_unhurried("writing", work).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_unhurried_operation_joins_the_next_transaction_that_writes_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let writer = writer(folder.path());
    let mut unhurried = pin!(joins(&writer));
    assert_eq!(poll(unhurried.as_mut()), Poll::Pending);
    writer.run("reading", |_batch| Ok(())).await.unwrap();
    assert_eq!(poll(unhurried.as_mut()), Poll::Pending, "reading begins no transaction");
    assert!(begins(&writer).await);
    assert_eq!(poll(unhurried.as_mut()), Poll::Ready(true));
}

#[tokio::test(start_paused = true)]
async fn unhurried_operations_get_their_own_transaction_if_none_comes() {
    let folder = tempfile::tempdir().unwrap();
    let writer = writer(folder.path());
    let start = tokio::time::Instant::now();
    assert_eq!(tokio::join!(joins(&writer), joins(&writer)), (false, true), "both are in it");
    assert_eq!(start.elapsed().as_millis().div_ceil(10), UNHURRIED.as_millis().div_ceil(10));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_unhurried_operation_does_not_affect_others() {
    let folder = tempfile::tempdir().unwrap();
    let writer = writer(folder.path());
    {
        let mut leaves = pin!(joins(&writer));
        assert_eq!(poll(leaves.as_mut()), Poll::Pending);
    }
    assert!(begins(&writer).await);
    assert!(!joins(&writer).await);
}

#[tokio::test]
async fn a_statement_with_a_bound_limit_is_parsed_once() {
    let connection = Connection::open_in_memory().unwrap();
    keep_plans(&connection).unwrap();
    connection.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1), (2), (3)").unwrap();
    let mut statement = connection.prepare("SELECT x FROM t ORDER BY x LIMIT ?1").unwrap();
    for limit in 0..4_i64 {
        let found = statement.query_map([limit], |row| row.get::<_, i64>(0)).unwrap().count();
        assert_eq!(found as i64, limit.min(3));
    }
    assert_eq!(statement.get_status(rusqlite::StatementStatus::RePrepare), 0);
}
