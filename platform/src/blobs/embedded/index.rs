//! The SQL of images and results.
//!
//! The row number of an image is its place: the segment's number, then the offset in it. So the
//! rows of a segment are contiguous, and new rows go to the end of the table. Ages are in seconds
//! of the store's own clock (see `expiry.rs`).

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::super::BlobInfo;
use crate::database::Batch;
use chrono::DateTime;

/// The place of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) segment: u32,
    pub(super) offset: u32,
    pub(super) bytes: u32,
}

impl Place {
    fn number(self) -> i64 {
        first_of(self.segment) | i64::from(self.offset)
    }

    fn of(number: i64, bytes: i64) -> Self {
        Self {
            segment: u32::try_from(number >> 32).unwrap_or(0),
            offset: (number & i64::from(u32::MAX)) as u32,
            bytes: u32::try_from(bytes).unwrap_or(0),
        }
    }
}

fn first_of(segment: u32) -> i64 {
    i64::from(segment) << 32
}

/// An image in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) place: Place,
    /// The CRC-32 of its bytes; `None` if an earlier version wrote it.
    pub(super) sum: Option<u32>,
}

pub(super) fn make_tables(batch: &mut Batch<'_>) -> rusqlite::Result<()> {
    let connection = batch.writer()?;
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS images (
            place INTEGER PRIMARY KEY,
            bytes INTEGER NOT NULL,
            stored_at INTEGER NOT NULL,
            age INTEGER NOT NULL,
            message INTEGER,
            key TEXT NOT NULL UNIQUE
        );
        CREATE TABLE IF NOT EXISTS results (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            stored_at INTEGER NOT NULL,
            age INTEGER NOT NULL,
            key TEXT NOT NULL UNIQUE,
            body BLOB NOT NULL
        );
        CREATE TABLE IF NOT EXISTS store_clock (
            id INTEGER PRIMARY KEY CHECK (id = 1),
            now INTEGER NOT NULL,
            seen_at INTEGER NOT NULL,
            first_message INTEGER NOT NULL
        );
        INSERT OR IGNORE INTO store_clock
            SELECT 1, 0, 0, coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'messages'), 0);",
    )?;
    let has_sums = "SELECT 1 FROM pragma_table_info('images') WHERE name = 'sum'";
    if !connection.prepare(has_sums)?.exists([])? {
        connection.execute_batch("ALTER TABLE images ADD COLUMN sum INTEGER")?;
    }
    Ok(())
}

// Images.

pub(super) fn find_image(connection: &Connection, key: &str) -> rusqlite::Result<Option<Entry>> {
    let entry = |row: &Row<'_>| Ok(Entry { place: Place::of(row.get(0)?, row.get(1)?), sum: row.get(2)? });
    connection
        .prepare_cached("SELECT place, bytes, sum FROM images WHERE key = ?1")?
        .query_row([key], entry)
        .optional()
}

/// Returns whether there is an image with this key.
pub(crate) fn has_image(connection: &Connection, key: &str) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM images WHERE key = ?1")?.exists([key])
}

/// Adds the row of an image; returns the place of the one that it replaces.
pub(super) fn enter_image(
    batch: &mut Batch<'_>,
    key: &str,
    Entry { place, sum }: Entry,
    stored_at: i64,
    message: Option<i64>,
) -> rusqlite::Result<Option<Place>> {
    let connection = batch.writer()?;
    let insert = |connection: &Connection| {
        connection
            .prepare_cached(
                "INSERT INTO images (place, bytes, stored_at, age, message, key, sum)
                 SELECT ?1, ?2, ?3, now, ?4, ?5, ?6 FROM store_clock WHERE true
                 ON CONFLICT (key) DO NOTHING",
            )?
            .execute(params![place.number(), place.bytes, stored_at, message, key, sum])
    };
    if insert(connection)? == 1 {
        return Ok(None);
    }
    let replaced = delete_image(batch, key)?;
    insert(connection)?;
    Ok(replaced)
}

pub(super) fn delete_image(batch: &mut Batch<'_>, key: &str) -> rusqlite::Result<Option<Place>> {
    let mut delete =
        batch.writer()?.prepare_cached("DELETE FROM images WHERE key = ?1 RETURNING place, bytes")?;
    delete.query_row([key], |row| Ok(Place::of(row.get(0)?, row.get(1)?))).optional()
}

/// Keeps the image as long as this message, and resets its age.
pub(super) fn keep_image(batch: &mut Batch<'_>, key: &str, message: Option<i64>) -> rusqlite::Result<()> {
    batch
        .writer()?
        .prepare_cached("UPDATE images SET message = ?1, age = (SELECT now FROM store_clock) WHERE key = ?2")?
        .execute(params![message, key])?;
    Ok(())
}

/// Returns the row id of the message last sent with an image, even if it is gone; `None` if none
/// was sent with it.
pub(crate) fn message_of(connection: &Connection, key: &str) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached("SELECT message FROM images WHERE key = ?1 AND message IS NOT NULL")?
        .query_row([key], |row| row.get(0))
        .optional()
}

/// An image whose age was checked.
pub(super) struct Aged {
    pub(super) place: Place,
    /// True if it may be deleted.
    pub(super) expired: bool,
    /// True if it is too old, but a job still needs it.
    pub(super) needed: bool,
}

/// Returns the next `limit` images at or after a place.
pub(super) fn aged_images(
    connection: &Connection,
    from: (u32, u32),
    older_than: i64,
    limit: usize,
) -> rusqlite::Result<Vec<Aged>> {
    let from = first_of(from.0) | i64::from(from.1);
    let aged = |row: &Row<'_>| {
        let (old, needed): (bool, bool) = (row.get(2)?, row.get(3)?);
        Ok(Aged {
            place: Place::of(row.get(0)?, row.get(1)?),
            expired: old && !needed,
            needed: old && needed,
        })
    };
    connection
        .prepare_cached(
            "SELECT place, bytes, age < ?2,
                    age < ?2 AND message IS NOT NULL AND EXISTS (SELECT 1 FROM messages WHERE id = message)
             FROM images WHERE place >= ?1 ORDER BY place LIMIT ?3",
        )?
        .query_map(params![from, older_than, limit as i64], aged)?
        .collect()
}

/// Deletes the images that are still at these places and not needed by a job; returns their places.
pub(super) fn delete_places(batch: &mut Batch<'_>, places: &[Place]) -> rusqlite::Result<Vec<Place>> {
    let mut delete = batch.writer()?.prepare_cached(
        "DELETE FROM images WHERE place = ?1
            AND (message IS NULL OR NOT EXISTS (SELECT 1 FROM messages WHERE id = message))",
    )?;
    let mut deleted = Vec::new();
    for place in places {
        if delete.execute([place.number()])? == 1 {
            deleted.push(*place);
        }
    }
    Ok(deleted)
}

/// Returns the end of the last image of a segment, or `None` if the segment has no image.
pub(super) fn end_of_segment(connection: &Connection, segment: u32) -> rusqlite::Result<Option<u64>> {
    let end = |row: &Row<'_>| {
        let last = Place::of(row.get(0)?, row.get(1)?);
        Ok(u64::from(last.offset) + u64::from(last.bytes))
    };
    connection
        .prepare_cached(
            "SELECT place, bytes FROM images WHERE place >= ?1 AND place < ?2 ORDER BY place DESC LIMIT 1",
        )?
        .query_row(params![first_of(segment), first_of(segment) + (1 << 32)], end)
        .optional()
}

/// Returns the highest segment number in the index.
pub(super) fn last_segment(connection: &Connection) -> rusqlite::Result<u32> {
    let last: Option<i64> = connection.query_row("SELECT max(place) FROM images", [], |row| row.get(0))?;
    Ok(last.map_or(0, |number| Place::of(number, 0).segment))
}

// Results.

pub(crate) fn find_result(connection: &Connection, key: &str) -> rusqlite::Result<Option<Vec<u8>>> {
    connection
        .prepare_cached("SELECT body FROM results WHERE key = ?1")?
        .query_row([key], |row| row.get(0))
        .optional()
}

/// Adds a result unless the key exists; returns whether it did.
pub(crate) fn enter_result(
    batch: &mut Batch<'_>,
    key: &str,
    body: &[u8],
    stored_at: i64,
) -> rusqlite::Result<bool> {
    let entered = batch
        .writer()?
        .prepare_cached(
            "INSERT INTO results (stored_at, age, key, body) SELECT ?1, now, ?2, ?3 FROM store_clock WHERE true
             ON CONFLICT (key) DO NOTHING",
        )?
        .execute(params![stored_at, key, body])?;
    Ok(entered == 1)
}

pub(super) fn delete_result(batch: &mut Batch<'_>, key: &str) -> rusqlite::Result<()> {
    batch.writer()?.prepare_cached("DELETE FROM results WHERE key = ?1")?.execute([key])?;
    Ok(())
}

pub(super) fn any_result_older(connection: &Connection, older_than: i64) -> rusqlite::Result<bool> {
    let oldest: Option<i64> = connection
        .prepare_cached("SELECT age FROM results ORDER BY id LIMIT 1")?
        .query_row([], |row| row.get(0))
        .optional()?;
    Ok(oldest.is_some_and(|age| age < older_than))
}

/// Resets the age of old notes of versions that still have results: the notes are needed to find
/// these when another version is in force.
pub(super) fn renew_version_notes(batch: &mut Batch<'_>, older_than: i64) -> rusqlite::Result<()> {
    let mut find = batch.reader().prepare_cached(
        "SELECT key, body, stored_at FROM results WHERE key >= 'versions/' AND key < 'versions0' AND age < \
         ?1",
    )?;
    let note = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    let old: Vec<(String, Vec<u8>, i64)> =
        find.query_map([older_than], note)?.collect::<rusqlite::Result<_>>()?;
    for (key, body, stored_at) in old {
        let Some(of) = key.strip_prefix("versions/").and_then(|key| key.strip_suffix(".json")) else {
            continue;
        };
        let any = "SELECT 1 FROM results WHERE key > 'results/' || ?1 || '/' AND key < 'results/' || ?1 || \
            '0' LIMIT 1";
        if batch.reader().prepare_cached(any)?.exists([of])? {
            // As a new row, because rows are in the order of their ages.
            delete_result(batch, &key)?;
            enter_result(batch, &key, &body, stored_at)?;
        }
    }
    Ok(())
}

/// Deletes at most `limit` of the oldest results that are older than `older_than`; returns their
/// number.
pub(super) fn delete_old_results(
    batch: &mut Batch<'_>,
    older_than: i64,
    limit: usize,
) -> rusqlite::Result<usize> {
    batch
        .writer()?
        .prepare_cached(
            "DELETE FROM results WHERE age < ?1 AND id IN (SELECT id FROM results ORDER BY id LIMIT ?2)",
        )?
        .execute(params![older_than, limit as i64])
}

// Both.

/// A table that can be listed by key.
#[derive(Debug, Clone, Copy)]
pub(super) enum Listed {
    Images,
    Results,
}

pub(super) fn list(
    connection: &Connection,
    listed: Listed,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> rusqlite::Result<Vec<BlobInfo>> {
    let statement = match listed {
        Listed::Images => {
            "SELECT key, bytes, stored_at FROM images WHERE key >= ?1 AND key > ?2 ORDER BY key LIMIT ?3"
        }
        Listed::Results => {
            "SELECT key, length(body), stored_at FROM results WHERE key >= ?1 AND key > ?2 ORDER BY key \
             LIMIT ?3"
        }
    };
    let info = |row: &Row<'_>| {
        let modified = DateTime::from_timestamp_millis(row.get(2)?).unwrap_or_default();
        Ok(BlobInfo { key: row.get(0)?, bytes: row.get::<_, i64>(1)?.unsigned_abs(), modified })
    };
    let mut statement = connection.prepare_cached(statement)?;
    let rows = statement.query_map(params![prefix, after.unwrap_or_default(), limit as i64], info)?;
    // Keys are in order, so all keys with the prefix precede those without it.
    let with_prefix =
        |row: &rusqlite::Result<BlobInfo>| row.as_ref().map_or(true, |row| row.key.starts_with(prefix));
    rows.take_while(with_prefix).collect()
}

/// Returns the store's clock, the wall clock time when it was last advanced, and the last message
/// that was sent before the store existed.
pub(super) fn clock(connection: &Connection) -> rusqlite::Result<(i64, i64, i64)> {
    connection
        .prepare_cached("SELECT now, seen_at, first_message FROM store_clock")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
}

pub(super) fn advance_clock(batch: &mut Batch<'_>, seconds: i64, seen_at: i64) -> rusqlite::Result<()> {
    batch
        .writer()?
        .prepare_cached("UPDATE store_clock SET now = now + ?1, seen_at = ?2")?
        .execute(params![seconds, seen_at])?;
    Ok(())
}

/// Returns whether any queue has a message from before the store existed.
pub(super) fn any_message_until(connection: &Connection, last: i64) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM messages WHERE id <= ?1 LIMIT 1")?.exists([last])
}
