//! Accepts connections and serves each until it ends: by its client, by a limit, or because this
//! server stops.

use std::{
    convert::Infallible, future::poll_fn, io, net::SocketAddr, pin::pin, sync::Arc, task::Poll,
    time::Duration,
};

use bytes::Bytes;
use futures::FutureExt;
use http_body_util::{BodyExt, combinators::BoxBody};
use hyper::{Request, Response, Version, body::Incoming, header, http::uri::Authority, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use poem::{
    Endpoint, IntoResponse, RequestParts,
    http::uri::Scheme,
    web::{LocalAddr, RemoteAddr},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    address,
    answering::Answering,
    arriving::Arriving,
    crowd::{Busy, Crowd, Full, Limits, Seat},
    lent::lend,
    refusing::{problem_of, refuse},
    stream::{Stream, Wire},
    tls::{Greeted, Tls},
};
use crate::{
    metrics::{Connections, NotAccepted},
    problem::Problem,
};

/// When the system has no more of what a connection takes, accepting rests: it would fail at once
/// again and again.
const REST: Duration = Duration::from_millis(200);
/// How often that is told.
const TELL: Duration = Duration::from_secs(30);
/// hyper doubles its read buffer each time a read fills it; a hundred uploads at once would take 40
/// MB before anybody has looked at a byte. It is also the most that the header of a request may
/// have.
pub(super) const BUFFER: usize = 32 * 1024;
/// Requests at once on one connection of HTTP/2.
const STREAMS: u32 = 100;
/// What may be under way on one connection of HTTP/2, and for each of its requests.
const WINDOWS: (u32, u32) = (1024 * 1024, 256 * 1024);
/// HTTP/2 has pings: a client that does not answer one is gone.
const PING: Duration = Duration::from_secs(30);
/// How many are told at once that there is no place for them; more are cut off.
const TOLD_AT_ONCE: usize = 64;
/// How long each of them has to read that.
const MOMENT: Duration = Duration::from_secs(1);

/// A listener with what stands before its routes.
pub struct Server<E> {
    /// For the log.
    pub name: &'static str,
    /// Where the connections come from.
    pub listener: TcpListener,
    /// Where they are encrypted.
    pub tls: Option<Arc<Tls>>,
    /// How many there may be, and how patient we are with them.
    pub limits: Limits,
    /// Counts the connections.
    pub counts: Connections,
    /// What answers their requests.
    pub routes: E,
}

/// What every connection needs.
struct Door<E> {
    crowd: Arc<Crowd>,
    routes: E,
    local: LocalAddr,
    http: auto::Builder<TokioExecutor>,
    tls: Option<Arc<Tls>>,
    /// No further requests on a connection.
    ending: CancellationToken,
    /// The time for the last answers is over.
    cut_off: CancellationToken,
}

impl<E: Endpoint<Output = poem::Response> + 'static> Server<E> {
    /// Serves until `stop` ends, and then what is in flight, for as long as `cut_off` at most.
    pub async fn run(self, stop: impl Future<Output = ()>, cut_off: Duration) -> io::Result<()> {
        let Self { name, listener, tls, limits, counts, routes } = self;
        let local = LocalAddr(listener.local_addr()?.into());
        let door = Arc::new(Door {
            crowd: Crowd::new(limits, counts.clone()),
            routes,
            local,
            http: http(),
            tls,
            ending: CancellationToken::new(),
            cut_off: CancellationToken::new(),
        });
        let connections = TaskTracker::new();
        let told = Arc::new(Semaphore::new(TOLD_AT_ONCE));
        let mut stop = pin!(stop);
        let mut told_at: Option<Instant> = None;
        loop {
            let accepted = tokio::select! {
                () = &mut stop => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((tcp, peer)) => match door.crowd.enter(peer.ip()) {
                    Ok(seat) => {
                        connections.spawn(connection(door.clone(), tcp, peer, seat));
                    }
                    // A client of TLS cannot be told anything before it was given a lot of work.
                    Err(full) => {
                        counts.refused(match full {
                            Full::All => NotAccepted::Full,
                            Full::Address => NotAccepted::Address,
                        });
                        if let (None, Ok(permit)) = (&door.tls, told.clone().try_acquire_owned()) {
                            connections.spawn(async move {
                                let problem = match full {
                                    Full::All => Problem::crowded(),
                                    Full::Address => Problem::too_many_connections("your address"),
                                };
                                refuse(tcp, &problem, MOMENT).await;
                                drop(permit);
                            });
                        }
                    }
                },
                Err(error) if is_of_the_client(&error) => {}
                Err(error) => {
                    counts.refused(NotAccepted::Files);
                    if told_at.is_none_or(|at| at.elapsed() > TELL) {
                        told_at = Some(Instant::now());
                        tracing::error!(%error, "{name} cannot accept connections; closing idle \
                            ones");
                    }
                    door.crowd.make_room();
                    sleep(REST).await;
                }
            }
        }
        drop(listener);
        door.ending.cancel();
        connections.close();
        if timeout(cut_off, connections.wait()).await.is_err() {
            tracing::warn!("{name}: {} connections are cut off", connections.len());
            door.cut_off.cancel();
            connections.wait().await;
        }
        Ok(())
    }
}

/// Whether the connection was gone before it was accepted (accept(2)); the next one is another
/// matter.
fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

fn http() -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    // The time for headers is ours to watch: hyper's counts from the end of the last answer and
    // would end the idle.
    http.http1().timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(BUFFER);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_connection_window_size(WINDOWS.0)
        .initial_stream_window_size(WINDOWS.1)
        .max_header_list_size(BUFFER as u32)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    http
}

async fn connection<E: Endpoint<Output = poem::Response> + 'static>(
    door: Arc<Door<E>>,
    tcp: TcpStream,
    peer: SocketAddr,
    seat: Seat,
) {
    // Lines and events are small and wanted now.
    let _best_effort = tcp.set_nodelay(true);
    let seat = Arc::new(seat);
    let served = async {
        match &door.tls {
            None => serve(&door, tcp, peer, &seat, Scheme::HTTP).await,
            Some(tls) => match tls.shake_hands(tcp).await {
                Ok(Greeted::Encrypted(tls)) => serve(&door, *tls, peer, &seat, Scheme::HTTPS).await,
                Ok(Greeted::InPlain(tcp)) => serve(&door, tcp, peer, &seat, Scheme::HTTP).await,
                // Scanners, clients that do not trust the certificate: each day has many.
                Err(error) => tracing::debug!(%error, "a connection ended before a request"),
            },
        }
    };
    tokio::select! {
        () = served => {}
        () = seat.guest.leave.cancelled() => {}
        () = door.cut_off.cancelled() => {}
    }
}

async fn serve<E: Endpoint<Output = poem::Response> + 'static>(
    door: &Arc<Door<E>>,
    wire: impl Wire,
    peer: SocketAddr,
    seat: &Arc<Seat>,
    scheme: Scheme,
) {
    let service = {
        let (door, seat) = (door.clone(), seat.clone());
        service_fn(move |request: Request<Incoming>| {
            let busy = || seat.request(request.version());
            let (for_body, for_answer) = (busy(), busy());
            answer(door.clone(), request, peer, scheme.clone(), for_body, for_answer).map(Ok::<_, Infallible>)
        })
    };
    let (stream, owner) = lend(Stream::new(wire, seat.clone()));
    // Dropped where it ends, for it has the stream.
    let mut connection = Box::pin(door.http.serve_connection(TokioIo::new(stream), service));
    let mut ending = pin!(door.ending.cancelled());
    let mut is_ending = false;
    let mut alarm = pin!(sleep_until(Instant::now()));
    let end = poll_fn(|cx| {
        if let Poll::Ready(end) = connection.as_mut().poll(cx) {
            return Poll::Ready(end);
        }
        if !is_ending && ending.as_mut().poll(cx).is_ready() {
            is_ending = true;
            connection.as_mut().graceful_shutdown();
            if let Poll::Ready(end) = connection.as_mut().poll(cx) {
                return Poll::Ready(end);
            }
        }
        let Some((deadline, reason)) = seat.deadline() else { return Poll::Pending };
        if alarm.deadline() != deadline {
            alarm.as_mut().reset(deadline);
        }
        alarm.as_mut().poll(cx).map(|()| {
            door.crowd.counts.closed(reason);
            Ok(())
        })
    })
    .await;
    drop(connection);
    let (Err(error), Some(stream)) = (end, owner.take()) else { return };
    let problem = problem_of(&*error, stream.first());
    if let (Some(problem), Some(wire)) = (problem, stream.refused()) {
        tracing::debug!(%peer, "a request was refused: {}", problem.detail);
        refuse(wire, &problem, door.crowd.limits.linger).await;
    } else {
        tracing::trace!(%peer, %error, "a connection ended early");
    }
}

async fn answer<E: Endpoint<Output = poem::Response> + 'static>(
    door: Arc<Door<E>>,
    request: Request<Incoming>,
    peer: SocketAddr,
    scheme: Scheme,
    for_body: Busy,
    for_answer: Busy,
) -> Response<BoxBody<Bytes, io::Error>> {
    let (mut parts, body) = request.into_parts();
    parts.uri = address::plain(parts.uri);
    let expects = parts.headers.get(header::EXPECT);
    let expects = expects.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let body = Arriving::new(body, for_body, door.crowd.limits.linger, expects).boxed();
    let is_in_plain = door.tls.is_some() && scheme == Scheme::HTTP;
    let refused = is_in_plain.then(Problem::needs_https);
    let refused = refused.or_else(|| misdirected(&parts)).or_else(|| coded(&parts));
    let parts: RequestParts = (parts, door.local.clone(), RemoteAddr(peer.into()), scheme).into();
    let request = poem::Request::from_parts(parts, body.into());
    let response = match refused {
        Some(problem) => problem.into_response(),
        None => door.routes.get_response(request).await,
    };
    Response::<BoxBody<Bytes, io::Error>>::from(response).map(|body| Answering::new(body, for_answer).boxed())
}

/// Why a request does not say to whom it goes, where it has to (RFC 9112, 3.2): a proxy before this
/// server may have taken it for another's. In HTTP/2 the address says it, which hyper checks.
fn misdirected(parts: &hyper::http::request::Parts) -> Option<Problem> {
    if parts.version == Version::HTTP_2 {
        return None;
    }
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let why = match (hosts.next(), hosts.next()) {
        (None, _) if parts.version < Version::HTTP_11 => return None,
        (None, _) => "the request has no Host header, which HTTP/1.1 requires",
        (Some(_), Some(_)) => "the request has more than one Host header",
        (Some(host), None) if is_host(host.as_bytes()) => return None,
        (Some(_), None) => "the Host header is not a host with an optional port",
    };
    Some(Problem::bad_request(why))
}

/// Why a body cannot be read as it is sent. hyper reads it as `chunked`, whatever else it says.
fn coded(parts: &hyper::http::request::Parts) -> Option<Problem> {
    let mut codings = parts.headers.get_all(header::TRANSFER_ENCODING).iter();
    let is_read = |coding: &[u8]| coding.trim_ascii().eq_ignore_ascii_case(b"chunked");
    match (codings.next(), codings.next()) {
        (None, _) => None,
        (Some(only), None) if is_read(only.as_bytes()) => None,
        _ => Some(Problem::unknown_coding()),
    }
}

/// Whether it names a host, or is empty, where the address has none. An address may also name a
/// user before it.
fn is_host(host: &[u8]) -> bool {
    host.is_empty() || !host.contains(&b'@') && Authority::try_from(host).is_ok()
}
