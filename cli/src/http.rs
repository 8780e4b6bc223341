//! The smallest HTTP/1.1 client that does what the tools need: one kept-alive connection at a time, bodies made of
//! ready pieces that are never copied, and sentences for whatever goes wrong.

use std::{convert::Infallible, fmt, io, pin::Pin, str::FromStr, task, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::http1::{self, SendRequest},
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// No answer that the tools read is larger; a stranger's server might go on for ever.
const MOST_OF_AN_ANSWER: usize = 8 << 20;
/// Where a server does not say when to ask again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// A server and the path that was named with it.
#[derive(Debug, Clone)]
pub struct Url {
    host: String,
    port: u16,
    authority: HeaderValue,
    path: String,
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let uri: Uri = with_scheme.parse().map_err(|error| format!("`{text}` is not a URL: {error}"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err("https is not spoken here yet; name the service by http://".into()),
            other => return Err(format!("a URL starts with http://, not {}://", other.unwrap_or_default())),
        }
        let authority = uri.authority().filter(|named| !named.host().is_empty());
        let authority = authority.ok_or_else(|| format!("`{text}` names no host"))?;
        Ok(Self {
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(80),
            authority: HeaderValue::from_str(authority.as_str()).map_err(|error| error.to_string())?,
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path == "/" { "" } else { &self.path };
        write!(f, "http://{}{path}", self.authority.to_str().unwrap_or(&self.host))
    }
}

impl Url {
    /// The path and query that uploads go to: the one that was named, or `/upload`, with `query` added.
    pub fn upload_path(&self, query: &str) -> String {
        let path = if self.path == "/" { "/upload" } else { &self.path };
        match (query, path.contains('?')) {
            ("", _) => path.to_owned(),
            (query, false) => format!("{path}?{query}"),
            (query, true) => format!("{path}&{query}"),
        }
    }

    /// A request to this server.
    pub fn request(&self, method: Method, path: &str, headers: &HeaderMap, body: Pieces) -> Request<Pieces> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().unwrap_or_else(|_not_a_path| Uri::from_static("/"));
        let place = request.headers_mut();
        place.reserve(headers.len() + 1);
        place.insert(header::HOST, self.authority.clone());
        place.extend(headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        request
    }

    /// One request on a connection of its own.
    pub async fn get(&self, path: &str) -> Result<Answer, Lost> {
        let mut connection = Connection::open(self).await?;
        let headers = HeaderMap::from_iter([header_pair(header::ACCEPT, "application/json")]);
        connection.ask(self.request(Method::GET, path, &headers, Pieces::default())).await
    }
}

/// A header of constant text.
pub fn header_pair(name: HeaderName, value: &'static str) -> (HeaderName, HeaderValue) {
    (name, HeaderValue::from_static(value))
}

/// A body of ready pieces. hyper hands them to the kernel where they lie, together with the head of the request.
#[derive(Debug, Clone, Default)]
pub struct Pieces {
    pieces: [Bytes; 5],
    next: usize,
}

impl Pieces {
    /// These pieces, one after the other.
    pub fn of(pieces: [Bytes; 5]) -> Self {
        Self { pieces, next: 0 }
    }

    /// How many bytes are left.
    pub fn len(&self) -> u64 {
        self.pieces[self.next..].iter().map(|piece| piece.len() as u64).sum()
    }

    /// Whether nothing is left.
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

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// No connection could be made.
    #[error("{0}")]
    NotConnected(#[source] io::Error),
    /// The connection ended before the answer did.
    #[error("the server hung up before it answered ({0})")]
    HungUp(String),
    /// The answer was too long to be one of the service's.
    #[error("the answer is longer than {} MiB", MOST_OF_AN_ANSWER >> 20)]
    TooLong,
}

impl Lost {
    /// Whether nothing listens there.
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::NotConnected(error) if error.kind() == io::ErrorKind::ConnectionRefused)
    }

    /// The same, as a sentence about a server.
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

/// A connection that is kept for the next request.
#[derive(Debug)]
pub struct Connection(SendRequest<Pieces>);

impl Connection {
    /// Connects, and lets a task look after the connection until it ends.
    pub async fn open(url: &Url) -> Result<Self, Lost> {
        let stream = TcpStream::connect((url.host.as_str(), url.port)).await.map_err(Lost::NotConnected)?;
        stream.set_nodelay(true).map_err(Lost::NotConnected)?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| Lost::HungUp(error.to_string()))?;
        tokio::spawn(async move {
            // Whoever waits for an answer is told the same.
            let _told = connection.await;
        });
        Ok(Self(sender))
    }

    /// Whether the server has closed it in the meantime.
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Sends a request and reads the head of the answer; the body comes by and by.
    pub async fn begin(&mut self, request: Request<Pieces>) -> Result<Response<Incoming>, Lost> {
        let hung_up = |error: hyper::Error| Lost::HungUp(error.to_string());
        self.0.ready().await.map_err(hung_up)?;
        self.0.send_request(request).await.map_err(hung_up)
    }

    /// Sends a request and reads the whole answer.
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

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// A header's text.
    pub fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// When the server wants to be asked again.
    pub fn retry_after(&self) -> Duration {
        let seconds = self.header(header::RETRY_AFTER).and_then(|text| text.trim().parse::<f64>().ok());
        let said = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        // A server that says 0 shall not be asked in a tight loop.
        said.map_or(ASK_AGAIN, |said| said.max(Duration::from_millis(20)))
    }

    /// The path to go on with after a 202.
    pub fn location(&self) -> Option<String> {
        let uri: Uri = self.header(header::LOCATION)?.parse().ok()?;
        Some(uri.path_and_query()?.as_str().to_owned())
    }

    /// The body as JSON, whatever its type says; `Null` where it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// What a failure is about: the problem's detail, or the start of the text.
    pub fn detail(&self) -> String {
        let problem = self.json();
        let told = ["detail", "reason", "title"].iter().find_map(|key| problem.get(key)?.as_str());
        let text = String::from_utf8_lossy(&self.body);
        let first_line = || text.lines().next().unwrap_or_default().chars().take(200).collect();
        told.map_or_else(first_line, str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_needs_no_scheme_and_no_path() {
        let url: Url = "localhost:8000".parse().unwrap();
        assert_eq!(
            (url.host.as_str(), url.port, url.upload_path("").as_str()),
            ("localhost", 8000, "/upload")
        );
        let url: Url = "http://[::1]/v2/upload?model=dogs".parse().unwrap();
        assert_eq!((url.host.as_str(), url.port), ("::1", 80));
        assert_eq!(url.upload_path("top=1"), "/v2/upload?model=dogs&top=1");
    }

    #[test]
    fn what_is_no_url_for_us_is_said_in_a_sentence() {
        for (text, hint) in
            [("https://x", "https is not spoken"), ("ftp://x", "not ftp://"), ("http://", "not a URL")]
        {
            let error = text.parse::<Url>().unwrap_err();
            assert!(error.contains(hint), "{error}");
        }
    }

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
