//! Hands a body on in portions. The form reader takes all that a stream has to give before it looks at any of it, and a client
//! that sends faster than we look would fill the memory. After each portion this stream says "not yet", once.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream::BoxStream};

/// Larger than most images, so that those come in one piece.
const PORTION_BYTES: usize = 256 * 1024;

/// A body in portions.
pub(crate) struct Portions {
    body: BoxStream<'static, io::Result<Bytes>>,
    given: usize,
}

impl Portions {
    pub(crate) fn of(body: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Self {
        Self { body: body.boxed(), given: 0 }
    }
}

impl Stream for Portions {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.given >= PORTION_BYTES {
            self.given = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let next = self.body.poll_next_unpin(cx);
        match &next {
            Poll::Ready(Some(Ok(chunk))) => self.given += chunk.len(),
            _ => self.given = 0,
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_of_the_body_comes_through_and_never_more_than_a_portion_at_once() {
        let chunks: Vec<io::Result<Bytes>> = (0..100).map(|_| Ok(Bytes::from(vec![7; 30_000]))).collect();
        let mut body = Portions::of(futures::stream::iter(chunks));
        let (mut total, mut at_once, mut most) = (0, 0, 0);
        let waker = futures::task::noop_waker();
        loop {
            match body.poll_next_unpin(&mut Context::from_waker(&waker)) {
                Poll::Ready(Some(chunk)) => at_once += chunk.unwrap().len(),
                Poll::Pending => (total, most, at_once) = (total + at_once, most.max(at_once), 0),
                Poll::Ready(None) => break,
            }
        }
        assert_eq!(total + at_once, 3_000_000);
        assert!(most < PORTION_BYTES + 30_000, "{most}");
    }
}
