//! The queues in the database: each is a row with the number of its messages.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, params};

use super::writer::Batch;

/// A queue, identified by its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Table(i64);

impl Table {
    /// Returns the row id.
    pub(crate) fn id(self) -> i64 {
        self.0
    }
}

/// Runs a cached statement without parameters and rows.
pub(super) fn run(connection: &Connection, statement: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(statement)?.execute([]).map(|_| ())
}

pub(crate) fn table(batch: &mut Batch<'_>, name: &str) -> rusqlite::Result<Table> {
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

pub(crate) fn names(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    connection.prepare("SELECT name FROM queues ORDER BY name")?.query_map([], |row| row.get(0))?.collect()
}

pub(super) fn add_to_counters(connection: &Connection, changes: HashMap<Table, i64>) -> rusqlite::Result<()> {
    let mut add = connection.prepare_cached("UPDATE queues SET messages = messages + ?1 WHERE id = ?2")?;
    for (table, change) in changes.into_iter().filter(|(_, change)| *change != 0) {
        add.execute(params![change, table.0])?;
    }
    Ok(())
}
