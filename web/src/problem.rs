//! Errors as the client sees them: `application/problem+json` (RFC 9457). The log has the cause,
//! written where it is known.

use eirs_platform::{Error, formats::Kind, job::JobId};
use poem::{IntoResponse, Response, http::StatusCode};
use poem_openapi::Object;
use serde::Serialize;

/// A refusal: a status, and a sentence for the client.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    title: &'static str,
    pub(crate) detail: String,
    /// Boxed, because a refusal is the error of many results.
    id: Option<Box<JobId>>,
    retry_after_s: Option<u64>,
    extra: Option<Extra>,
}

/// An additional header of a refusal.
#[derive(Debug, Clone, Copy)]
enum Extra {
    /// The methods that the address accepts.
    Allow(&'static str),
    /// How to send a token.
    Bearer,
    /// The supported compressions of a body.
    Encodings,
}

impl Extra {
    fn header(self) -> (&'static str, &'static str) {
        match self {
            Self::Allow(methods) => ("allow", methods),
            Self::Bearer => ("www-authenticate", "Bearer"),
            Self::Encodings => ("accept-encoding", "gzip, deflate, identity"),
        }
    }
}

/// The reason for a refusal (RFC 9457).
#[derive(Debug, Default, Serialize, Object)]
#[oai(rename = "Problem", read_only_all, skip_serializing_if_is_none)]
pub(crate) struct Document<'p> {
    /// The status of the answer.
    status: u16,
    /// The kind of problem; this text is stable.
    title: &'p str,
    /// What is wrong, in a sentence.
    detail: &'p str,
    /// The image, if known: the SHA-256 of its bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(validator(pattern = "^[0-9a-f]{64}$"))]
    id: Option<String>,
}

impl Problem {
    fn new(status: StatusCode, title: &'static str, detail: impl Into<String>) -> Self {
        Self { status, title, detail: detail.into(), id: None, retry_after_s: None, extra: None }
    }

    /// Returns the document that is sent.
    pub(crate) fn document(&self) -> Document<'_> {
        let id = self.id.as_ref().map(ToString::to_string);
        Document { status: self.status.as_u16(), title: self.title, detail: &self.detail, id }
    }

    /// Returns the seconds after which to retry, if that helps.
    pub(crate) fn retry_after_s(&self) -> Option<u64> {
        self.retry_after_s
    }

    pub(crate) fn no_image(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "no image", detail)
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad request", detail)
    }

    /// Plain HTTP was sent to a listener with a certificate.
    pub(crate) fn needs_https() -> Self {
        Self::bad_request("this port speaks HTTPS; use https:// in the address")
    }

    /// The header of a request has more than `bytes` bytes, or too many fields.
    pub(crate) fn header_too_large(bytes: usize) -> Self {
        let detail = format!(
            "the header of the request is too large; at most {} KiB and 100 fields are read",
            bytes / 1024
        );
        Self::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "header too large", detail)
    }

    /// The header of a request of HTTP/2 is larger than `bytes`.
    pub(crate) fn header_list_too_large(bytes: usize) -> Self {
        let detail = format!(
            "the header of the request is too large; at most {} KiB are read, and each field counts \
             as 32 bytes more than it has",
            bytes / 1024
        );
        Self { detail, ..Self::header_too_large(bytes) }
    }

    pub(crate) fn address_too_long() -> Self {
        let detail = "the address of the request is too long; send images in the body of a POST";
        Self::new(StatusCode::URI_TOO_LONG, "address too long", detail)
    }

    pub(crate) fn unknown_version() -> Self {
        let detail = "unsupported version of HTTP; use HTTP/1.0, HTTP/1.1 or HTTP/2";
        Self::new(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "unsupported version", detail)
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not found", detail)
    }

    /// `allow` is the value of the `Allow` header.
    pub(crate) fn method_not_allowed(allow: &'static str) -> Self {
        let detail = format!("this address does not accept that method; it accepts {allow}");
        Self {
            extra: Some(Extra::Allow(allow)),
            ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed", detail)
        }
    }

    pub(crate) fn too_slow(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "upload too slow", detail)
    }

    pub(crate) fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too large", detail)
    }

    pub(crate) fn not_an_image() -> Self {
        Self::not_read(Kind::NoImage.refusal().unwrap_or_default())
    }

    pub(crate) fn not_read(why: String) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported image type", why)
    }

    /// The `Content-Encoding` is not supported (RFC 9110, 15.5.16).
    pub(crate) fn unknown_encoding(name: &str) -> Self {
        let name = name.escape_debug();
        let detail =
            format!("unsupported Content-Encoding `{name}`; send the body as it is, or with gzip or deflate");
        Self {
            extra: Some(Extra::Encodings),
            ..Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported encoding", detail)
        }
    }

    /// The `Transfer-Encoding` is not supported (RFC 9112, 6.1).
    pub(crate) fn unknown_coding() -> Self {
        let detail =
            "unsupported Transfer-Encoding; send the body with `chunked` alone, or with a Content-Length";
        Self::new(StatusCode::NOT_IMPLEMENTED, "unsupported encoding", detail)
    }

    /// A part of a form has a transfer encoding, such as base64.
    pub(crate) fn encoded_part(name: &str) -> Self {
        let detail = format!(
            "unsupported Content-Transfer-Encoding `{name}`; send the bytes of the image \
                as they are"
        );
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported encoding", detail)
    }

    pub(crate) fn rejected(id: JobId, reason: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "image rejected", reason).about(id)
    }

    pub(crate) fn gave_up(id: JobId, reason: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "classification failed", reason).about(id)
    }

    /// The job was dropped; the image will not be classified.
    pub(crate) fn dropped(id: JobId) -> Self {
        let detail = "this image is no longer queued: it waited for too long, or its job was \
            discarded; upload it again";
        Self::new(StatusCode::GONE, "no longer queued", detail).about(id)
    }

    /// Like [`dropped`](Self::dropped), for a client that waits: it may upload the image again at
    /// once.
    pub(crate) fn dropped_meanwhile(id: JobId) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, ..Self::dropped(id) }.after(10)
    }

    /// The image was deleted while the client waited.
    pub(crate) fn erased(id: JobId) -> Self {
        let detail = "this image was deleted while its upload waited for the label; upload it again if that \
            was not meant";
        Self::new(StatusCode::GONE, "deleted", detail).about(id)
    }

    /// `who` has its maximum number of uploads in flight.
    pub(crate) fn too_many_uploads(who: &str) -> Self {
        let detail = format!("{who} has too many uploads in flight; try again shortly");
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too many uploads", detail).after(1)
    }

    /// `who` has its maximum number of connections.
    pub(crate) fn too_many_connections(who: &str) -> Self {
        let detail = format!("{who} has too many connections; try again shortly");
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too many connections", detail).after(1)
    }

    /// The server has its maximum number of connections.
    pub(crate) fn crowded() -> Self {
        let all = Self::too_many_connections("the server");
        Self { status: StatusCode::SERVICE_UNAVAILABLE, ..all }
    }

    /// No memory and no disk is left for arriving bodies.
    pub(crate) fn no_room() -> Self {
        let detail = "the server has no room for more uploads; nothing was stored, try again shortly";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "no room", detail).after(5)
    }

    pub(crate) fn no_token() -> Self {
        Self::wrong_token(
            "this address needs a token, sent as `Authorization: Bearer TOKEN`; ask the operator \
            of the service for one",
        )
    }

    pub(crate) fn wrong_token(detail: impl Into<String>) -> Self {
        Self { extra: Some(Extra::Bearer), ..Self::new(StatusCode::UNAUTHORIZED, "unauthorized", detail) }
    }

    /// `who` exceeds its rate.
    pub(crate) fn too_often(who: &str, retry_after_s: u64) -> Self {
        let detail = format!("{who} exceeds its rate; try again in {retry_after_s} s");
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too many requests", detail).after(retry_after_s)
    }

    pub(crate) fn too_many_watchers() -> Self {
        let detail = "too many pages are watching this server; try again later";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "too many watchers", detail).after(30)
    }

    pub(crate) fn too_many_watchers_of(who: &str) -> Self {
        let detail = format!("{who} has too many pages that watch this server; close some of them");
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too many watchers", detail).after(30)
    }

    /// A request to the operator's listener named a foreign host.
    pub(crate) fn foreign_host(host: &str) -> Self {
        let detail = format!(
            "this listener is not {host}: use localhost or the address, or add the name to \
             web.admin_hosts"
        );
        Self::new(StatusCode::MISDIRECTED_REQUEST, "misdirected request", detail)
    }

    pub(crate) fn backlog_full(retry_after_s: u64) -> Self {
        let detail = "the queue is full; nothing was stored, try again later";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "backlog full", detail).after(retry_after_s)
    }

    /// The image was not queued before the timeout.
    pub(crate) fn not_queued() -> Self {
        let detail = "the image could not be queued in time; send it again, which is safe";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "not queued", detail).after(5)
    }

    /// `who` has its maximum number of jobs in the queue.
    pub(crate) fn backlog_of_client(who: &str, retry_after_s: u64) -> Self {
        let detail = format!("{who} has too many images in the queue; nothing was stored, try again later");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "backlog full", detail).after(retry_after_s)
    }

    /// A part of the backend that uploads need cannot be reached.
    pub(crate) fn not_ready(what: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "not ready", what).after(5)
    }

    pub(crate) fn draining() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "shutting down", "this server is shutting down; try again")
            .after(2)
    }

    /// The disk has reached its limit.
    pub(crate) fn disk_full() -> Self {
        let detail = "the service has no space left to store images; nothing was lost, try again later";
        Self::new(StatusCode::INSUFFICIENT_STORAGE, "storage full", detail).after(60)
    }

    /// The backend did not accept the image. The cause is for the log, not for the client.
    pub(crate) fn backend(error: &Error) -> Self {
        let detail = match error {
            Error::Full { .. } => return Self::disk_full(),
            Error::Unavailable { .. }
            | Error::NoCapacity { .. }
            | Error::Missing { .. }
            | Error::Broken { .. } => {
                "the service cannot store images at the moment; nothing was lost, try again later"
            }
        };
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "storage unavailable", detail).after(10)
    }

    fn about(self, id: JobId) -> Self {
        Self { id: Some(Box::new(id)), ..self }
    }

    fn after(self, retry_after_s: u64) -> Self {
        Self { retry_after_s: Some(retry_after_s), ..self }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_string(&self.document()).expect("a problem is strings and numbers");
        let mut response = Response::builder().status(self.status).content_type("application/problem+json");
        if let Some(seconds) = self.retry_after_s {
            response = response.header("Retry-After", seconds.to_string());
        }
        if let Some((name, value)) = self.extra.map(Extra::header) {
            response = response.header(name, value);
        }
        // The line feed is for people at a terminal.
        response.body(body + "\n")
    }
}

impl From<Problem> for poem::Error {
    fn from(problem: Problem) -> Self {
        Self::from_response(problem.into_response())
    }
}
