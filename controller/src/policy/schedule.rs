//! Recurring hours in a time zone.

use std::time::Duration;

use chrono::{DateTime, LocalResult, NaiveDateTime, Offset, TimeDelta, TimeZone, Utc};
use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use serde::{Serialize, Serializer};

use eirs_platform::settings::units;

/// Upper bound of a change of clocks. Lord Howe changes by half an hour, others by one hour; only
/// moves across the date line were larger.
const LONGEST_CHANGE: TimeDelta = TimeDelta::hours(3);

/// Hours that begin at certain local times and last for a fixed duration.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Schedule {
    /// Local times at which the hours begin.
    #[serde(serialize_with = "as_text")]
    pub cron: Cron,
    /// Length of the hours in elapsed time, so that ten hours are ten hours on the day of a clock
    /// change, too.
    #[serde(with = "units::duration")]
    pub duration: Duration,
    /// Time zone of `cron`.
    pub timezone: chrono_tz::Tz,
}

impl Schedule {
    /// Whether `now` is within the hours; the end is exclusive.
    pub fn covers(&self, now: DateTime<Utc>) -> bool {
        self.began(now).is_some_and(|began| (now - began).to_std().is_ok_and(|since| since < self.duration))
    }

    /// Time at which the hours last began. A local time that a clock change skips counts at the end
    /// of the gap, and one that occurs twice counts the first time only.
    fn began(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let offset = |at: DateTime<Utc>| at.with_timezone(&self.timezone).offset().fix().local_minus_utc();
        // For a while after the clocks were set back, local times that lie ahead have already
        // occurred once.
        let set_back = (offset(now - LONGEST_CHANGE) - offset(now)).max(0);
        let shown = now.with_timezone(&self.timezone).naive_local() + TimeDelta::seconds(set_back.into());
        let mut inclusive = true;
        // Croner computes in UTC here, which has no clock changes.
        let mut at = shown.and_utc();
        loop {
            at = self.cron.find_previous_occurrence(&at, inclusive).ok()?;
            inclusive = false;
            let began = self.instant(at.naive_utc())?;
            if began <= now {
                return Some(began);
            }
        }
    }

    /// The first moment at which local time is `shown`, or at which the clocks skip it.
    fn instant(&self, shown: NaiveDateTime) -> Option<DateTime<Utc>> {
        match self.timezone.from_local_datetime(&shown) {
            LocalResult::Single(at) | LocalResult::Ambiguous(at, _) => Some(at.to_utc()),
            LocalResult::None => {
                let before = self.timezone.from_local_datetime(&(shown - LONGEST_CHANGE)).earliest()?;
                let after = self.timezone.from_local_datetime(&(shown + LONGEST_CHANGE)).latest()?;
                // The offset changes once between the two: find the change to the second.
                let (mut low, mut high) = (before.timestamp(), after.timestamp());
                let offset = |second| {
                    DateTime::from_timestamp(second, 0)
                        .map(|at| at.with_timezone(&self.timezone).offset().fix())
                };
                let old = offset(low);
                while high - low > 1 {
                    let middle = i64::midpoint(low, high);
                    if offset(middle) == old { low = middle } else { high = middle }
                }
                DateTime::from_timestamp(high, 0)
            }
        }
    }
}

/// The five fields of a cron line: name, smallest and largest number.
const FIELDS: [(&str, u32, u32); 5] = [
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day of the month", 1, 31),
    ("month", 1, 12),
    ("day of the week", 0, 6),
];
const MONTHS: [&str; 12] =
    ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const DAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

/// Parses the five fields of a cron line. The error says what is wrong with them.
pub fn parse_cron(text: &str) -> Result<Cron, String> {
    let fields: Vec<_> = text.split_whitespace().collect();
    let Ok(fields) = <[&str; 5]>::try_from(fields) else {
        return Err("must have five fields (minute, hour, day of the month, month, day of the \
            week), like \"0 8 * * MON-FRI\""
            .into());
    };
    for (field, of) in fields.iter().zip(FIELDS) {
        expect_parts(field, of)?;
    }
    let parse = |text: &str| {
        CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build().parse(text)
    };
    let plain: Vec<_> = fields.iter().zip(FIELDS).map(|(field, of)| spell_out(field, of)).collect();
    let cron = parse(&plain.join(" ")).map_err(|unclear| {
        let wrong = (0..5).find(|index| {
            let mut alone = ["*"; 5];
            alone[*index] = &plain[*index];
            parse(&alone.join(" ")).is_err()
        });
        match wrong {
            Some(index) => {
                let (name, first, last) = FIELDS[index];
                let numbers = match last {
                    12 => "numbers from 1 to 12 or names like JAN".to_owned(),
                    6 => "numbers from 0 to 7 or names like MON".to_owned(),
                    _ => format!("numbers from {first} to {last}"),
                };
                format!("its {name}, {:?}, must be {numbers}, lists, ranges or steps of them", fields[index])
            }
            None => format!("cannot be read: {unclear}"),
        }
    })?;
    let some_day = DateTime::UNIX_EPOCH;
    match cron.find_next_occurrence(&some_day, true) {
        Ok(_comes) => Ok(cron),
        Err(_never) => Err("never occurs: no month has such a day".to_owned()),
    }
}

/// Refuses two forms that croner accepts with another meaning: an empty item in a list, and a step
/// larger than the field's range, which would occur once in each round.
fn expect_parts(field: &str, (name, first, last): (&str, u32, u32)) -> Result<(), String> {
    for part in field.split(',') {
        if part.is_empty() {
            return Err(format!("its {name}, {field:?}, has an empty place in its list"));
        }
        let step = part.split_once('/').and_then(|(_, step)| step.parse::<u32>().ok());
        let most = last - first + 1;
        if step.is_some_and(|step| step > most) {
            return Err(format!(
                "its {name}, {field:?}, must have a step of at most {most}: after {last} it starts over"
            ));
        }
    }
    Ok(())
}

/// Rewrites forms that croner does not read, with their meaning in Vixie cron and systemd: ranges
/// that pass the end (`FRI-MON`, `22-2`) and steps from a single number (`5/15`).
fn spell_out(field: &str, (_, first, last): (&str, u32, u32)) -> String {
    let number = |text: &str| {
        let upper = text.to_ascii_uppercase();
        let named = |names: &[&str]| names.iter().position(|name| *name == upper).map(|at| at as u32);
        let name = match last {
            12 => named(&MONTHS).map(|month| month + 1),
            6 => named(&DAYS),
            _ => None,
        };
        name.or_else(|| text.parse().ok())
    };
    // Sunday is also 7; at the begin of a range or step it is 0.
    let begin = |text: &str| number(text).map(|from| if (from, last) == (7, 6) { 0 } else { from });
    let part = |part: &str| {
        let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
        let Some((from, to)) = range.split_once('-') else {
            return match (begin(range), step) {
                (Some(from), Some(step)) => format!("{from}-{last}/{step}"),
                _ => part.to_owned(),
            };
        };
        match (begin(from), number(to), step.map_or(Some(1), |step| step.parse().ok())) {
            (Some(0), Some(to), _) if from == "7" && to < 7 => {
                format!("0-{to}{}", step.map_or_else(String::new, |step| format!("/{step}")))
            }
            (Some(from), Some(to), Some(step)) if to < from && from <= last && to >= first && step > 0 => {
                let round = (from..=last).chain(first..=to).step_by(step);
                round.map(|number| number.to_string()).collect::<Vec<_>>().join(",")
            }
            _ => part.to_owned(),
        }
    };
    field.split(',').map(part).collect::<Vec<_>>().join(",")
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
    fn office_hours_follow_local_time() {
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
    fn hours_may_extend_over_midnight() {
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
    fn hours_occur_on_days_with_a_clock_change_too() {
        // In Berlin, 02:30 does not exist on 2026-03-29 and occurs twice on 2026-10-25. Noon is not
        // affected.
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
    fn each_of_several_times_occurs_once_on_days_with_a_clock_change() {
        // On 29 March, 2:00 does not exist and counts at 3:00 (1:00 UTC); 14:00 is at 12:00 UTC.
        check(
            "0 2,14 * * *",
            4.0,
            "Europe/Berlin",
            &[
                ("2026-03-29T00:59:59Z", false),
                ("2026-03-29T01:00:00Z", true),
                ("2026-03-29T04:59:59Z", true),
                ("2026-03-29T05:00:00Z", false),
                ("2026-03-29T12:00:00Z", true),
                // On 25 October, 2:00 occurs at 0:00 UTC and again an hour later; only the first
                // counts.
                ("2026-10-25T00:00:00Z", true),
                ("2026-10-25T03:59:59Z", true),
                ("2026-10-25T04:00:00Z", false),
            ],
        );
        check(
            "*/30 2 * * *",
            0.25,
            "Europe/Berlin",
            &[
                ("2026-03-29T01:00:00Z", true),
                ("2026-03-29T01:15:00Z", false),
                ("2026-10-25T00:00:00Z", true),
                ("2026-10-25T00:30:00Z", true),
                ("2026-10-25T00:45:00Z", false),
                ("2026-10-25T01:00:00Z", false),
                ("2026-10-25T01:30:00Z", false),
            ],
        );
        // Lord Howe changes its clocks by half an hour: on 4 October 2026 from 2:00 to 2:30.
        check(
            "15 2 * * *",
            1.0,
            "Australia/Lord_Howe",
            &[
                ("2026-10-03T15:29:59Z", false),
                ("2026-10-03T15:30:00Z", true),
                ("2026-10-03T16:30:00Z", false),
            ],
        );
    }

    #[test]
    fn ranges_that_pass_the_end_and_steps_from_a_number_are_spelled_out() {
        for (short, long) in [
            ("0 8 * * FRI-MON", "0 8 * * 5,6,0,1"),
            ("0 22-2 * * *", "0 22,23,0,1,2 * * *"),
            ("5/15 * * * *", "5,20,35,50 * * * *"),
            ("0 0 1 nov-feb *", "0 0 1 11,12,1,2 *"),
            ("0 20-4/2 * * *", "0 20,22,0,2,4 * * *"),
            ("0 8 * * 7-2", "0 8 * * 0,1,2"),
            ("0 8 * * 7-4/2", "0 8 * * 0,2,4"),
            ("0 8 * * 7/3", "0 8 * * 0,3,6"),
            ("0 8 * * FRI-7", "0 8 * * 5,6,0"),
        ] {
            let (short, long) = (parse_cron(short).unwrap(), parse_cron(long).unwrap());
            let mut at = DateTime::UNIX_EPOCH;
            for _ in 0..50 {
                let next = short.find_next_occurrence(&at, false).unwrap();
                assert_eq!(next, long.find_next_occurrence(&at, false).unwrap(), "{short} {long}");
                at = next;
            }
        }
    }

    #[test]
    fn the_error_names_the_wrong_field_and_a_line_that_never_occurs_is_refused() {
        #[track_caller]
        fn says(text: &str, expected: &str) {
            let why = parse_cron(text).unwrap_err();
            assert!(why.contains(expected), "{text}: {why}");
        }
        says("61 8 * * *", "its minute, \"61\", must be numbers from 0 to 59");
        says("0 8 * * FUNDAY", "its day of the week, \"FUNDAY\"");
        says("0 8 31 2 *", "never occurs");
        says("0 8 * *", "five fields");
        says("0 8 * january *", "must be numbers from 1 to 12 or names like JAN");
        says("0 8 * * 8", "must be numbers from 0 to 7 or names like MON");
        says(", 8 * * *", "its minute, \",\", has an empty place in its list");
        says("1,,2 8 * * *", "its minute, \"1,,2\", has an empty place");
        says("0 8 * * MON,", "its day of the week, \"MON,\", has an empty place");
        // This would be hourly, and not every 90 minutes.
        says("*/90 * * * *", "its minute, \"*/90\", must have a step of at most 60");
        says("0 1,0/25 * * *", "its hour, \"1,0/25\", must have a step of at most 24");
        assert!(parse_cron("*/60 */24 * * */7").is_ok());
        assert!(parse_cron("0 8 29 2 *").is_ok());
    }

    #[test]
    fn one_matching_day_field_suffices_and_days_can_be_counted_from_the_end() {
        // 2026-07-13 is a Monday, and 2026-07-03 a Friday.
        let cases = [("2026-07-13T08:30:00Z", true), ("2026-07-03T08:30:00Z", true)];
        check("0 8 13 * FRI", 1.0, "UTC", &cases);
        check("0 8 13 * FRI", 1.0, "UTC", &[("2026-07-14T08:30:00Z", false)]);
        let leap = [("2028-02-29T08:30:00Z", true), ("2028-02-28T08:30:00Z", false)];
        check("0 8 L * *", 1.0, "UTC", &leap);
        check("0 8 29 2 *", 1.0, "UTC", &leap);
        check("0 8 * * FRIL", 1.0, "UTC", &[("2026-07-31T08:30:00Z", true), ("2026-07-24T08:30:00Z", false)]);
        check(
            "0 8 * * FRI#2",
            1.0,
            "UTC",
            &[("2026-07-10T08:30:00Z", true), ("2026-07-03T08:30:00Z", false)],
        );
    }

    #[test]
    fn an_invalid_cron_line_is_refused() {
        for text in ["", "* * * *", "0 0 8 * * MON", "61 8 * * *", "0 8 * * FUNDAY", "0 8 * * * 2026 1"] {
            assert!(parse_cron(text).is_err(), "{text}");
        }
    }
}
