//! Where a process touches the file. Operations that come together share one transaction and are answered after its commit:
//! a group commit, without a linger when nothing else waits.
//!
//! Whoever asks first serves all who wait (flat combining; Hendler, Incze, Shavit, Tzafrir, SPAA 2010): on an idle machine
//! waking another thread costs more than the transaction itself. What would make the asker wait goes to a thread instead:
//! a file that another process is writing to, a commit that must reach the disk, and the copying of the WAL.

use std::{
    collections::HashMap,
    fs::File,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak, mpsc},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode};
use rustix::fs::{FlockOperation, flock};
use tokio::sync::oneshot;

use super::statements::{self, Table};
use crate::error::{Error, Result};

/// A transaction takes at most so many operations, so that other processes get their turn.
const LARGEST_BATCH: usize = 256;
/// The WAL is copied to the database each time so many transactions were written: some 16 MB, so that the copying (and its
/// fsync) is rare.
const CHECKPOINT_EVERY: u32 = 512;

/// A handle on the file. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Writer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Whether an asker may serve; not where a commit waits for the disk.
    inline: bool,
    waiting: Mutex<Vec<Box<dyn Operation>>>,
    core: Mutex<Core>,
    /// Wakes the thread, which ends when this is dropped.
    thread: mpsc::Sender<Call>,
}

#[derive(Debug)]
struct Core {
    connection: Connection,
    lock: File,
    /// Transactions since the WAL was last copied.
    written: u32,
}

#[derive(Debug)]
enum Call {
    Serve,
    Checkpoint,
}

/// The transaction that an operation runs in; it begins when something is first written.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    connection: &'a Connection,
    lock: &'a File,
    locked: bool,
    begun: bool,
    /// Messages more or fewer in each queue, added to the counters once, at the commit.
    changes: HashMap<Table, i64>,
}

trait Operation: Send {
    fn run(&mut self, batch: &mut Batch<'_>) -> rusqlite::Result<()>;
    fn answer(self: Box<Self>, committed: std::result::Result<(), &rusqlite::Error>);
}

impl std::fmt::Debug for dyn Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("operation")
    }
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
        let open = || Connection::open(&path).map_err(|error| sorted(what(), &error));
        let (connection, copying) = (open()?, open()?);
        // Processes that start together must not make the tables together.
        let prepared = flock(&lock, FlockOperation::LockExclusive)
            .map_err(|error| Error::from_io(what(), &error.into()));
        let prepared =
            prepared.and_then(|()| prepare(&connection, sync).map_err(|error| sorted(what(), &error)));
        let _released = flock(&lock, FlockOperation::Unlock);
        prepared?;

        let (thread, calls) = mpsc::channel();
        let core = Mutex::new(Core { connection, lock, written: 0 });
        let shared = Arc::new(Shared { inline: !sync, waiting: Mutex::default(), core, thread });
        let weak = Arc::downgrade(&shared);
        std::thread::Builder::new()
            .name("queue-writer".into())
            .spawn(move || answer_calls(&weak, &calls, &copying))
            .map_err(|error| Error::from_io("starting the queue's writer", &error))?;
        Ok(Self(shared))
    }

    /// Runs `work` in the next transaction and answers once that is committed.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        what: impl Into<String>,
        work: impl FnOnce(&mut Batch<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, mut answered) = oneshot::channel();
        let what = what.into();
        let gone = Error::broken(what.clone(), "the queue's writer has died");
        let operation = Pending { what, work: Some(work), done: None, answer };
        lock_anyway(&self.0.waiting).push(Box::new(operation));
        // Whatever else is ready to run may have something for the same transaction. On an idle machine nothing is.
        tokio::task::yield_now().await;
        if let Ok(served) = answered.try_recv() {
            return served;
        }
        self.0.serve_or_call();
        answered.await.unwrap_or(Err(gone))
    }
}

impl Shared {
    /// Serves all who wait, here if that takes no waiting, or else on the thread.
    fn serve_or_call(&self) {
        let core = if self.inline { self.core.try_lock() } else { Err(TryLockError::WouldBlock) };
        match core {
            Ok(mut core) => {
                if flock(&core.lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                    self.serve(&mut core, true);
                }
            }
            Err(TryLockError::Poisoned(_) | TryLockError::WouldBlock) => {}
        }
        // Whoever came while somebody else served, or while another process wrote, is still there.
        if !lock_anyway(&self.waiting).is_empty() {
            self.call(Call::Serve);
        }
    }

    fn call(&self, call: Call) {
        // It lives as long as `self` does.
        let _ended = self.thread.send(call);
    }

    /// One transaction for those who wait.
    fn serve(&self, core: &mut Core, locked: bool) {
        let mut operations = {
            let mut waiting = lock_anyway(&self.waiting);
            let count = waiting.len().min(LARGEST_BATCH);
            waiting.drain(..count).collect::<Vec<_>>()
        };
        let (connection, lock) = (&core.connection, &core.lock);
        let mut batch = Batch { connection, lock, locked, begun: false, changes: HashMap::new() };
        let ran = operations.iter_mut().try_for_each(|operation| operation.run(&mut batch));
        let begun = batch.begun;
        let committed = batch.end(ran);
        for operation in operations {
            operation.answer(committed.as_ref().copied());
        }
        if begun {
            core.written += 1;
            if core.written >= CHECKPOINT_EVERY {
                core.written = 0;
                self.call(Call::Checkpoint);
            }
        }
    }
}

fn lock_anyway<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn prepare(connection: &Connection, sync: bool) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(32);
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    // NORMAL survives a kill of every process; FULL survives a power cut too.
    connection.pragma_update(None, "synchronous", if sync { "FULL" } else { "NORMAL" })?;
    statements::make_tables(connection)
}

fn answer_calls(shared: &Weak<Shared>, calls: &mpsc::Receiver<Call>, copying: &Connection) {
    while let Ok(call) = calls.recv() {
        match call {
            Call::Serve => {
                let Some(shared) = shared.upgrade() else { return };
                while !lock_anyway(&shared.waiting).is_empty() {
                    shared.serve(&mut lock_anyway(&shared.core), false);
                }
            }
            // On a connection of its own: nobody waits for the disk meanwhile. If it fails, the next one copies more.
            Call::Checkpoint => {
                let copied = copying.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
                if let Err(error) = copied {
                    tracing::warn!(%error, "the queue's log could not be copied to its database");
                }
            }
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
        if !self.locked {
            // Writers of other processes queue up in the kernel, which wakes the next one at once. SQLite's own lock
            // would make them sleep and try again.
            flock(self.lock, FlockOperation::LockExclusive).map_err(|error| {
                rusqlite::Error::SqliteFailure(
                    rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR),
                    Some(error.to_string()),
                )
            })?;
            self.locked = true;
        }
        if !self.begun {
            self.begun = true;
            statements::run(self.connection, "BEGIN IMMEDIATE")?;
        }
        Ok(self.connection)
    }

    /// Notes that a queue has so many messages more.
    pub(super) fn count(&mut self, table: Table, change: i64) {
        *self.changes.entry(table).or_default() += change;
    }

    fn end(mut self, ran: rusqlite::Result<()>) -> rusqlite::Result<()> {
        let ended = if self.begun { self.commit(ran) } else { ran };
        if self.locked {
            let _released = flock(self.lock, FlockOperation::Unlock);
        }
        ended
    }

    fn commit(&mut self, ran: rusqlite::Result<()>) -> rusqlite::Result<()> {
        let changes = std::mem::take(&mut self.changes);
        let ended = ran
            .and_then(|()| statements::add_to_counters(self.connection, changes))
            .and_then(|()| statements::run(self.connection, "COMMIT"));
        if ended.is_err() && !self.connection.is_autocommit() {
            // It can only fail when the connection is beyond use, and then the next operation says so.
            let _failed = self.connection.execute_batch("ROLLBACK");
        }
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
