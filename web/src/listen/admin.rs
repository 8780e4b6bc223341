//! The operator's side: metrics, status, the doorbell, and the live half of the page. It has a
//! listener of its own, by default on the loopback, so that what the service knows of itself is not
//! shown to the world that uploads. It has no tokens and no TLS: who reaches it may use it.
//!
//! A browser on the same machine reaches the loopback for any page that it shows, where the name of
//! that page's site leads there (DNS rebinding). Such a request names that site, and is refused.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::Context;
use poem::{
    Endpoint, EndpointExt, IntoResponse, Request, Response,
    http::{header, uri::Authority},
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{Limits, Server, bind, bound};
use crate::{access::with_headers, metrics::Connections, problem::Problem};

/// Requests in flight when everything else has ended.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// The listener, bound and not yet served.
pub struct Admin {
    listener: TcpListener,
    address: String,
    /// The names that the operator has given it; `None` where it may have any.
    hosts: Option<Vec<String>>,
}

impl Admin {
    /// Binds it; `None` where there is none. On the loopback it has no other names than these.
    pub async fn bind(listen: Option<SocketAddr>, hosts: &[String]) -> anyhow::Result<Option<Self>> {
        let Some(listen) = listen else { return Ok(None) };
        let hosts = listen.ip().is_loopback().then(|| hosts.to_owned());
        let listener = bind(listen).await.with_context(|| {
            format!("web.admin_listen: cannot listen on {listen}; set another address, or \"\" for none")
        })?;
        let address = bound(&listener, listen);
        Ok(Some(Self { listener, address, hosts }))
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Serves until `stop`: to the end of the process, for a drain is when an operator looks.
    pub fn serve(
        self,
        routes: impl Endpoint<Output = Response> + 'static,
        limits: Limits,
        stop: CancellationToken,
    ) -> JoinHandle<std::io::Result<()>> {
        let hosts = self.hosts;
        let routes = routes.around(move |routes, request| {
            let foreign = hosts.as_ref().and_then(|hosts| foreign_host(&request, hosts));
            async move {
                match foreign {
                    Some(host) => Ok(Problem::foreign_host(&host).into_response()),
                    None => routes.call(request).await,
                }
            }
        });
        let routes = with_headers(routes);
        let server = Server {
            name: "the operator's listener",
            listener: self.listener,
            tls: None,
            limits,
            counts: Connections::default(),
            routes,
        };
        tokio::spawn(async move { server.run(stop.cancelled(), LAST_ANSWERS).await })
    }
}

/// The host that a request is for, where it is not this one.
fn foreign_host(request: &Request, hosts: &[String]) -> Option<String> {
    let named = request.header(header::HOST).and_then(|host| host.parse::<Authority>().ok());
    let host = request.uri().authority().or(named.as_ref())?.host();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let is_address = bare.parse::<IpAddr>().is_ok();
    let is_local = |host: &str| host == "localhost" || host.ends_with(".localhost");
    let is_own = is_address
        || is_local(&host.to_ascii_lowercase())
        || hosts.iter().any(|own| own.eq_ignore_ascii_case(host));
    (!is_own).then(|| host.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_for_another_site_is_not_for_the_loopback() {
        let foreign = |host: &str| {
            let request = Request::builder().header(header::HOST, host).finish();
            foreign_host(&request, &["ops.example.org".to_owned()])
        };
        for own in ["127.0.0.1:8001", "[::1]:8001", "localhost", "Web.localhost:1", "OPS.example.org", ""] {
            assert_eq!(foreign(own), None, "{own}");
        }
        for other in ["evil.example:8001", "localhost.evil.example", "example.org", "127.0.0.1.nip.example"] {
            assert!(foreign(other).is_some(), "{other}");
        }
        let in_http_2 = Request::builder().uri("http://evil.example:8001/status".parse().unwrap()).finish();
        assert_eq!(foreign_host(&in_http_2, &[]).as_deref(), Some("evil.example"));
        assert_eq!(foreign_host(&Request::builder().finish(), &[]), None, "no browser leaves it out");
    }
}
