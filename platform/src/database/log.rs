//! Keeps SQLite's write-ahead log not much larger than [`FULL`], regardless of the load.
//!
//! SQLite reuses the log from its start only after a moment in which all of it was copied to the
//! database and no reader uses it. Under load there is no such moment: a checkpoint that does not
//! block writers (`PASSIVE`) copies what was there when it began, and reports success although more
//! has been written since. So a thread copies and syncs while writers continue, until little is
//! left, and then takes the writers' turn ([`Turn`]) for the rest. All writers of all processes
//! wait for that turn, so nothing is added meanwhile, and the rest takes about a millisecond. If
//! writers are faster than copying (on a slow disk), a writer that finds the log full copies before
//! it writes.
//!
//! Sizes are those that SQLite reports at each commit; they include what other processes wrote.
//!
//! **Long readers.** A reader that stays (`.backup`, `VACUUM INTO`, a transaction in `sqlite3`)
//! keeps the whole log since its start, so the log grows with the load. SQLite has no way around
//! that, and jobs are not refused because of it. Nothing waits for such a reader: an attempt every
//! second notices its end and frees the space.

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

/// Size in bytes from which the log is copied. Smaller means more syncs, larger means more to read
/// after a crash.
const COPIED_FROM: u64 = 4 << 20;
/// Size in bytes at which a writer copies before it writes.
const FULL: u64 = 11 << 20;
/// Files larger than this, after a long reader or a crash, are truncated. Smaller ones are reused,
/// which needs no new disk space. In bytes.
const KEPT: u64 = 14 << 20;
/// Size in bytes from which a log kept by a reader is reported.
const NOTABLE: u64 = 64 << 20;
/// Maximum number of bytes left to copy while writers wait.
const LITTLE: u64 = 256 << 10;
/// Maximum number of times that the thread copies and syncs before it takes the writers' turn in
/// any case.
const ROUNDS: usize = 4;
/// Maximum time for which the thread makes writers wait for the disk.
const HOLD: Duration = Duration::from_millis(20);
/// Maximum time for which writers wait for readers of the log; those of EIRS take less than a
/// millisecond.
const PATIENCE: Duration = Duration::from_millis(20);
/// Maximum time for which a writer that finds the log full waits for another process that copies.
const NEIGHBOUR: Duration = Duration::from_millis(30);
/// Interval between checks whether that process is done.
const MOMENT: Duration = Duration::from_millis(1);
/// Time until the next attempt after an error or while a reader stays.
const AGAIN: Duration = Duration::from_secs(1);

/// The log of a database, as this process sees it.
#[derive(Debug)]
pub(super) struct Log {
    /// Size at this process's last commit, in bytes.
    size: AtomicU64,
    /// True once the thread was is_reported that there is something to copy.
    called: AtomicBool,
    frame: u64,
    /// No attempt is made before this time, because a reader stays or an error occurred.
    retry_at: Mutex<Option<Instant>>,
    /// True once a long reader was reported.
    is_reported: AtomicBool,
    copier: Mutex<Copier>,
}

#[derive(Debug)]
struct Copier {
    connection: Connection,
    turn: Turn,
    database: &'static File,
    file: PathBuf,
}

/// The result of a checkpoint, in frames of the log.
#[derive(Debug, Clone, Copy)]
struct Copied {
    /// True if it could not do everything.
    busy: bool,
    /// Frames in the log, and frames of it that are in the database. Both are -1 if another process
    /// is copying.
    log: i64,
    copied: i64,
}

/// The result of an attempt to empty the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The next writer reuses it from its start.
    Empty,
    /// It is small: another process has emptied it.
    Small,
    /// Another process is copying.
    Elsewhere,
    /// A reader prevents it.
    Kept,
    /// The disk was slow, and writers continued.
    Slow,
}

impl Log {
    /// Opens the log of this database; `writer` reports its commits from now on. Empties a log that
    /// a crash left too large.
    pub(super) fn open(database: &Path, turn: Turn, writer: &mut Connection) -> Result<Arc<Self>> {
        let failed = |error: rusqlite::Error| super::writer::classified(what(database), &error, database);
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
            // Each frame has a header in addition to the page.
            frame: u64::from(page) + 24,
            retry_at: Mutex::default(),
            is_reported: AtomicBool::new(false),
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

    /// Returns whether the next writer must call [`make_room`](Self::make_room), on a thread that
    /// may block.
    pub(super) fn is_full(&self) -> bool {
        self.size.load(Relaxed) >= FULL && !self.is_deferred()
    }

    /// Takes the writers' turn, and empties the log if it is still full.
    pub(super) fn make_room<'a>(&self, turn: &'a Turn) -> std::io::Result<Taken<'a>> {
        let deadline = Instant::now() + NEIGHBOUR;
        let waits = |end| end == Some(End::Elsewhere) && Instant::now() < deadline;
        // This process's own thread may be copying, and needs the turn to finish.
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

    /// Returns whether the thread must be called after a commit, because the log has grown and it
    /// was not called yet.
    pub(super) fn wants_copying(&self) -> bool {
        self.size.load(Relaxed) >= COPIED_FROM && !self.is_deferred() && !self.called.swap(true, Relaxed)
    }

    /// Empties the log at each call; returns when the callers are gone.
    pub(super) fn serve(&self, calls: &mpsc::Receiver<()>) {
        let mut again = self.is_deferred();
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
            // Try again later even if nothing is written any more.
            again = matches!(end, None | Some(End::Kept));
            if end == Some(End::Elsewhere) {
                // Avoids an attempt at each commit until that process is done.
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
        let mut retry_at = self.retry_at.lock().unwrap_or_else(PoisonError::into_inner);
        let first = retry_at.is_none();
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
                if self.is_reported.swap(false, Relaxed) {
                    tracing::info!(
                        "the long reader of the queue has ended, and its log is small \
                        again"
                    );
                }
                *retry_at = None;
            }
            Some(End::Elsewhere | End::Slow) => {}
            Some(End::Kept) | None => *retry_at = Some(Instant::now() + AGAIN),
        }
        if end == Some(End::Kept) {
            self.report_reader();
        }
        end
    }

    fn report_reader(&self) {
        let size = self.size.load(Relaxed);
        if size >= NOTABLE && !self.is_reported.swap(true, Relaxed) {
            tracing::warn!(
                "another program keeps reading the queue, so that its log cannot be reused and has \
                {} MB; `fuser -v queue.db` shows the program",
                size >> 20
            );
        }
    }

    fn is_deferred(&self) -> bool {
        let until = *self.retry_at.lock().unwrap_or_else(PoisonError::into_inner);
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
            // SQLite syncs the database only if it has caught up with the writers. Sync now,
            // because syncing the rest keeps writers waiting.
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

    /// Makes the first commit in an empty log.
    fn begin(&self, end: End) {
        if end == End::Empty {
            // With NORMAL, the header of the log is synced, as it must be, but the commit is not.
            // The number is zero already; setting it writes its page anyway. If this fails, the
            // next writer makes the first commit.
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

/// Opens the database file for syncing. Closing any descriptor of a file releases all POSIX locks
/// of the process on it, including SQLite's own (<https://sqlite.org/howtocorrupt.html>, 2.2): so
/// it stays open, once for each file.
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
