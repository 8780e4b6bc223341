//! Keeps SQLite's write-ahead log below [`FULL`] and a little, whatever the load.
//!
//! SQLite writes the log from its start again only after a moment in which all of it was copied to
//! the database and no reader looks at it. Under load there is no such moment: a checkpoint that
//! lets writers go on (`PASSIVE`) copies what there was when it began, and answers with success
//! although more has been written since. So a thread of its own copies and syncs while writers go
//! on, until little is left, and then takes their turn ([`Turn`]) for the rest. Every writer of
//! every process waits for its turn, so nothing is added meanwhile, and what is left takes a
//! millisecond. Where writers are faster than the copying (a slow disk), one that finds the log
//! full copies before it writes.
//!
//! Sizes are those that SQLite counts at each commit, and include what other processes wrote.
//!
//! **Long readers.** A reader that stays (`.backup`, `VACUUM INTO`, somebody's `sqlite3` in a
//! transaction) keeps all of the log that was written since it began, and then the log grows with
//! the load; SQLite offers no way around that, and jobs are not refused for it. Nobody waits for
//! such a reader: a try a second notices that it has left, and gives the space back.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, TryLockError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc::{self, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use rusqlite::Connection;

use super::turn::{Taken, Turn};
use crate::{
    error::{Error, Result},
    state_folder,
};

/// From this size on the log is copied. Smaller would mean more syncs, larger more to read after a
/// crash.
const COPIED_FROM: u64 = 4 << 20;
/// At this size a writer copies before it writes more.
const FULL: u64 = 11 << 20;
/// A file that is larger, after a long reader or a crash of an older version, is cut. A smaller one
/// is kept and written over, which needs no new space on the disk.
const KEPT: u64 = 14 << 20;
/// A log that a reader has let grow to this is worth a line in the service's log.
const NOTABLE: u64 = 64 << 20;
/// So little may be left to copy while writers wait.
const LITTLE: u64 = 256 << 10;
/// How often the thread copies, and syncs, what was written while it did so, before it takes the
/// writers' turn all the same.
const ROUNDS: usize = 4;
/// How long the thread keeps writers waiting for the disk.
const HOLD: Duration = Duration::from_millis(20);
/// How long writers wait for readers that look at the log: those of EIRS have done so in less than
/// a millisecond.
const PATIENCE: Duration = Duration::from_millis(20);
/// How long a writer that finds the log full waits for another process that copies.
const NEIGHBOUR: Duration = Duration::from_millis(30);
/// How often it looks whether that process is ready.
const MOMENT: Duration = Duration::from_millis(1);
/// After so long it is tried again to get past a reader that stays, or an error.
const AGAIN: Duration = Duration::from_secs(1);

/// The log of a database, as one process sees it.
#[derive(Debug)]
pub(super) struct Log {
    /// Its size at this process's last commit.
    size: AtomicU64,
    /// Whether the thread knows that there is something to copy.
    called: AtomicBool,
    frame: u64,
    /// Until when nobody tries: a reader stays, or something is broken.
    hopeless_until: Mutex<Option<Instant>>,
    /// Whether a reader that stays has been told of.
    told: AtomicBool,
    copier: Mutex<Copier>,
}

#[derive(Debug)]
struct Copier {
    connection: Connection,
    turn: Turn,
    database: &'static File,
    file: PathBuf,
}

/// What a checkpoint answers, in frames of the log.
#[derive(Debug, Clone, Copy)]
struct Copied {
    /// It could not do all that it was asked for.
    busy: bool,
    /// All that is in the log, and what of it the database has. Both are -1 where another process
    /// is copying.
    log: i64,
    copied: i64,
}

/// How an attempt to empty the log ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The next writer writes it from its start.
    Empty,
    /// It is small; somebody else has emptied it.
    Small,
    /// Another process is copying.
    Elsewhere,
    /// A reader keeps it.
    Kept,
    /// The disk was slow, and writers went on.
    Slow,
}

impl Log {
    /// The log of this database, whose `writer` reports its commits from now on. A log that a crash
    /// left too large is emptied first.
    pub(super) fn open(database: &Path, turn: Turn, writer: &mut Connection) -> Result<Arc<Self>> {
        let failed = |error: rusqlite::Error| super::writer::sorted(what(database), &error, database);
        let connection = Connection::open(database).map_err(failed)?;
        connection.busy_timeout(PATIENCE).map_err(failed)?;
        let page: u32 = writer.pragma_query_value(None, "page_size", |row| row.get(0)).map_err(failed)?;
        let mut file = database.as_os_str().to_owned();
        file.push(state_folder::LOG_SUFFIX);
        let copier = Copier {
            connection,
            turn,
            database: never_closed(database).map_err(|error| Error::from_io(what(database), &error))?,
            file: file.into(),
        };
        let size = copier.length();
        let log = Arc::new(Self {
            size: AtomicU64::new(size),
            called: AtomicBool::new(false),
            // Each page has a header of its own there.
            frame: u64::from(page) + 24,
            hopeless_until: Mutex::default(),
            told: AtomicBool::new(false),
            copier: Mutex::new(copier),
        });
        if size > KEPT {
            log.empty();
        }
        let reported = log.clone();
        let report = move |_: &mut rusqlite::hooks::Wal, frames: i32| {
            reported.size.store(u64::from(frames.unsigned_abs()) * reported.frame, Relaxed);
            Ok(())
        };
        writer.wal_hook(Some(report)).map_err(failed)?;
        Ok(log)
    }

    /// Whether the next writer should take its turn by [`make_room`](Self::make_room), on a thread
    /// that may wait.
    pub(super) fn is_full(&self) -> bool {
        self.size.load(Relaxed) >= FULL && !self.is_hopeless()
    }

    /// Takes the writers' turn, and empties the log in it if it is still full.
    pub(super) fn make_room<'a>(&self, turn: &'a Turn) -> std::io::Result<Taken<'a>> {
        let deadline = Instant::now() + NEIGHBOUR;
        let waits = |end| end == Some(End::Elsewhere) && Instant::now() < deadline;
        // This process's own thread may be copying, and needs the turn to come to an end.
        let copier = loop {
            match self.copier.try_lock() {
                Ok(copier) => break Some(copier),
                Err(TryLockError::Poisoned(poisoned)) => break Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if !waits(Some(End::Elsewhere)) => break None,
                Err(TryLockError::WouldBlock) => std::thread::park_timeout(MOMENT),
            }
        };
        let taken = turn.take()?;
        if let Some(copier) = copier.filter(|_| self.is_full()) {
            while waits(self.note(copier.empty_in_turn())) {
                std::thread::park_timeout(MOMENT);
            }
        }
        Ok(taken)
    }

    /// To be called after a commit: whether the thread has something to do that it does not know
    /// of.
    pub(super) fn wants_copying(&self) -> bool {
        self.size.load(Relaxed) >= COPIED_FROM && !self.is_hopeless() && !self.called.swap(true, Relaxed)
    }

    /// Empties the log whenever it is called; ends with the callers.
    pub(super) fn serve(&self, calls: &mpsc::Receiver<()>) {
        let mut again = self.is_hopeless();
        loop {
            let call = if again {
                calls.recv_timeout(AGAIN)
            } else {
                calls.recv().map_err(|_ended| RecvTimeoutError::Disconnected)
            };
            if call == Err(RecvTimeoutError::Disconnected) {
                return;
            }
            let mut end = self.empty();
            while end == Some(End::Slow) {
                end = self.empty();
            }
            // A log that cannot be emptied now must be emptied when it can, even if nobody writes
            // any more.
            again = matches!(end, None | Some(End::Kept));
            if end == Some(End::Elsewhere) {
                // Not at each commit until that process is ready.
                std::thread::park_timeout(NEIGHBOUR);
            }
            self.called.store(false, Relaxed);
        }
    }

    fn empty(&self) -> Option<End> {
        let copier = self.copier.lock().unwrap_or_else(PoisonError::into_inner);
        self.note(copier.empty(self.frame))
    }

    fn note(&self, end: rusqlite::Result<End>) -> Option<End> {
        let mut hopeless = self.hopeless_until.lock().unwrap_or_else(PoisonError::into_inner);
        let first = hopeless.is_none();
        let end = end
            .inspect_err(|error| {
                if first {
                    tracing::warn!(%error, "the queue's log cannot be copied to its database, and \
                        grows until it can");
                }
            })
            .ok();
        match end {
            Some(End::Empty | End::Small) => {
                self.size.store(0, Relaxed);
                if self.told.swap(false, Relaxed) {
                    tracing::info!(
                        "the long reader of the queue has ended, and its log is small \
                        again"
                    );
                }
                *hopeless = None;
            }
            Some(End::Elsewhere | End::Slow) => {}
            Some(End::Kept) | None => *hopeless = Some(Instant::now() + AGAIN),
        }
        if end == Some(End::Kept) {
            self.tell_of_reader();
        }
        end
    }

    fn tell_of_reader(&self) {
        let size = self.size.load(Relaxed);
        if size >= NOTABLE && !self.told.swap(true, Relaxed) {
            tracing::warn!(
                "another program keeps reading the queue, so that its log cannot be reused and has \
                {} MB; `fuser -v queue.db` shows the program",
                size >> 20
            );
        }
    }

    fn is_hopeless(&self) -> bool {
        let until = *self.hopeless_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }
}

impl Copier {
    fn empty(&self, frame: u64) -> rusqlite::Result<End> {
        let little = (LITTLE / frame) as i64;
        let mut had = 0;
        for round in 1.. {
            let Copied { log, copied, .. } = self.checkpoint("PASSIVE")?;
            if log < 0 {
                return Ok(End::Elsewhere);
            }
            // SQLite syncs the database only where it has caught up with the writers; what is left
            // to sync costs them time.
            self.database.sync_data().map_err(failed)?;
            if log as u64 * frame < COPIED_FROM && self.length() <= KEPT {
                return Ok(End::Small);
            }
            let written_meanwhile = log - had;
            had = copied;
            if round == ROUNDS && log - copied > little {
                return Ok(End::Kept);
            }
            if round == ROUNDS || written_meanwhile <= little {
                break;
            }
        }
        let taken = self.turn.take().map_err(failed)?;
        let start = Instant::now();
        let (copied, kept) = taken.for_at_most(HOLD, || self.checkpoint("PASSIVE"));
        let end = match (copied, &kept) {
            (Ok(Copied { log: ..0, .. }), _) => Ok(End::Elsewhere),
            (Ok(_), Some(_)) => self.empty_in_turn().inspect(|end| self.begin(*end)),
            (Ok(_), None) => Ok(End::Slow),
            (Err(error), _) => Err(error),
        };
        drop(kept);
        tracing::debug!(held_ms = start.elapsed().as_secs_f64() * 1e3, ?end, "the queue's log was emptied");
        end
    }

    /// Makes the first commit of an empty log.
    fn begin(&self, end: End) {
        if end == End::Empty {
            // The header of the log is synced, as it must be, and the commit is not. The number is
            // zero already; this writes its page all the same. If it cannot, the next writer makes
            // the first commit.
            let first = "PRAGMA synchronous = NORMAL; PRAGMA application_id = 0";
            let _failed = self.connection.execute_batch(first);
        }
    }

    fn empty_in_turn(&self) -> rusqlite::Result<End> {
        let mode = if self.length() > KEPT { "TRUNCATE" } else { "RESTART" };
        let Copied { busy, log, .. } = self.checkpoint(mode)?;
        Ok(match (busy, log) {
            (_, ..0) => End::Elsewhere,
            (true, _) => End::Kept,
            (false, _) => End::Empty,
        })
    }

    fn checkpoint(&self, mode: &str) -> rusqlite::Result<Copied> {
        self.connection.prepare_cached(&format!("PRAGMA wal_checkpoint({mode})"))?.query_row([], |row| {
            Ok(Copied { busy: row.get::<_, i64>(0)? != 0, log: row.get(1)?, copied: row.get(2)? })
        })
    }

    fn length(&self) -> u64 {
        fs::metadata(&self.file).map_or(0, |file| file.len())
    }
}

fn what(database: &Path) -> String {
    format!("opening the queue {}", database.display())
}

fn failed(error: std::io::Error) -> rusqlite::Error {
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR);
    rusqlite::Error::SqliteFailure(code, Some(error.to_string()))
}

/// The database file, for syncing. Who closes any descriptor of a file gives up every POSIX lock
/// that its process has on it, SQLite's own among them (<https://sqlite.org/howtocorrupt.html>,
/// 2.2): so it stays open, once for each file.
fn never_closed(path: &Path) -> std::io::Result<&'static File> {
    static OPEN: Mutex<BTreeMap<(u64, u64), &'static File>> = Mutex::new(BTreeMap::new());
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let found = fs::metadata(path)?;
    let file = (found.dev(), found.ino());
    if let Some(opened) = open.get(&file) {
        return Ok(opened);
    }
    let opened = &*Box::leak(Box::new(File::open(path)?));
    open.insert(file, opened);
    Ok(opened)
}

#[cfg(test)]
mod tests;
