//! The SQL statements. Times are those of the database. A visible message has `visible_from` 0, a
//! leased one the end of its lease. Expired leases are reset to 0 before messages are leased, so
//! that the oldest message comes first regardless of how often it was received.

use bytes::Bytes;
use chrono::DateTime;
use rusqlite::{Connection, OptionalExtension, params};

use crate::{
    database::{Batch, Table},
    queue::{Delivery, Depth, Receipt},
};

/// The `visible_from` of a visible message.
pub(super) const AT_ONCE: i64 = 0;
/// Maximum number of rows changed in one transaction, so that other operations get their turn and
/// the write-ahead log stays small.
const SLICE: i64 = 1000;

/// A time and the duration of a lease, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) now: i64,
    pub(super) visibility: i64,
}

impl Now {
    /// Returns the end of a lease that begins now.
    pub(super) fn until(self) -> i64 {
        self.now + self.visibility
    }

    /// Returns the latest possible end of a lease. A later one in the file (which was edited, or is
    /// from another machine) counts as expired, so that no message is hidden for days. Twice the
    /// visibility, because processes may differ during a change of settings.
    fn farthest(self) -> i64 {
        self.now + 2 * self.visibility + 60_000
    }
}

/// Appends messages at the time `now` of the database and the wall clock time `sent_at`. Returns
/// the row id of the last one, which it keeps until it is acked, even if it is moved.
pub(super) fn send(
    batch: &mut Batch<'_>,
    table: Table,
    bodies: &[Bytes],
    now: i64,
    sent_at: i64,
) -> rusqlite::Result<Option<i64>> {
    let connection = batch.writer()?;
    let mut insert = connection.prepare_cached(
        "INSERT INTO messages (queue, visible_from, since, sent_at, body) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    for body in bodies {
        insert.execute(params![table.id(), AT_ONCE, now, sent_at, &body[..]])?;
    }
    batch.count(table, bodies.len() as i64);
    Ok((!bodies.is_empty()).then(|| connection.last_insert_rowid()))
}

/// Returns whether a receive would find a message.
pub(super) fn anything_visible(connection: &Connection, table: Table, now: Now) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "SELECT 1 FROM messages WHERE queue = ?1 AND visible_from <= ?2
            UNION ALL SELECT 1 FROM messages WHERE queue = ?1 AND visible_from > ?3 LIMIT 1",
        )?
        .exists(params![table.id(), now.now, now.farthest()])
}

pub(super) fn next_visible(connection: &Connection, table: Table, now: Now) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached("SELECT min(visible_from) FROM messages WHERE queue = ?1 AND visible_from > ?2")?
        .query_row(params![table.id(), now.now], |row| row.get(0))
}

/// The state of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// It is in the queue; `is_old` if it is too old to stay.
    Here { is_old: bool },
    /// It is not in the queue.
    Gone,
}

/// Returns whether a message is still in a queue. It is too old if it is not leased and was sent
/// before `since`.
pub(super) fn seen(
    connection: &Connection,
    table: Table,
    message: i64,
    now: Now,
    since: i64,
) -> rusqlite::Result<Seen> {
    let here = |row: &rusqlite::Row<'_>| {
        let (until, sent): (i64, i64) = (row.get(0)?, row.get(1)?);
        Ok(Seen::Here { is_old: until <= now.now && sent > 0 && sent < since })
    };
    let found = connection
        .prepare_cached("SELECT visible_from, since FROM messages WHERE id = ?1 AND queue = ?2")?
        .query_row(params![message, table.id()], here)
        .optional()?;
    Ok(found.unwrap_or(Seen::Gone))
}

/// Resets expired leases.
fn end_leases(batch: &mut Batch<'_>, table: Table, now: Now) -> rusqlite::Result<()> {
    let find = "SELECT 1 FROM messages WHERE queue = ?1 AND visible_from > 0 AND visible_from <= ?2
        UNION ALL SELECT 1 FROM messages WHERE queue = ?1 AND visible_from > ?3 LIMIT 1";
    let times = params![table.id(), now.now, now.farthest()];
    if batch.reader().prepare_cached(find)?.exists(times)? {
        let end = "UPDATE messages SET visible_from = 0 WHERE id IN (
            SELECT id FROM messages WHERE queue = ?1 AND visible_from > 0 AND visible_from <= ?2
            UNION ALL SELECT id FROM messages WHERE queue = ?1 AND visible_from > ?3 LIMIT ?4
        )";
        batch.writer()?.prepare_cached(end)?.execute(params![table.id(), now.now, now.farthest(), SLICE])?;
    }
    Ok(())
}

/// Moves a leased message to the dead letters, where its age starts at zero. It keeps its time of
/// sending and its count of receives, so that earlier receipts do not match.
pub(super) fn bury(
    batch: &mut Batch<'_>,
    table: Table,
    dead: Table,
    receipt: &Receipt,
    now: Now,
) -> rusqlite::Result<()> {
    let (id, _) = parts(receipt);
    batch
        .writer()?
        .prepare_cached("UPDATE messages SET queue = ?1, visible_from = ?2, since = ?3 WHERE id = ?4")?
        .execute(params![dead.id(), AT_ONCE, now.now, id])?;
    batch.count(table, -1);
    batch.count(dead, 1);
    Ok(())
}

/// Leases the oldest visible messages.
pub(super) fn lease(
    batch: &mut Batch<'_>,
    table: Table,
    max: usize,
    now: Now,
) -> rusqlite::Result<Vec<Delivery>> {
    end_leases(batch, table, now)?;
    let mut lease = batch.writer()?.prepare_cached(
        "UPDATE messages SET receives = receives + 1, visible_from = ?1 WHERE id IN (
            SELECT id FROM messages WHERE queue = ?2 AND visible_from = 0 ORDER BY id LIMIT ?3
        ) RETURNING id, receives, sent_at, body",
    )?;
    let leased = lease.query_map(params![now.until(), table.id(), max as i64], delivery)?;
    in_order(leased)
}

/// Returns the oldest visible messages after this row, without leasing them.
pub(super) fn look(
    connection: &Connection,
    table: Table,
    after: i64,
    max: usize,
) -> rusqlite::Result<Vec<Delivery>> {
    let mut look = connection.prepare_cached(
        "SELECT id, receives, sent_at, body FROM messages
         WHERE queue = ?1 AND visible_from = 0 AND id > ?2 ORDER BY id LIMIT ?3",
    )?;
    let found = look.query_map(params![table.id(), after, max as i64], delivery)?;
    // The receipt has the stored count, so that an ack matches unless the message is leased.
    let once_more = |delivery: Delivery| Delivery { receives: delivery.receives + 1, ..delivery };
    found.map(|found| found.map(|(_, delivery)| once_more(delivery))).collect()
}

/// Returns the row id of a delivery.
pub(super) fn row(receipt: &Receipt) -> i64 {
    parts(receipt).0
}

fn delivery(row: &rusqlite::Row<'_>) -> rusqlite::Result<(i64, Delivery)> {
    let (id, receives): (i64, u32) = (row.get(0)?, row.get(1)?);
    let delivery = Delivery {
        body: row.get::<_, Vec<u8>>(3)?.into(),
        receipt: Receipt(format!("{id}-{receives}")),
        receives,
        sent_at: DateTime::from_timestamp_millis(row.get(2)?).unwrap_or_default(),
    };
    Ok((id, delivery))
}

/// Sorts the rows: SQLite does not specify the order of `RETURNING`
/// (<https://sqlite.org/lang_returning.html>, 2.1).
fn in_order(
    leased: impl Iterator<Item = rusqlite::Result<(i64, Delivery)>>,
) -> rusqlite::Result<Vec<Delivery>> {
    let mut leased = leased.collect::<rusqlite::Result<Vec<_>>>()?;
    leased.sort_unstable_by_key(|(id, _)| *id);
    Ok(leased.into_iter().map(|(_, delivery)| delivery).collect())
}

/// Returns the row id and the count of a receipt. An invalid receipt matches nothing.
fn parts(receipt: &Receipt) -> (i64, i64) {
    let parts =
        receipt.0.split_once('-').and_then(|(id, receives)| Some((id.parse().ok()?, receives.parse().ok()?)));
    parts.unwrap_or((-1, -1))
}

/// Sets the end of leases; returns the receipts of lost ones.
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
        deleted += delete.execute(params![id, receives, table.id()])?;
    }
    batch.count(table, -(deleted as i64));
    Ok(())
}

/// Returns the depth from a counter of messages and a count of the few leased ones, so that the
/// cost does not depend on the depth.
pub(super) fn depth(connection: &Connection, table: Table, now: Now) -> rusqlite::Result<Depth> {
    let total: i64 = connection
        .prepare_cached("SELECT messages FROM queues WHERE id = ?1")?
        .query_row([table.id()], |row| row.get(0))?;
    let in_flight: i64 = connection
        .prepare_cached(
            "SELECT count(*) FROM messages WHERE queue = ?1 AND visible_from > ?2 AND visible_from <= ?3",
        )?
        .query_row(params![table.id(), now.now, now.farthest()], |row| row.get(0))?;
    Ok(Depth { visible: (total - in_flight).max(0) as u64, in_flight: in_flight as u64 })
}

/// Looks at the first message only: if it is not too old, none is.
fn oldest_is_expired(connection: &Connection, table: Table, since: i64) -> rusqlite::Result<bool> {
    let oldest: Option<i64> = connection
        .prepare_cached(
            "SELECT since FROM messages WHERE queue = ?1 AND visible_from = 0 ORDER BY id LIMIT 1",
        )?
        .query_row([table.id()], |row| row.get(0))
        .optional()?;
    Ok(oldest.is_some_and(|oldest| oldest > 0 && oldest < since))
}

/// Moves up to [`SLICE`] messages that were sent before `since` and are not leased to the dead
/// letters, or deletes them without a dead letter queue. Returns their number.
pub(super) fn expire(
    batch: &mut Batch<'_>,
    table: Table,
    dead: Option<Table>,
    now: Now,
    since: i64,
) -> rusqlite::Result<usize> {
    end_leases(batch, table, now)?;
    if !oldest_is_expired(batch.reader(), table, since)? {
        return Ok(0);
    }
    let which = "WHERE id IN (
        SELECT id FROM messages WHERE queue = ?1 AND visible_from = 0 ORDER BY id LIMIT ?2
    ) AND since > 0 AND since < ?3";
    let connection = batch.writer()?;
    let expired = match dead {
        Some(dead) => connection
            .prepare_cached(&format!("UPDATE messages SET queue = ?4, since = ?5 {which}"))?
            .execute(params![table.id(), SLICE, since, dead.id(), now.now])?,
        None => connection.prepare_cached(&format!("DELETE FROM messages {which}"))?.execute(params![
            table.id(),
            SLICE,
            since
        ])?,
    };
    batch.count(table, -(expired as i64));
    if let Some(dead) = dead {
        batch.count(dead, expired as i64);
    }
    Ok(expired)
}

/// Returns the row id of the newest message of all queues.
pub(super) fn newest(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("SELECT coalesce(max(id), 0) FROM messages", [], |row| row.get(0))
}

/// Deletes up to [`SLICE`] messages up to this row id, leased or not; returns their number.
pub(super) fn purge(batch: &mut Batch<'_>, table: Table, newest: i64) -> rusqlite::Result<usize> {
    let purge = "DELETE FROM messages WHERE id IN (
        SELECT id FROM messages WHERE queue = ?1 AND id <= ?2 LIMIT ?3
    )";
    let deleted = batch.writer()?.prepare_cached(purge)?.execute(params![table.id(), newest, SLICE])?;
    batch.count(table, -(deleted as i64));
    Ok(deleted)
}
