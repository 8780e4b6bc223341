//! The tables of the file, and how those of older versions become these.
//!
//! `user_version` numbers them. A step is one transaction, so that a kill in the middle leaves the
//! older tables; it only adds, so that programs of the version before, which run on for a while
//! during an upgrade, still find what they know.

use rusqlite::Connection;

/// One for each version, in order: what makes the tables of the version before into its own.
const STEPS: [&str; 2] = [
    // `AUTOINCREMENT` because a receipt must never name a later message that got the row of an
    // earlier one.
    "CREATE TABLE IF NOT EXISTS queues (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        messages INTEGER NOT NULL DEFAULT 0
    );
    CREATE TABLE IF NOT EXISTS messages (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        queue INTEGER NOT NULL,
        visible_from INTEGER NOT NULL,
        receives INTEGER NOT NULL DEFAULT 0,
        sent_at INTEGER NOT NULL,
        body BLOB NOT NULL
    );
    CREATE INDEX IF NOT EXISTS by_visibility ON messages (queue, visible_from, id);",
    // The queue's own time (see `time.rs`). Zero is that of messages from before: their age is not
    // known.
    "ALTER TABLE messages ADD COLUMN since INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE time (boot TEXT NOT NULL, base INTEGER NOT NULL);",
];

/// Brings the tables up to date. To be called while nobody else writes. `Err` of the inner result
/// is the version of a file that a newer program made.
pub(super) fn bring_up_to_date(connection: &Connection) -> rusqlite::Result<Result<(), usize>> {
    let version: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let Some(steps) = STEPS.get(version as usize..) else { return Ok(Err(version as usize)) };
    for (step, number) in steps.iter().zip(version + 1..) {
        let step = format!("BEGIN IMMEDIATE; {step} PRAGMA user_version = {number}; COMMIT;");
        if let Err(error) = connection.execute_batch(&step) {
            if !connection.is_autocommit() {
                let _failed = connection.execute_batch("ROLLBACK");
            }
            return Err(error);
        }
    }
    Ok(Ok(()))
}

/// The newest version, for sentences.
pub(super) const VERSION: usize = STEPS.len();

#[cfg(test)]
pub(crate) const FIRST: &str = STEPS[0];
