//! The URL of a service.

use std::{fmt, str::FromStr};

use hyper::{
    Method, Request, Uri,
    header::{self, HeaderMap, HeaderValue},
};
use tokio_rustls::rustls::pki_types::ServerName;

use super::{Answer, Connection, Lost, Pieces, header_pair};

/// A server, and the path in its URL.
#[derive(Debug, Clone)]
pub struct Url {
    pub(super) host: String,
    pub(super) port: u16,
    authority: HeaderValue,
    path: String,
    /// The name that the certificate must have, for HTTPS.
    pub(super) secure: Option<ServerName<'static>>,
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let uri: Uri = with_scheme.parse().map_err(|error| format!("`{text}` is not a URL: {error}"))?;
        let is_secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            other => {
                return Err(format!(
                    "a URL starts with http:// or https://, not {}://",
                    other.unwrap_or_default()
                ));
            }
        };
        let authority = uri.authority().filter(|named| !named.host().is_empty());
        let authority = authority.ok_or_else(|| format!("`{text}` has no host"))?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let name = || ServerName::try_from(host.clone()).map_err(|error| format!("`{host}`: {error}"));
        Ok(Self {
            secure: is_secure.then(name).transpose()?,
            host,
            port: authority.port_u16().unwrap_or(if is_secure { 443 } else { 80 }),
            authority: HeaderValue::from_str(authority.as_str()).map_err(|error| error.to_string())?,
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path == "/" { "" } else { &self.path };
        let scheme = if self.secure.is_some() { "https" } else { "http" };
        write!(f, "{scheme}://{}{path}", self.authority.to_str().unwrap_or(&self.host))
    }
}

impl Url {
    /// Returns the path and query for uploads: those of the URL, or else `/upload`, with `query`
    /// added.
    pub fn upload_path(&self, query: &str) -> String {
        let path = if self.path == "/" { "/upload" } else { &self.path };
        match (query, path.contains('?')) {
            ("", _) => path.to_owned(),
            (query, false) => format!("{path}?{query}"),
            (query, true) => format!("{path}&{query}"),
        }
    }

    /// Creates a request to this server.
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

    /// Sends one request on a new connection.
    pub async fn get(&self, path: &str) -> Result<Answer, Lost> {
        let mut connection = Connection::open(self).await?;
        let headers = HeaderMap::from_iter([header_pair(header::ACCEPT, "application/json")]);
        connection.ask(self.request(Method::GET, path, &headers, Pieces::default())).await
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
        assert!(url.secure.is_none());
    }

    #[test]
    fn an_https_url_has_its_own_port_and_server_name() {
        for (text, port, name) in [
            ("https://eirs.example/upload", 443, "eirs.example"),
            ("https://127.0.0.1:8443", 8443, "127.0.0.1"),
            ("https://[::1]", 443, "::1"),
        ] {
            let url: Url = text.parse().unwrap();
            assert_eq!((url.port, url.to_string().as_str()), (port, text));
            assert_eq!(url.secure, Some(name.try_into().unwrap()));
        }
    }

    #[test]
    fn invalid_urls_are_refused_in_a_sentence() {
        for (text, hint) in [
            ("https://a b", "not a URL"),
            ("ftp://x", "not ftp://"),
            ("http://", "not a URL"),
            ("https://-", "invalid dns name"),
        ] {
            let error = text.parse::<Url>().unwrap_err();
            assert!(error.contains(hint), "{error}");
        }
    }
}
