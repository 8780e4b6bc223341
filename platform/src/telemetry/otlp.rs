//! Exports spans to a collector over OTLP/HTTP, on a thread of its own and from a bounded queue.
//! Spans that do not fit, or that the collector does not accept, are dropped: uploads never wait
//! for them.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use opentelemetry::{KeyValue, global, trace::TracerProvider};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{Sampler, SdkTracer, SdkTracerProvider, SpanData, SpanExporter},
};
use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::settings::{Telemetry, collector};

/// The standard variable, used if the setting is not set.
const ENDPOINT_VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// The standard variable for a PEM file with the authorities that are trusted for the collector.
/// Without it, those that this machine trusts.
const CERTIFICATE_VARIABLE: &str = "OTEL_EXPORTER_OTLP_CERTIFICATE";
/// Timeout for sending a batch.
const PATIENCE: Duration = Duration::from_secs(10);
/// Maximum time that the end of a process waits for its last spans.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// The export of this process's spans, if there is a collector. Dropping it sends the remaining
/// spans, for at most two seconds.
#[derive(Debug)]
#[must_use = "the last spans are sent when this is dropped"]
pub struct Traces(Option<SdkTracerProvider>);

impl Traces {
    pub(super) fn of(settings: &Telemetry, program: &'static str) -> Result<Self, String> {
        let Some((endpoint, named)) = endpoint(settings) else { return Ok(Self(None)) };
        if let Some(why) = collector::complaint(&endpoint) {
            return Err(format!("{named}: {why}"));
        }
        let url = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_http_client(Client::of(&endpoint).map_err(|why| format!("{named}: {why}"))?)
            .with_endpoint(&url)
            .build()
            .map_err(|error| format!("{named}: {error}"))?;
        let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let instance = format!("{machine}:{}", std::process::id());
        let resource = Resource::builder()
            .with_service_name(program)
            .with_attribute(KeyValue::new("service.namespace", "eirs"))
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new("service.instance.id", instance))
            .with_attribute(KeyValue::new("host.name", machine))
            .build();
        // The sender that began a trace decides whether it is collected, because part of a trace is
        // useless.
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(settings.sample_ratio)));
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(Logged { exporter, url, failing: AtomicBool::new(false) })
            .with_sampler(sampler)
            .with_resource(resource)
            .build();
        global::set_tracer_provider(provider.clone());
        Ok(Self(Some(provider)))
    }

    pub(super) fn tracer(&self) -> Option<SdkTracer> {
        self.0.as_ref().map(|provider| provider.tracer("eirs"))
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        if let Some(provider) = &self.0 {
            // The exporter has logged any error.
            let _sent = provider.shutdown_with_timeout(LAST_SPANS);
        }
    }
}

/// Returns the collector, and the name of the setting or variable.
fn endpoint(settings: &Telemetry) -> Option<(String, &'static str)> {
    let set = settings.otlp_endpoint.clone().map(|endpoint| (endpoint, "telemetry.otlp_endpoint"));
    let standard = || std::env::var(ENDPOINT_VARIABLE).ok().map(|endpoint| (endpoint, ENDPOINT_VARIABLE));
    set.or_else(standard).filter(|(endpoint, _)| !endpoint.is_empty())
}

/// Sends batches and blocks; it runs on the exporter's own thread.
#[derive(Debug)]
struct Client(ureq::Agent);

impl Client {
    /// Creates a client for this collector. It follows no redirects, because headers may contain
    /// credentials.
    fn of(endpoint: &str) -> Result<Self, String> {
        let is_encrypted =
            endpoint.parse::<ureq::http::Uri>().is_ok_and(|uri| uri.scheme_str() == Some("https"));
        let trusted = if is_encrypted { trusted()? } else { Vec::new() };
        let trusted: Vec<_> = trusted.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&trusted))
            .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()));
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .http_status_as_error(false)
            .max_redirects(0)
            .tls_config(tls.build());
        Ok(Self(config.build().into()))
    }
}

/// Returns the authorities that are trusted for the collector.
fn trusted() -> Result<Vec<CertificateDer<'static>>, String> {
    match std::env::var_os(CERTIFICATE_VARIABLE).filter(|file| !file.is_empty()) {
        Some(file) => of_file(Path::new(&file)).map_err(|why| format!("{CERTIFICATE_VARIABLE}: {why}")),
        None => of_this_machine(),
    }
}

fn of_file(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = file.display();
    let text = std::fs::read(file).map_err(|error| format!("{shown}: cannot be read: {error}"))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if found.is_empty() => Err(format!("{shown}: has no certificate in PEM form")),
        found => found.map_err(|error| format!("{shown}: is not PEM: {error}")),
    }
}

/// Returns the authorities that this machine trusts.
fn of_this_machine() -> Result<Vec<CertificateDer<'static>>, String> {
    trusted_certificates().map_err(|why| format!("{why}, or {CERTIFICATE_VARIABLE} names a file of them"))
}

/// Returns the authorities that this machine trusts, or those in the file named by `SSL_CERT_FILE`.
pub fn trusted_certificates() -> Result<Vec<CertificateDer<'static>>, String> {
    let found = rustls_native_certs::load_native_certs();
    let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
    if found.certs.is_empty() {
        return Err(format!(
            "this machine has no trusted certificates{why}, so that no server can be trusted; install the \
             package ca-certificates"
        ));
    }
    Ok(found.certs)
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = request.into_parts();
        let (head, mut body) = self.0.run(Request::from_parts(head, &body[..]))?.into_parts();
        Ok(Response::from_parts(head, body.read_to_vec()?.into()))
    }
}

/// Logs once when exports begin to fail, and once when they succeed again.
#[derive(Debug)]
struct Logged<E> {
    exporter: E,
    url: String,
    failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Logged<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let exported = self.exporter.export(batch).await;
        let was_failing = self.failing.swap(exported.is_err(), Ordering::Relaxed);
        let url = &self.url;
        match &exported {
            Err(error) if !was_failing => {
                tracing::warn!(%error, "spans cannot be exported to {url} and are dropped: {error}");
            }
            Ok(()) if was_failing => tracing::info!("spans are exported to {url} again"),
            _ => {}
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authorities_for_a_collector_are_a_file_of_certificates() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("authority.pem");
        let error = || of_file(&file).unwrap_err();
        assert!(error().contains("authority.pem: cannot be read"), "{}", error());
        std::fs::write(&file, "nothing of that kind").unwrap();
        assert!(error().ends_with("authority.pem: has no certificate in PEM form"), "{}", error());
        std::fs::write(&file, "-----BEGIN CERTIFICATE-----\n!\n").unwrap();
        assert!(error().contains("authority.pem: is not PEM"), "{}", error());
        std::fs::write(&file, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        assert_eq!(of_file(&file).unwrap().len(), 1);
    }
}
