//! The body of an answer that is being sent. Its request is in flight until the body ends.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use hyper::body::{Body, Frame, SizeHint};

use super::registry::RequestGuard;

/// A body, with the guard that counts its request as in flight.
#[derive(Debug)]
pub(super) struct Answering {
    body: BoxBody<Bytes, io::Error>,
    _busy: RequestGuard,
}

impl Answering {
    pub(super) fn new(body: BoxBody<Bytes, io::Error>, busy: RequestGuard) -> Self {
        Self { body, _busy: busy }
    }
}

impl Body for Answering {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
