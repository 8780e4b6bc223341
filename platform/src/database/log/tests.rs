use std::sync::{Arc, atomic::AtomicBool};

use super::*;
use crate::{
    clock::SystemClock,
    queue::{QueueOptions, SharedQueue, sqlite::SqliteQueues},
};

const BOUND: u64 = 16 << 20;
const PATIENT: Duration = Duration::from_secs(30);
const BODY: usize = 4 << 10;

fn length(folder: &Path) -> u64 {
    fs::metadata(folder.join("queue.db-wal")).map_or(0, |file| file.len())
}

async fn open(folder: &Path, sync: bool) -> SharedQueue {
    let queues = SqliteQueues::open(folder, sync, Arc::new(SystemClock)).unwrap();
    queues.queue("q", QueueOptions::default()).await.unwrap()
}

/// Sends, receives and acks at full speed, until this number of bytes was sent.
async fn work(queue: SharedQueue, bytes: usize) {
    for _ in 0..bytes / BODY / 16 {
        queue.send(vec![vec![7; BODY].into(); 16]).await.unwrap();
        let held = queue.receive(16, Duration::ZERO).await.unwrap();
        let receipts: Vec<_> = held.into_iter().map(|delivery| delivery.receipt).collect();
        queue.ack(&receipts).await.unwrap();
    }
}

/// Runs four writers with their own connections; returns the largest size of the log.
fn largest_while_four_work(folder: &Path, sync: bool, bytes_each: usize) -> u64 {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut largest = 0;
            while !done.load(Relaxed) {
                largest = largest.max(length(folder));
                std::thread::park_timeout(Duration::from_micros(200));
            }
            largest
        });
        let writers = [(); 4].map(|()| {
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async { work(open(folder, sync).await, bytes_each).await });
            })
        });
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        done.store(true, Relaxed);
        watch.join().unwrap()
    })
}

fn eventually_below_the_bound(folder: &Path) {
    let deadline = Instant::now() + PATIENT;
    while length(folder) >= BOUND {
        assert!(Instant::now() < deadline, "the log still has {} bytes", length(folder));
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

#[test]
fn the_log_stays_small_under_the_load_of_several_writers() {
    let folder = tempfile::tempdir().unwrap();
    let largest = largest_while_four_work(folder.path(), false, 32 << 20);
    assert!(largest > COPIED_FROM, "the load fills logs: {largest}");
    assert!(largest < BOUND, "{largest} bytes");
}

#[test]
fn the_log_stays_small_with_synchronous_commits() {
    let folder = tempfile::tempdir().unwrap();
    let largest = largest_while_four_work(folder.path(), true, 8 << 20);
    assert!(largest > COPIED_FROM, "the load fills logs: {largest}");
    assert!(largest < BOUND, "{largest} bytes");
}

/// A folder as a crash of the machine leaves it: with a log of over 100 MB that was not copied.
fn crashed() -> tempfile::TempDir {
    let (running, crashed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let queue = runtime.block_on(open(running.path(), false));
    runtime.block_on(queue.send(vec!["kept".into()])).unwrap();
    let foreign = Connection::open(running.path().join("queue.db")).unwrap();
    foreign
        .execute_batch(
            "PRAGMA wal_autocheckpoint = 0; PRAGMA synchronous = OFF; BEGIN;
            CREATE TABLE ballast (x); INSERT INTO ballast VALUES (zeroblob(110000000)); COMMIT;",
        )
        .unwrap();
    for name in ["queue.db", "queue.db-wal"] {
        fs::copy(running.path().join(name), crashed.path().join(name)).unwrap();
    }
    assert!(length(crashed.path()) > 100 << 20);
    crashed
}

#[test]
fn a_log_left_by_a_crash_shrinks_under_load_and_loses_nothing() {
    let folder = crashed();
    let started = Instant::now();
    std::thread::scope(|scope| {
        let load = scope.spawn(|| largest_while_four_work(folder.path(), false, 8 << 20));
        eventually_below_the_bound(folder.path());
        assert!(started.elapsed() < PATIENT);
        load.join().unwrap();
    });
    assert!(length(folder.path()) < BOUND);
    let ballast: i64 = Connection::open(folder.path().join("queue.db"))
        .unwrap()
        .query_row("SELECT length(x) FROM ballast", [], |row| row.get(0))
        .unwrap();
    assert_eq!(ballast, 110_000_000);
}

#[test]
fn a_long_reader_blocks_no_writer_and_the_log_shrinks_after_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let queue = runtime.block_on(open(folder.path(), false));
    let reader = Connection::open(folder.path().join("queue.db")).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM messages;").unwrap();
    runtime.block_on(work(queue, 16 << 20));
    assert!(length(folder.path()) > BOUND, "the reader keeps it: {}", length(folder.path()));
    // No more writes; this process opened the database while the reader was active.
    let _idle = runtime.block_on(open(folder.path(), false));
    reader.execute_batch("COMMIT").unwrap();
    eventually_below_the_bound(folder.path());
}

#[test]
fn the_thread_makes_the_first_commit_of_an_emptied_log() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _queue = runtime.block_on(open(folder.path(), false));
    let database = folder.path().join("queue.db");
    let mut writer = Connection::open(&database).unwrap();
    writer.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
    let turn = Turn::open(&folder.path().join("turn")).unwrap();
    let log = Log::open(&database, turn, &mut writer).unwrap();
    writer
        .execute_batch("CREATE TABLE ballast (x); INSERT INTO ballast VALUES (zeroblob(5000000));")
        .unwrap();
    assert_eq!(log.empty(), Some(End::Empty));
    let Copied { log, copied, .. } = log.copier.lock().unwrap().checkpoint("PASSIVE").unwrap();
    assert_eq!((log, copied), (1, 1));
}
