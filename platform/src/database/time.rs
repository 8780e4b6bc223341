//! The time that leases and ages are reckoned in: milliseconds that go forward with the machine's
//! uptime, sleep included. The wall clock may leap by days (a machine that starts in the past, a
//! battery that is empty, a hand): a lease would run out at once or last for days, and jobs would
//! be dropped for an age that they do not have.
//!
//! All processes of a machine see one uptime. What is added to it stands in the file, and makes the
//! time go on where it was after a restart of the machine. It begins as the wall clock's time,
//! which is what older versions of EIRS wrote.

use rusqlite::{Connection, OptionalExtension, params};
use rustix::time::{ClockId, clock_gettime};

/// A start of the machine, and how long ago that was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Boot {
    pub(super) id: String,
    pub(super) uptime: i64,
}

/// The time of a file's queues.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Time {
    base: i64,
}

/// What the file says of its time.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Noted {
    boot: String,
    base: i64,
}

impl Boot {
    /// The present one. Where a system does not name its starts, a lease of an earlier one lasts
    /// too long to be believed, and ends.
    pub(super) fn now() -> Self {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self { id: id.trim().to_owned(), uptime: uptime() }
    }
}

fn uptime() -> i64 {
    let since = clock_gettime(ClockId::Boottime);
    since.tv_sec * 1000 + since.tv_nsec / 1_000_000
}

impl Time {
    pub(crate) fn now(self) -> i64 {
        self.base + uptime()
    }

    /// The time of this file, which goes on if the machine was started again since. Leases of
    /// before belong to processes that are no more: they are over. To be called while nobody else
    /// writes.
    pub(super) fn of(connection: &Connection, boot: &Boot, wall: i64) -> rusqlite::Result<Self> {
        let noted = connection
            .query_row("SELECT boot, base FROM time", [], |row| {
                Ok(Noted { boot: row.get(0)?, base: row.get(1)? })
            })
            .optional()?;
        if let Some(noted) = noted.as_ref().filter(|noted| noted.boot == boot.id) {
            return Ok(Self { base: noted.base });
        }
        let newest = connection
            .query_row("SELECT since FROM messages ORDER BY id DESC LIMIT 1", [], |row| row.get(0))
            .optional()?;
        let base = continued(noted.as_ref(), newest, boot.uptime, wall);
        // In a file of the version before, leases are those of workers that may run.
        let end_leases =
            if noted.is_some() { "UPDATE messages SET visible_from = 0 WHERE visible_from > 0;" } else { "" };
        connection.execute_batch("BEGIN IMMEDIATE")?;
        let written = connection
            .execute_batch(&format!("{end_leases} DELETE FROM time;"))
            .and_then(|()| {
                connection.execute("INSERT INTO time (boot, base) VALUES (?1, ?2)", params![boot.id, base])
            })
            .and_then(|_| connection.execute_batch("COMMIT"));
        if written.is_err() && !connection.is_autocommit() {
            let _failed = connection.execute_batch("ROLLBACK");
        }
        written.map(|()| Self { base })
    }
}

/// What to add to the uptime after a start of the machine, so that the time is not before anything
/// that was sent. What passed since that is not known, and counts for no job's age.
fn continued(noted: Option<&Noted>, newest: Option<i64>, uptime: i64, wall: i64) -> i64 {
    match (noted, newest) {
        (Some(_), Some(newest)) if newest > 0 => newest - uptime,
        (Some(noted), _) => noted.base,
        (None, _) => wall - uptime,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_uptime_goes_forward_and_the_start_of_the_machine_has_a_name() {
        let (before, after) = (Boot::now(), Boot::now());
        assert_eq!(before.id, after.id);
        assert!(!before.id.is_empty());
        assert!(before.uptime > 0 && after.uptime >= before.uptime);
    }

    proptest! {
        #[test]
        fn after_a_restart_of_the_machine_nothing_that_was_sent_is_older_than_it_was(
            base in 0i64..1 << 42, sent in 1i64..1 << 42, uptime in 0i64..1 << 40, wall in any::<i32>(),
        ) {
            let noted = Noted { boot: "before".into(), base };
            let now = continued(Some(&noted), Some(sent), uptime, i64::from(wall)) + uptime;
            prop_assert_eq!(now, sent, "the age is none, whatever the wall clock says");
        }

        #[test]
        fn a_new_file_begins_at_the_time_of_the_wall_clock(uptime in 0i64..1 << 40, wall in 0i64..1 << 42) {
            prop_assert_eq!(continued(None, None, uptime, wall) + uptime, wall);
        }
    }
}
