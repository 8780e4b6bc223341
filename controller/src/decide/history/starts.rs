//! The durations of the recent starts of a pool's instances.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Number of starts that are remembered. New ones replace old ones, so that a slow day is soon
/// forgotten. With 20, the 90th percentile is the third largest: between the 75th and the 98th of
/// all starts in 95 of 100 cases (the order statistics of a binomial distribution).
const KEPT: usize = 20;
/// Number of starts from which on the slowest does not alone determine a high quantile.
const FEW: usize = 3;

/// The delays of the recent starts in seconds, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Starts {
    delays_s: VecDeque<f64>,
}

impl Starts {
    pub(super) fn add(&mut self, delay_s: f64) {
        self.delays_s.push_back(delay_s);
        if self.delays_s.len() > KEPT {
            self.delays_s.pop_front();
        }
    }

    /// The given quantile of the delays, in seconds; `None` before the first start.
    pub(super) fn quantile_s(&self, quantile: f64) -> Option<f64> {
        let mut delays: Vec<_> = self.delays_s.iter().copied().collect();
        delays.sort_by(f64::total_cmp);
        let last = delays.len().checked_sub(1)?;
        let rank = (last as f64 * quantile).floor() as usize;
        delays.get(if last + 1 < FEW && quantile > 0.5 { last } else { rank }).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(delays_s: &[f64]) -> Starts {
        let mut starts = Starts::default();
        delays_s.iter().for_each(|delay_s| starts.add(*delay_s));
        starts
    }

    #[test]
    fn one_slow_start_does_not_determine_the_quantile_and_a_slow_day_is_forgotten() {
        assert_eq!(starts(&[]).quantile_s(0.9), None);
        assert_eq!(starts(&[25.0]).quantile_s(0.9), Some(25.0));
        assert_eq!(starts(&[20.0, 25.0]).quantile_s(0.9), Some(25.0));
        assert_eq!(starts(&[20.0, 25.0, 200.0]).quantile_s(0.9), Some(25.0));
        let mut delays = vec![200.0; 20];
        assert_eq!(starts(&delays).quantile_s(0.9), Some(200.0));
        delays.extend([25.0; 18]);
        assert_eq!(starts(&delays).quantile_s(0.9), Some(25.0));
    }

    #[test]
    fn the_0_5_quantile_is_the_median() {
        assert_eq!(starts(&[1.0, 2.0, 9.0]).quantile_s(0.5), Some(2.0));
    }
}
