//! The single writer of a process. Concurrent operations share a transaction and return after its
//! commit: a group commit, without delay if nothing else waits.
//!
//! The first caller runs the operations of all that wait (flat combining; Hendler, Incze, Shavit,
//! Tzafrir, SPAA 2010), because on an idle machine waking another thread costs more than the
//! transaction. What would block the caller is done by a thread: waiting for another process that
//! writes, a commit that must be synced, and a full log ([`log`]).
//!
//! [`log`]: super::log

mod operation;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak, mpsc},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, config::DbConfig};

use operation::{Operation, pending};

use super::{
    bell::Bell,
    log::Log,
    schema, shrink,
    table::{self, Table},
    time::{Boot, Time},
    turn::{Taken, Turn},
};
use crate::{
    error::{Error, Result},
    state_folder,
};

/// Maximum number of operations for which an operation waits once others join. With more, one
/// process would be idle while another gathers.
const COMPANY: usize = 8;
/// Maximum number of operations per transaction, so that other processes get their turn.
const LARGEST_BATCH: usize = 256;
/// How long an unhurried operation waits to join a transaction.
const UNHURRIED: Duration = Duration::from_millis(50);

/// A shared handle on the database.
#[derive(Debug, Clone)]
pub(crate) struct Writer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// True if the caller may run the operations; false if commits are synced.
    inline: bool,
    waiting: Mutex<Waiting>,
    /// Operations that join the next transaction and start none for now.
    unhurried: Mutex<Waiting>,
    core: Mutex<Core>,
    log: Arc<Log>,
    time: Time,
    file: PathBuf,
    /// Wakes the thread that runs operations, and ends it when dropped, ...
    thread: mpsc::Sender<()>,
    /// ... and the same for the thread that copies the log.
    copying: mpsc::Sender<()>,
}

type Waiting = Vec<Box<dyn Operation>>;

#[derive(Debug)]
struct Core {
    connection: Connection,
    turn: Turn,
}

/// The transaction of an operation; it begins at the first write.
#[derive(Debug)]
pub(crate) struct Batch<'a> {
    connection: &'a Connection,
    turn: &'a Turn,
    taken: Option<Taken<'a>>,
    begun: bool,
    /// Changes of the number of messages in each queue, added to the counters at the commit.
    changes: HashMap<Table, i64>,
    /// Messages to announce after the commit.
    rings: Vec<(Arc<Bell>, usize)>,
}

/// Number of pages whose memory is kept and shared by the connections of a process. Whenever
/// another process has written, a connection drops what it has read; returning the memory to the
/// system and requesting it again would cost more than the pages.
const KEPT_PAGES: i32 = 128;
/// Bytes for a page and what SQLite stores with it. If a later version needs more, this memory is
/// not used.
const KEPT_PAGE: usize = 4096 + 512;

/// Must be called before the first connection is opened.
#[expect(unsafe_code, reason = "SQLite offers it to C only")]
fn configure() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let memory = vec![0_u64; KEPT_PAGES as usize * KEPT_PAGE / size_of::<u64>()].leak();
        // SAFETY: the arguments of this option are memory that is aligned to eight bytes and never
        // freed, the size of its parts, and their number
        // (<https://sqlite.org/c3ref/c_config_covering_index_scan.html#sqliteconfigpagecache>). If
        // SQLite is already initialized, it refuses and works without.
        let _refused = unsafe {
            rusqlite::ffi::sqlite3_config(
                rusqlite::ffi::SQLITE_CONFIG_PAGECACHE,
                memory.as_mut_ptr().cast::<std::ffi::c_void>(),
                KEPT_PAGE as i32,
                KEPT_PAGES,
            )
        };
    });
}

impl Writer {
    /// Opens the database in this folder, or creates it. `wall` is the wall clock in milliseconds
    /// since 1970.
    pub(crate) fn open(folder: &Path, sync: bool, wall: i64) -> Result<Self> {
        let path = folder.join(state_folder::QUEUE);
        let what = || format!("opening the queue {}", path.display());
        let lock = folder.join(state_folder::QUEUE_LOCK);
        let turns = || {
            let what = format!("opening {}", lock.display());
            move |error| Error::from_io(what, &error)
        };
        let turn = Turn::open(&lock).map_err(turns())?;
        configure();
        let mut connection = Connection::open(&path).map_err(|error| classified(what(), &error, &path))?;
        // Processes that start together must not create the tables concurrently.
        let taken = turn.take().map_err(turns())?;
        let time = prepare(&connection, sync, wall)
            .map_err(|error| classified(what(), &error, &path))?
            .map_err(|newer| {
                let why = format!(
                    "a newer version of EIRS made it (its tables have version {newer}, this program \
                knows {}); use that version, or another state folder",
                    schema::VERSION
                );
                Error::broken(what(), why)
            })?;
        drop(taken);

        let log = Log::open(&path, turn.another().map_err(turns())?, &mut connection)?;
        let (thread, calls) = mpsc::channel();
        let (copying, to_copy) = mpsc::channel();
        let core = Mutex::new(Core { connection, turn });
        let shared = Arc::new(Shared {
            inline: !sync,
            waiting: Mutex::default(),
            unhurried: Mutex::default(),
            core,
            log,
            time,
            file: path,
            thread,
            copying,
        });
        let (weak, log) = (Arc::downgrade(&shared), shared.log.clone());
        start_thread("queue-writer", move || serve_calls(&weak, &calls))?;
        start_thread("queue-log", move || log.serve(&to_copy))?;
        Ok(Self(shared))
    }

    /// Returns the time for leases and ages.
    pub(crate) fn time(&self) -> Time {
        self.0.time
    }

    /// Returns whether this is a handle on the same writer.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Runs `work` in the next transaction; returns once that is committed.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        what: impl Into<String>,
        work: impl FnOnce(&mut Batch<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (operation, mut answered, gone) = pending(what.into(), work);
        let mut company = {
            let mut waiting = lock_anyway(&self.0.waiting);
            waiting.push(operation);
            waiting.len()
        };
        // Other ready tasks may add operations to the same transaction, and may make more tasks
        // ready. On an idle machine there are none.
        loop {
            tokio::task::yield_now().await;
            if let Ok(served) = answered.try_recv() {
                return served;
            }
            let waiting = lock_anyway(&self.0.waiting).len();
            if waiting <= company || waiting >= COMPANY {
                break;
            }
            company = waiting;
        }
        self.0.serve_or_call();
        answered.await.unwrap_or(Err(gone))
    }

    /// Like [`run`](Self::run), if no one waits for it: joins the next transaction that writes, and
    /// gets one of its own only if none comes for a while. If it is dropped before, `work` may or
    /// may not run.
    pub(crate) async fn run_unhurried<T: Send + 'static>(
        &self,
        what: impl Into<String>,
        work: impl FnOnce(&mut Batch<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (operation, mut answered, gone) = pending(what.into(), work);
        lock_anyway(&self.0.unhurried).push(operation);
        if let Ok(served) = tokio::time::timeout(UNHURRIED, &mut answered).await {
            return served.unwrap_or(Err(gone));
        }
        let due = std::mem::take(&mut *lock_anyway(&self.0.unhurried));
        lock_anyway(&self.0.waiting).extend(due);
        self.0.serve_or_call();
        answered.await.unwrap_or(Err(gone))
    }
}

impl Shared {
    /// Runs all waiting operations, on this thread if that does not block, or else on the writer's
    /// thread.
    fn serve_or_call(&self) {
        let here = self.inline && !self.log.is_full();
        match if here { self.core.try_lock() } else { Err(TryLockError::WouldBlock) } {
            Ok(core) => {
                if let Some(taken) = core.turn.try_take() {
                    self.serve(&core, Some(taken));
                }
            }
            Err(TryLockError::Poisoned(_) | TryLockError::WouldBlock) => {}
        }
        // Operations that came while another caller or process was writing are still waiting.
        if !lock_anyway(&self.waiting).is_empty() {
            // The thread lives as long as `self`.
            let _ended = self.thread.send(());
        }
    }

    /// Runs waiting operations; may block.
    fn serve_patiently(&self) {
        let core = lock_anyway(&self.core);
        // If the turn cannot be taken, the first operation that writes returns the error.
        let taken = if self.log.is_full() { self.log.make_room(&core.turn).ok() } else { None };
        self.serve(&core, taken);
    }

    /// Runs the waiting operations in one transaction.
    fn serve<'a>(&self, core: &'a Core, taken: Option<Taken<'a>>) {
        let mut operations = {
            let mut waiting = lock_anyway(&self.waiting);
            let count = waiting.len().min(LARGEST_BATCH);
            waiting.drain(..count).collect::<Vec<_>>()
        };
        let (connection, turn) = (&core.connection, &core.turn);
        let mut batch =
            Batch { connection, turn, taken, begun: false, changes: HashMap::new(), rings: Vec::new() };
        let mut ran = operations.iter_mut().try_for_each(|operation| operation.run(&mut batch));
        if batch.begun && ran.is_ok() {
            let mut joining = std::mem::take(&mut *lock_anyway(&self.unhurried));
            ran = joining.iter_mut().try_for_each(|operation| operation.run(&mut batch));
            operations.extend(joining);
        }
        let (begun, rings) = (batch.begun, std::mem::take(&mut batch.rings));
        let committed = batch.end(ran);
        if committed.is_ok() {
            rings.iter().for_each(|(bell, messages)| bell.ring(*messages));
        }
        for operation in operations {
            operation.answer(committed.as_ref().copied(), &self.file);
        }
        if begun && self.log.wants_copying() {
            let _ended = self.copying.send(());
        }
    }
}

fn lock_anyway<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn prepare(
    connection: &Connection,
    sync: bool,
    wall: i64,
) -> rusqlite::Result<std::result::Result<Time, usize>> {
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(32);
    keep_plans(connection)?;
    shrink::prepare(connection)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    // NORMAL survives a kill of every process; FULL also a power failure.
    connection.pragma_update(None, "synchronous", if sync { "FULL" } else { "NORMAL" })?;
    if let Err(newer) = schema::migrate(connection)? {
        return Ok(Err(newer));
    }
    shrink::migrate(connection)?;
    Time::of(connection, &Boot::now(), wall).map(Ok)
}

/// Keeps query plans. Otherwise SQLite 3.54.1 parses and plans statements with `LIMIT ?`, or with
/// `column = ?` and an order, at each run (`sqlite3VdbeReprepareOnBind`): 4 % of a worker's time
/// under load.
pub(super) fn keep_plans(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(|_on| ())
}

fn start_thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let started = std::thread::Builder::new().name(name.into()).spawn(work);
    started.map(drop).map_err(|error| Error::from_io(format!("starting the thread {name}"), &error))
}

fn serve_calls(shared: &Weak<Shared>, calls: &mpsc::Receiver<()>) {
    while calls.recv().is_ok() {
        let Some(shared) = shared.upgrade() else { return };
        while !lock_anyway(&shared.waiting).is_empty() {
            shared.serve_patiently();
        }
    }
}

impl<'a> Batch<'a> {
    /// Returns the connection for reading.
    pub(crate) fn reader(&self) -> &'a Connection {
        self.connection
    }

    /// Returns the connection for writing, and begins the transaction.
    pub(crate) fn writer(&mut self) -> rusqlite::Result<&'a Connection> {
        if self.taken.is_none() {
            self.taken = Some(self.turn.take().map_err(|error| {
                rusqlite::Error::SqliteFailure(
                    rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR),
                    Some(error.to_string()),
                )
            })?);
        }
        if !self.begun {
            self.begun = true;
            table::run(self.connection, "BEGIN IMMEDIATE")?;
        }
        Ok(self.connection)
    }

    /// Records a change of the number of messages in a queue.
    pub(crate) fn count(&mut self, table: Table, change: i64) {
        *self.changes.entry(table).or_default() += change;
    }

    /// Announces messages after the commit; one write wakes the receivers of all messages of a
    /// transaction.
    pub(crate) fn ring(&mut self, bell: &Arc<Bell>, messages: usize) {
        match self.rings.iter_mut().find(|(rung, _)| Arc::ptr_eq(rung, bell)) {
            Some((_, more)) => *more += messages,
            None => self.rings.push((bell.clone(), messages)),
        }
    }

    fn end(mut self, ran: rusqlite::Result<()>) -> rusqlite::Result<()> {
        // Dropping `self` releases the turn, after the commit.
        if self.begun { self.commit(ran) } else { ran }
    }

    fn commit(&mut self, ran: rusqlite::Result<()>) -> rusqlite::Result<()> {
        let changes = std::mem::take(&mut self.changes);
        let ended = ran
            .and_then(|()| table::add_to_counters(self.connection, changes))
            .and_then(|()| table::run(self.connection, "COMMIT"));
        if ended.is_err() && !self.connection.is_autocommit() {
            // Fails only if the connection is unusable, which the next operation reports.
            let _failed = self.connection.execute_batch("ROLLBACK");
        }
        ended
    }
}

/// Converts an error of SQLite into one that says what the caller or the operator can do.
pub(super) fn classified(what: String, error: &rusqlite::Error, file: &Path) -> Error {
    let (why, file) = (error.to_string(), file.display());
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Error::Full { what, why },
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            let why = format!(
                "{file} is damaged ({why}); stop the service, and restore a backup \
                (docs/OPERATIONS.md), or move the file away to start with an empty queue"
            );
            Error::Broken { what, why }
        }
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            let why = format!(
                "this user may not read and write {file} ({why}); `chown -R` the state folder to \
                the user that runs EIRS"
            );
            Error::Broken { what, why }
        }
        _ => Error::Unavailable { what, why },
    }
}

#[cfg(test)]
mod tests;
