//! TLS connections to servers with a certificate of an authority that this machine trusts, or that
//! the file in the variable `SSL_CERT_FILE` contains. That file may contain the server's own
//! certificate.

use std::sync::{Arc, OnceLock};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
        client::{
            WebPkiServerVerifier,
            danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
            verify_server_name,
        },
        crypto::ring,
        pki_types::{CertificateDer, ServerName, UnixTime},
        server::ParsedCertificate,
    },
};

/// Opens a TLS connection to the server with this name; the error is a sentence.
pub(super) async fn secure(
    stream: TcpStream,
    name: &ServerName<'static>,
) -> Result<TlsStream<TcpStream>, String> {
    // Loading the authorities takes longer than a request.
    static CONFIG: OnceLock<Result<Arc<ClientConfig>, String>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| config().map(Arc::new)).clone()?;
    let connected = TlsConnector::from(config).connect(name.clone(), stream).await;
    connected.map_err(|error| with_advice(&error.to_string(), name))
}

/// Adds advice to the error about a refused certificate.
fn with_advice(error: &str, name: &ServerName<'_>) -> String {
    if error.contains("UnknownIssuer") || error.contains(SELF_SIGNED) {
        return format!(
            "the certificate is not trusted here ({error}); SSL_CERT_FILE=FILE trusts the certificates in a \
             file, such as the server's own"
        );
    }
    if error.contains("not valid for") {
        let (kind, shown) = match name {
            ServerName::IpAddress(_) => ("IP", name.to_str()),
            _ => ("DNS", name.to_str()),
        };
        return format!(
            "{error}; a certificate names the server as `openssl req -x509 -addext \
             subjectAltName={kind}:{shown} ...` writes it"
        );
    }
    error.to_owned()
}

fn config() -> Result<ClientConfig, String> {
    let found = rustls_native_certs::load_native_certs();
    let trusted = found.certs;
    let mut roots = RootCertStore::empty();
    let (added, _unreadable) = roots.add_parsable_certificates(trusted.iter().cloned());
    // Unreadable files in the system's folder do not matter, but a configured one does.
    let is_named = std::env::var_os("SSL_CERT_FILE").is_some();
    if let Some(error) = found.errors.first().filter(|_| is_named || added == 0) {
        return Err(format!("the trusted certificates of this machine: {error}"));
    }
    if added == 0 {
        return Err("this machine has no trusted certificates".to_owned());
    }
    let verifier = Verifier::new(roots, trusted)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        // It verifies as much as the default verifier, with one exception.
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// webpki's error for a server certificate that may sign others.
const SELF_SIGNED: &str = "CaUsedAsEndEntity";

/// Verifies like rustls, but also accepts a trusted certificate that is an authority's. `openssl
/// req -x509` (3.x) marks its certificates as authorities; webpki (0.103) refuses these for
/// servers, even if that very certificate is trusted, but other clients accept them.
#[derive(Debug)]
struct Verifier {
    usual: Arc<WebPkiServerVerifier>,
    trusted: Vec<CertificateDer<'static>>,
}

impl Verifier {
    fn new(roots: RootCertStore, trusted: Vec<CertificateDer<'static>>) -> Result<Self, String> {
        let provider = Arc::new(ring::default_provider());
        let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        Ok(Self { usual: usual.map_err(|error| error.to_string())?, trusted })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.usual.verify_server_cert(certificate, intermediates, name, ocsp, now);
        let is_authority = |error: &rustls::Error| format!("{error:?}").contains(SELF_SIGNED);
        match verified {
            // webpki checks the validity period before this error. The handshake's signature proves
            // possession of the key.
            Err(error) if is_authority(&error) && self.trusted.iter().any(|one| one == certificate) => {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};

    use super::*;

    /// Like the certificate of a plain `openssl req -x509`.
    fn self_signed(name: &str) -> CertificateDer<'static> {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2030, 1, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn verify(
        trusted: &CertificateDer<'static>,
        shown: &CertificateDer<'_>,
        name: &str,
        year: u64,
    ) -> Result<(), String> {
        let mut roots = RootCertStore::empty();
        roots.add(trusted.clone()).unwrap();
        let verifier = Verifier::new(roots, vec![trusted.clone()]).unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs((year - 1970) * 31_557_600));
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let verified = verifier.verify_server_cert(shown, &[], &name, &[], now);
        verified.map(|_| ()).map_err(|error| with_advice(&error.to_string(), &name))
    }

    #[test]
    fn a_trusted_self_signed_certificate_is_valid_for_its_name_and_period() {
        let (own, other) = (self_signed("127.0.0.1"), self_signed("127.0.0.1"));
        assert_eq!(verify(&own, &own, "127.0.0.1", 2025), Ok(()));
        let refused = |shown, name, year| verify(&own, shown, name, year).unwrap_err();
        let said = refused(&other, "127.0.0.1", 2025);
        assert!(said.contains("SSL_CERT_FILE=FILE trusts the certificates in a file"), "{said}");
        let said = refused(&own, "127.0.0.2", 2025);
        assert!(said.contains("-addext subjectAltName=IP:127.0.0.2"), "{said}");
        let said = refused(&own, "127.0.0.1", 2031);
        assert!(said.contains("xpired"), "{said}");
    }
}
