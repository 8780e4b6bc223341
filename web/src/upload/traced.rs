//! The trace of an upload: continues the client's `traceparent`, or begins a new trace. The answer
//! has its id, so that a client can quote it.
//!
//! A client may ask for its trace to be collected, but clients together only up to a rate, so that
//! they cannot flood the collector. Beyond it, a trace continues but is not collected.

use std::{num::NonZeroU32, sync::LazyLock};

use eirs_platform::trace::{Scope, TARGET, TraceContext};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use poem::{Request, Response, http::HeaderValue};

/// The header of the answer with the trace id: 32 hexadecimal digits.
pub(crate) const TRACE_ID: &str = "x-trace-id";

/// Maximum number of traces per second that are collected for clients, and the burst.
const CLIENT_RATE: (NonZeroU32, NonZeroU32) =
    (NonZeroU32::MIN.saturating_add(4), NonZeroU32::MIN.saturating_add(49));

/// One limiter for the process, which has one collector.
static COLLECTED: LazyLock<DefaultDirectRateLimiter> =
    LazyLock::new(|| RateLimiter::direct(Quota::per_second(CLIENT_RATE.0).allow_burst(CLIENT_RATE.1)));

/// Returns the `traceparent` without its sampled flag if the flag is set and `may_sample` returns
/// false; returns any other as it is.
fn limited(parent: &str, may_sample: impl FnOnce() -> bool) -> String {
    let parent = parent.trim();
    match parent.get(..53).zip(parent.get(53..55)) {
        Some((trace, flags))
            if u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & 1 == 1) && !may_sample() =>
        {
            format!("{trace}00")
        }
        _ => parent.to_owned(),
    }
}

/// Begins the trace of an upload.
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
    let parent = request.header("traceparent").map(|parent| limited(parent, || COLLECTED.check().is_ok()));
    let from = parent.and_then(|parent| TraceContext::read(&parent, &state(request)));
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

/// Ends the trace with the status of its answer, and adds the trace id to the answer.
pub(crate) fn answered(scope: &Scope, mut response: Response) -> Response {
    scope.span().record("http.response.status_code", response.status().as_u16());
    if let Ok(id) = HeaderValue::from_str(scope.context().trace_id()) {
        response.headers_mut().insert(TRACE_ID, id);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_sampled_only_within_the_rate_and_continues_in_any_case() {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331";
        let of = |flags: &str, may: bool| limited(&format!("{trace}-{flags}"), || may);
        assert_eq!(of("01", true), format!("{trace}-01"));
        assert_eq!(of("01", false), format!("{trace}-00"));
        assert_eq!(of("00", false), format!("{trace}-00"));
        assert_eq!(limited("nonsense", || false), "nonsense");
    }
}
