//! What goes wrong, as the client sees it: `application/problem+json` (RFC 9457). What the log keeps is another matter and is
//! written where the cause is known.

use eirs_platform::{Error, job::JobId};
use poem::{IntoResponse, Response, http::StatusCode};
use serde::Serialize;

/// A refusal: a status, and one sentence for the person at the other end.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Problem {
    #[serde(serialize_with = "as_number")]
    pub(crate) status: StatusCode,
    title: &'static str,
    pub(crate) detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<JobId>,
    #[serde(skip)]
    retry_after_s: Option<u64>,
}

fn as_number<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

impl Problem {
    fn new(status: StatusCode, title: &'static str, detail: impl Into<String>) -> Self {
        Self { status, title, detail: detail.into(), id: None, retry_after_s: None }
    }

    pub(crate) fn no_image(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "no image", detail)
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad request", detail)
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not found", detail)
    }

    pub(crate) fn method_not_allowed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed", detail)
    }

    pub(crate) fn too_slow(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "upload too slow", detail)
    }

    pub(crate) fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too large", detail)
    }

    pub(crate) fn not_an_image() -> Self {
        let detail = "this is not an image type that EIRS reads; it reads JPEG, PNG, WebP, GIF and BMP";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported image type", detail)
    }

    pub(crate) fn rejected(id: JobId, reason: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "image rejected", reason).about(id)
    }

    pub(crate) fn gave_up(id: JobId, reason: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "classification failed", reason).about(id)
    }

    pub(crate) fn too_many_uploads() -> Self {
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too many uploads",
            "too many uploads at once; try again shortly",
        )
        .after(1)
    }

    pub(crate) fn too_many_watchers() -> Self {
        let detail = "too many pages watch this server; try again later";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "too many watchers", detail).after(30)
    }

    pub(crate) fn backlog_full(retry_after_s: u64) -> Self {
        let detail = "the queue is full; nothing was stored, try again later";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "backlog full", detail).after(retry_after_s)
    }

    pub(crate) fn draining() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "shutting down", "this server is shutting down; try again")
            .after(2)
    }

    /// The backend cannot take the image. What exactly it said is for the log, not for the client.
    pub(crate) fn backend(error: &Error) -> Self {
        let detail = match error {
            Error::Full { .. } => {
                "the service has no space left to store images; nothing was lost, try again later"
            }
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
        Self { id: Some(id), ..self }
    }

    fn after(self, retry_after_s: u64) -> Self {
        Self { retry_after_s: Some(retry_after_s), ..self }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_string(&self).expect("a problem is strings and numbers");
        let mut response = Response::builder().status(self.status).content_type("application/problem+json");
        if let Some(seconds) = self.retry_after_s {
            response = response.header("Retry-After", seconds.to_string());
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            response = response.header("Allow", "POST");
        }
        // A person at a terminal reads this, too.
        response.body(body + "\n")
    }
}

impl From<Problem> for poem::Error {
    fn from(problem: Problem) -> Self {
        Self::from_response(problem.into_response())
    }
}
