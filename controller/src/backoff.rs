//! The one back-off of the controller: for how long whatever failed some times in a row is left
//! alone. Who fails and how often is known elsewhere; nobody else turns that into a time.

use chrono::TimeDelta;

/// Each rest is this many times as long as the one before.
const GROWTH: i32 = 4;

/// An instance that crashed, was never ready, fell silent or hung: each of its starts is paid for.
pub(crate) const INSTANCE: Rest = Rest { first: TimeDelta::seconds(1), longest: TimeDelta::hours(1) };
/// An instance that refused an order, which costs nothing.
pub(crate) const ORDER: Rest = Rest { first: TimeDelta::seconds(1), longest: TimeDelta::minutes(10) };
/// A place that had no capacity. It lacks for minutes as a rule, and when it returns it is found
/// within the longest rest.
pub(crate) const CAPACITY: Rest = Rest { first: TimeDelta::seconds(4), longest: TimeDelta::seconds(30) };

/// How long something rests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rest {
    first: TimeDelta,
    longest: TimeDelta,
}

impl Rest {
    /// After this number of failures in a row.
    pub(crate) fn after(self, failures: u32) -> TimeDelta {
        // Seven steps from a second exceed an hour.
        (self.first * GROWTH.pow(failures.saturating_sub(1).min(7))).min(self.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_is_four_times_as_long_after_each_failure_up_to_the_longest() {
        let rests = |rest: Rest| [1, 2, 3, 4, 5, 6, 7, u32::MAX].map(|count| rest.after(count).num_seconds());
        assert_eq!(rests(INSTANCE), [1, 4, 16, 64, 256, 1024, 3600, 3600]);
        assert_eq!(rests(ORDER), [1, 4, 16, 64, 256, 600, 600, 600]);
        assert_eq!(rests(CAPACITY), [4, 16, 30, 30, 30, 30, 30, 30]);
    }
}
