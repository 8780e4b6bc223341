//! A connection's bytes, and a note of when they flow.
//!
//! A client that sends no more has left, or it has closed its sending half (`nc -N`, `shutdown(SHUT_WR)`) and waits for its answer:
//! TCP says the same of both. What tells them apart is a byte that is sent to it, for a system whose program has left resets the
//! connection. So it is sent `100 Continue`, which HTTP/1.1 allows at any time before an answer and clients pass over.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};

use super::crowd::Seat;

/// What a client that waits for its answer passes over.
const PROBE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// How often is looked whether the connection was reset.
const LOOK: Duration = Duration::from_millis(200);
/// Who reads the body may be a moment behind what has come: how often is looked whether all of it was there, and for how long.
const LOOK_FOR_END: Duration = Duration::from_millis(5);
const BEHIND: Duration = Duration::from_millis(250);

/// A connection that notes at its seat when something comes and when nothing goes.
#[derive(Debug)]
pub(super) struct Stream {
    tcp: TcpStream,
    seat: Arc<Seat>,
    /// What is read and written is HTTP itself.
    is_plain: bool,
    /// The client sends no more.
    half_closed: Option<HalfClosed>,
}

#[derive(Debug)]
struct HalfClosed {
    since: Instant,
    /// It was asked whether it is there.
    is_asked: bool,
    /// When to look again.
    alarm: Pin<Box<Sleep>>,
}

impl Stream {
    pub(super) fn new(tcp: TcpStream, seat: Arc<Seat>, is_plain: bool) -> Self {
        Self { tcp, seat, is_plain, half_closed: None }
    }

    fn noted<T>(&self, write: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.seat.unread(write.is_pending());
        if matches!(write, Poll::Ready(Ok(_))) {
            self.seat.answering();
        }
        write
    }

    /// Ends when the answer is out, when the client turns out to be gone, or when its request turns out not to be whole.
    fn poll_half_closed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(half) = &mut self.half_closed else { return Poll::Ready(Ok(())) };
        loop {
            if !self.seat.is_busy() {
                return Poll::Ready(Ok(()));
            }
            if half.is_asked {
                if let Some(error) = self.tcp.take_error()? {
                    return Poll::Ready(Err(error));
                }
            } else if self.seat.is_owed() {
                if !self.tcp.try_write(PROBE).is_ok_and(|sent| sent == PROBE.len()) {
                    return Poll::Ready(Ok(()));
                }
                half.is_asked = true;
            } else if half.since.elapsed() > BEHIND {
                return Poll::Ready(Ok(()));
            }
            ready!(half.alarm.as_mut().poll(cx));
            half.alarm.as_mut().reset(Instant::now() + if half.is_asked { LOOK } else { LOOK_FOR_END });
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.half_closed.is_some() {
            return self.poll_half_closed(cx);
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.tcp).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.seat.heard();
        } else if matches!(read, Poll::Ready(Ok(())))
            && buf.remaining() > 0
            && self.is_plain
            && self.seat.may_be_owed()
        {
            let alarm = Box::pin(sleep(LOOK_FOR_END));
            self.half_closed = Some(HalfClosed { since: Instant::now(), is_asked: false, alarm });
            return self.poll_half_closed(cx);
        }
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.tcp).poll_write(cx, buf);
        self.noted(write)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.tcp).poll_write_vectored(cx, buffers);
        self.noted(write)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
