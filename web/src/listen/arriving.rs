//! The body of a request that is being received. If the service refuses a request before the end of
//! its body, the rest is still read for a while: closing the connection while the client sends
//! resets it, and the client loses the answer. Most clients (Python's urllib, plain curl) send
//! everything before they read.
//!
//! The answer is sent at once, so that a client that reads while it sends can stop.

use std::{
    error::Error,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::timeout;

use super::registry::RequestGuard;

/// Maximum number of bytes read and discarded for one request.
const MOST: u64 = 64 * 1024 * 1024;
/// A client has stopped if nothing arrives in [`LOOKS`] consecutive intervals of this length. One
/// interval is not enough: if the machine stalls, it may pass before the client gets to run.
const LOOK: Duration = Duration::from_secs(5);
const LOOKS: u32 = 3;

/// A body whose rest is discarded when this is dropped.
#[derive(Debug)]
pub(super) struct Arriving {
    body: Option<Incoming>,
    busy: Option<RequestGuard>,
    linger: Duration,
    /// The client sends the body only when asked for it (`Expect: 100-continue`).
    is_held_back: bool,
}

impl Arriving {
    pub(super) fn new(body: Incoming, busy: RequestGuard, linger: Duration, is_held_back: bool) -> Self {
        // A request without a body is complete.
        let busy = (!body.is_end_stream()).then_some(busy);
        Self { body: Some(body), busy, linger, is_held_back }
    }
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.is_held_back = false;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let next = Pin::new(body).poll_frame(cx);
        if matches!(next, Poll::Ready(None | Some(Err(_)))) {
            self.body = None;
        }
        if self.is_end_stream() {
            // The body is complete.
            self.busy = None;
        }
        next.map(|frame| frame.map(|frame| frame.map_err(broken)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        let Some(body) = self.body.take() else { return };
        // A body that was not asked for never comes.
        if body.is_end_stream() || self.is_held_back {
            return;
        }
        let (busy, linger) = (self.busy.take(), self.linger);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _end = timeout(linger, discard(body)).await;
                drop(busy);
            });
        }
    }
}

/// Converts an error to its innermost I/O cause, which tells an invalid body from one that ended
/// early.
fn broken(error: hyper::Error) -> io::Error {
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    while let Some(within) = cause {
        if let Some(io) = within.downcast_ref::<io::Error>() {
            return io::Error::new(io.kind(), io.to_string());
        }
        cause = within.source();
    }
    io::Error::other(error)
}

async fn discard(mut body: impl Body<Data = Bytes> + Unpin) {
    let (mut seen, mut silent) = (0, 0);
    while seen <= MOST && silent < LOOKS {
        match timeout(LOOK, body.frame()).await {
            Ok(Some(Ok(frame))) => {
                seen += frame.data_ref().map_or(0, Bytes::len) as u64;
                silent = 0;
            }
            Ok(None | Some(Err(_))) => return,
            Err(_silent) => silent += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt, stream};
    use http_body_util::StreamBody;
    use tokio::time::{Instant, sleep};

    use super::*;

    /// Number of seconds after which a body is given up whose pieces come at these intervals,
    /// followed by nothing.
    async fn given_up_after(intervals_s: &[u64]) -> u64 {
        let began = Instant::now();
        let pieces = stream::iter(intervals_s.to_owned()).then(|seconds| async move {
            sleep(Duration::from_secs(seconds)).await;
            Ok::<_, io::Error>(Frame::data(Bytes::from_static(b"piece")))
        });
        discard(StreamBody::new(Box::pin(pieces.chain(stream::pending())))).await;
        began.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_pauses_is_read_further_but_not_one_that_stopped() {
        assert_eq!(given_up_after(&[]).await, 15);
        assert_eq!(given_up_after(&[12, 6, 14]).await, 47, "each pause counts separately");
    }
}
