//! Whether so much comes that it is worth waiting for more of it: SQS bills calls, whatever they carry.

use std::time::Duration;

use tokio::time::Instant;

/// Somebody who uploads one image after the other comes less often than this, and shall not wait for company.
const GAP_OF_LOAD: Duration = Duration::from_millis(50);
/// How much the latest gap counts.
const WEIGHT: f64 = 0.3;

/// The mean time between what comes lately.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    last: Instant,
    gap: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { last: Instant::now(), gap: 2 * GAP_OF_LOAD }
    }
}

impl Pace {
    /// So many have come since the last time.
    pub(super) fn note(&mut self, count: usize) {
        let now = Instant::now();
        // A long silence is no more than "no load": what comes behind it shall be seen soon.
        let latest = ((now - self.last) / count.max(1) as u32).min(4 * GAP_OF_LOAD);
        self.gap = self.gap.mul_f64(1.0 - WEIGHT) + latest.mul_f64(WEIGHT);
        self.last = now;
    }

    /// When the last ones came.
    pub(super) fn last(&self) -> Instant {
        self.last
    }

    /// Whether they come close together.
    pub(super) fn is_load(&self) -> bool {
        self.gap < GAP_OF_LOAD && self.last.elapsed() < 4 * GAP_OF_LOAD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn thirty_a_second_are_load_soon_and_ten_a_second_never_are() {
        for (millis, expected) in [(33, true), (100, false)] {
            let mut pace = Pace::default();
            for _ in 0..10 {
                tokio::time::advance(Duration::from_millis(millis)).await;
                pace.note(1);
            }
            assert_eq!(pace.is_load(), expected, "{millis} ms apart");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_counts_as_many_and_a_silence_ends_the_load() {
        let mut pace = Pace::default();
        for _ in 0..5 {
            tokio::time::advance(Duration::from_millis(100)).await;
            pace.note(10);
        }
        assert!(pace.is_load());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!pace.is_load());
    }
}
