//! A minimal HTTP/1.1 client for the load generator: one request at a time on a kept-alive
//! connection, request bodies of ready pieces that are not copied, and one sentence per error.

mod tls;
mod url;

use std::{convert::Infallible, io, pin::Pin, task, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::{
    Request, Response, StatusCode, Uri,
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::http1::{self, SendRequest},
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

pub use self::url::Url;

/// Maximum size of a response body; another service might send without end.
const MOST_OF_AN_ANSWER: usize = 8 << 20;
/// Says whether a response came from a cache.
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
/// The wait before asking again, if the server specifies none.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Creates a header with constant text.
pub fn header_pair(name: HeaderName, value: &'static str) -> (HeaderName, HeaderValue) {
    (name, HeaderValue::from_static(value))
}

/// A body of ready pieces. hyper passes them to the kernel without copying, together with the head
/// of the request.
#[derive(Debug, Clone, Default)]
pub struct Pieces {
    pieces: [Bytes; 5],
    next: usize,
}

impl Pieces {
    /// Creates a body of these pieces in order.
    pub fn of(pieces: [Bytes; 5]) -> Self {
        Self { pieces, next: 0 }
    }

    /// Returns the number of remaining bytes.
    pub fn len(&self) -> u64 {
        self.pieces[self.next..].iter().map(|piece| piece.len() as u64).sum()
    }

    /// Returns whether no bytes remain.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut task::Context<'_>,
    ) -> task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        while self.next < self.pieces.len() {
            let place = self.next;
            self.next += 1;
            let piece = std::mem::take(&mut self.pieces[place]);
            if !piece.is_empty() {
                return task::Poll::Ready(Some(Ok(Frame::data(piece))));
            }
        }
        task::Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len())
    }
}

/// The reason why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// The connection failed.
    #[error("{0}")]
    NotConnected(#[source] io::Error),
    /// The server's certificate is not valid or trusted, or the server does not speak TLS.
    #[error("no secure connection: {0}")]
    NotSecure(String),
    /// The connection ended before the response was complete.
    #[error("the server closed the connection without a response ({0})")]
    HungUp(String),
    /// The response is too long for this service.
    #[error("the response is longer than {} MiB", MOST_OF_AN_ANSWER >> 20)]
    TooLong,
}

impl Lost {
    /// Returns whether the connection was refused.
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::NotConnected(error) if error.kind() == io::ErrorKind::ConnectionRefused)
    }

    /// Formats the error with the URL of the server.
    pub fn at(&self, url: &Url) -> String {
        match self {
            lost if lost.is_refused() => {
                format!("nothing listens at {url}: connection refused; `eirs local` starts a service there")
            }
            Self::NotConnected(error) => format!("{url} cannot be reached: {error}"),
            other => format!("{url}: {other}"),
        }
    }
}

/// A kept-alive connection.
#[derive(Debug)]
pub struct Connection(SendRequest<Pieces>);

impl Connection {
    /// Connects, and starts a task that drives the connection until it ends.
    pub async fn open(url: &Url) -> Result<Self, Lost> {
        let stream = TcpStream::connect((url.host.as_str(), url.port)).await.map_err(Lost::NotConnected)?;
        stream.set_nodelay(true).map_err(Lost::NotConnected)?;
        match &url.secure {
            None => Self::over(stream).await,
            Some(name) => Self::over(tls::secure(stream, name).await.map_err(Lost::NotSecure)?).await,
        }
    }

    async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Self, Lost> {
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| Lost::HungUp(error.to_string()))?;
        tokio::spawn(async move {
            // The same error reaches the requests.
            let _error = connection.await;
        });
        Ok(Self(sender))
    }

    /// Returns whether the server has closed the connection.
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Sends a request and returns the head of the response, with the body as a stream.
    pub async fn begin(&mut self, request: Request<Pieces>) -> Result<Response<Incoming>, Lost> {
        let hung_up = |error: hyper::Error| Lost::HungUp(error.to_string());
        self.0.ready().await.map_err(hung_up)?;
        self.0.send_request(request).await.map_err(hung_up)
    }

    /// Sends a request and reads the whole response.
    pub async fn ask(&mut self, request: Request<Pieces>) -> Result<Answer, Lost> {
        let hung_up = |error: hyper::Error| Lost::HungUp(error.to_string());
        let (head, body) = self.begin(request).await?.into_parts();
        let body = Limited::new(body, MOST_OF_AN_ANSWER).collect().await.map_err(|error| {
            let cause = error.downcast::<hyper::Error>().map(|error| hung_up(*error));
            cause.unwrap_or(Lost::TooLong)
        })?;
        Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes() })
    }
}

/// A complete response.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// Returns the text of a header.
    pub fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns whether the response came from a cache (RFC 9211).
    pub fn is_stored(&self) -> bool {
        self.header(CACHE_STATUS).is_some_and(|text| text.split([';', ',']).any(|word| word.trim() == "hit"))
    }

    /// Returns the wait that the server asks for.
    pub fn retry_after(&self) -> Duration {
        let seconds = self.header(header::RETRY_AFTER).and_then(|text| text.trim().parse::<f64>().ok());
        let said = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        // A server that says 0 must not be polled in a tight loop.
        said.map_or(ASK_AGAIN, |said| said.max(Duration::from_millis(20)))
    }

    /// Returns the path to continue with after a 202.
    pub fn location(&self) -> Option<String> {
        let uri: Uri = self.header(header::LOCATION)?.parse().ok()?;
        Some(uri.path_and_query()?.as_str().to_owned())
    }

    /// Parses the body as JSON, ignoring its media type; `Null` if it is not JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Returns the detail of a problem response, or else the first line of the text.
    pub fn detail(&self) -> String {
        let problem = self.json();
        let why = ["detail", "reason", "title"].iter().find_map(|key| problem.get(key)?.as_str());
        let text = String::from_utf8_lossy(&self.body);
        let first_line = || text.lines().next().unwrap_or_default().chars().take(200).collect();
        why.map_or_else(first_line, str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_bounded_below_and_has_a_default() {
        let mut answer = Answer { status: StatusCode::OK, headers: HeaderMap::new(), body: Bytes::new() };
        assert_eq!(answer.retry_after(), ASK_AGAIN);
        for (text, ms) in [("2", 2000), ("0", 20), ("-1", 1000), ("soon", 1000), ("0.25", 250)] {
            answer.headers.insert(header::RETRY_AFTER, HeaderValue::from_static(text));
            assert_eq!(answer.retry_after(), Duration::from_millis(ms), "{text}");
        }
    }
}
