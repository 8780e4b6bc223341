//! The highest value for all of a time that has passed.

use std::{collections::VecDeque, time::Duration};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{observe::age, policy::load::LONGEST_WINDOW};

/// The end of each stretch of time and the highest value in it, where no later one is as high: the
/// highest since any moment is that of the first stretch that ends after it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Peaks {
    last: Option<u64>,
    peaks: VecDeque<(DateTime<Utc>, u64)>,
}

impl Peaks {
    pub(super) fn observe(&mut self, now: DateTime<Utc>, value: u64) {
        // Between two looks it was as high as the higher of them, as far as anybody knows.
        let peak = value.max(self.last.unwrap_or(0));
        while self.peaks.back().is_some_and(|(_, lower)| *lower <= peak) {
            self.peaks.pop_back();
        }
        self.peaks.push_back((now, peak));
        self.last = Some(value);
        while self.peaks.front().is_some_and(|(end, _)| age(*end, now) > LONGEST_WINDOW) {
            self.peaks.pop_front();
        }
    }

    /// The highest value for all of this time; what is there now where the window holds nothing
    /// else.
    pub(super) fn over(&self, window: Duration, now: DateTime<Utc>) -> u64 {
        let within = self.peaks.iter().find(|(end, _)| age(*end, now) < window);
        within.map_or(self.last.unwrap_or(0), |(_, peak)| *peak)
    }
}
