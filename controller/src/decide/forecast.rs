//! Forecasts arrivals from the arrivals at the same time of earlier days of the same kind.
//!
//! Days are divided into slots of local time, so that daylight saving time does not shift a season.
//! There are three kinds of days: working days, Saturdays and Sundays. The forecast is a quantile
//! over the slot and its two neighbours on those days only, so that a busy noon does not raise the
//! forecast for the night. Minutes that were not observed are missing, not zero.

use chrono::{DateTime, Datelike, Days, TimeDelta, TimeZone, Utc, Weekday};
use chrono_tz::Tz;

use super::history::Minutes;

const DAY_MINUTES: u64 = 24 * 60;
/// Two weeks of history are kept.
const MOST_DAYS: u64 = 14;
/// Offsets of the slots that count: the slot itself and one on each side.
const NEIGHBOURS: std::ops::RangeInclusive<i64> = -1..=1;

/// The period with which the load repeats.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Season {
    pub(crate) minutes: u64,
    pub(crate) timezone: Tz,
    /// Minimum number of seasons observed before the forecast is used.
    pub(crate) after: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Working,
    Saturday,
    Sunday,
}

fn kind(weekday: Weekday) -> Kind {
    match weekday {
        Weekday::Sat => Kind::Saturday,
        Weekday::Sun => Kind::Sunday,
        _ => Kind::Working,
    }
}

/// Returns the number of jobs that is not exceeded with probability `quantile` in the slot that
/// begins at `slot` and is `slot_minutes` long. `None` if fewer than `after` seasons were observed.
pub(crate) fn forecast(
    minutes: &Minutes,
    season: &Season,
    slot: DateTime<Utc>,
    slot_minutes: u64,
    quantile: f64,
) -> Option<f64> {
    let (mut counts, mut seasons) = (Vec::new(), 0);
    for ago in 1..=MOST_DAYS * DAY_MINUTES / season.minutes.max(1) {
        let Some(then) = season.ago(slot, ago) else { continue };
        if then < minutes.since()? {
            break;
        }
        let of_slot = |neighbour: i64| {
            minutes.sum(then + TimeDelta::minutes(neighbour * slot_minutes as i64), slot_minutes)
        };
        let known = counts.len();
        counts.extend(NEIGHBOURS.filter_map(of_slot));
        seasons += u32::from(counts.len() > known);
        if counts.len() >= MOST_COUNTS {
            break;
        }
    }
    if seasons < season.after || counts.is_empty() {
        return None;
    }
    counts.sort_by(f64::total_cmp);
    let rank = (quantile * counts.len() as f64).ceil() as usize;
    Some(counts[rank.clamp(1, counts.len()) - 1])
}

/// More counts than this do not improve the quantile.
const MOST_COUNTS: usize = 120;

impl Season {
    /// The same local time `seasons` seasons ago; `None` if that day is of another kind or the
    /// clocks skipped that time.
    fn ago(&self, slot: DateTime<Utc>, seasons: u64) -> Option<DateTime<Utc>> {
        let ago = self.minutes.checked_mul(seasons)?;
        if !self.minutes.is_multiple_of(DAY_MINUTES) {
            return slot.checked_sub_signed(TimeDelta::minutes(i64::try_from(ago).ok()?));
        }
        let local = slot.with_timezone(&self.timezone).naive_local();
        let then = local.checked_sub_days(Days::new(ago / DAY_MINUTES))?;
        let is_alike = kind(then.weekday()) == kind(local.weekday());
        let found = self.timezone.from_local_datetime(&then).earliest();
        found.filter(|_| is_alike).map(|then| then.with_timezone(&Utc))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::observe::Count;

    const DAY: i64 = 1440;

    /// A Monday at midnight, UTC.
    fn monday() -> DateTime<Utc> {
        "2026-03-16T00:00:00Z".parse().unwrap()
    }

    /// Counts for each minute of `days` after the Monday; `of` maps the local time to a number of
    /// jobs.
    fn load(days: std::ops::Range<i64>, of: impl Fn(DateTime<Tz>) -> u64, timezone: Tz) -> Minutes {
        let mut minutes = Minutes::default();
        for minute in days.start * DAY..days.end * DAY {
            let from = monday() + TimeDelta::minutes(minute);
            let jobs = of(from.with_timezone(&timezone));
            minutes.add(&Count { from, to: from + TimeDelta::minutes(1), jobs });
        }
        minutes
    }

    fn day(timezone: Tz, after: u32) -> Season {
        Season { minutes: DAY as u64, timezone, after }
    }

    fn office(at: DateTime<Tz>) -> u64 {
        use chrono::Timelike;
        let works = !matches!(at.weekday(), Weekday::Sat | Weekday::Sun);
        if works && (8..18).contains(&at.hour()) { 60 } else { 0 }
    }

    fn forecast_wish(minutes: &Minutes, season: &Season, day: i64, hour: i64) -> Option<f64> {
        forecast(minutes, season, monday() + TimeDelta::minutes(day * DAY + hour * 60), 5, 0.9)
    }

    #[test]
    fn office_hours_are_forecast_on_working_days_and_not_at_night() {
        let (minutes, season) = (load(0..11, office, Tz::UTC), day(Tz::UTC, 2));
        assert_eq!(forecast_wish(&minutes, &season, 11, 12), Some(300.0));
        assert_eq!(forecast_wish(&minutes, &season, 11, 2), Some(0.0));
        assert_eq!(forecast_wish(&minutes, &season, 11, 22), Some(0.0));
    }

    #[test]
    fn a_saturday_is_not_forecast_as_a_working_day() {
        let (minutes, season) = (load(0..12, office, Tz::UTC), day(Tz::UTC, 1));
        assert_eq!(forecast_wish(&minutes, &season, 12, 12), Some(0.0));
        assert_eq!(forecast_wish(&minutes, &season, 14, 12), Some(300.0), "the Monday after it");
    }

    #[test]
    fn a_season_follows_daylight_saving_time() {
        // Berlin sets its clocks forward on Sunday 2026-03-29. From then on 8 to 18 local time is 6
        // to 16 UTC.
        let berlin: Tz = "Europe/Berlin".parse().unwrap();
        let (minutes, season) = (load(0..14, office, berlin), day(berlin, 2));
        assert_eq!(forecast_wish(&minutes, &season, 14, 6), Some(300.0));
        assert_eq!(forecast_wish(&minutes, &season, 14, 5), Some(0.0));
    }

    #[test]
    fn a_forecast_is_used_after_the_configured_number_of_seasons() {
        let minutes = load(0..2, office, Tz::UTC);
        assert_eq!(forecast_wish(&minutes, &day(Tz::UTC, 3), 2, 12), None);
        assert_eq!(forecast_wish(&minutes, &day(Tz::UTC, 2), 2, 12), Some(300.0));
        assert_eq!(forecast(&Minutes::default(), &day(Tz::UTC, 1), monday(), 5, 0.9), None);
    }

    #[test]
    fn a_day_without_counts_is_not_a_season() {
        let mut minutes = load(0..2, office, Tz::UTC);
        let later = load(3..4, office, Tz::UTC);
        for minute in 3 * DAY..4 * DAY {
            let from = monday() + TimeDelta::minutes(minute);
            let jobs = later.sum(from, 1).unwrap() as u64;
            minutes.add(&Count { from, to: from + TimeDelta::minutes(1), jobs });
        }
        assert_eq!(forecast_wish(&minutes, &day(Tz::UTC, 3), 4, 12), Some(300.0));
        assert_eq!(forecast_wish(&minutes, &day(Tz::UTC, 4), 4, 12), None);
    }

    proptest! {
        #[test]
        fn a_higher_quantile_forecasts_no_less_and_the_forecast_is_an_observed_count(
            counts in prop::collection::vec(0u64..100, 60..400), low in 0.01f64..0.5, high in 0.5f64..0.999,
        ) {
            let mut minutes = Minutes::default();
            for (minute, jobs) in counts.iter().enumerate() {
                let from = monday() + TimeDelta::minutes(minute as i64);
                minutes.add(&Count { from, to: from + TimeDelta::minutes(1), jobs: *jobs });
            }
            let season = Season { minutes: 20, timezone: Tz::UTC, after: 1 };
            let next = monday() + TimeDelta::minutes(counts.len() as i64);
            let forecast_wish = |quantile| forecast(&minutes, &season, next, 1, quantile).unwrap();
            prop_assert!(forecast_wish(low) <= forecast_wish(high));
            prop_assert!(counts.contains(&(forecast_wish(high) as u64)));
        }
    }
}
