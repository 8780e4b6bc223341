//! Accepts connections and serves each until its client, a limit or a stop of this server ends it.

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
    lent::lend,
    refusing::{problem_of, refuse},
    registry::{Full, Limits, Registration, Registry, RequestGuard},
    stream::{Stream, Wire},
    tls::{Greeted, Tls},
};
use crate::{
    metrics::{Connections, NotAccepted},
    problem::Problem,
};

/// Pause after accepting failed for lack of a system resource; it would fail again at once.
const REST: Duration = Duration::from_millis(200);
/// Minimum time between two log lines about that.
const LOG_INTERVAL: Duration = Duration::from_secs(30);
/// Maximum size of hyper's read buffer, and so of a request's header. hyper doubles the buffer each
/// time a read fills it: without a limit, a hundred uploads at once would take 40 MB.
pub(super) const BUFFER: usize = 32 * 1024;
/// Maximum size of a header that is read in HTTP/2. One above [`BUFFER`] is refused with a
/// sentence; one above this, by hyper with a status alone (h2 0.4).
const READ_HEADER: u32 = 2 * BUFFER as u32;
/// Maximum number of concurrent requests on one connection of HTTP/2.
const STREAMS: u32 = 100;
/// Flow control windows of HTTP/2 in bytes: of a connection, and of each of its requests.
const WINDOWS: (u32, u32) = (1024 * 1024, 256 * 1024);
/// Interval and timeout of HTTP/2 pings; a client that does not respond is gone.
const PING: Duration = Duration::from_secs(30);
/// Maximum number of refused connections that are sent the reason at once; further ones are cut
/// off.
const MAX_REFUSING: usize = 64;
/// How long each of them has to read it.
const REFUSAL: Duration = Duration::from_secs(1);

/// A listener with its limits and its routes.
pub struct Server<E> {
    /// The name in the log.
    pub name: &'static str,
    /// The source of the connections.
    pub listener: TcpListener,
    /// The certificate, if connections are encrypted.
    pub tls: Option<Arc<Tls>>,
    /// The limits on connections and their timeouts.
    pub limits: Limits,
    /// Counts the connections.
    pub counts: Connections,
    /// The handlers of the requests.
    pub routes: E,
}

/// What every connection needs.
struct Shared<E> {
    registry: Arc<Registry>,
    routes: E,
    local: LocalAddr,
    http: auto::Builder<TokioExecutor>,
    tls: Option<Arc<Tls>>,
    /// Cancelled to end each connection after its current requests.
    ending: CancellationToken,
    /// Cancelled when the time for the last answers is over.
    cut_off: CancellationToken,
}

impl<E: Endpoint<Output = poem::Response> + 'static> Server<E> {
    /// Serves until `stop` completes, then finishes the requests in flight within at most
    /// `cut_off`.
    pub async fn run(self, stop: impl Future<Output = ()>, cut_off: Duration) -> io::Result<()> {
        let Self { name, listener, tls, limits, counts, routes } = self;
        let local = LocalAddr(listener.local_addr()?.into());
        let shared = Arc::new(Shared {
            registry: Registry::new(limits, counts.clone()),
            routes,
            local,
            http: http(),
            tls,
            ending: CancellationToken::new(),
            cut_off: CancellationToken::new(),
        });
        let connections = TaskTracker::new();
        let refusing = Arc::new(Semaphore::new(MAX_REFUSING));
        let mut stop = pin!(stop);
        let mut logged_at: Option<Instant> = None;
        loop {
            let accepted = tokio::select! {
                () = &mut stop => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((tcp, peer)) => match shared.registry.register(peer.ip()) {
                    Ok(registration) => {
                        connections.spawn(connection(shared.clone(), tcp, peer, registration));
                    }
                    // Not for TLS, where a handshake would have to come first, which is expensive.
                    Err(full) => {
                        counts.refused(match full {
                            Full::All => NotAccepted::Full,
                            Full::Address => NotAccepted::Address,
                        });
                        if let (None, Ok(permit)) = (&shared.tls, refusing.clone().try_acquire_owned()) {
                            connections.spawn(async move {
                                let problem = match full {
                                    Full::All => Problem::crowded(),
                                    Full::Address => Problem::too_many_connections("your address"),
                                };
                                refuse(tcp, &problem, REFUSAL).await;
                                drop(permit);
                            });
                        }
                    }
                },
                Err(error) if is_of_the_client(&error) => {}
                Err(error) => {
                    counts.refused(NotAccepted::Files);
                    if logged_at.is_none_or(|at| at.elapsed() > LOG_INTERVAL) {
                        logged_at = Some(Instant::now());
                        tracing::error!(%error, "{name} cannot accept connections; closing idle \
                            ones");
                    }
                    shared.registry.make_room();
                    sleep(REST).await;
                }
            }
        }
        drop(listener);
        shared.ending.cancel();
        connections.close();
        if timeout(cut_off, connections.wait()).await.is_err() {
            tracing::warn!("{name}: {} connections are cut off", connections.len());
            shared.cut_off.cancel();
            connections.wait().await;
        }
        Ok(())
    }
}

/// Returns whether the error concerns only this connection, which ended before it was accepted
/// (accept(2)).
fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

fn http() -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    // `registry.rs` has its own deadline for headers: hyper's counts from the end of the last
    // answer, and would close idle connections.
    http.http1().timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(BUFFER);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_connection_window_size(WINDOWS.0)
        .initial_stream_window_size(WINDOWS.1)
        .max_header_list_size(READ_HEADER)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    http
}

async fn connection<E: Endpoint<Output = poem::Response> + 'static>(
    shared: Arc<Shared<E>>,
    tcp: TcpStream,
    peer: SocketAddr,
    registration: Registration,
) {
    // Lines and events are small and must not wait for more.
    let _best_effort = tcp.set_nodelay(true);
    let registration = Arc::new(registration);
    let served = async {
        match &shared.tls {
            None => serve(&shared, tcp, peer, &registration, Scheme::HTTP).await,
            Some(tls) => match tls.shake_hands(tcp).await {
                Ok(Greeted::Encrypted(tls)) => serve(&shared, *tls, peer, &registration, Scheme::HTTPS).await,
                Ok(Greeted::InPlain(tcp)) => serve(&shared, tcp, peer, &registration, Scheme::HTTP).await,
                // Scanners and clients that do not trust the certificate are common.
                Err(error) => tracing::debug!(%error, "a connection ended before a request"),
            },
        }
    };
    tokio::select! {
        () = served => {}
        () = registration.connection.close.cancelled() => {}
        () = shared.cut_off.cancelled() => {}
    }
}

async fn serve<E: Endpoint<Output = poem::Response> + 'static>(
    shared: &Arc<Shared<E>>,
    wire: impl Wire,
    peer: SocketAddr,
    registration: &Arc<Registration>,
    scheme: Scheme,
) {
    let service = {
        let (shared, registration) = (shared.clone(), registration.clone());
        service_fn(move |request: Request<Incoming>| {
            let busy = || registration.request(request.version());
            let (for_body, for_answer) = (busy(), busy());
            answer(shared.clone(), request, peer, scheme.clone(), for_body, for_answer)
                .map(Ok::<_, Infallible>)
        })
    };
    let (stream, owner) = lend(Stream::new(wire, registration.clone()));
    // Boxed so that it can be dropped below, which returns the stream.
    let mut connection = Box::pin(shared.http.serve_connection(TokioIo::new(stream), service));
    let mut ending = pin!(shared.ending.cancelled());
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
        let Some((deadline, reason)) = registration.deadline() else { return Poll::Pending };
        if alarm.deadline() != deadline {
            alarm.as_mut().reset(deadline);
        }
        alarm.as_mut().poll(cx).map(|()| {
            shared.registry.counts.closed(reason);
            Ok(())
        })
    })
    .await;
    drop(connection);
    let (Err(error), Some(stream)) = (end, owner.take()) else { return };
    let problem = problem_of(&*error, stream.first());
    if let (Some(problem), Some(wire)) = (problem, stream.refused()) {
        tracing::debug!(%peer, "a request was refused: {}", problem.detail);
        refuse(wire, &problem, shared.registry.limits.linger).await;
    } else {
        tracing::trace!(%peer, %error, "a connection ended early");
    }
}

async fn answer<E: Endpoint<Output = poem::Response> + 'static>(
    shared: Arc<Shared<E>>,
    request: Request<Incoming>,
    peer: SocketAddr,
    scheme: Scheme,
    for_body: RequestGuard,
    for_answer: RequestGuard,
) -> Response<BoxBody<Bytes, io::Error>> {
    let (mut parts, body) = request.into_parts();
    parts.uri = address::plain(parts.uri);
    let expects = parts.headers.get(header::EXPECT);
    let expects = expects.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let body = Arriving::new(body, for_body, shared.registry.limits.linger, expects).boxed();
    let is_in_plain = shared.tls.is_some() && scheme == Scheme::HTTP;
    let refused = is_in_plain.then(Problem::needs_https);
    let refused = refused.or_else(|| too_large(&parts));
    let refused = refused.or_else(|| misdirected(&parts)).or_else(|| coded(&parts));
    let parts: RequestParts = (parts, shared.local.clone(), RemoteAddr(peer.into()), scheme).into();
    let request = poem::Request::from_parts(parts, body.into());
    let response = match refused {
        Some(problem) => problem.into_response(),
        None => shared.routes.get_response(request).await,
    };
    Response::<BoxBody<Bytes, io::Error>>::from(response).map(|body| Answering::new(body, for_answer).boxed())
}

/// Returns the problem if the header of HTTP/2 is too large, counted as RFC 9113 does (6.5.2). In
/// HTTP/1 hyper counts, and stops reading.
fn too_large(parts: &hyper::http::request::Parts) -> Option<Problem> {
    /// What each field counts in addition to its bytes.
    const EACH: usize = 32;
    if parts.version != Version::HTTP_2 {
        return None;
    }
    let pseudo = [
        (":method", parts.method.as_str()),
        (":scheme", parts.uri.scheme_str().unwrap_or_default()),
        (":authority", parts.uri.authority().map_or("", |authority| authority.as_str())),
        (":path", parts.uri.path_and_query().map_or("", |path| path.as_str())),
    ];
    let pseudo: usize = pseudo.iter().map(|(name, value)| name.len() + value.len() + EACH).sum();
    let fields: usize =
        parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + EACH).sum();
    (pseudo + fields > BUFFER).then(|| Problem::header_list_too_large(BUFFER))
}

/// Returns the problem if a request does not name its host correctly (RFC 9112, 3.2): a proxy in
/// front may have routed it differently. In HTTP/2 the address has the host, which hyper checks.
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

/// Returns the problem if the transfer coding is not supported. hyper reads every body as
/// `chunked`, whatever other codings are named.
fn coded(parts: &hyper::http::request::Parts) -> Option<Problem> {
    let mut codings = parts.headers.get_all(header::TRANSFER_ENCODING).iter();
    let is_read = |coding: &[u8]| coding.trim_ascii().eq_ignore_ascii_case(b"chunked");
    match (codings.next(), codings.next()) {
        (None, _) => None,
        (Some(only), None) if is_read(only.as_bytes()) => None,
        _ => Some(Problem::unknown_coding()),
    }
}

/// Returns whether the value is empty or a host with an optional port. An authority may also have a
/// user, which a Host header may not.
fn is_host(host: &[u8]) -> bool {
    host.is_empty() || !host.contains(&b'@') && Authority::try_from(host).is_ok()
}
