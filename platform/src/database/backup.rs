//! Copies the database while others write. `VACUUM INTO` reads one snapshot, whereas the `.backup`
//! of the `sqlite3` tool starts again whenever another process commits. The log cannot be reused
//! meanwhile (see `log.rs`); afterwards it shrinks.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags};

use super::writer::classified;
use crate::{
    error::{Error, Result},
    state_folder::QUEUE,
};

/// The size of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// Size of the file in bytes.
    pub bytes: u64,
    /// Number of messages in all queues.
    pub messages: u64,
}

/// Copies the database of this state folder to a new file, and syncs it. Returns an error if the
/// file exists.
pub fn to_file(folder: &Path, file: &Path) -> Result<Copied> {
    let what = || format!("copying the queue to {}", file.display());
    if fs::symlink_metadata(file).is_ok() {
        return Err(Error::broken(what(), "the file exists already; choose another name"));
    }
    let part = beside(file);
    let copied = copy(&folder.join(QUEUE), &part, file, &what);
    if copied.is_err() {
        let _none = fs::remove_file(&part);
    }
    copied
}

/// A temporary name, until the copy is complete.
fn beside(file: &Path) -> PathBuf {
    let mut part = file.as_os_str().to_owned();
    part.push(format!(".part-{}", std::process::id()));
    part.into()
}

fn copy(database: &Path, part: &Path, file: &Path, what: &dyn Fn() -> String) -> Result<Copied> {
    let failed = |error: rusqlite::Error| classified(what(), &error, database);
    let failed_io = |error: io::Error| Error::from_io(what(), &error);
    // Created first, because SQLite's error would not name the file.
    drop(File::create_new(part).map_err(failed_io)?);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(database, flags).map_err(failed)?;
    connection.busy_timeout(std::time::Duration::from_secs(5)).map_err(failed)?;
    let name = part.to_str().ok_or_else(|| Error::broken(what(), "its name is not in UTF-8"))?;
    connection.execute("VACUUM INTO ?1", [name]).map_err(failed)?;
    drop(connection);
    let copy = Connection::open_with_flags(part, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(failed)?;
    let messages: i64 = copy
        .query_row("SELECT coalesce(sum(messages), 0) FROM queues", [], |row| row.get(0))
        .map_err(failed)?;
    drop(copy);
    let written = File::open(part).map_err(failed_io)?;
    written.sync_all().map_err(failed_io)?;
    let bytes = written.metadata().map_err(failed_io)?.len();
    fs::rename(part, file).map_err(failed_io)?;
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|folder| folder.sync_all()).map_err(failed_io)?;
    Ok(Copied { bytes, messages: messages.unsigned_abs() })
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering::Relaxed},
        },
        time::Duration,
    };

    use super::*;
    use crate::{
        clock::SystemClock,
        queue::{QueueOptions, SharedQueue, sqlite::SqliteQueues},
    };

    async fn open(folder: &Path) -> SharedQueue {
        let queues = SqliteQueues::open(folder, false, Arc::new(SystemClock)).unwrap();
        queues.queue("q", QueueOptions::default()).await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_copy_made_under_load_has_all_earlier_messages_and_can_be_used() {
        let (folder, restored) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let queue = open(folder.path()).await;
        queue.send((0..2000).map(|number: u32| number.to_string().into()).collect()).await.unwrap();
        let held = queue.receive(10, Duration::ZERO).await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let load = tokio::spawn({
            let (folder, stop) = (folder.path().to_owned(), stop.clone());
            async move {
                let queue = open(&folder).await;
                while !stop.load(Relaxed) {
                    queue.send(vec![vec![7; 500].into(); 20]).await.unwrap();
                }
            }
        });
        let under_way = async {
            while queue.depth().await.unwrap().backlog() <= 2000 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), under_way).await.expect("the load is under way");
        let file = restored.path().join("queue.db");
        let copied = tokio::task::spawn_blocking({
            let (folder, file) = (folder.path().to_owned(), file.clone());
            move || to_file(&folder, &file)
        });
        let copied = tokio::time::timeout(Duration::from_secs(20), copied).await.unwrap().unwrap().unwrap();
        stop.store(true, Relaxed);
        load.await.unwrap();
        assert!(copied.messages > 2000, "{copied:?}");
        assert_eq!(copied.bytes, fs::metadata(&file).unwrap().len());

        let queue = open(restored.path()).await;
        let depth = queue.depth().await.unwrap();
        assert_eq!((depth.backlog(), depth.in_flight), (copied.messages, 10));
        queue.ack(&held.into_iter().map(|delivery| delivery.receipt).collect::<Vec<_>>()).await.unwrap();
        let next = queue.receive(1, Duration::ZERO).await.unwrap();
        assert_eq!(next[0].body, "10", "in order, after those that are leased");
        // Receipts of the copy do not match later messages.
        queue.send(vec!["new".into()]).await.unwrap();
        assert_eq!(queue.depth().await.unwrap().backlog(), copied.messages - 10 + 1);
    }

    #[tokio::test]
    async fn a_failed_copy_is_one_sentence_and_leaves_no_file() {
        let (folder, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = place.path().join("copy.db");
        let none = to_file(folder.path(), &file).unwrap_err().to_string();
        assert!(none.contains("queue.db") && none.contains("copy.db"), "{none}");

        open(folder.path()).await.send(vec!["x".into()]).await.unwrap();
        let nowhere = to_file(folder.path(), &place.path().join("no/copy.db")).unwrap_err().to_string();
        assert!(nowhere.contains("no/copy.db") && nowhere.contains("No such file"), "{nowhere}");

        fs::write(&file, "precious").unwrap();
        let taken = to_file(folder.path(), &file).unwrap_err().to_string();
        assert!(taken.contains("already"), "{taken}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1, "no temporary files are left");
    }
}
