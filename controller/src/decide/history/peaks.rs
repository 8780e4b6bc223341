//! The maximum of a value over a past time window.

use std::{collections::VecDeque, time::Duration};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{observe::age, policy::load::LONGEST_WINDOW};

/// Pairs of the end of a time span and the maximum within it, with strictly decreasing maxima: the
/// maximum since any moment is that of the first span that ends after it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Peaks {
    last: Option<u64>,
    peaks: VecDeque<(DateTime<Utc>, u64)>,
}

impl Peaks {
    pub(super) fn observe(&mut self, now: DateTime<Utc>, value: u64) {
        // Between two observations the higher of both values is assumed.
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

    /// Maximum over the last `window`; the current value if no span ends within it.
    pub(super) fn over(&self, window: Duration, now: DateTime<Utc>) -> u64 {
        let within = self.peaks.iter().find(|(end, _)| age(*end, now) < window);
        within.map_or(self.last.unwrap_or(0), |(_, peak)| *peak)
    }
}
