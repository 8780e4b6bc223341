//! The SQL. Times are milliseconds since 1970; a message is visible when its `visible_from` is not in the future.
//!
//! A message that was never received has `visible_from` zero, and not the time of its sending, so that a clock that is
//! set back makes nothing invisible.

use std::collections::HashMap;

use bytes::Bytes;
use chrono::DateTime;
use rusqlite::{Connection, OptionalExtension, params};

use super::writer::Batch;
use crate::queue::{Delivery, Depth, Receipt};

/// A queue, by its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Table(i64);

/// The `visible_from` of what anybody may have.
pub(super) const AT_ONCE: i64 = 0;

/// `AUTOINCREMENT` because a receipt must never name a later message that got the row of an earlier one.
pub(super) fn make_tables(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
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
    )
}

/// Runs a statement without parameters and rows, parsed once.
pub(super) fn run(connection: &Connection, statement: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(statement)?.execute([]).map(|_| ())
}

pub(super) fn table(batch: &mut Batch<'_>, name: &str) -> rusqlite::Result<Table> {
    let find = |connection: &Connection| {
        connection
            .query_row("SELECT id FROM queues WHERE name = ?1", [name], |row| row.get(0).map(Table))
            .optional()
    };
    if let Some(table) = find(batch.reader())? {
        return Ok(table);
    }
    let connection = batch.writer()?;
    connection.execute("INSERT OR IGNORE INTO queues (name) VALUES (?1)", [name])?;
    find(connection)?.ok_or(rusqlite::Error::QueryReturnedNoRows)
}

pub(super) fn names(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    connection.prepare("SELECT name FROM queues ORDER BY name")?.query_map([], |row| row.get(0))?.collect()
}

pub(super) fn send(batch: &mut Batch<'_>, table: Table, bodies: &[Bytes], now: i64) -> rusqlite::Result<()> {
    let connection = batch.writer()?;
    let mut insert = connection.prepare_cached(
        "INSERT INTO messages (queue, visible_from, sent_at, body) VALUES (?1, ?2, ?3, ?4)",
    )?;
    for body in bodies {
        insert.execute(params![table.0, AT_ONCE, now, &body[..]])?;
    }
    batch.count(table, bodies.len() as i64);
    Ok(())
}

pub(super) fn anything_visible(connection: &Connection, table: Table, now: i64) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM messages WHERE queue = ?1 AND visible_from <= ?2 LIMIT 1")?
        .exists(params![table.0, now])
}

pub(super) fn next_visible(connection: &Connection, table: Table, now: i64) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached("SELECT min(visible_from) FROM messages WHERE queue = ?1 AND visible_from > ?2")?
        .query_row(params![table.0, now], |row| row.get(0))
}

/// Moves a leased message to the dead letters. It keeps its time of sending, and its count of receives, so that no receipt
/// of its former life fits it.
pub(super) fn bury(
    batch: &mut Batch<'_>,
    table: Table,
    dead: Table,
    receipt: &Receipt,
) -> rusqlite::Result<()> {
    let (id, _) = parts(receipt);
    batch
        .writer()?
        .prepare_cached("UPDATE messages SET queue = ?1, visible_from = ?2 WHERE id = ?3")?
        .execute(params![dead.0, AT_ONCE, id])?;
    batch.count(table, -1);
    batch.count(dead, 1);
    Ok(())
}

pub(super) fn lease(
    batch: &mut Batch<'_>,
    table: Table,
    max: usize,
    now: i64,
    until: i64,
) -> rusqlite::Result<Vec<Delivery>> {
    let mut lease = batch.writer()?.prepare_cached(
        "UPDATE messages SET receives = receives + 1, visible_from = ?1 WHERE id IN (
            SELECT id FROM messages WHERE queue = ?2 AND visible_from <= ?3 ORDER BY visible_from, id LIMIT ?4
        ) RETURNING id, receives, sent_at, body",
    )?;
    let delivery = |row: &rusqlite::Row<'_>| {
        let (id, receives): (i64, u32) = (row.get(0)?, row.get(1)?);
        Ok(Delivery {
            body: row.get::<_, Vec<u8>>(3)?.into(),
            receipt: Receipt(format!("{id}-{receives}")),
            receives,
            sent_at: DateTime::from_timestamp_millis(row.get(2)?).unwrap_or_default(),
        })
    };
    lease.query_map(params![until, table.0, now, max as i64], delivery)?.collect()
}

/// The row and the delivery that a receipt stands for. What is none matches nothing.
fn parts(receipt: &Receipt) -> (i64, i64) {
    let parts =
        receipt.0.split_once('-').and_then(|(id, receives)| Some((id.parse().ok()?, receives.parse().ok()?)));
    parts.unwrap_or((-1, -1))
}

/// Renews leases until then; answers those that are lost.
pub(super) fn extend(
    batch: &mut Batch<'_>,
    receipts: &[Receipt],
    until: i64,
) -> rusqlite::Result<Vec<Receipt>> {
    let mut extend = batch
        .writer()?
        .prepare_cached("UPDATE messages SET visible_from = ?1 WHERE id = ?2 AND receives = ?3")?;
    let mut lost = Vec::new();
    for receipt in receipts {
        let (id, receives) = parts(receipt);
        if extend.execute(params![until, id, receives])? == 0 {
            lost.push(receipt.clone());
        }
    }
    Ok(lost)
}

pub(super) fn ack(batch: &mut Batch<'_>, table: Table, receipts: &[Receipt]) -> rusqlite::Result<()> {
    let mut delete = batch
        .writer()?
        .prepare_cached("DELETE FROM messages WHERE id = ?1 AND receives = ?2 AND queue = ?3")?;
    let mut deleted = 0;
    for receipt in receipts {
        let (id, receives) = parts(receipt);
        deleted += delete.execute(params![id, receives, table.0])?;
    }
    batch.count(table, -(deleted as i64));
    Ok(())
}

/// The number of messages is kept in a counter, and only the few that are leased are counted: a look at the depth costs
/// the same at any depth.
pub(super) fn depth(connection: &Connection, table: Table, now: i64) -> rusqlite::Result<Depth> {
    let total: i64 = connection
        .prepare_cached("SELECT messages FROM queues WHERE id = ?1")?
        .query_row([table.0], |row| row.get(0))?;
    let in_flight: i64 = connection
        .prepare_cached("SELECT count(*) FROM messages WHERE queue = ?1 AND visible_from > ?2")?
        .query_row(params![table.0, now], |row| row.get(0))?;
    Ok(Depth { visible: (total - in_flight).max(0) as u64, in_flight: in_flight as u64 })
}

/// Deletes the messages that nobody took in time. The first in line is the oldest: if that one is young, all are.
pub(super) fn expire(
    batch: &mut Batch<'_>,
    table: Table,
    sent_before: i64,
    now: i64,
) -> rusqlite::Result<()> {
    let oldest: Option<i64> = batch
        .reader()
        .prepare_cached("SELECT sent_at FROM messages WHERE queue = ?1 ORDER BY visible_from, id LIMIT 1")?
        .query_row([table.0], |row| row.get(0))
        .optional()?;
    if oldest.is_none_or(|oldest| oldest >= sent_before) {
        return Ok(());
    }
    let deleted = batch
        .writer()?
        .prepare_cached("DELETE FROM messages WHERE queue = ?1 AND visible_from <= ?2 AND sent_at < ?3")?
        .execute(params![table.0, now, sent_before])?;
    batch.count(table, -(deleted as i64));
    Ok(())
}

pub(super) fn purge(batch: &mut Batch<'_>, table: Table) -> rusqlite::Result<()> {
    let deleted = batch.writer()?.execute("DELETE FROM messages WHERE queue = ?1", [table.0])?;
    batch.count(table, -(deleted as i64));
    Ok(())
}

pub(super) fn add_to_counters(connection: &Connection, changes: HashMap<Table, i64>) -> rusqlite::Result<()> {
    let mut add = connection.prepare_cached("UPDATE queues SET messages = messages + ?1 WHERE id = ?2")?;
    for (table, change) in changes.into_iter().filter(|(_, change)| *change != 0) {
        add.execute(params![change, table.0])?;
    }
    Ok(())
}
