//! Hours of the week, in a named time zone.

use std::time::Duration;

use chrono::{DateTime, Utc};
use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use serde::{Serialize, Serializer};

use eirs_platform::settings::units;

/// Hours that begin when the wall clock of a time zone shows certain times, and last a while.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Schedule {
    /// When they begin.
    #[serde(serialize_with = "as_text")]
    pub cron: Cron,
    /// How long they last: by a clock that is never set, so that ten hours are ten hours on the day of a change, too.
    #[serde(with = "units::duration")]
    pub duration: Duration,
    /// Whose wall clock.
    pub timezone: chrono_tz::Tz,
}

impl Schedule {
    /// Whether these are such hours: from their first moment on, and before their end.
    pub fn covers(&self, now: DateTime<Utc>) -> bool {
        let local = now.with_timezone(&self.timezone);
        // The search looks at whole seconds only.
        self.cron
            .find_previous_occurrence(&local, true)
            .is_ok_and(|began| (local - began).to_std().is_ok_and(|since| since < self.duration))
    }
}

/// Reads the five fields of a cron line; the error says what they should be.
pub fn parse_cron(text: &str) -> Result<Cron, String> {
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    parser.parse(text).map_err(|_unclear| {
        "should be five fields (minute, hour, day of the month, month, day of the week), like \"0 8 * * MON-FRI\""
            .to_owned()
    })
}

fn as_text<S: Serializer>(cron: &Cron, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(cron.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(cron: &str, hours: f64, zone: &str, cases: &[(&str, bool)]) {
        let schedule = Schedule {
            cron: parse_cron(cron).unwrap(),
            duration: Duration::from_secs_f64(hours * 3600.0),
            timezone: zone.parse().unwrap(),
        };
        for (at, expected) in cases {
            assert_eq!(schedule.covers(at.parse().unwrap()), *expected, "{cron} in {zone} at {at}");
        }
    }

    #[test]
    fn office_hours_begin_and_end_by_the_clock_on_the_wall() {
        check(
            "0 8 * * MON-FRI",
            10.0,
            "Europe/Berlin",
            &[
                // Summer: two hours ahead of UTC. 2026-07-03 is a Friday.
                ("2026-07-03T05:59:59.9Z", false),
                ("2026-07-03T06:00:00Z", true),
                ("2026-07-03T06:00:00.5Z", true),
                ("2026-07-03T15:59:59.9Z", true),
                ("2026-07-03T16:00:00Z", false),
                ("2026-07-04T10:00:00Z", false),
                // Winter: one hour ahead.
                ("2026-12-01T06:30:00Z", false),
                ("2026-12-01T07:00:00Z", true),
            ],
        );
    }

    #[test]
    fn hours_reach_over_midnight_and_over_the_weekend() {
        check(
            "0 22 * * FRI",
            8.0,
            "UTC",
            &[
                ("2026-07-04T05:59:00Z", true),
                ("2026-07-04T06:00:00Z", false),
                ("2026-07-03T21:59:00Z", false),
            ],
        );
    }

    #[test]
    fn the_days_on_which_clocks_are_set_have_their_hours_too() {
        // On 2026-03-29 02:30 does not exist in Berlin, on 2026-10-25 it comes twice. Noon is as long as ever.
        check(
            "0 12 * * *",
            1.0,
            "Europe/Berlin",
            &[
                ("2026-03-29T10:00:00Z", true),
                ("2026-03-29T09:59:00Z", false),
                ("2026-10-25T11:30:00Z", true),
                ("2026-10-25T10:30:00Z", false),
            ],
        );
        check(
            "30 2 * * *",
            3.0,
            "Europe/Berlin",
            &[("2026-10-25T02:00:00Z", true), ("2026-03-29T02:00:00Z", true)],
        );
    }

    #[test]
    fn what_is_no_cron_line_is_refused() {
        for text in ["", "* * * *", "0 0 8 * * MON", "61 8 * * *", "0 8 * * FUNDAY", "0 8 * * * 2026 1"] {
            assert!(parse_cron(text).is_err(), "{text}");
        }
    }
}
