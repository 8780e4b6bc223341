//! The operator's side: metrics, status, the doorbell, and the live half of the page. It has a listener of its own, by default on the loopback, so that what the
//! service knows of itself is not shown to the world that uploads. It has no tokens and no TLS: who reaches it may use it.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context;
use poem::{Endpoint, Response};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{Limits, Server, bind, bound};
use crate::{access::with_headers, metrics::Connections};

/// Requests in flight when everything else has ended.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// The listener, bound and not yet served.
pub struct Admin {
    listener: TcpListener,
    address: String,
}

impl Admin {
    /// Binds it; `None` where there is none.
    pub async fn bind(listen: Option<SocketAddr>) -> anyhow::Result<Option<Self>> {
        let Some(listen) = listen else { return Ok(None) };
        let listener = bind(listen).await.with_context(|| {
            format!("web.admin_listen: cannot listen on {listen}; set another address, or \"\" for none")
        })?;
        let address = bound(&listener, listen);
        Ok(Some(Self { listener, address }))
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
