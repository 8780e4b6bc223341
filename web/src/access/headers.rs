//! The headers that every answer has. They tell browsers what a page of this service may do, and
//! not to guess the type of a response.

use poem::http::{HeaderMap, HeaderValue, header};

/// The page has its script and its style in files of its own, talks to this service alone, and
/// shows images that the user dropped on it (`blob:`). It is in nobody's frame.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; \
     form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
);

/// A year, as browsers' own lists want it at least. Not for subdomains, which may be somebody
/// else's.
const ENCRYPTED_ONLY: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// Adds them. A page that knows better what it may do, as `/docs` does, keeps its own policy.
pub(super) fn secure(headers: &mut HeaderMap, is_encrypted: bool) {
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(POLICY);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    // For browsers that do not know `frame-ancestors`.
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    if is_encrypted {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, ENCRYPTED_ONLY);
    }
}
