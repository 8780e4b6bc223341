use std::sync::Arc;

use super::*;
use crate::{clock::SystemClock, queue::contract};

mod clocks;
mod files;

fn open(folder: &Path, sync: bool) -> SqliteQueues {
    SqliteQueues::open(folder, sync, Arc::new(SystemClock)).unwrap()
}

async fn queue(folder: &Path, name: &str) -> SharedQueue {
    open(folder, false).queue(name, QueueOptions::default()).await.unwrap()
}

/// Opens a queue in a plain function, as `contract::Open` requires. The future is ready as soon as
/// the writer responds.
fn blocking(queues: &SqliteQueues, name: &str, options: QueueOptions) -> SharedQueue {
    let opened = async { queues.queue(name, options).await.unwrap() };
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(opened))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sqlite_queue_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let queues = open(folder.path(), false);
    contract::suite(&|name, options| blocking(&queues, name, options)).await;
    contract::suite_of_order_and_age(&|name, options| blocking(&queues, name, options)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn handles_with_their_own_synchronous_writers_keep_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    contract::suite(&|name, options| blocking(&open(folder.path(), true), name, options)).await;
}

#[tokio::test]
async fn a_sent_message_is_received_by_the_next_process() {
    let folder = tempfile::tempdir().unwrap();
    queue(folder.path(), "q").await.send(vec!["x".into()]).await.unwrap();
    let received = queue(folder.path(), "q").await.receive(10, Duration::ZERO).await.unwrap();
    assert_eq!(received[0].body, "x");
}

#[tokio::test]
async fn a_sender_with_another_writer_wakes_a_waiting_receiver() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = queue(folder.path(), "q").await;
    let sender = queue(folder.path(), "q").await;
    // The fastest of a few rounds, because the machine may be busy during some.
    let mut fastest = Duration::MAX;
    for _ in 0..5 {
        let waiting = tokio::spawn({
            let receiver = receiver.clone();
            async move { receiver.receive(1, Duration::from_secs(20)).await }
        });
        tokio::time::sleep(Duration::from_millis(5)).await;
        let start = Instant::now();
        sender.send(vec!["x".into()]).await.unwrap();
        let received = waiting.await.unwrap().unwrap();
        fastest = fastest.min(start.elapsed());
        receiver.ack(&[received[0].receipt.clone()]).await.unwrap();
    }
    assert!(fastest < LONGEST_SLEEP / 2, "took {fastest:?}");
}

#[tokio::test]
async fn messages_ring_once_each_after_their_commit_and_receiving_them_consumes_the_rings() {
    let folder = tempfile::tempdir().unwrap();
    let queues = open(folder.path(), false);
    let queue = queues.queue("q", QueueOptions::default()).await.unwrap();
    let bell = Arc::new(Bell::open(&folder.path().join(state_folder::BELLS).join("q")).unwrap());
    let send = || queue.send(vec!["x".into(), "y".into()]);
    let (one, two, three) = tokio::join!(send(), send(), send());
    one.and(two).and(three).unwrap();
    assert_eq!(bell.rings(), 6, "one for each message");
    send().await.unwrap();
    assert_eq!(queue.receive(20, Duration::ZERO).await.unwrap().len(), 8);
    assert_eq!(bell.rings(), 0);

    let rung = bell.clone();
    let failing = move |batch: &mut Batch<'_>| {
        batch.ring(&rung, 1);
        Err::<(), _>(rusqlite::Error::InvalidQuery)
    };
    queues.writer.run("failing", failing).await.unwrap_err();
    assert_eq!(bell.rings(), 0, "nothing was committed");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_named_in_the_error() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("queue.db"), "not a database, though it is long enough to look at")
        .unwrap();
    let error = SqliteQueues::open(folder.path(), false, Arc::new(SystemClock)).unwrap_err();
    assert!(matches!(error, Error::Broken { .. }), "{error:?}");
    assert!(error.to_string().contains("queue.db"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_and_readers_lose_and_duplicate_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let senders = (0..4).map(|sender| {
        let folder = folder.path().to_owned();
        tokio::spawn(async move {
            let queue = queue(&folder, "q").await;
            for message in 0..250 {
                queue.send(vec![format!("{sender}-{message}").into()]).await.unwrap();
            }
        })
    });
    let receivers = (0..3).map(|_| {
        let folder = folder.path().to_owned();
        tokio::spawn(async move {
            let (queue, mut bodies) = (queue(&folder, "q").await, Vec::new());
            loop {
                let received = queue.receive(10, Duration::from_secs(2)).await.unwrap();
                if received.is_empty() {
                    return bodies;
                }
                bodies.extend(received.iter().map(|delivery| delivery.body.clone()));
                queue
                    .ack(&received.into_iter().map(|delivery| delivery.receipt).collect::<Vec<_>>())
                    .await
                    .unwrap();
            }
        })
    });
    let (senders, receivers): (Vec<_>, Vec<_>) = (senders.collect(), receivers.collect());
    for sender in senders {
        sender.await.unwrap();
    }
    let mut bodies = Vec::new();
    for receiver in receivers {
        bodies.extend(receiver.await.unwrap());
    }
    assert_eq!(bodies.len(), 1000);
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies.len(), 1000, "none twice");
    assert_eq!(queue(folder.path(), "q").await.depth().await.unwrap(), Depth::default());
}
