//! CORS: the origins whose pages may read answers. A browser does not hand an answer to a page of
//! another origin unless the answer permits it.
//!
//! poem's own layer answers 403 to every request with an unlisted origin, which would include the
//! uploads of this service's own page. Here such a request is served without the headers, and the
//! browser refuses.

use poem::{
    Request, Response,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
};

/// How long a browser may cache the answer to a preflight, in seconds.
const REMEMBERED: HeaderValue = HeaderValue::from_static("600");

/// The allowed origins.
#[derive(Debug)]
pub(super) struct Cors {
    origins: Vec<HeaderValue>,
}

impl Cors {
    pub(super) fn new(origins: &[String]) -> Self {
        // The settings were checked: each is an origin, so it parses.
        Self { origins: origins.iter().filter_map(|origin| origin.parse().ok()).collect() }
    }

    /// Returns the value of `Access-Control-Allow-Origin` for a request, or `None` if it has no
    /// origin or its origin is not allowed.
    pub(super) fn allowed(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let asking = headers.get(header::ORIGIN)?;
        self.origins.iter().find(|origin| *origin == asking || *origin == "*").cloned()
    }

    /// Adds the headers to an answer.
    pub(super) fn mark(&self, allowed: Option<HeaderValue>, headers: &mut HeaderMap) {
        if let Some(origin) = allowed {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            let readable = HeaderValue::from_static("location, retry-after, www-authenticate");
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, readable);
        }
        // A cache must not serve the answer for one origin to another, nor one without these
        // headers to an origin that is allowed.
        if !self.origins.is_empty() {
            headers.append(header::VARY, HeaderValue::from_static("origin"));
        }
    }
}

/// Returns whether this is a preflight request of a browser.
pub(super) fn is_preflight(request: &Request) -> bool {
    request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer to a preflight request: the allowed methods and headers.
pub(super) fn preflight() -> Response {
    Response::builder()
        .status(StatusCode::NO_CONTENT)
        .header(header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, POST, DELETE")
        .header(header::ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type")
        .header(header::ACCESS_CONTROL_MAX_AGE, REMEMBERED)
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(origins: &[&str], asking: Option<&'static str>) -> Option<HeaderValue> {
        let cors = Cors::new(&origins.iter().map(|&origin| origin.to_owned()).collect::<Vec<_>>());
        let asking = asking.map(|origin| (header::ORIGIN, HeaderValue::from_static(origin)));
        cors.allowed(&HeaderMap::from_iter(asking))
    }

    #[test]
    fn an_origin_is_allowed_if_it_is_listed_exactly_or_all_are() {
        let listed = ["https://a.example", "http://b.example:3000"];
        assert_eq!(allowed(&listed, Some("http://b.example:3000")).unwrap(), "http://b.example:3000");
        for other in ["http://a.example", "https://a.example.org", "https://a.example:444", "null", ""] {
            assert_eq!(allowed(&listed, Some(other)), None, "{other}");
        }
        assert_eq!(allowed(&["*"], Some("https://c.example")).unwrap(), "*");
        assert_eq!(allowed(&["*"], None), None);
        assert_eq!(allowed(&[], Some("https://a.example")), None);
    }
}
