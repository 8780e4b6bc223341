//! The bytes of a connection, and when they flow.
//!
//! A client that ends its sending half has either disconnected or waits for its answer (`nc -N`,
//! `shutdown(SHUT_WR)`): TCP signals both in the same way. Sending a byte distinguishes them,
//! because the system of a program that has ended resets the connection. So the first byte of the
//! answer is sent ahead: every answer begins with `HTTP/`. The same holds for TLS and
//! `close_notify`.

use std::{
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};
use tokio_rustls::server::TlsStream;

use super::{refusing::own_of_hyper, registry::Registration};

/// The first byte of every answer.
const FIRST: &[u8] = b"H";
/// Interval between checks for a reset.
const LOOK: Duration = Duration::from_millis(200);
/// Interval between checks for the end if unread bytes hide it.
const LOOK_BEHIND: Duration = Duration::from_secs(1);
/// The reader of a body may lag behind the bytes that arrived. Interval between checks whether the
/// whole request was read, and the maximum time for them.
const LOOK_FOR_END: Duration = Duration::from_millis(5);
const BEHIND: Duration = Duration::from_millis(250);

/// The transport below HTTP.
pub(super) trait Wire: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// The TCP connection below it.
    fn tcp(&self) -> &TcpStream;
}

impl Wire for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Wire for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// A connection that reports reads and blocked writes to its registration.
#[derive(Debug)]
pub(super) struct Stream<W> {
    wire: W,
    registration: Arc<Registration>,
    /// The first byte that arrived.
    first: Option<u8>,
    /// hyper refused the request, and its refusal was withheld.
    is_refused: bool,
    /// Set once the client has closed its sending half.
    half_closed: Option<HalfClosed>,
    /// When to check for the end again while unread bytes hide it.
    look: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
struct HalfClosed {
    since: Instant,
    /// All bytes that it sent were read.
    is_read: bool,
    /// The first byte of the answer was sent ahead, to test the connection.
    is_asked: bool,
    /// The first byte must be left out of the answer, because it was sent ahead.
    is_ahead: bool,
    /// When to check again.
    alarm: Pin<Box<Sleep>>,
}

impl HalfClosed {
    fn new() -> Self {
        let alarm = Box::pin(sleep(LOOK_FOR_END));
        Self { since: Instant::now(), is_read: false, is_asked: false, is_ahead: false, alarm }
    }
}

impl<W: Wire> Stream<W> {
    pub(super) fn new(wire: W, registration: Arc<Registration>) -> Self {
        Self { wire, registration, first: None, is_refused: false, half_closed: None, look: None }
    }

    /// The first byte that arrived, if any.
    pub(super) fn first(&self) -> Option<u8> {
        self.first
    }

    /// Returns the transport if hyper's refusal was withheld, so that the client must be sent one.
    pub(super) fn refused(self) -> Option<W> {
        self.is_refused.then_some(self.wire)
    }

    fn noted<T>(&self, write: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.registration.record_unread(write.is_pending());
        if matches!(write, Poll::Ready(Ok(_))) {
            self.registration.record_write();
        }
        write
    }

    /// Completes with an error once a client that waits for its answer has left. Needed if more
    /// than one request has arrived: until the first is answered, nothing is read that would show
    /// it.
    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if !self.registration.is_unanswered() {
            return Poll::Pending;
        }
        if self.half_closed.is_none() {
            if let Err(error) = ready!(self.poll_end(cx)) {
                return Poll::Ready(error);
            }
            self.half_closed = Some(HalfClosed::new());
        }
        match ready!(self.poll_half_closed(cx)) {
            Err(error) => Poll::Ready(error),
            Ok(()) if self.registration.is_unanswered() => Poll::Ready(io::ErrorKind::UnexpectedEof.into()),
            Ok(()) => Poll::Pending,
        }
    }

    /// Completes when the client has closed its sending half, even if bytes are unread.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let tcp = self.wire.tcp();
            ready!(tcp.poll_read_ready(cx))?;
            let ready = pin!(tcp.ready(Interest::READABLE)).poll(&mut Context::from_waker(Waker::noop()));
            if matches!(ready, Poll::Ready(Ok(ready)) if ready.is_read_closed()) {
                return Poll::Ready(Ok(()));
            }
            let look = self.look.get_or_insert_with(|| Box::pin(sleep(LOOK_BEHIND)));
            ready!(look.as_mut().poll(cx));
            self.look = None;
        }
    }

    /// Returns the rest of an answer after the first byte, if that was sent ahead.
    fn after_first<'a>(&self, buf: &'a [u8]) -> Option<&'a [u8]> {
        let is_ahead = self.half_closed.as_ref().is_some_and(|half| half.is_ahead);
        if is_ahead { buf.strip_prefix(FIRST) } else { None }
    }

    /// Sends the rest; counts the first byte as sent with it.
    fn poll_rest(&mut self, cx: &mut Context<'_>, rest: &[u8]) -> Poll<io::Result<usize>> {
        let write = if rest.is_empty() {
            Poll::Ready(Ok(0))
        } else {
            let write = Pin::new(&mut self.wire).poll_write(cx, rest);
            self.noted(write)
        };
        if let (Poll::Ready(Ok(_)), Some(half)) = (&write, &mut self.half_closed) {
            half.is_ahead = false;
        }
        write.map_ok(|sent| sent + FIRST.len())
    }

    /// Completes when the answer was sent, when the client is found to be gone, or when its request
    /// is found to be incomplete.
    fn poll_half_closed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(half) = &mut self.half_closed else { return Poll::Ready(Ok(())) };
        loop {
            if !self.registration.is_busy() {
                return Poll::Ready(Ok(()));
            }
            if half.is_asked {
                if let Some(error) = self.wire.tcp().take_error()? {
                    return Poll::Ready(Err(error));
                }
            } else if self.registration.is_unanswered() {
                let write = Pin::new(&mut self.wire).poll_write(cx, FIRST);
                if !matches!(write, Poll::Ready(Ok(sent)) if sent == FIRST.len()) {
                    return Poll::Ready(Ok(()));
                }
                (half.is_asked, half.is_ahead) = (true, true);
            } else if half.since.elapsed() > BEHIND {
                return Poll::Ready(Ok(()));
            }
            ready!(half.alarm.as_mut().poll(cx));
            half.alarm.as_mut().reset(Instant::now() + if half.is_asked { LOOK } else { LOOK_FOR_END });
        }
    }
}

impl<W: Wire> AsyncRead for Stream<W> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.half_closed.as_ref().is_some_and(|half| half.is_read) {
            return self.poll_half_closed(cx);
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.wire).poll_read(cx, buf);
        if let Some(byte) = buf.filled().get(before) {
            self.first.get_or_insert(*byte);
            self.registration.record_read();
        } else if matches!(read, Poll::Ready(Ok(())))
            && buf.remaining() > 0
            && (self.half_closed.is_some() || self.registration.may_be_unanswered())
        {
            self.half_closed.get_or_insert_with(HalfClosed::new).is_read = true;
            return self.poll_half_closed(cx);
        }
        read
    }
}

impl<W: Wire> AsyncWrite for Stream<W> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(rest) = self.after_first(buf) {
            return self.poll_rest(cx, rest);
        }
        let buf = match own_of_hyper(buf) {
            Some(0) => {
                self.is_refused = true;
                return Poll::Ready(Ok(buf.len()));
            }
            // Send the answers before it first.
            Some(at) => &buf[..at],
            None => buf,
        };
        let write = Pin::new(&mut self.wire).poll_write(cx, buf);
        self.noted(write)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(rest) = buffers.iter().find_map(|buffer| self.after_first(buffer)) {
            return self.poll_rest(cx, rest);
        }
        let last = buffers.iter().rev().find(|buffer| !buffer.is_empty());
        if last.is_some_and(|last| own_of_hyper(last).is_some()) {
            let first = buffers.iter().find(|buffer| !buffer.is_empty());
            return self.poll_write(cx, first.map_or(&[], |first| first));
        }
        let write = Pin::new(&mut self.wire).poll_write_vectored(cx, buffers);
        self.noted(write)
    }

    fn is_write_vectored(&self) -> bool {
        self.wire.is_write_vectored()
    }

    /// hyper calls this on every poll of the connection, even if nothing was written.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(error) = self.poll_left(cx) {
            return Poll::Ready(Err(error));
        }
        let flush = Pin::new(&mut self.wire).poll_flush(cx);
        // TLS buffers bytes that the client has not accepted.
        self.registration.record_unread(flush.is_pending());
        flush
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_refused {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.wire).poll_shutdown(cx)
    }
}
