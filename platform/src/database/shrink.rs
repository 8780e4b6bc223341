//! Releases free pages of the file. A finished backlog or expired results leave free pages, and
//! without this the file would keep its largest size. Pages at the end of the file are moved into
//! free ones, a few per transaction and with pauses, so that other operations do not wait long.

use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::{
    reader::Reader,
    writer::{Batch, Writer},
};
use crate::error::Result;

/// Maximum number of pages moved per transaction; takes a few milliseconds.
const SLICE: u64 = 64;
/// Maximum number of transactions per pass.
const SLICES: usize = 2000;
/// Number of free pages to keep for the next burst: 4 MiB.
const KEPT: u64 = 1024;
/// Minimum pause between two transactions; other operations get at least ten times the time of the
/// last one.
const PAUSE: Duration = Duration::from_millis(10);

/// The state of shrinking a file, across passes.
#[derive(Debug, Default)]
pub(crate) struct Shrinking {
    /// Number of free pages at the end of the last pass.
    free: Option<u64>,
    /// Duration of the longest transaction, including its wait for other writers.
    longest: Duration,
}

impl Shrinking {
    /// Releases pages that have been free since the last pass; others may be needed again soon.
    pub(crate) async fn pass(&mut self, writer: &Writer, reader: &Reader) -> Result<()> {
        let free = || reader.read("counting free pages", free_pages);
        let now = free()?;
        let mut spare = self.free.map_or(0, |before| before.min(now).saturating_sub(KEPT));
        let (mut given, start) = (0, Instant::now());
        for _ in 0..SLICES {
            if spare == 0 {
                break;
            }
            let begun = Instant::now();
            let slice = spare.min(SLICE);
            let give = move |batch: &mut Batch<'_>| give_back(batch, slice);
            let gone = writer.run("giving free pages back", give).await?;
            if gone == 0 {
                // A file of an earlier version that does not support it.
                break;
            }
            self.longest = self.longest.max(begun.elapsed());
            (given, spare) = (given + gone, spare.saturating_sub(gone));
            tokio::time::sleep(PAUSE.max(begun.elapsed() * 10)).await;
        }
        if given > 0 {
            let (longest_ms, seconds) = (self.longest.as_secs_f64() * 1e3, start.elapsed().as_secs_f64());
            tracing::debug!(
                pages = given,
                longest_ms,
                seconds,
                "the queue's file was made smaller by {given} pages"
            );
        }
        self.free = Some(free()?);
        Ok(())
    }
}

fn free_pages(connection: &Connection) -> rusqlite::Result<u64> {
    number(connection, "freelist_count")
}

fn number(connection: &Connection, pragma: &str) -> rusqlite::Result<u64> {
    connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0)).map(i64::unsigned_abs)
}

/// Releases up to `pages` free pages; returns their number.
fn give_back(batch: &mut Batch<'_>, pages: u64) -> rusqlite::Result<u64> {
    let connection = batch.writer()?;
    let before = number(connection, "page_count")?;
    // Each step releases a page; there are no more rows when it is done.
    let mut statement = connection.prepare_cached(&format!("PRAGMA incremental_vacuum({pages})"))?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    drop(rows);
    Ok(before.saturating_sub(number(connection, "page_count")?))
}

/// Makes a new file support releasing pages, ...
pub(super) fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")
}

/// Maximum size in bytes of a file that is rewritten at the start; docs/OPERATIONS.md says how to
/// do it with larger ones.
const SMALL: u64 = 64 << 20;

/// ... and rewrites a file of an earlier version for that.
pub(super) fn migrate(connection: &Connection) -> rusqlite::Result<()> {
    let used =
        (number(connection, "page_count")? - free_pages(connection)?) * number(connection, "page_size")?;
    if number(connection, "auto_vacuum")? != 0 || used > SMALL {
        return Ok(());
    }
    // The service may have no permission for other folders.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    if let Err(error) = connection.execute_batch("VACUUM") {
        tracing::info!(%error, "the queue's file could not be written again; it gives no room back until a \
            later start");
    }
    connection.pragma_update(None, "temp_store", "DEFAULT")
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, sync::Arc};

    use super::*;
    use crate::{
        clock::SystemClock,
        queue::{QueueOptions, sqlite::SqliteQueues},
        state_folder::QUEUE,
    };

    const LETTER: usize = 3000;

    async fn open(folder: &Path) -> (SqliteQueues, crate::queue::SharedQueue) {
        let queues = SqliteQueues::open(folder, false, Arc::new(SystemClock)).unwrap();
        let queue = queues.queue("q", QueueOptions::default()).await.unwrap();
        (queues, queue)
    }

    async fn fill(queue: &crate::queue::SharedQueue, messages: usize) {
        for _ in 0..messages / 500 {
            queue.send(vec![vec![7; LETTER].into(); 500]).await.unwrap();
        }
    }

    fn length(folder: &Path) -> u64 {
        let file = Connection::open(folder.join(QUEUE)).unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        // Returns true if another connection copies at the same time.
        let copy = || file.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>(0));
        while copy().unwrap() {
            assert!(Instant::now() < deadline, "the log cannot be copied");
            std::thread::yield_now();
        }
        fs::metadata(folder.join(QUEUE)).unwrap().len()
    }

    #[tokio::test]
    async fn the_space_of_a_finished_backlog_is_released_and_messages_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (queues, queue) = open(folder.path()).await;
        fill(&queue, 5000).await;
        let kept = queues.queue("kept", QueueOptions::default()).await.unwrap();
        kept.send(vec![vec![9; LETTER].into(); 300]).await.unwrap();
        let large = length(folder.path());
        queue.purge().await.unwrap();
        assert_eq!(length(folder.path()), large);

        let (writer, reader) = queues.database().unwrap();
        let mut shrinking = Shrinking::default();
        shrinking.pass(&writer, &reader).await.unwrap();
        assert_eq!(length(folder.path()), large, "the space may be needed again soon");
        shrinking.pass(&writer, &reader).await.unwrap();
        let small = length(folder.path());
        assert!(small < (2 << 20) + KEPT * 4096 && small < large / 2, "{small} of {large}");
        let held = kept.receive(1000, Duration::ZERO).await.unwrap();
        assert!(held.len() == 300 && held.iter().all(|held| held.body == vec![9; LETTER]), "{}", held.len());
    }

    #[tokio::test]
    async fn a_file_of_an_earlier_version_is_migrated_completely() {
        let folder = tempfile::tempdir().unwrap();
        let (queues, queue) = open(folder.path()).await;
        fill(&queue, 500).await;
        drop((queues, queue));
        let file = Connection::open(folder.path().join(QUEUE)).unwrap();
        file.execute_batch("PRAGMA auto_vacuum = NONE; VACUUM").unwrap();
        assert_eq!(number(&file, "auto_vacuum").unwrap(), 0);
        drop(file);

        let (_queues, queue) = open(folder.path()).await;
        let file = Connection::open(folder.path().join(QUEUE)).unwrap();
        assert_eq!(number(&file, "auto_vacuum").unwrap(), 2);
        assert_eq!(queue.depth().await.unwrap().visible, 500);
    }
}
