//! Connections that are encrypted: to servers that an authority vouches for which this machine trusts, or which the file of the
//! variable `SSL_CERT_FILE` names instead.

use std::sync::{Arc, OnceLock};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName},
};

/// Encrypts a connection to a server that has to be this one, or says why not.
pub(super) async fn secure(
    stream: TcpStream,
    name: &ServerName<'static>,
) -> Result<TlsStream<TcpStream>, String> {
    // Reading the authorities takes longer than a request.
    static CONFIG: OnceLock<Result<Arc<ClientConfig>, String>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| config().map(Arc::new)).clone()?;
    let connected = TlsConnector::from(config).connect(name.clone(), stream).await;
    connected.map_err(|error| match error.to_string() {
        untrusted if untrusted.contains("UnknownIssuer") => {
            format!("{untrusted}; SSL_CERT_FILE=FILE trusts the authorities in a file")
        }
        other => other,
    })
}

fn config() -> Result<ClientConfig, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _unreadable) = roots.add_parsable_certificates(found.certs);
    // What the system's own folder has besides is nobody's business; a file that somebody named is.
    let is_named = std::env::var_os("SSL_CERT_FILE").is_some();
    if let Some(error) = found.errors.first().filter(|_| is_named || added == 0) {
        return Err(format!("the authorities that this machine trusts: {error}"));
    }
    if added == 0 {
        return Err("this machine trusts no authority".to_owned());
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
