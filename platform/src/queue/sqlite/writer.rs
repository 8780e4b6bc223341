//! The one thread of a process that touches the file. It takes everything that waits, runs it in one transaction, and
//! answers after the commit: a group commit, without a linger when nothing else waits.

use std::{collections::HashMap, fs::File, path::Path, sync::mpsc, time::Duration};

use rusqlite::{Connection, ErrorCode};
use rustix::fs::{FlockOperation, flock};
use tokio::sync::oneshot;

use super::statements::{self, Table};
use crate::error::{Error, Result};

/// A transaction takes at most so many operations, so that other processes get their turn.
const LARGEST_BATCH: usize = 256;
/// Pages in the WAL before they are copied to the database: 16 MiB, so that the copying (and its fsync) is rare.
const CHECKPOINT_PAGES: u32 = 4096;

/// A handle on the thread. The thread ends with the last handle.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    operations: mpsc::Sender<Box<dyn Operation>>,
}

/// The transaction that an operation runs in; it begins when something is first written.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    connection: &'a Connection,
    lock: &'a File,
    begun: bool,
    /// Messages more or fewer in each queue, added to the counters once, at the commit.
    changes: HashMap<Table, i64>,
}

trait Operation: Send {
    fn run(&mut self, batch: &mut Batch<'_>) -> rusqlite::Result<()>;
    fn answer(self: Box<Self>, committed: std::result::Result<(), &rusqlite::Error>);
}

struct Pending<T, F> {
    what: String,
    work: Option<F>,
    done: Option<T>,
    answer: oneshot::Sender<Result<T>>,
}

impl<T: Send, F: FnOnce(&mut Batch<'_>) -> rusqlite::Result<T> + Send> Operation for Pending<T, F> {
    fn run(&mut self, batch: &mut Batch<'_>) -> rusqlite::Result<()> {
        if let Some(work) = self.work.take() {
            self.done = Some(work(batch)?);
        }
        Ok(())
    }

    fn answer(self: Box<Self>, committed: std::result::Result<(), &rusqlite::Error>) {
        let answer = match (committed, self.done) {
            (Err(error), _) => Err(sorted(self.what, error)),
            (Ok(()), Some(done)) => Ok(done),
            (Ok(()), None) => Err(Error::unavailable(self.what, "the queue is closing")),
        };
        // Whoever asked may have left; then nobody needs the answer.
        let _left = self.answer.send(answer);
    }
}

impl Writer {
    pub(super) fn open(folder: &Path, sync: bool) -> Result<Self> {
        let path = folder.join("queue.db");
        let what = || format!("opening the queue {}", path.display());
        let lock_path = folder.join("queue.lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|error| Error::from_io(format!("opening {}", lock_path.display()), &error))?;
        let connection = Connection::open(&path).map_err(|error| sorted(what(), &error))?;
        // Processes that start together must not make the tables together.
        let prepared = flock(&lock, FlockOperation::LockExclusive)
            .map_err(|error| Error::from_io(what(), &error.into()));
        let prepared =
            prepared.and_then(|()| prepare(&connection, sync).map_err(|error| sorted(what(), &error)));
        let _released = flock(&lock, FlockOperation::Unlock);
        prepared?;

        let (operations, inbox) = mpsc::channel::<Box<dyn Operation>>();
        std::thread::Builder::new()
            .name("queue-writer".into())
            .spawn(move || serve(&connection, &lock, &inbox))
            .map_err(|error| Error::from_io("starting the queue's writer", &error))?;
        Ok(Self { operations })
    }

    /// Runs `work` in the next transaction and answers once that is committed.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        what: impl Into<String>,
        work: impl FnOnce(&mut Batch<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let what = what.into();
        let gone = Error::broken(what.clone(), "the queue's writer thread has died");
        let operation = Pending { what, work: Some(work), done: None, answer };
        self.operations.send(Box::new(operation)).map_err(|_| gone.clone())?;
        answered.await.unwrap_or(Err(gone))
    }
}

fn prepare(connection: &Connection, sync: bool) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(32);
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    // NORMAL survives a kill of every process; FULL survives a power cut too.
    connection.pragma_update(None, "synchronous", if sync { "FULL" } else { "NORMAL" })?;
    statements::make_tables(connection)
}

fn serve(connection: &Connection, lock: &File, inbox: &mpsc::Receiver<Box<dyn Operation>>) {
    while let Ok(first) = inbox.recv() {
        let mut operations = vec![first];
        operations.extend(inbox.try_iter().take(LARGEST_BATCH - 1));
        let mut batch = Batch { connection, lock, begun: false, changes: HashMap::new() };
        let ran = operations.iter_mut().try_for_each(|operation| operation.run(&mut batch));
        let committed = batch.end(ran);
        for operation in operations {
            operation.answer(committed.as_ref().copied());
        }
    }
}

impl<'a> Batch<'a> {
    /// For looking only.
    pub(super) fn reader(&self) -> &'a Connection {
        self.connection
    }

    /// For changing something; begins the transaction.
    pub(super) fn writer(&mut self) -> rusqlite::Result<&'a Connection> {
        if !self.begun {
            // Writers of other processes queue up in the kernel, which wakes the next one at once. SQLite's own lock
            // would make them sleep and try again.
            flock(self.lock, FlockOperation::LockExclusive).map_err(|error| {
                rusqlite::Error::SqliteFailure(
                    rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR),
                    Some(error.to_string()),
                )
            })?;
            self.begun = true;
            self.connection.execute_batch("BEGIN IMMEDIATE")?;
        }
        Ok(self.connection)
    }

    /// Notes that a queue has so many messages more.
    pub(super) fn count(&mut self, table: Table, change: i64) {
        *self.changes.entry(table).or_default() += change;
    }

    fn end(mut self, ran: rusqlite::Result<()>) -> rusqlite::Result<()> {
        if !self.begun {
            return ran;
        }
        let changes = std::mem::take(&mut self.changes);
        let ended = ran
            .and_then(|()| statements::add_to_counters(self.connection, changes))
            .and_then(|()| self.connection.execute_batch("COMMIT"));
        if ended.is_err() && !self.connection.is_autocommit() {
            // It can only fail when the connection is beyond use, and then the next operation says so.
            let _failed = self.connection.execute_batch("ROLLBACK");
        }
        let _released = flock(self.lock, FlockOperation::Unlock);
        ended
    }
}

/// What the caller can do about an error of SQLite's.
fn sorted(what: String, error: &rusqlite::Error) -> Error {
    let why = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Error::Full { what, why },
        Some(
            ErrorCode::NotADatabase
            | ErrorCode::DatabaseCorrupt
            | ErrorCode::CannotOpen
            | ErrorCode::ReadOnly
            | ErrorCode::PermissionDenied,
        ) => Error::Broken { what, why },
        _ => Error::Unavailable { what, why },
    }
}
