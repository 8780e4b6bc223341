//! Measures how fast a backlog grows: a lower bound of the arrival rate, and the rate itself while
//! no instance works. The backlog is known at each observation, the counts of the web hosts only
//! every ten seconds.

use std::{collections::VecDeque, time::Duration};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::arrivals::{lower, upper};
use crate::observe::age;

/// Time over which growth is measured.
const WINDOW: Duration = Duration::from_secs(10);
/// Shortest time over which growth means anything.
const SHORTEST: Duration = Duration::from_secs(2);

/// The backlogs of a pool in the last seconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Growth {
    looks: VecDeque<(DateTime<Utc>, u64)>,
}

/// Bounds of the arrival rate in jobs per second, from the backlog.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct GrowthBounds {
    /// Lower bound.
    pub(crate) least: f64,
    /// Upper bound, valid only while no instance takes jobs.
    pub(crate) most: f64,
}

impl Growth {
    pub(super) fn observe(&mut self, now: DateTime<Utc>, backlog: u64) {
        self.looks.push_back((now, backlog));
        while self.looks.get(1).is_some_and(|(second, _)| age(*second, now) >= WINDOW) {
            self.looks.pop_front();
        }
    }

    pub(super) fn bounds(&self) -> Option<GrowthBounds> {
        let ((then, before), (now, backlog)) = (self.looks.front()?, self.looks.back()?);
        let span = age(*then, *now);
        let grown = backlog.saturating_sub(*before) as f64;
        let per_second = |jobs: f64| jobs / span.as_secs_f64();
        let bounds = || GrowthBounds { least: per_second(lower(grown)), most: per_second(upper(grown)) };
        // Observations too far apart say nothing about the present.
        (SHORTEST..=2 * WINDOW).contains(&span).then(bounds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(looks: &[(u64, u64)]) -> Option<GrowthBounds> {
        let mut growth = Growth::default();
        for (second, backlog) in looks {
            growth.observe(DateTime::UNIX_EPOCH + Duration::from_secs(*second), *backlog);
        }
        growth.bounds()
    }

    #[test]
    fn a_single_burst_is_no_growth_and_a_stream_is() {
        let heap = bounds(&[(0, 150), (2, 150), (6, 150)]).unwrap();
        assert!(heap.least == 0.0 && heap.most < 1.0, "{heap:?}");
        let stream = bounds(&[(0, 1), (2, 11), (4, 21)]).unwrap();
        assert!((2.0..5.0).contains(&stream.least) && stream.most > 5.0, "{stream:?}");
        let done = bounds(&[(0, 50), (4, 20)]).unwrap();
        assert_eq!(done.least, 0.0);
    }

    #[test]
    fn a_single_observation_or_ones_far_apart_give_no_bounds() {
        assert_eq!(bounds(&[(0, 5)]), None);
        assert_eq!(bounds(&[(0, 5), (1, 9)]), None);
        assert_eq!(bounds(&[(0, 5), (60, 9)]), None);
    }
}
