use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};

use super::super::EmbeddedStores;
use super::*;
use crate::{
    blobs::{BlobStore, dir::DirBlobs},
    clock::Clock,
    queue::{QueueOptions, SharedQueue, sqlite::SqliteQueues},
    state_folder::IMAGES,
};

const HOUR: Duration = Duration::from_secs(3600);

/// A wall clock that can be set.
#[derive(Debug, Default)]
struct SettableClock(AtomicI64);

impl Clock for SettableClock {
    fn now(&self) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::days(1000) + TimeDelta::seconds(self.0.load(Ordering::Relaxed))
    }
}

struct Site {
    folder: tempfile::TempDir,
    clock: Arc<SettableClock>,
    stores: EmbeddedStores,
    queues: SqliteQueues,
}

/// Opens stores that keep images for two hours and results for five.
async fn open(folder: tempfile::TempDir, clock: Arc<SettableClock>) -> Site {
    let settings = Local {
        state: folder.path().to_owned(),
        expire_images: 2 * HOUR,
        expire_results: 5 * HOUR,
        ..Local::default()
    };
    let queues = SqliteQueues::open(folder.path(), false, clock.clone()).unwrap();
    let (writer, reader) = queues.database().unwrap();
    let stores = EmbeddedStores::open(&settings, writer, reader, clock.clone()).await.unwrap();
    stores.expiry.pass().await.unwrap();
    Site { folder, clock, stores, queues }
}

impl Site {
    async fn new() -> Self {
        open(tempfile::tempdir().unwrap(), Arc::default()).await
    }

    async fn restarted(self) -> Self {
        let Self { folder, clock, stores, queues } = self;
        drop((stores, queues));
        open(folder, clock).await
    }

    async fn jobs(&self) -> SharedQueue {
        self.queues.queue("requests-default", QueueOptions::default()).await.unwrap()
    }

    async fn store(&self, names: &[&str]) {
        for name in names {
            self.stores.images().put(&format!("images/{name}"), Bytes::from(vec![1; 5000])).await.unwrap();
            self.stores.results().put(&format!("results/{name}"), "{}".into()).await.unwrap();
        }
    }

    async fn after(&self, time: Duration) {
        tokio::time::advance(time).await;
        self.stores.expiry.pass().await.unwrap();
    }

    async fn images(&self) -> Vec<String> {
        let listed = self.stores.images().list("images/", None, 10_000).await.unwrap();
        listed.into_iter().map(|blob| blob.key).collect()
    }

    async fn results(&self) -> Vec<String> {
        let listed = self.stores.results().list("results/", None, 10_000).await.unwrap();
        listed.into_iter().map(|blob| blob.key).collect()
    }

    fn segments(&self) -> usize {
        fs::read_dir(self.folder.path().join(IMAGES)).unwrap().count()
    }
}

#[tokio::test(start_paused = true)]
async fn old_blobs_are_deleted_and_young_ones_are_kept() {
    let site = Site::new().await;
    site.store(&["a", "b"]).await;
    site.after(HOUR).await;
    site.store(&["c"]).await;
    site.after(HOUR + Duration::from_secs(60)).await;
    assert_eq!(site.images().await, ["images/c"]);
    assert_eq!(site.results().await, ["results/a", "results/b", "results/c"]);
    site.after(3 * HOUR).await;
    assert_eq!((site.images().await.len(), site.results().await), (0, vec!["results/c".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_segment_is_deleted_with_its_last_image_once_its_process_has_ended() {
    let site = Site::new().await;
    site.store(&["a"]).await;
    let site = site.restarted().await;
    site.store(&["b"]).await;
    assert_eq!(site.segments(), 2);
    site.after(3 * HOUR).await;
    assert_eq!((site.images().await.len(), site.segments()), (0, 1), "one is still being written to");
    assert_eq!(site.restarted().await.segments(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_image_is_kept_as_long_as_its_job_or_dead_letter() {
    let site = Site::new().await;
    let jobs = site.jobs().await;
    let staged = site.stores.images().stage("images/a", "bytes".into()).await.unwrap();
    jobs.send_with("job".into(), staged).await.unwrap();
    site.after(3 * HOUR).await;
    assert_eq!(site.images().await, ["images/a"], "the job waits");
    let held = jobs.receive(1, Duration::ZERO).await.unwrap().remove(0);
    site.after(Duration::from_secs(60)).await;
    assert_eq!(site.images().await, ["images/a"], "a worker has it");
    let kept = site.stores.images().keep_for("images/a").await.unwrap();
    let dead = site.queues.queue("dead-default", QueueOptions::default()).await.unwrap();
    dead.send_with("job".into(), kept).await.unwrap();
    jobs.ack(&[held.receipt]).await.unwrap();
    site.after(3 * HOUR).await;
    assert_eq!(site.images().await, ["images/a"], "it is a dead letter");
    dead.purge().await.unwrap();
    site.after(Duration::from_secs(60)).await;
    assert_eq!(site.images().await.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_jump_of_the_wall_clock_does_not_change_ages() {
    let site = Site::new().await;
    site.store(&["a"]).await;
    for jump in [TimeDelta::weeks(1), -TimeDelta::weeks(2)] {
        site.clock.0.fetch_add(jump.num_seconds(), Ordering::Relaxed);
        site.after(Duration::from_secs(30)).await;
        assert_eq!((site.images().await.len(), site.results().await.len()), (1, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_of_the_service_counts_for_at_most_a_day() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Local {
        state: folder.path().to_owned(),
        expire_images: 20 * HOUR,
        expire_results: 30 * HOUR,
        ..Local::default()
    };
    let clock = Arc::new(SettableClock::default());
    let start = async || {
        let queues = SqliteQueues::open(folder.path(), false, clock.clone()).unwrap();
        let (writer, reader) = queues.database().unwrap();
        let stores = EmbeddedStores::open(&settings, writer, reader, clock.clone()).await.unwrap();
        stores.expiry.pass().await.unwrap();
        stores
    };
    let stores = start().await;
    stores.images().put("images/a", "x".into()).await.unwrap();
    stores.results().put("results/a", "x".into()).await.unwrap();
    clock.0.fetch_add(TimeDelta::weeks(5).num_seconds(), Ordering::Relaxed);
    let stores = start().await;
    assert!(!stores.images().exists("images/a").await.unwrap(), "a day is more than 20 hours");
    assert!(stores.results().exists("results/a").await.unwrap(), "five weeks count as a day");
}

#[tokio::test(start_paused = true)]
async fn thousands_are_deleted_in_one_pass_and_zero_keeps_everything() {
    let site = Site::new().await;
    let names: Vec<String> = (0..1100).map(|n| format!("{n:04}")).collect();
    for name in &names {
        site.stores.images().put(&format!("images/{name}"), "x".into()).await.unwrap();
        site.stores.results().put(&format!("results/{name}"), "x".into()).await.unwrap();
    }
    let unlimited = Local {
        state: site.folder.path().to_owned(),
        expire_images: Duration::ZERO,
        expire_results: Duration::ZERO,
        ..Local::default()
    };
    let (writer, reader) = site.queues.database().unwrap();
    let keeper = EmbeddedStores::open(&unlimited, writer, reader, site.clock.clone()).await.unwrap();
    tokio::time::advance(6 * HOUR).await;
    keeper.expiry.pass().await.unwrap();
    assert_eq!((site.images().await.len(), site.results().await.len()), (1100, 1100));
    site.after(Duration::from_secs(1)).await;
    assert_eq!((site.images().await.len(), site.results().await.len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn files_of_an_earlier_version_expire_like_new_ones_but_not_before_their_jobs_end() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(SettableClock::default());
    let old = DirBlobs::open(&folder.path().join(OLD_FILES), false).unwrap();
    for n in 0..300 {
        old.put(&format!("images/{n}"), "x".into()).await.unwrap();
        old.put(&format!("results/default/{n}.json"), "x".into()).await.unwrap();
    }
    let options = QueueOptions { retention: 1000 * HOUR, ..QueueOptions::default() };
    let queues = SqliteQueues::open(folder.path(), false, clock.clone()).unwrap();
    queues.queue("requests-default", options).await.unwrap().send(vec!["job".into()]).await.unwrap();
    drop(queues);
    let site = open(folder, clock).await;
    site.after(HOUR).await;
    assert_eq!((site.images().await.len(), site.results().await.len()), (300, 300));
    site.after(5 * HOUR).await;
    assert_eq!((site.images().await.len(), site.results().await.len()), (300, 0), "a job of that time waits");
    site.jobs().await.purge().await.unwrap();
    site.after(Duration::from_secs(30)).await;
    assert_eq!(site.images().await.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_note_of_a_version_is_kept_as_long_as_a_result_of_it() {
    let site = Site::new().await;
    let results = site.stores.results();
    for version in ["a", "b"] {
        results.put(&format!("versions/m/{version}.json"), version.into()).await.unwrap();
    }
    site.after(3 * HOUR).await;
    results.put("results/m/a/x.json", "{}".into()).await.unwrap();
    site.after(3 * HOUR).await;
    let notes = async || {
        let listed = results.list("versions/", None, 10).await.unwrap();
        listed.into_iter().map(|note| note.key).collect::<Vec<_>>()
    };
    assert_eq!(notes().await, ["versions/m/a.json"], "there is no result of the other version");
    assert_eq!(results.get("versions/m/a.json").await.unwrap().unwrap(), "a");
    site.after(6 * HOUR).await;
    site.after(6 * HOUR).await;
    assert_eq!((notes().await.len(), site.results().await.len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn notes_of_requested_models_expire_with_the_images() {
    let site = Site::new().await;
    site.stores.images().put("asked/m/x", Bytes::new()).await.unwrap();
    site.after(3 * HOUR).await;
    assert!(!site.stores.images().exists("asked/m/x").await.unwrap());
}
