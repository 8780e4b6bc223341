//! HTTPS with the certificate of the settings. Open connections keep their certificate; new ones
//! use the renewed one.
//!
//! Every place names `ring` as the provider: the cloud SDKs add another one to the same program,
//! and asking for the default provider of a process with two panics.

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use eirs_platform::settings;
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        CertificateError, Error, InconsistentKeys, RootCertStore, ServerConfig,
        client::verify_server_cert_signed_by_trust_anchor,
        crypto::ring,
        pki_types::{
            CertificateDer, PrivateKeyDer, UnixTime,
            pem::{self, PemObject},
        },
        server::{ClientHello, ParsedCertificate, ResolvesServerCert},
        sign::CertifiedKey,
    },
    server::TlsStream,
};

use crate::renewal::{Renewal, Watched};

/// Maximum time for a TLS handshake, which normally takes a few round trips.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A certificate with less time left is reported. Automatic renewal usually happens earlier.
const SOON: TimeDelta = TimeDelta::days(14);

/// The certificate and the TLS configuration.
#[derive(Debug)]
pub struct Tls {
    certificate: Arc<Certificate>,
    config: Arc<ServerConfig>,
}

/// The start of a connection.
pub(super) enum Greeted {
    Encrypted(Box<TlsStream<TcpStream>>),
    /// Plain HTTP, nothing of which was read yet.
    InPlain(TcpStream),
}

#[derive(Debug)]
struct Certificate(Watched<CertifiedKey>);

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.get())
    }
}

impl Tls {
    /// Reads certificate and key; `None` if none are set. An error is a sentence that names the
    /// file.
    pub fn new(settings: &settings::Tls) -> Result<Option<Arc<Self>>, String> {
        let (Some(certificate), Some(key)) = (&settings.certificate, &settings.key) else { return Ok(None) };
        let names = (certificate.clone(), key.clone());
        let read = move |before: Option<&CertifiedKey>, files: &[Vec<u8>]| {
            let content = |place: usize| files.get(place).map(Vec::as_slice).unwrap_or_default();
            let pair = certified((names.0.as_path(), content(0)), (names.1.as_path(), content(1)))?;
            // Not at the start: the log does not exist yet.
            if let Some(warning) = before.and_then(|_| end_is_near(&names.0, content(0), Utc::now())) {
                tracing::warn!("{warning}");
            }
            Ok(pair)
        };
        let watched = Watched::open("web.tls", &[certificate.as_path(), key.as_path()], read);
        let certificate = Arc::new(Certificate(watched.map_err(|what| format!("web.tls: {what}"))?));
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("web.tls: {error}"))?
            .with_no_client_auth()
            .with_cert_resolver(certificate.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Some(Arc::new(Self { certificate, config: Arc::new(config) })))
    }

    /// Performs the TLS handshake with a client, or detects plain HTTP.
    pub(super) async fn shake_hands(&self, tcp: TcpStream) -> io::Result<Greeted> {
        let greeted = async {
            let mut first = [0];
            // HTTP begins with a printable character or a line end, TLS never does.
            if tcp.peek(&mut first).await? == 1 && (first[0].is_ascii_graphic() || first == *b"\r") {
                return Ok(Greeted::InPlain(tcp));
            }
            let stream = TlsAcceptor::from(self.config.clone()).accept(tcp).await?;
            Ok(Greeted::Encrypted(Box::new(stream)))
        };
        tokio::time::timeout(HANDSHAKE, greeted).await.map_err(|_| io::ErrorKind::TimedOut)?
    }

    /// When the current certificate expires, if that is known.
    pub fn expires(&self) -> Option<DateTime<Utc>> {
        expiry(self.certificate.0.get().end_entity_cert().ok()?)
    }

    /// Returns what reads the files again when they change.
    pub(crate) fn renewal(&self) -> Box<dyn Renewal> {
        self.certificate.0.renewal()
    }
}

/// Returns a warning if the key file is readable by every user.
pub fn careless(settings: &settings::Tls) -> Option<String> {
    let key = settings.key.as_ref()?;
    let mode = fs::metadata(key).ok()?.permissions().mode();
    let shown = key.display();
    (mode & 0o004 != 0).then(|| {
        format!(
            "web.tls.key: every user of this machine can read {shown}; run `chmod \
            o-r` on it"
        )
    })
}

/// Returns a warning if the certificate has expired or will soon.
pub fn aged(settings: &settings::Tls, now: DateTime<Utc>) -> Option<String> {
    let file = settings.certificate.as_ref()?;
    end_is_near(file, &fs::read(file).ok()?, now)
}

fn end_is_near(file: &Path, pem: &[u8], now: DateTime<Utc>) -> Option<String> {
    let expires = expiry(&CertificateDer::pem_slice_iter(pem).next()?.ok()?)?;
    let (left, file, expires) = (expires - now, file.display(), expires.format("%F %T UTC"));
    let sentence = if left < TimeDelta::zero() {
        format!("{file}: expired on {expires}; clients refuse it")
    } else {
        let left = match left.num_days() {
            0 => "within a day".to_owned(),
            1 => "in a day".to_owned(),
            days => format!("in {days} days"),
        };
        format!("{file}: expires on {expires}, {left}; renew it")
    };
    (left < SOON).then(|| format!("web.tls.certificate: {sentence}"))
}

/// Returns when a certificate expires. rustls does not expose the date, but reports it for an
/// expired certificate: so verify it at the end of time, which is checked before the issuer.
fn expiry(certificate: &CertificateDer<'_>) -> Option<DateTime<Utc>> {
    let certificate = ParsedCertificate::try_from(certificate).ok()?;
    let (no_roots, end) = (RootCertStore::empty(), UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX)));
    match verify_server_cert_signed_by_trust_anchor(&certificate, &no_roots, &[], end, &[]) {
        Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
            DateTime::from_timestamp(i64::try_from(not_after.as_secs()).ok()?, 0)
        }
        _ => None,
    }
}

/// Returns the certificate with its key, or an error if they do not match.
fn certified(certificate: (&Path, &[u8]), key: (&Path, &[u8])) -> Result<CertifiedKey, String> {
    let (certificate_file, key_file) = (certificate.0.display(), key.0.display());
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificate.1)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{certificate_file}: is not PEM: {error}"))?;
    if chain.is_empty() {
        return Err(format!("{certificate_file}: has no certificate in PEM form"));
    }
    let key = PrivateKeyDer::from_pem_slice(key.1).map_err(|error| match error {
        pem::Error::NoItemsFound => format!("{key_file}: has no private key in PEM form"),
        error => format!("{key_file}: is not PEM: {error}"),
    })?;
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            format!("{key_file}: is not the key of the certificate in {certificate_file}")
        }
        Error::InvalidCertificate(error) => format!(
            "{certificate_file}: is not a certificate: \
            {error}"
        ),
        error => format!("{key_file}: is not a usable key: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_readable_by_every_user_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key.pem");
        fs::write(&key, "").unwrap();
        let settings = settings::Tls { certificate: None, key: Some(key.clone()) };
        for (mode, is_reported) in [(0o644, true), (0o604, true), (0o640, false), (0o600, false)] {
            fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(careless(&settings).is_some(), is_reported, "{mode:o}");
        }
        assert_eq!(careless(&settings::Tls::default()), None);
    }
}
