//! Dates into which a spreadsheet converted a name, and the names that it may have been.

use std::fmt;

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];

/// A date with a time of day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Date {
    /// Year, month and day.
    pub(super) day: [u32; 3],
    /// Hour, minute and second.
    pub(super) time: [u32; 3],
}

impl Date {
    /// Parses `2024-01-05` and `2024-01-05T12:48:04`.
    pub(super) fn from_iso(text: &str) -> Option<Self> {
        let (day, time) = text.split_once(['T', ' ']).unwrap_or((text, "0:0:0"));
        let three = |text: &str, between: char| -> Option<[u32; 3]> {
            let parts: Option<Vec<u32>> = text.split(between).map(|part| part.parse().ok()).collect();
            parts?.try_into().ok()
        };
        let whole_seconds = time.split(['.', 'Z', '+']).next().unwrap_or(time);
        Some(Self { day: three(day, '-')?, time: three(whole_seconds, ':')? })
    }

    /// Returns whether a spreadsheet may have converted this name into this date: the name consists
    /// only of the numbers of the date, in a usual order, with or without the year or the day.
    pub(super) fn may_be(&self, name: &str) -> bool {
        let Some(numbers) = numbers(name) else { return false };
        let [year, month, day] = self.day;
        let mut dates = vec![vec![month, day], vec![day, month]];
        for year in [year, year % 100] {
            dates.extend([vec![year, month, day], vec![day, month, year], vec![month, day, year]]);
            // Without a day, it is the first of the month.
            if day == 1 {
                dates.extend([vec![year, month], vec![month, year]]);
            }
        }
        let with_time = |date: Vec<u32>| {
            // A time that was typed without seconds has none.
            let times: &[&[u32]] = match self.time {
                [0, 0, 0] => &[&[]],
                [_, _, 0] => &[&self.time, &self.time[..2]],
                _ => &[&self.time],
            };
            times.iter().map(|time| [&date, *time].concat()).collect::<Vec<_>>()
        };
        dates.into_iter().flat_map(with_time).any(|date| date == numbers)
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [year, month, day] = self.day;
        write!(f, "{year:04}-{month:02}-{day:02}")?;
        match self.time {
            [0, 0, 0] => Ok(()),
            [hour, minute, second] => write!(f, " {hour:02}:{minute:02}:{second:02}"),
        }
    }
}

/// Returns the numbers in a name that consists of numbers, month names and separators; eight digits
/// are a date, and six after them a time.
fn numbers(name: &str) -> Option<Vec<u32>> {
    let name = name.to_lowercase();
    let mut numbers = Vec::new();
    let mut rest = name.as_str();
    while let Some(first) = rest.chars().next() {
        let is_digit = first.is_ascii_digit();
        let end = rest.find(|c: char| c.is_ascii_digit() != is_digit).unwrap_or(rest.len());
        let (part, after) = rest.split_at(end);
        rest = after;
        if !is_digit {
            let word = part.trim_matches(['-', '.', '_', ' ', ',']);
            let is_separator = word.is_empty() || word == "t";
            if !is_separator {
                let month = MONTHS.iter().position(|month| word.len() >= 3 && month.starts_with(word));
                numbers.push(month? as u32 + 1);
            }
            continue;
        }
        match (part.len(), numbers.len()) {
            (8, 0) => numbers.extend([
                part[..4].parse().ok()?,
                part[4..6].parse().ok()?,
                part[6..].parse::<u32>().ok()?,
            ]),
            (6, 3) => numbers.extend([
                part[..2].parse().ok()?,
                part[2..4].parse().ok()?,
                part[4..].parse::<u32>().ok()?,
            ]),
            _ => numbers.push(part.parse().ok()?),
        }
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_may_have_been_typed_in_any_usual_order() {
        let date = Date { day: [2024, 3, 5], time: [0; 3] };
        for name in [
            "2024-03-05",
            "2024.3.5",
            "20240305",
            "05.03.2024",
            "3-5-24",
            "3-5",
            "05-03",
            "mar-5",
            "5 March 2024",
            "MAR5",
        ] {
            assert!(date.may_be(name), "{name}");
        }
        for other in
            ["2024-03-06", "2024-03", "3-2024", "img-3-5", "marten-5", "3", "", "2024-03-05-1", "5-4"]
        {
            assert!(!date.may_be(other), "{other}");
        }
        // Without a day, it is the first of the month.
        let first = Date { day: [2024, 3, 1], time: [0; 3] };
        assert!(first.may_be("2024-03") && first.may_be("mar-24") && first.may_be("3-2024"));
    }

    #[test]
    fn a_time_belongs_to_the_date() {
        let date = Date { day: [2004, 1, 12], time: [12, 48, 4] };
        assert!(date.may_be("2004.01.12_12.48.04") && date.may_be("20040112_124804"));
        assert!(!date.may_be("2004.01.12"));
        assert_eq!(date.to_string(), "2004-01-12 12:48:04");
        assert_eq!(Date::from_iso("2004-01-12T12:48:04"), Some(date));
        assert_eq!(Date::from_iso("12:48"), None);
    }
}
