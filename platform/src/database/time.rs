//! The time for leases and ages: milliseconds that advance with the machine's uptime, including
//! suspend. The wall clock may jump by days (a wrong clock at boot, an empty battery, a manual
//! change), which would end leases at once or make them last for days, and drop jobs for a wrong
//! age.
//!
//! All processes of a machine see the same uptime. An offset in the database is added to it, which
//! lets the time continue after a reboot. It starts at the wall clock's time, which older versions
//! of EIRS wrote.

use rusqlite::{Connection, OptionalExtension, params};
use rustix::time::{ClockId, clock_gettime};

/// A boot of the machine, and the uptime since then in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Boot {
    pub(super) id: String,
    pub(super) uptime: i64,
}

/// The time of a database.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Time {
    base: i64,
}

/// The time in the database.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Noted {
    boot: String,
    base: i64,
}

impl Boot {
    /// Returns the current boot. On systems without boot ids, leases of an earlier boot end far in
    /// the future, so they count as expired.
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

    /// Returns the time of this database, which continues after a reboot. Leases from before a
    /// reboot are ended, because their processes are gone. Call it while no one else writes.
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
        // In a file of the previous version, leases belong to workers that may still run.
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

/// Returns the offset to the uptime after a reboot, such that the time is not before any sent
/// message. The time that has passed since is unknown and does not count for ages.
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
    fn the_uptime_advances_and_the_boot_has_an_id() {
        let (before, after) = (Boot::now(), Boot::now());
        assert_eq!(before.id, after.id);
        assert!(!before.id.is_empty());
        assert!(before.uptime > 0 && after.uptime >= before.uptime);
    }

    proptest! {
        #[test]
        fn a_reboot_does_not_increase_ages(
            base in 0i64..1 << 42, sent in 1i64..1 << 42, uptime in 0i64..1 << 40, wall in any::<i32>(),
        ) {
            let noted = Noted { boot: "before".into(), base };
            let now = continued(Some(&noted), Some(sent), uptime, i64::from(wall)) + uptime;
            prop_assert_eq!(now, sent, "the age is zero, whatever the wall clock shows");
        }

        #[test]
        fn a_new_database_starts_at_the_wall_clock(uptime in 0i64..1 << 40, wall in 0i64..1 << 42) {
            prop_assert_eq!(continued(None, None, uptime, wall) + uptime, wall);
        }
    }
}
