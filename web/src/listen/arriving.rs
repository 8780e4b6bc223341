//! The body of a request on its way in. Where the service does not want the rest of it, because it has refused the request, the
//! rest is read all the same, for a while: a client that is still sending when the connection is closed gets a reset, which
//! throws away the answer that it has not read yet. Most clients (Python's urllib, plain curl) first send and then read.
//!
//! The answer itself goes out at once, so that a client that reads while it sends can stop.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::timeout;

use super::crowd::Busy;

/// The most bytes that are read and thrown away for one request.
const MOST: u64 = 64 * 1024 * 1024;
/// A client that sends nothing for so long has stopped.
const SILENCE: Duration = Duration::from_secs(5);

/// A body, and what is to be done with the rest of it when it is dropped.
#[derive(Debug)]
pub(super) struct Arriving {
    body: Option<Incoming>,
    busy: Option<Busy>,
    linger: Duration,
    /// The client waits with the body until it is asked for it (`Expect: 100-continue`).
    is_held_back: bool,
}

impl Arriving {
    pub(super) fn new(body: Incoming, busy: Busy, linger: Duration, is_held_back: bool) -> Self {
        // One that has no body is read as a whole.
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
            // All of it is there, whatever becomes of this.
            self.busy = None;
        }
        next.map(|frame| frame.map(|frame| frame.map_err(io::Error::other)))
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
        // One that was not asked for never comes.
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

async fn discard(mut body: Incoming) {
    let mut seen = 0;
    while let Ok(Some(Ok(frame))) = timeout(SILENCE, body.frame()).await {
        seen += frame.data_ref().map_or(0, Bytes::len) as u64;
        if seen > MOST {
            return;
        }
    }
}
