//! Access control: tokens, rates, cross-origin pages, and security headers for browsers. It is one
//! layer around the routes, which know nothing of it.
//!
//! Closed by default: a path that is not listed as open needs a token.

mod client;
mod cors;
mod headers;
mod limits;
mod tokens;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use eirs_platform::{clock::SharedClock, settings::Web};
use ipnet::IpNet;
use poem::{Endpoint, EndpointExt, IntoResponse, Request, Response};

pub(crate) use self::{
    client::counted_as,
    limits::{Allowance, Counted},
};
use self::{
    cors::Cors,
    limits::{Limits, Most},
    tokens::Keyring,
};
use crate::{metrics::Metrics, problem::Problem, renewal::Renewal};

/// Maximum number of pages of one address or token that watch at once: enough for an office, and no
/// client takes all places.
const MOST_WATCHERS: usize = 50;

/// The access settings, ready for use.
#[derive(Debug)]
pub struct Access {
    keyring: Option<Keyring>,
    limits: Arc<Limits>,
    trusted_proxies: Vec<IpNet>,
    cors: Cors,
    /// True if clients connect over TLS.
    is_encrypted: bool,
}

impl Access {
    /// Reads the token file, if there is one. An error is a sentence that begins with the setting.
    pub fn new(settings: &Web) -> Result<Arc<Self>, String> {
        let keyring = settings.tokens.as_deref().map(|file| Keyring::open(file, settings)).transpose();
        Ok(Arc::new(Self {
            keyring: keyring.map_err(|what| format!("web.tokens: {what}"))?,
            limits: Arc::new(Limits::new(
                settings.rate_per_address,
                settings.rate_burst,
                Most {
                    uploads: settings.max_uploads_per_client,
                    jobs: settings.max_backlog_per_client,
                    watchers: MOST_WATCHERS,
                },
            )),
            trusted_proxies: settings.trusted_proxies.clone(),
            cors: Cors::new(&settings.cors_origins),
            is_encrypted: settings.tls.certificate.is_some(),
        }))
    }

    /// Wraps the routes in the access checks.
    pub(crate) fn guard<E: Endpoint<Output = Response> + 'static>(
        self: Arc<Self>,
        clock: SharedClock,
        metrics: Arc<Metrics>,
        routes: E,
    ) -> impl Endpoint<Output = Response> + 'static {
        Guarded { access: self, clock, metrics, routes }
    }

    /// Returns what reads the token file again when it changes.
    pub(crate) fn renewal(&self) -> Option<Box<dyn Renewal>> {
        self.keyring.as_ref().map(Keyring::renewal)
    }

    /// Returns whether there is anything to [`sweep`](Self::sweep).
    pub(crate) fn counts_addresses(&self) -> bool {
        self.limits.counts_addresses()
    }

    /// Forgets the addresses whose allowance is full again.
    pub(crate) fn sweep(&self) {
        self.limits.sweep();
    }

    /// Admits the request and adds its [`Allowance`], which counts its further images, or returns
    /// the refusal. Counts the address before the token, so that guessing tokens is slowed down.
    fn admit(&self, now: DateTime<Utc>, request: &mut Request) -> Result<(), Problem> {
        if is_open(request.uri().path()) {
            return Ok(());
        }
        let peer = request.remote_addr().as_socket_addr().map(|address| address.ip());
        let address = peer.map(|peer| client::address(peer, request.headers(), &self.trusted_proxies));
        // A watching page is no image and reconnects by itself, so it does not count against the
        // rate; its own handler limits the number of pages.
        let counts = request.uri().path() != "/events";
        if counts {
            self.limits.address(address)?;
        }
        let holder = match &self.keyring {
            Some(keyring) => match keyring.holder(request.headers(), now) {
                Ok(holder) => Some(holder),
                // Slow down guessing tokens here as well.
                Err(problem) if !counts => return self.limits.address(address).and(Err(problem)),
                Err(problem) => return Err(problem),
            },
            None => None,
        };
        let allowance = Allowance::new(self.limits.clone(), address, holder);
        if counts {
            allowance.count_token()?;
        }
        request.extensions_mut().insert(allowance);
        Ok(())
    }
}

/// Adds the security headers to every answer of the routes.
pub(crate) fn with_headers<E: Endpoint<Output = Response> + 'static>(
    routes: E,
) -> impl Endpoint<Output = Response> + 'static {
    routes.after(|response: poem::Result<Response>| async move {
        response.map(|mut response| {
            headers::secure(response.headers_mut(), false);
            response
        })
    })
}

/// Returns whether a path needs no token and no rate: the page and its files, the description of
/// the interface, and the health checks. They cost nothing and concern no image.
fn is_open(path: &str) -> bool {
    let is_open_folder = ["/assets/", "/docs/"].iter().any(|folder| path.starts_with(folder));
    is_open_folder || matches!(path, "/" | "/docs" | "/openapi.json" | "/livez" | "/readyz")
}

struct Guarded<E> {
    access: Arc<Access>,
    clock: SharedClock,
    metrics: Arc<Metrics>,
    routes: E,
}

impl<E: Endpoint<Output = Response>> Endpoint for Guarded<E> {
    type Output = Response;

    async fn call(&self, mut request: Request) -> poem::Result<Response> {
        let Self { access, clock, metrics, routes } = self;
        let origin = access.cors.allowed(request.headers());
        let mut response = if origin.is_some() && cors::is_preflight(&request) {
            // Browsers send this without a token.
            cors::preflight()
        } else {
            match access.admit(clock.now(), &mut request) {
                Ok(()) => routes.get_response(request).await,
                Err(problem) => {
                    metrics.turned_away(problem.status);
                    problem.into_response()
                }
            }
        };
        access.cors.mark(origin, response.headers_mut());
        headers::secure(response.headers_mut(), access.is_encrypted);
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_not_listed_as_open_is_closed() {
        for open in ["/", "/livez", "/readyz", "/docs", "/docs/x.css", "/openapi.json", "/assets/page.js"] {
            assert!(is_open(open), "{open}");
        }
        for closed in [
            "/upload",
            "/results/1",
            "/events",
            "/status",
            "/metrics",
            "/doorbell",
            "//",
            "/Docs",
            "/assets",
            "/livez/",
            "",
        ] {
            assert!(!is_open(closed), "{closed}");
        }
    }
}
