//! The body of an answer on its way out: until its end the request is in flight.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use hyper::body::{Body, Frame, SizeHint};

use super::crowd::Busy;

/// A body, and the note that its request is in flight.
#[derive(Debug)]
pub(super) struct Answering {
    body: BoxBody<Bytes, io::Error>,
    _busy: Busy,
}

impl Answering {
    pub(super) fn new(body: BoxBody<Bytes, io::Error>, busy: Busy) -> Self {
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
