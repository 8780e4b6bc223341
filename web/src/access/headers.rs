//! The headers of every answer. They limit what a page of this service may do in a browser, and
//! keep browsers from guessing the type of an answer.

use poem::http::{HeaderMap, HeaderValue, header};

/// The page loads its own scripts and styles, connects to this service only, and shows images that
/// were dropped on it (`blob:`). No other page may frame it.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src \
     'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
);

/// One year, the minimum for the browsers' preload lists. Without subdomains, which may belong to
/// others.
const ENCRYPTED_ONLY: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// Adds the headers. A page with its own policy, such as `/docs`, keeps it.
pub(super) fn secure(headers: &mut HeaderMap, is_encrypted: bool) {
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(POLICY);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    // For browsers without support for `frame-ancestors`.
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    if is_encrypted {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, ENCRYPTED_ONLY);
    }
}
