//! Limits on a client that sends slowly. Only the time in which this server waits and nothing
//! arrives counts against the client, not a slow disk or other uploads.
//!
//! A client may pause, but must catch up: each second of waiting costs a second of credit, each
//! byte earns some, and the credit never exceeds its initial value. Without this, a client that
//! sends a byte every ten seconds would keep its place for days.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use eirs_platform::settings::Web;
use futures::{Stream, StreamExt, stream::BoxStream};
use tokio::time::{Instant, Sleep, sleep};

/// The initial and maximum credit: the time for which the rate may be below the minimum.
const CREDIT: Duration = Duration::from_secs(30);

/// A body that ends with [`io::ErrorKind::TimedOut`] if it arrives too slowly.
pub(crate) struct Paced {
    body: BoxStream<'static, io::Result<Bytes>>,
    patience: Patience,
    /// When the current wait for the next chunk began.
    waiting: Option<Instant>,
    alarm: Pin<Box<Sleep>>,
}

/// The limits for a client, and what is left of them.
#[derive(Debug, Clone)]
struct Patience {
    pause: Duration,
    /// Minimum rate in bytes per second; 0 for no minimum.
    least_rate: f64,
    credit: Duration,
    /// Time left for the whole body.
    left: Duration,
}

impl Patience {
    /// Maximum time from now until the next bytes.
    fn pause(&self) -> Duration {
        let credit = if self.least_rate > 0.0 { self.credit } else { Duration::MAX };
        self.pause.min(credit).min(self.left)
    }

    /// Records the arrival of `bytes` after a wait of `waited`.
    fn came(&mut self, bytes: usize, waited: Duration) {
        self.left = self.left.saturating_sub(waited);
        if self.least_rate > 0.0 {
            let earned = Duration::try_from_secs_f64(bytes as f64 / self.least_rate).unwrap_or(CREDIT);
            self.credit = self.credit.saturating_sub(waited).saturating_add(earned).min(CREDIT);
        }
    }

    /// The error after a wait of `waited` without any bytes.
    fn too_slow(&self, waited: Duration) -> String {
        if waited >= self.left {
            "the upload exceeded the time limit".to_owned()
        } else if waited >= self.pause {
            format!("nothing arrived for {} seconds", self.pause.as_secs_f64())
        } else {
            format!(
                "fewer than {1} bytes per second arrived for {0} seconds",
                CREDIT.as_secs(),
                self.least_rate
            )
        }
    }
}

impl Paced {
    pub(crate) fn of(body: impl Stream<Item = io::Result<Bytes>> + Send + 'static, settings: &Web) -> Self {
        let patience = Patience {
            pause: settings.read_timeout,
            least_rate: settings.upload_min_rate.as_u64() as f64,
            credit: CREDIT,
            left: settings.upload_deadline,
        };
        Self { body: body.boxed(), patience, waiting: None, alarm: Box::pin(sleep(Duration::ZERO)) }
    }
}

impl Stream for Paced {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Poll::Ready(next) = this.body.poll_next_unpin(cx) {
            let waited = this.waiting.take().map_or(Duration::ZERO, |since| since.elapsed());
            let bytes = next.as_ref().and_then(|chunk| chunk.as_ref().ok()).map_or(0, Bytes::len);
            this.patience.came(bytes, waited);
            return Poll::Ready(next);
        }
        let since = *this.waiting.get_or_insert_with(|| {
            let now = Instant::now();
            this.alarm.as_mut().reset(now + this.patience.pause());
            now
        });
        if this.alarm.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        let slow = this.patience.too_slow(since.elapsed());
        // The stream is not polled again.
        this.body = futures::stream::empty().boxed();
        Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::TimedOut, slow))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends `bytes` at intervals of `every`; returns when the client was cut off, and the message.
    async fn cut_off(bytes: usize, every: Duration, settings: &Web) -> (Duration, String) {
        let began = Instant::now();
        let body = futures::stream::unfold((), move |()| async move {
            tokio::time::sleep(every).await;
            Some((Ok(Bytes::from(vec![7; bytes])), ()))
        });
        let mut body = Paced::of(body, settings);
        loop {
            match body.next().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
                    return (began.elapsed(), error.to_string());
                }
                None => panic!("the body never ends"),
            }
        }
    }

    fn settings() -> Web {
        Web { upload_deadline: Duration::from_secs(3600), ..Web::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_cut_off_after_the_pause() {
        let (after, message) = cut_off(1, Duration::from_secs(100), &settings()).await;
        assert_eq!((after.as_secs(), message.as_str()), (15, "nothing arrived for 15 seconds"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_dribbles_is_cut_off_when_its_credit_is_used_up() {
        let (after, message) = cut_off(1, Duration::from_secs(1), &settings()).await;
        assert!((30..=32).contains(&after.as_secs()), "{after:?}");
        assert!(message.contains("fewer than 512 bytes per second"), "{message}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_and_steady_client_is_cut_off_at_the_deadline() {
        let (after, message) = cut_off(1000, Duration::from_secs(1), &settings()).await;
        assert!((3599..=3601).contains(&after.as_secs()), "{after:?}");
        assert!(message.contains("exceeded the time limit"), "{message}");
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_the_server_is_busy_does_not_count_against_the_client() {
        let settings = Web { upload_deadline: Duration::from_secs(5), ..Web::default() };
        let mut body =
            Paced::of(futures::stream::iter((0..100).map(|_| Ok(Bytes::from_static(b"x")))), &settings);
        while let Some(chunk) = body.next().await {
            chunk.expect("in time");
            tokio::time::sleep(Duration::from_secs(20)).await;
        }
    }
}
