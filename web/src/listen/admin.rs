//! The operator's listener: metrics, status, the doorbell, and the live half of the page. It is
//! separate, by default on the loopback interface, so that clients cannot see the internals. It has
//! no tokens and no TLS: access to its address is permission to use it.
//!
//! A browser on the same machine can be led to the loopback interface by a foreign page whose host
//! name resolves to it (DNS rebinding). Such a request names the foreign host and is refused.

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

/// Time for the requests in flight once everything else has ended.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// The listener, bound but not serving yet.
pub struct Admin {
    listener: TcpListener,
    address: String,
    /// The host names that the operator permits; `None` permits every name.
    hosts: Option<Vec<String>>,
}

impl Admin {
    /// Binds the listener; `None` if none is set. On the loopback interface only `hosts` are
    /// permitted.
    pub async fn bind(listen: Option<SocketAddr>, hosts: &[String]) -> anyhow::Result<Option<Self>> {
        let Some(listen) = listen else { return Ok(None) };
        let hosts = listen.ip().is_loopback().then(|| hosts.to_owned());
        let listener = bind(listen).await.with_context(|| {
            format!("web.admin_listen: cannot listen on {listen}; set another address, or \"\" for none")
        })?;
        let address = bound(&listener, listen);
        Ok(Some(Self { listener, address, hosts }))
    }

    /// The bound address.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Serves until `stop` is cancelled at the end of the process, because operators look during a
    /// drain.
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

/// Returns the host that a request names, if it is a foreign one.
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
    fn a_request_for_a_foreign_host_is_recognized() {
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
        assert_eq!(foreign_host(&Request::builder().finish(), &[]), None, "every browser sends a host");
    }
}
