//! Where a process touches the file. Operations that come together share one transaction and are
//! answered after its commit: a group commit, without a linger when nothing else waits.
//!
//! Whoever asks first serves all who wait (flat combining; Hendler, Incze, Shavit, Tzafrir, SPAA
//! 2010): on an idle machine waking another thread costs more than the transaction itself. What
//! would make the asker wait goes to a thread instead: a file that another process is writing to, a
//! commit that must reach the disk, and a log that is full ([`log`]).
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

/// An operation that others join waits for more, up to this number. More than that and one process
/// would have nothing to do while the other gathers.
const COMPANY: usize = 8;
/// A transaction takes at most this number of operations, so that other processes get their turn.
const LARGEST_BATCH: usize = 256;
/// How long an operation that nobody waits for waits for a transaction of others.
const UNHURRIED: Duration = Duration::from_millis(50);

/// A handle on the file. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Writer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Whether an asker may serve; not where a commit waits for the disk.
    inline: bool,
    waiting: Mutex<Waiting>,
    /// What joins the next transaction that begins, and begins none for now.
    unhurried: Mutex<Waiting>,
    core: Mutex<Core>,
    log: Arc<Log>,
    time: Time,
    file: PathBuf,
    /// Wakes the thread that serves, which ends when this is dropped, ...
    thread: mpsc::Sender<()>,
    /// ... and the one that copies the log.
    copying: mpsc::Sender<()>,
}

type Waiting = Vec<Box<dyn Operation>>;

#[derive(Debug)]
struct Core {
    connection: Connection,
    turn: Turn,
}

/// The transaction that an operation runs in; it begins when something is first written.
#[derive(Debug)]
pub(crate) struct Batch<'a> {
    connection: &'a Connection,
    turn: &'a Turn,
    taken: Option<Taken<'a>>,
    begun: bool,
    /// Messages more or fewer in each queue, added to the counters once, at the commit.
    changes: HashMap<Table, i64>,
    /// Messages to announce after the commit.
    rings: Vec<(Arc<Bell>, usize)>,
}

/// Pages for which the connections of a process share memory, which is kept: whenever another
/// process has written, a connection drops all that it had read, and to return that memory to the
/// system and ask for it again costs more than the pages.
const KEPT_PAGES: i32 = 128;
/// A page, and what SQLite keeps beside it; if that is more one day, this memory is not used.
const KEPT_PAGE: usize = 4096 + 512;

/// To be called before the first connection is opened.
#[expect(unsafe_code, reason = "SQLite offers it to C only")]
fn configure() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let memory = vec![0_u64; KEPT_PAGES as usize * KEPT_PAGE / size_of::<u64>()].leak();
        // SAFETY: of this option the arguments are memory that is aligned to eight bytes and never
        // freed, the size of its parts, and their number
        // (<https://sqlite.org/c3ref/c_config_covering_index_scan.html#sqliteconfigpagecache>).
        // Where SQLite runs already it refuses, and does without.
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
    /// Opens the file of this folder, or makes it; `wall` is the time of day in milliseconds since
    /// the year 1970.
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
        let mut connection = Connection::open(&path).map_err(|error| sorted(what(), &error, &path))?;
        // Processes that start together must not make the tables together.
        let taken = turn.take().map_err(turns())?;
        let time = prepare(&connection, sync, wall).map_err(|error| sorted(what(), &error, &path))?.map_err(
            |newer| {
                let why = format!(
                    "a newer version of EIRS made it (its tables have version {newer}, this program \
                knows {}); use that version, or another state folder",
                    schema::VERSION
                );
                Error::broken(what(), why)
            },
        )?;
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
        start_thread("queue-writer", move || answer_calls(&weak, &calls))?;
        start_thread("queue-log", move || log.serve(&to_copy))?;
        Ok(Self(shared))
    }

    /// The time that leases and ages go by.
    pub(crate) fn time(&self) -> Time {
        self.0.time
    }

    /// Whether this is a handle on the same writer.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Runs `work` in the next transaction and answers once that is committed.
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
        // Whatever else is ready to run may have something for the same transaction, and may make
        // others ready. On an idle machine nothing is.
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

    /// The same for what nobody waits for: it joins the next transaction that writes, and has one
    /// of its own only if none comes for a while. What is dropped before may be done or not.
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
    /// Serves all who wait, here if that takes no waiting, or else on the thread.
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
        // Whoever came while somebody else served, or while another process wrote, is still there.
        if !lock_anyway(&self.waiting).is_empty() {
            // It lives as long as `self` does.
            let _ended = self.thread.send(());
        }
    }

    /// The same, where waiting is fine.
    fn serve_patiently(&self) {
        let core = lock_anyway(&self.core);
        // Where the turn cannot be had, the first operation that writes is answered with the
        // reason.
        let taken = if self.log.is_full() { self.log.make_room(&core.turn).ok() } else { None };
        self.serve(&core, taken);
    }

    /// One transaction for those who wait.
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
    // NORMAL survives a kill of every process; FULL survives a power cut too.
    connection.pragma_update(None, "synchronous", if sync { "FULL" } else { "NORMAL" })?;
    if let Err(newer) = schema::bring_up_to_date(connection)? {
        return Ok(Err(newer));
    }
    shrink::carry_over(connection)?;
    Time::of(connection, &Boot::now(), wall).map(Ok)
}

/// Parses a statement once. Without this SQLite 3.54.1 parses and plans one with `LIMIT ?`, or with
/// `column = ?` and an order, at each run (`sqlite3VdbeReprepareOnBind`): 4 % of a worker's time at
/// load.
pub(super) fn keep_plans(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(|_on| ())
}

fn start_thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let started = std::thread::Builder::new().name(name.into()).spawn(work);
    started.map(drop).map_err(|error| Error::from_io(format!("starting the thread {name}"), &error))
}

fn answer_calls(shared: &Weak<Shared>, calls: &mpsc::Receiver<()>) {
    while calls.recv().is_ok() {
        let Some(shared) = shared.upgrade() else { return };
        while !lock_anyway(&shared.waiting).is_empty() {
            shared.serve_patiently();
        }
    }
}

impl<'a> Batch<'a> {
    /// For looking only.
    pub(crate) fn reader(&self) -> &'a Connection {
        self.connection
    }

    /// For changing something; begins the transaction.
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

    /// Notes that a queue has so many messages more.
    pub(crate) fn count(&mut self, table: Table, change: i64) {
        *self.changes.entry(table).or_default() += change;
    }

    /// Announces messages once they can be seen: all of a transaction wake their receivers
    /// together.
    pub(crate) fn ring(&mut self, bell: &Arc<Bell>, messages: usize) {
        match self.rings.iter_mut().find(|(rung, _)| Arc::ptr_eq(rung, bell)) {
            Some((_, more)) => *more += messages,
            None => self.rings.push((bell.clone(), messages)),
        }
    }

    fn end(mut self, ran: rusqlite::Result<()>) -> rusqlite::Result<()> {
        // The turn ends with `self`, after the commit.
        if self.begun { self.commit(ran) } else { ran }
    }

    fn commit(&mut self, ran: rusqlite::Result<()>) -> rusqlite::Result<()> {
        let changes = std::mem::take(&mut self.changes);
        let ended = ran
            .and_then(|()| table::add_to_counters(self.connection, changes))
            .and_then(|()| table::run(self.connection, "COMMIT"));
        if ended.is_err() && !self.connection.is_autocommit() {
            // It can only fail when the connection is beyond use, and then the next operation says
            // so.
            let _failed = self.connection.execute_batch("ROLLBACK");
        }
        ended
    }
}

/// What the caller can do about an error of SQLite's, and what an operator can.
pub(super) fn sorted(what: String, error: &rusqlite::Error, file: &Path) -> Error {
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
