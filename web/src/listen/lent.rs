//! Lends a stream to a connection of hyper. hyper-util 0.1's connection for both versions of HTTP
//! keeps its stream and drops it, but refusing a request that is not HTTP needs the stream after
//! that.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that returns to its [`Owner`] when this is dropped.
#[derive(Debug)]
pub(super) struct Lent<S> {
    /// `Some` until the drop. Boxed because a TLS stream is large.
    stream: Option<Box<S>>,
    back: Owner<S>,
}

/// Receives the stream back.
#[derive(Debug)]
pub(super) struct Owner<S>(Arc<Mutex<Option<Box<S>>>>);

/// Lends a stream.
pub(super) fn lend<S>(stream: S) -> (Lent<S>, Owner<S>) {
    let place = Arc::new(Mutex::new(None));
    (Lent { stream: Some(Box::new(stream)), back: Owner(place.clone()) }, Owner(place))
}

impl<S> Owner<S> {
    /// Returns the stream if it is back.
    pub(super) fn take(&self) -> Option<Box<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<S> Drop for Lent<S> {
    fn drop(&mut self) {
        *self.back.0.lock().unwrap_or_else(PoisonError::into_inner) = self.stream.take();
    }
}

impl<S: Unpin> Lent<S> {
    fn stream(&mut self) -> io::Result<Pin<&mut S>> {
        self.stream.as_deref_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lent<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream()?.poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Lent<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.is_write_vectored())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }
}
