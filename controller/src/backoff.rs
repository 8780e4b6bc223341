//! The back-off of the controller: how long something that failed a number of times in a row is
//! left alone. Other modules count failures; only this one turns them into a time.

use chrono::TimeDelta;

/// Factor between two successive times.
const GROWTH: i32 = 4;

/// For an instance that crashed, was never ready, became silent or hung: each of its starts is paid
/// for.
pub(crate) const INSTANCE: Backoff = Backoff { first: TimeDelta::seconds(1), longest: TimeDelta::hours(1) };
/// For an instance that refused an order, which costs nothing.
pub(crate) const ORDER: Backoff = Backoff { first: TimeDelta::seconds(1), longest: TimeDelta::minutes(10) };
/// For a place without capacity. Capacity is usually missing for minutes, and is found again within
/// the longest time.
pub(crate) const CAPACITY: Backoff =
    Backoff { first: TimeDelta::seconds(4), longest: TimeDelta::seconds(30) };

/// The range of times for which something is left alone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    first: TimeDelta,
    longest: TimeDelta,
}

impl Backoff {
    /// The time after this number of failures in a row.
    pub(crate) fn after(self, failures: u32) -> TimeDelta {
        // The seventh factor exceeds every longest time, and the limit avoids an overflow.
        (self.first * GROWTH.pow(failures.saturating_sub(1).min(7))).min(self.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_four_times_as_long_after_each_failure_up_to_the_longest() {
        let rests =
            |rest: Backoff| [1, 2, 3, 4, 5, 6, 7, u32::MAX].map(|count| rest.after(count).num_seconds());
        assert_eq!(rests(INSTANCE), [1, 4, 16, 64, 256, 1024, 3600, 3600]);
        assert_eq!(rests(ORDER), [1, 4, 16, 64, 256, 600, 600, 600]);
        assert_eq!(rests(CAPACITY), [4, 16, 30, 30, 30, 30, 30, 30]);
    }
}
