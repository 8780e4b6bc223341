use std::{fs, path::Path};

use bytes::Bytes;

use super::*;
use crate::{
    blobs::{BlobStore, Checked, contract, dir::DirBlobs},
    clock::SystemClock,
    queue::{Ending, QueueOptions, SharedQueue, memory::MemoryQueues, sqlite::SqliteQueues},
};

/// Opens the stores as a process does.
async fn open(state: &Path, sync: bool) -> (SqliteQueues, EmbeddedStores) {
    let settings = Local { state: state.to_owned(), sync, ..Local::default() };
    let queues = SqliteQueues::open(state, sync, Arc::new(SystemClock)).unwrap();
    let (writer, reader) = queues.database().unwrap();
    let stores = EmbeddedStores::open(&settings, writer, reader, Arc::new(SystemClock)).await.unwrap();
    (queues, stores)
}

async fn jobs(queues: &SqliteQueues) -> SharedQueue {
    queues.queue("jobs", QueueOptions::default()).await.unwrap()
}

/// Applies `damage` to the only segment.
fn damage(state: &Path, damage: impl Fn(&Path)) {
    let segments: Vec<_> = fs::read_dir(state.join(IMAGES)).unwrap().map(|entry| entry.unwrap()).collect();
    assert_eq!(segments.len(), 1, "{segments:?}");
    damage(&segments[0].path());
}

#[tokio::test(flavor = "multi_thread")]
async fn images_and_results_keep_the_contract() {
    for sync in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let (_queues, stores) = open(folder.path(), sync).await;
        contract::suite(stores.images()).await;
        contract::suite(stores.results()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_and_results_keep_the_contract_over_files_of_an_earlier_version() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join(OLD_FILES)).unwrap();
    let (_queues, stores) = open(folder.path(), false).await;
    contract::suite(stores.images()).await;
    contract::suite(stores.results()).await;
}

#[tokio::test]
async fn blobs_are_visible_to_all_processes_and_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (open(folder.path(), false).await, open(folder.path(), false).await);
    one.1.images().put("images/a", "from one".into()).await.unwrap();
    other.1.images().put("images/b", "from the other".into()).await.unwrap();
    assert_eq!(other.1.images().get("images/a").await.unwrap().unwrap(), "from one");
    other.1.images().delete("images/a").await.unwrap();
    assert!(!one.1.images().exists("images/a").await.unwrap());
    drop((one, other));
    let (_queues, stores) = open(folder.path(), false).await;
    assert_eq!(stores.images().get("images/b").await.unwrap().unwrap(), "from the other");
}

#[tokio::test]
async fn a_damaged_image_is_recognized_by_its_checksum() {
    let folder = tempfile::tempdir().unwrap();
    let (_queues, stores) = open(folder.path(), false).await;
    let images = stores.images();
    images.put("images/a", vec![7; 10_000].into()).await.unwrap();
    let whole = images.get_checked("images/a").await.unwrap().unwrap();
    assert_eq!((whole.is_whole, whole.bytes.len()), (Some(true), 10_000));
    // A block that never reached the disk is read as zeros.
    damage(folder.path(), |segment| {
        let file = fs::File::options().write(true).open(segment).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[0; 4096], 4096).unwrap();
    });
    assert_eq!(images.get_checked("images/a").await.unwrap().unwrap().is_whole, Some(false));
}

#[tokio::test]
async fn an_image_of_an_earlier_version_without_a_checksum_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    {
        let (_queues, stores) = open(folder.path(), false).await;
        stores.images().put("images/a", "bytes".into()).await.unwrap();
        let file = rusqlite::Connection::open(folder.path().join("queue.db")).unwrap();
        file.execute_batch("ALTER TABLE images DROP COLUMN sum").unwrap();
    }
    let (_queues, stores) = open(folder.path(), false).await;
    let images = stores.images();
    let old = images.get_checked("images/a").await.unwrap().unwrap();
    assert_eq!(old, Checked { bytes: "bytes".into(), is_whole: None });
    images.put("images/a", "bytes".into()).await.unwrap();
    assert_eq!(images.get_checked("images/a").await.unwrap().unwrap().is_whole, Some(true));
}

#[tokio::test]
async fn a_staged_image_becomes_visible_with_its_job_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let (queues, stores) = open(folder.path(), false).await;
    let (jobs, images) = (jobs(&queues).await, stores.images());
    let staged = images.stage("images/a", "bytes".into()).await.unwrap();
    assert!(!images.exists("images/a").await.unwrap());
    jobs.send_with("job".into(), staged).await.unwrap();
    assert_eq!(images.get("images/a").await.unwrap().unwrap(), "bytes");
    assert_eq!(jobs.depth().await.unwrap().visible, 1);
}

#[tokio::test]
async fn an_image_is_stored_before_its_job_goes_to_a_queue_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let (_queues, stores) = open(folder.path(), false).await;
    let elsewhere = MemoryQueues::new(Arc::new(SystemClock)).open("jobs", QueueOptions::default());
    let another = tempfile::tempdir().unwrap();
    let (others, _) = open(another.path(), false).await;
    for (queue, key) in [(elsewhere, "images/a"), (jobs(&others).await, "images/b")] {
        let staged = stores.images().stage(key, "bytes".into()).await.unwrap();
        queue.send_with("job".into(), staged).await.unwrap();
        assert!(stores.images().exists(key).await.unwrap());
        assert_eq!(queue.depth().await.unwrap().visible, 1);
    }
}

#[tokio::test]
async fn the_last_stored_version_of_an_image_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let (_queues, stores) = open(folder.path(), false).await;
    let images = stores.images();
    for fill in 1..=3 {
        images.put("images/a", Bytes::from(vec![fill; 10_000])).await.unwrap();
    }
    assert_eq!(images.get("images/a").await.unwrap().unwrap(), vec![3; 10_000]);
    assert_eq!(images.list("images/", None, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_image_in_a_truncated_or_missing_segment_is_missing_and_can_be_stored_again() {
    let cut = |path: &Path| fs::File::options().write(true).open(path).unwrap().set_len(100).unwrap();
    let gone = |path: &Path| fs::remove_file(path).unwrap();
    for harm in [&cut as &dyn Fn(&Path), &gone] {
        let folder = tempfile::tempdir().unwrap();
        let (queues, stores) = open(folder.path(), false).await;
        let image = Bytes::from(vec![5; 10_000]);
        stores.images().put("images/a", image.clone()).await.unwrap();
        drop((queues, stores));
        damage(folder.path(), harm);
        let (_queues, stores) = open(folder.path(), false).await;
        assert_eq!(stores.images().get("images/a").await.unwrap(), None);
        stores.images().put("images/a", image.clone()).await.unwrap();
        assert_eq!(stores.images().get("images/a").await.unwrap(), Some(image));
    }
}

#[tokio::test]
async fn the_tail_of_a_segment_left_by_a_kill_is_harmless_and_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let (queues, stores) = open(folder.path(), false).await;
    let image = Bytes::from(vec![5; 10_000]);
    stores.images().put("images/a", image.clone()).await.unwrap();
    // Killed between writing the bytes and the commit.
    drop(stores.images().stage("images/b", image.clone().into()).await.unwrap());
    drop((queues, stores));
    let (_queues, stores) = open(folder.path(), false).await;
    assert_eq!(stores.images().get("images/a").await.unwrap().unwrap(), image);
    assert_eq!(stores.images().get("images/b").await.unwrap(), None);
    stores.expiry.pass().await.unwrap();
    damage(folder.path(), |path| assert_eq!(fs::metadata(path).unwrap().len(), 10_000));
    assert_eq!(stores.images().get("images/a").await.unwrap().unwrap(), image);
}

#[tokio::test]
async fn deleting_the_last_image_of_an_unlocked_segment_deletes_it() {
    let folder = tempfile::tempdir().unwrap();
    let (queues, stores) = open(folder.path(), false).await;
    stores.images().put("images/a", "bytes".into()).await.unwrap();
    drop((queues, stores));
    let (_queues, stores) = open(folder.path(), false).await;
    stores.images().delete("images/a").await.unwrap();
    assert_eq!(fs::read_dir(folder.path().join(IMAGES)).unwrap().count(), 0);
}

#[tokio::test]
async fn files_of_an_earlier_version_can_be_read_listed_and_deleted_but_not_added() {
    let folder = tempfile::tempdir().unwrap();
    let old = DirBlobs::open(&folder.path().join(OLD_FILES), false).unwrap();
    old.put("images/a", "old".into()).await.unwrap();
    old.put("images/b", "old".into()).await.unwrap();
    let (queues, stores) = open(folder.path(), false).await;
    let images = stores.images();
    assert_eq!(images.get("images/a").await.unwrap().unwrap(), "old");
    images.put("images/a", "new".into()).await.unwrap();
    images.put("images/c", "new".into()).await.unwrap();
    assert_eq!(images.get("images/a").await.unwrap().unwrap(), "new");
    let keys = async |after, limit| {
        let listed = images.list("images/", after, limit).await.unwrap();
        listed.into_iter().map(|blob| blob.key).collect::<Vec<_>>()
    };
    assert_eq!(keys(None, 10).await, ["images/a", "images/b", "images/c"]);
    assert_eq!(keys(Some("images/a"), 1).await, ["images/b"]);
    assert!(!old.exists("images/c").await.unwrap());
    // An image that a job needs again is copied to the store, where it is kept.
    let kept = images.keep_for("images/b").await.unwrap();
    jobs(&queues).await.send_with("job".into(), kept).await.unwrap();
    old.delete("images/b").await.unwrap();
    assert_eq!(images.get("images/b").await.unwrap().unwrap(), "old");
    images.delete("images/a").await.unwrap();
    assert_eq!(images.get("images/a").await.unwrap(), None);
    assert!(!old.exists("images/a").await.unwrap());
}

/// Ends a job; returns whether that happened, the reply, and the number of jobs left.
async fn end(
    stores: &EmbeddedStores,
    jobs: &SharedQueue,
    replies: &SharedQueue,
    result: &str,
) -> (bool, String, u64) {
    let held = jobs.receive(1, Duration::ZERO).await.unwrap().remove(0);
    let ending = Ending {
        results: stores.results(),
        key: "results/a",
        image: "images/a",
        result: Bytes::copy_from_slice(result.as_bytes()),
        replies,
        receipt: &held.receipt,
    };
    let ended = jobs.end(&ending).await.unwrap();
    let reply = replies.receive(1, Duration::ZERO).await.unwrap().pop();
    let reply = reply.map_or_else(String::new, |reply| String::from_utf8(reply.body.to_vec()).unwrap());
    (ended, reply, jobs.depth().await.unwrap().backlog())
}

#[tokio::test]
async fn result_reply_and_ack_are_one_transaction_and_the_first_result_counts() {
    let folder = tempfile::tempdir().unwrap();
    let (queues, stores) = open(folder.path(), false).await;
    let jobs = jobs(&queues).await;
    let replies = queues.queue("replies", QueueOptions::default()).await.unwrap();
    stores.images().put("images/a", "image".into()).await.unwrap();
    jobs.send(vec!["job".into(), "again".into()]).await.unwrap();
    assert_eq!(end(&stores, &jobs, &replies, "first").await, (true, "first".to_owned(), 1));
    assert_eq!(end(&stores, &jobs, &replies, "second").await, (false, String::new(), 1), "nothing is done");
    assert_eq!(stores.results().get("results/a").await.unwrap().unwrap(), "first");
}

#[tokio::test]
async fn a_job_whose_image_was_erased_leaves_no_result() {
    let folder = tempfile::tempdir().unwrap();
    let (queues, stores) = open(folder.path(), false).await;
    let jobs = jobs(&queues).await;
    let replies = queues.queue("replies", QueueOptions::default()).await.unwrap();
    stores.images().put("images/a", "image".into()).await.unwrap();
    jobs.send(vec!["job".into()]).await.unwrap();
    stores.images().delete("images/a").await.unwrap();
    assert_eq!(end(&stores, &jobs, &replies, "result").await, (false, String::new(), 1));
    assert!(!stores.results().exists("results/a").await.unwrap());
}

#[tokio::test]
async fn a_job_is_not_ended_in_one_transaction_if_the_replies_are_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let (queues, stores) = open(folder.path(), false).await;
    let jobs = jobs(&queues).await;
    jobs.send(vec!["job".into()]).await.unwrap();
    let elsewhere = MemoryQueues::new(Arc::new(SystemClock)).open("replies", QueueOptions::default());
    assert_eq!(end(&stores, &jobs, &elsewhere, "result").await, (false, String::new(), 1));
    assert!(!stores.results().exists("results/a").await.unwrap());
}

#[tokio::test]
async fn a_queue_knows_whether_it_still_has_the_job_of_an_image() {
    let folder = tempfile::tempdir().unwrap();
    let (queues, stores) = open(folder.path(), false).await;
    let images = stores.images();
    let (jobs, dead) = (jobs(&queues).await, queues.queue("dead", QueueOptions::default()).await.unwrap());
    let has = async |key: &str| jobs.has(key).await.unwrap();
    assert_eq!(has("images/a").await, None, "there is no such image");
    images.put("images/b", "b".into()).await.unwrap();
    assert_eq!(has("images/b").await, None, "nothing was sent with it");

    let staged = images.stage("images/a", "a".into()).await.unwrap();
    let noted = images.stage("asked/m/a", Bytes::new().into()).await.unwrap();
    jobs.send_with("job".into(), staged.and(noted)).await.unwrap();
    jobs.send(vec!["another".into()]).await.unwrap();
    for key in ["images/a", "asked/m/a"] {
        assert_eq!((has(key).await, dead.has(key).await.unwrap()), (Some(true), Some(false)), "{key}");
    }
    let held = jobs.receive(1, std::time::Duration::ZERO).await.unwrap().remove(0);
    assert_eq!(has("images/a").await, Some(true), "it is leased");
    // Sent again, as a worker does with a failed job.
    let kept = images.keep_for("images/a").await.unwrap();
    jobs.send_with("job".into(), kept).await.unwrap();
    jobs.ack(&[held.receipt]).await.unwrap();
    assert_eq!((has("images/a").await, has("asked/m/a").await), (Some(true), Some(false)));
    jobs.purge().await.unwrap();
    assert_eq!(has("images/a").await, Some(false));
}

#[tokio::test]
async fn a_job_that_is_too_old_has_left_its_queue_even_if_others_wait_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let (queues, stores) = open(folder.path(), false).await;
    let retention = std::time::Duration::from_millis(300);
    let jobs = queues.queue("jobs", QueueOptions { retention, ..QueueOptions::default() }).await.unwrap();
    let send = async |key: &str| {
        let staged = stores.images().stage(key, "a".into()).await.unwrap();
        jobs.send_with("job".into(), staged).await.unwrap();
    };
    send("images/old").await;
    let start = std::time::Instant::now();
    while jobs.has("images/old").await.unwrap() == Some(true) {
        assert!(start.elapsed() < std::time::Duration::from_secs(20), "the job never becomes too old");
        send("images/young").await;
    }
    assert!(start.elapsed() >= retention / 2, "{:?}", start.elapsed());
    assert_eq!(jobs.has("images/young").await.unwrap(), Some(true));
}
