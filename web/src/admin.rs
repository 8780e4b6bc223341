//! The operator's side: metrics, status, the doorbell, and the live half of the page. It has a listener of its own, by default on the loopback, so that what the
//! service knows of itself is not shown to the world that uploads. It has no tokens and no TLS: who reaches it may use it.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use poem::{
    Server,
    listener::{Acceptor, Listener, TcpAcceptor, TcpListener},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{App, SmallReads, access::with_headers, admin_routes};

/// Requests in hand when everything else has ended.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// The listener, bound and not yet served.
pub struct Admin {
    acceptor: TcpAcceptor,
    address: String,
}

impl Admin {
    /// Binds it; `None` where there is none.
    pub async fn bind(listen: Option<SocketAddr>) -> anyhow::Result<Option<Self>> {
        let Some(listen) = listen else { return Ok(None) };
        let acceptor = bind(listen).await.with_context(|| {
            format!("web.admin_listen: cannot listen on {listen}; set another address, or \"\" for none")
        })?;
        let address = bound(&acceptor, listen);
        Ok(Some(Self { acceptor, address }))
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Serves until `stop`: to the end of the process, for a drain is when an operator looks.
    pub fn serve(self, app: Arc<App>, stop: CancellationToken) -> JoinHandle<std::io::Result<()>> {
        let server = Server::new_with_acceptor(SmallReads(self.acceptor)).name("eirs-web-admin");
        tokio::spawn(async move {
            let stopped = async { stop.cancelled().await };
            server
                .run_with_graceful_shutdown(with_headers(admin_routes(app)), stopped, Some(LAST_ANSWERS))
                .await
        })
    }
}

/// Binds an address.
pub async fn bind(listen: SocketAddr) -> std::io::Result<TcpAcceptor> {
    TcpListener::bind(listen).into_acceptor().await
}

/// The address that was bound, where the port was left to the system.
pub fn bound(acceptor: &TcpAcceptor, listen: SocketAddr) -> String {
    let address = acceptor.local_addr().first().map_or_else(|| listen.to_string(), ToString::to_string);
    address.trim_start_matches("socket://").to_owned()
}

/// Tells a program that started this one where it listens.
pub async fn write_address(file: Option<&Path>, address: &str) -> anyhow::Result<()> {
    let Some(file) = file else { return Ok(()) };
    tokio::fs::write(file, address).await.with_context(|| format!("writing {}", file.display()))
}
