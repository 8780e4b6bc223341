//! The trace of an upload: continued where the client sends `traceparent`, begun here where it does
//! not. Its id is in the answer, so that a user can quote it.
//!
//! A client that asks for its trace to be collected gets that, as tracing means it; but not all
//! clients together without end, or any of them could flood the collector. Beyond a rate its trace
//! goes on and is not collected.

use std::{num::NonZeroU32, sync::LazyLock};

use eirs_platform::trace::{Scope, TARGET, TraceContext};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use poem::{Request, Response, http::HeaderValue};

/// The answer's header: 32 hexadecimal digits.
pub(crate) const TRACE_ID: &str = "x-trace-id";

/// How many traces a second clients may have collected, and how many at once.
const WISHES: (NonZeroU32, NonZeroU32) =
    (NonZeroU32::MIN.saturating_add(4), NonZeroU32::MIN.saturating_add(49));

/// Counts them for the process, which has one collector.
static COLLECTED: LazyLock<DefaultDirectRateLimiter> =
    LazyLock::new(|| RateLimiter::direct(Quota::per_second(WISHES.0).allow_burst(WISHES.1)));

/// A `traceparent` whose wish to be collected is heard only while `may_wish`; others are as they
/// came.
fn heard(parent: &str, may_wish: impl FnOnce() -> bool) -> String {
    let parent = parent.trim();
    match parent.get(..53).zip(parent.get(53..55)) {
        Some((trace, flags))
            if u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & 1 == 1) && !may_wish() =>
        {
            format!("{trace}00")
        }
        _ => parent.to_owned(),
    }
}

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
    let parent = request.header("traceparent").map(|parent| heard(parent, || COLLECTED.check().is_ok()));
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

/// Its answer is there.
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
    fn a_wish_to_be_collected_is_heard_within_the_rate_and_the_trace_goes_on_in_any_case() {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331";
        let of = |flags: &str, may: bool| heard(&format!("{trace}-{flags}"), || may);
        assert_eq!(of("01", true), format!("{trace}-01"));
        assert_eq!(of("01", false), format!("{trace}-00"));
        assert_eq!(of("00", false), format!("{trace}-00"));
        assert_eq!(heard("nonsense", || false), "nonsense");
    }
}
