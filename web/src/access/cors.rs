//! Whose pages may read answers. A browser asks before it hands an answer to the page of another
//! origin, and takes silence for no.
//!
//! poem's own layer answers 403 to every request with an origin that is not listed, and the uploads
//! of this service's own page have one; here what is not listed is served without the headers, and
//! it is the browser that refuses.

use poem::{
    Request, Response,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
};

/// How long a browser may cache the reply, in seconds.
const REMEMBERED: HeaderValue = HeaderValue::from_static("600");

/// The origins that are allowed.
#[derive(Debug)]
pub(super) struct Cors {
    origins: Vec<HeaderValue>,
}

impl Cors {
    pub(super) fn new(origins: &[String]) -> Self {
        // The settings have checked that each is an origin, which is a text.
        Self { origins: origins.iter().filter_map(|origin| origin.parse().ok()).collect() }
    }

    /// What an answer to this request says who may read it; `None` where the page may not, or it is
    /// no page.
    pub(super) fn allowed(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let asking = headers.get(header::ORIGIN)?;
        self.origins.iter().find(|origin| *origin == asking || *origin == "*").cloned()
    }

    /// Says it in the answer.
    pub(super) fn mark(&self, allowed: Option<HeaderValue>, headers: &mut HeaderMap) {
        if let Some(origin) = allowed {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            let readable = HeaderValue::from_static("location, retry-after, www-authenticate");
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, readable);
        }
        // A cache must not give the answer for one origin to another, nor one without these headers
        // to an origin that has them.
        if !self.origins.is_empty() {
            headers.append(header::VARY, HeaderValue::from_static("origin"));
        }
    }
}

/// Whether a browser asks what it may ask.
pub(super) fn is_preflight(request: &Request) -> bool {
    request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer: what there is to ask, with a token and any type of content.
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
    fn an_origin_is_allowed_when_it_is_listed_exactly_or_everybody_is() {
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
