//! The listeners. The routes are poem's. The connection loop below them is our own, because poem's
//! lacks deadlines for headers and idle connections, limits on connections, a pause when file
//! descriptors run out, and time for a client to read why it was refused.

mod address;
mod admin;
mod answering;
mod arriving;
mod lent;
mod refusing;
mod registry;
mod server;
mod stream;
pub mod tls;

use std::{net::SocketAddr, path::Path};

use anyhow::Context;
use tokio::net::TcpListener;

pub use self::{admin::Admin, registry::Limits, server::Server, tls::Tls};

/// Binds an address.
pub async fn bind(listen: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(listen).await
}

/// Returns the bound address, with the port that the system chose if `listen` has port 0.
pub fn bound(listener: &TcpListener, listen: SocketAddr) -> String {
    listener.local_addr().unwrap_or(listen).to_string()
}

/// Writes the bound address to `file`, where the parent program reads it.
pub async fn write_address(file: Option<&Path>, address: &str) -> anyhow::Result<()> {
    let Some(file) = file else { return Ok(()) };
    tokio::fs::write(file, address).await.with_context(|| format!("writing {}", file.display()))
}
