//! Number of instances that the rest of the daily budget allows.

use std::time::Duration;

use chrono::{DateTime, Days, NaiveTime, TimeZone, Utc};

use crate::policy::Policy;

/// Part of a paced daily budget that may be used ahead of time.
const AHEAD: f64 = 0.1;

/// Time from the decision to stop an instance until it is gone: its drain and a few passes of the
/// controller.
fn notice(policy: &Policy) -> Duration {
    policy.scale_in.drain_deadline + Duration::from_secs(60)
}

/// The most recent midnight in the budget's time zone.
pub(crate) fn day_began(policy: &Policy, now: DateTime<Utc>) -> DateTime<Utc> {
    midnight(policy, now, 0)
}

/// Largest number of instances that may run now so that the day's hours last until all of them are
/// gone; `None` without a budget.
///
/// A running instance is paid for until it is gone, so each needs the hours of one notice period.
/// If the remaining hours suffice for `max` instances until midnight, the budget does not limit.
pub(crate) fn affordable(policy: &Policy, used_today: Duration, now: DateTime<Utc>) -> Option<u32> {
    let hours = policy.budget.instance_hours_per_day?;
    let day_s = (midnight(policy, now, 1) - now).to_std().unwrap_or_default().as_secs_f64();
    let so_far_s = (now - day_began(policy, now)).to_std().unwrap_or_default().as_secs_f64();
    let passed = if policy.budget.pace { (so_far_s / (so_far_s + day_s) + AHEAD).min(1.0) } else { 1.0 };
    let left_s = passed * hours * 3600.0 - used_today.as_secs_f64();
    let each_s = notice(policy).as_secs_f64().min(day_s);
    if left_s >= f64::from(policy.most()) * each_s {
        return Some(policy.most());
    }
    Some((left_s.max(0.0) / each_s) as u32)
}

fn midnight(policy: &Policy, now: DateTime<Utc>, days: u64) -> DateTime<Utc> {
    let zone = policy.budget.timezone;
    let date = now.with_timezone(&zone).date_naive() + Days::new(days);
    let local = date.and_time(NaiveTime::MIN);
    // Where clocks change at midnight, midnight occurs twice, or the day begins at 01:00.
    let found = zone.from_local_datetime(&local).earliest();
    let later = || zone.from_local_datetime(&(local + Duration::from_secs(3600))).earliest();
    found.or_else(later).map_or_else(|| local.and_utc(), |at| at.with_timezone(&Utc))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::policy::parse;

    fn policy(text: &str) -> Policy {
        let text = format!("[pool]\nmax = 10\n[scale_in]\ndrain_deadline = '90s'\n[budget]\n{text}");
        parse(Path::new("p.toml"), &text).unwrap()
    }

    #[track_caller]
    fn check(hours: f64, used_s: u64, at: &str, expected: u32) {
        let policy = policy(&format!("instance_hours_per_day = {hours}"));
        assert_eq!(affordable(&policy, Duration::from_secs(used_s), at.parse().unwrap()), Some(expected));
    }

    #[test]
    fn the_remaining_budget_pays_each_instance_until_it_is_gone() {
        // The notice period is 150 s: ten instances need 1500 s.
        check(1.0, 0, "2026-07-03T12:00:00Z", 10);
        check(1.0, 2100, "2026-07-03T12:00:00Z", 10);
        check(1.0, 2101, "2026-07-03T12:00:00Z", 9);
        check(1.0, 3449, "2026-07-03T12:00:00Z", 1);
        check(1.0, 3451, "2026-07-03T12:00:00Z", 0);
        check(1.0, 9999, "2026-07-03T12:00:00Z", 0);
        check(0.0, 0, "2026-07-03T12:00:00Z", 0);
    }

    #[test]
    fn shortly_before_midnight_only_the_rest_of_the_day_is_charged() {
        check(1.0, 3500, "2026-07-03T23:59:50Z", 10);
        check(1.0, 3595, "2026-07-03T23:59:50Z", 0);
    }

    #[test]
    fn a_paced_budget_allows_the_elapsed_part_of_the_day_plus_a_tenth() {
        let paced = |used_s: u64, at: &str| {
            let policy = policy("instance_hours_per_day = 24\npace = true");
            affordable(&policy, Duration::from_secs(used_s), at.parse().unwrap())
        };
        // At 06:00, 8.4 of 24 hours may be used: a quarter, and a tenth ahead.
        assert_eq!(paced(8 * 3600, "2026-07-03T06:00:00Z"), Some(9));
        assert_eq!(paced(8 * 3600 + 1400, "2026-07-03T06:00:00Z"), Some(0));
        assert_eq!(paced(22 * 3600, "2026-07-03T23:00:00Z"), Some(10));
    }

    #[test]
    fn without_a_budget_there_is_no_limit() {
        assert_eq!(affordable(&policy(""), Duration::MAX, Utc::now()), None);
    }

    #[test]
    fn the_day_begins_at_local_midnight_even_when_the_clocks_change() {
        for (zone, at, expected) in [
            ("UTC", "2026-07-03T12:00:00Z", "2026-07-03T00:00:00Z"),
            ("Europe/Berlin", "2026-07-03T22:30:00Z", "2026-07-03T22:00:00Z"),
            ("Europe/Berlin", "2026-07-03T21:30:00Z", "2026-07-02T22:00:00Z"),
            // In Beirut the clocks go from 00:00 to 01:00 on 2026-03-29.
            ("Asia/Beirut", "2026-03-29T10:00:00Z", "2026-03-28T22:00:00Z"),
        ] {
            let policy = policy(&format!("timezone = '{zone}'"));
            assert_eq!(
                day_began(&policy, at.parse().unwrap()),
                expected.parse::<DateTime<Utc>>().unwrap(),
                "{at}"
            );
        }
    }
}
