//! Exponential backoff with full jitter, as recommended by AWS's architecture blog ("Exponential
//! Backoff And Jitter", 2015): each wait is drawn uniformly from zero to a growing limit.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::Result;

/// A growing series of waits, one for each thing that is retried; call `reset` after a success.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    ceiling: Duration,
    attempt: u32,
    seed: u64,
}

impl Backoff {
    /// Creates waits whose limit doubles from `first` to `ceiling`.
    pub fn new(first: Duration, ceiling: Duration) -> Self {
        // Two processes that fail together must not retry together, so the seed differs between
        // processes and between values.
        let seed = u64::from(std::process::id())
            ^ std::time::UNIX_EPOCH.elapsed().map_or(1, |age| age.as_nanos() as u64);
        Self { first, ceiling, attempt: 0, seed }
    }

    /// Creates the same series at each run, for tests.
    pub fn seeded(first: Duration, ceiling: Duration, seed: u64) -> Self {
        Self { first, ceiling, attempt: 0, seed }
    }

    /// Returns the wait before the next attempt.
    pub fn next_wait(&mut self) -> Duration {
        let limit = self.first.saturating_mul(1 << self.attempt.min(20)).min(self.ceiling);
        self.attempt += 1;
        limit.mul_f64(self.draw())
    }

    /// Waits before the next attempt.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next_wait()).await;
    }

    /// Starts again from the first wait, after a success.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }

    /// Returns a uniform number in [0, 1) (splitmix64; Steele, Lea, Flood: "Fast splittable
    /// pseudorandom number generators", 2014).
    fn draw(&mut self) -> f64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Retries transient errors for about `patience`.
pub async fn persist<T>(patience: Duration, mut attempt: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + patience;
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(3));
    loop {
        match attempt().await {
            Err(error) if error.is_transient() && Instant::now() < deadline => {
                tracing::debug!(%error, "trying again");
                backoff.wait().await;
            }
            ended => return ended,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Error;

    proptest! {
        #[test]
        fn no_wait_exceeds_its_doubling_limit_or_the_ceiling(seed: u64, attempts in 1usize..40) {
            let (first, ceiling) = (Duration::from_millis(50), Duration::from_secs(5));
            let mut backoff = Backoff::seeded(first, ceiling, seed);
            for attempt in 0..attempts {
                let limit = ceiling.min(first * 2u32.pow(attempt.min(10) as u32));
                prop_assert!(backoff.next_wait() <= limit);
            }
        }

        #[test]
        fn a_reset_starts_again_from_the_first_wait(seed: u64) {
            let mut backoff = Backoff::seeded(Duration::from_millis(50), Duration::from_secs(5), seed);
            (0..10).for_each(|_| { backoff.next_wait(); });
            backoff.reset();
            prop_assert!(backoff.next_wait() <= Duration::from_millis(50));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_transient_errors_are_retried_for_a_while() {
        let patience = Duration::from_secs(30);
        let (passing, lasting) = (Error::unavailable("x", "busy"), Error::broken("x", "no permission"));
        for (error, failures, works) in
            [(&passing, 3, true), (&passing, u32::MAX, false), (&lasting, 1, false)]
        {
            let mut attempts = 0;
            let ended = persist(patience, async || {
                attempts += 1;
                if attempts > failures { Ok(()) } else { Err(error.clone()) }
            });
            assert_eq!(ended.await.is_ok(), works, "{error}");
            assert_eq!(attempts == 1, !error.is_transient(), "{error}");
        }
    }
}
