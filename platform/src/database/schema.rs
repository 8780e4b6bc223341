//! The tables of the database, and their migrations.
//!
//! `user_version` is the version of the tables. Each migration is one transaction, so that a kill
//! leaves the older tables. Migrations only add things, so that programs of the previous version
//! still work during an upgrade.

use rusqlite::Connection;

/// The migrations in order: each brings the tables of the previous version to the next one.
const STEPS: [&str; 2] = [
    // `AUTOINCREMENT`, so that a receipt never matches a later message with a reused row id.
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
    // The database's own time (see `time.rs`). Zero for older messages, whose age is unknown.
    "ALTER TABLE messages ADD COLUMN since INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE time (boot TEXT NOT NULL, base INTEGER NOT NULL);",
];

/// Migrates the tables. Call it while no one else writes. The inner `Err` is the version of a file
/// that a newer program made.
pub(super) fn migrate(connection: &Connection) -> rusqlite::Result<Result<(), usize>> {
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

/// The newest version.
pub(super) const VERSION: usize = STEPS.len();

#[cfg(test)]
pub(crate) const FIRST: &str = STEPS[0];
