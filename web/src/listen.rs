//! The listeners: connections in, requests to the routes, answers out. The routes are poem's, the
//! loop under them is ours, for what poem's does not have: deadlines for headers and for silence,
//! caps on connections, rest when files run out, and the patience to let a client read why it was
//! refused.

mod address;
mod admin;
mod answering;
mod arriving;
mod crowd;
mod lent;
mod refusing;
mod server;
mod stream;
pub mod tls;

use std::{net::SocketAddr, path::Path};

use anyhow::Context;
use tokio::net::TcpListener;

pub use self::{admin::Admin, crowd::Limits, server::Server, tls::Tls};

/// Binds an address.
pub async fn bind(listen: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(listen).await
}

/// The address that was bound, where the port was left to the system.
pub fn bound(listener: &TcpListener, listen: SocketAddr) -> String {
    listener.local_addr().unwrap_or(listen).to_string()
}

/// Reports the bound address to the parent program.
pub async fn write_address(file: Option<&Path>, address: &str) -> anyhow::Result<()> {
    let Some(file) = file else { return Ok(()) };
    tokio::fs::write(file, address).await.with_context(|| format!("writing {}", file.display()))
}
