//! The trace of an upload: continued where the client sends `traceparent`, begun here where it does not. Its id is in the
//! answer, so that a user can quote it.

use eirs_platform::trace::{Scope, TARGET, TraceContext};
use poem::{Request, Response, http::HeaderValue};

/// The answer's header: 32 hexadecimal digits.
pub(crate) const TRACE_ID: &str = "x-trace-id";

/// An upload begins.
pub(crate) fn upload(request: &Request) -> Scope {
    let span = tracing::debug_span!(
        target: TARGET,
        parent: None,
        "upload",
        otel.kind = "server",
        http.request.method = "POST",
        http.route = "/upload",
        http.response.status_code = tracing::field::Empty,
    );
    let from = request.header("traceparent").and_then(|parent| TraceContext::read(parent, &state(request)));
    Scope::begin(
        span,
        from.as_ref(),
        |trace| tracing::error_span!(parent: None, "upload", trace_id = trace.trace_id()),
    )
}

/// `tracestate` may come in several headers, which are one list.
fn state(request: &Request) -> String {
    let headers = request.headers().get_all("tracestate").into_iter();
    headers.filter_map(|value| value.to_str().ok()).collect::<Vec<_>>().join(",")
}

/// Its answer is there.
pub(crate) fn answered(scope: &Scope, mut response: Response) -> Response {
    scope.span().record("http.response.status_code", response.status().as_u16());
    if let Ok(id) = HeaderValue::from_str(scope.context().trace_id()) {
        response.headers_mut().insert(TRACE_ID, id);
    }
    response
}
