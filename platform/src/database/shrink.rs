//! Gives the file's free pages back to the disk. A backlog that is gone, or results that have
//! expired, leave pages free in the file; without this it would keep the size of its longest
//! backlog without end. The pages at the file's end move into free ones before, a few in one
//! transaction, so that nobody waits long for it, and with pauses between.

use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::{
    reader::Reader,
    writer::{Batch, Writer},
};
use crate::error::Result;

/// So many pages go in one transaction: some milliseconds.
const SLICE: u64 = 64;
/// So many transactions are made in one pass.
const SLICES: usize = 2000;
/// Free pages that stay: the next burst needs them. 4 MiB.
const KEPT: u64 = 1024;
/// The time between two transactions: others have at least ten times as long as one took, and no
/// less than this.
const PAUSE: Duration = Duration::from_millis(10);

/// A file that is made smaller, from pass to pass.
#[derive(Debug, Default)]
pub(crate) struct Shrinking {
    /// The free pages at the end of the last pass.
    free: Option<u64>,
    /// What the longest transaction took, its wait for other writers included.
    longest: Duration,
}

impl Shrinking {
    /// Gives back what has been free since the last pass: a page that was free for a moment only is
    /// about to be used again.
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
                // The file is of a time when that could not be.
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

/// Returns how many pages are gone.
fn give_back(batch: &mut Batch<'_>, pages: u64) -> rusqlite::Result<u64> {
    let connection = batch.writer()?;
    let before = number(connection, "page_count")?;
    // Each step frees a page: it is done when there is no further row.
    let mut statement = connection.prepare_cached(&format!("PRAGMA incremental_vacuum({pages})"))?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    drop(rows);
    Ok(before.saturating_sub(number(connection, "page_count")?))
}

/// Has a file that is new give free pages back, ...
pub(super) fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")
}

/// A larger file is not written again at a start: docs/OPERATIONS.md says how to do it.
const SMALL: u64 = 64 << 20;

/// ... and one of an earlier version, too, which is written again for that.
pub(super) fn carry_over(connection: &Connection) -> rusqlite::Result<()> {
    let used =
        (number(connection, "page_count")? - free_pages(connection)?) * number(connection, "page_size")?;
    if number(connection, "auto_vacuum")? != 0 || used > SMALL {
        return Ok(());
    }
    // A service may have no other folder to write to.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    if let Err(error) = connection.execute_batch("VACUUM") {
        tracing::info!(%error, "the queue's file could not be written again; it gives no room back until a later start");
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
        // Where another connection copies at the same time, it says that it was busy, and returns.
        let copy = || file.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>(0));
        while copy().unwrap() {
            assert!(Instant::now() < deadline, "the log cannot be copied");
            std::thread::yield_now();
        }
        fs::metadata(folder.join(QUEUE)).unwrap().len()
    }

    #[tokio::test]
    async fn what_a_backlog_needed_is_given_back_when_it_is_gone_and_what_waits_stays() {
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
        assert_eq!(length(folder.path()), large, "it may be needed again at once");
        shrinking.pass(&writer, &reader).await.unwrap();
        let small = length(folder.path());
        assert!(small < (2 << 20) + KEPT * 4096 && small < large / 2, "{small} of {large}");
        let held = kept.receive(1000, Duration::ZERO).await.unwrap();
        assert!(held.len() == 300 && held.iter().all(|held| held.body == vec![9; LETTER]), "{}", held.len());
    }

    #[tokio::test]
    async fn a_file_of_an_earlier_version_is_carried_over_with_all_that_is_in_it() {
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
