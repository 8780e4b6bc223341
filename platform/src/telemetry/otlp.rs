//! The export of spans to a collector, over OTLP/HTTP: by a thread of its own, from a bounded queue. Spans that do not fit, and
//! those that the collector does not take, are dropped: no upload ever waits for one.

use std::{
    sync::atomic::{AtomicBool, Ordering},
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

use crate::settings::Telemetry;

/// The standard variable, where the setting is not set.
const ENDPOINT_VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// A collector that has not taken a batch by then does not take it.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the end of a process may wait for its last spans to go.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// The spans of this process on their way to a collector, where there is one. Dropped at the end of the process it sends what is
/// left, as far as the collector takes it in two seconds.
#[derive(Debug)]
#[must_use = "the last spans are sent when this is dropped"]
pub struct Traces(Option<SdkTracerProvider>);

impl Traces {
    pub(super) fn of(settings: &Telemetry, program: &'static str) -> Result<Self, String> {
        let Some((endpoint, named)) = endpoint(settings) else { return Ok(Self(None)) };
        if let Some(why) = complaint(&endpoint) {
            return Err(format!("{named}: {why}"));
        }
        let url = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_http_client(Client::new())
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
        // Who begins a trace decides whether it is collected; a part of a trace would be worth nothing.
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(settings.sample_ratio)));
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(Outspoken { exporter, url, failing: AtomicBool::new(false) })
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
            // The exporter has said what went wrong.
            let _sent = provider.shutdown_with_timeout(LAST_SPANS);
        }
    }
}

/// The collector, and the name under which it was set.
fn endpoint(settings: &Telemetry) -> Option<(String, &'static str)> {
    let set = settings.otlp_endpoint.clone().map(|endpoint| (endpoint, "telemetry.otlp_endpoint"));
    let standard = || std::env::var(ENDPOINT_VARIABLE).ok().map(|endpoint| (endpoint, ENDPOINT_VARIABLE));
    set.or_else(standard).filter(|(endpoint, _)| !endpoint.is_empty())
}

/// What is wrong with the address of a collector, if anything.
pub fn complaint(endpoint: &str) -> Option<String> {
    let uri: Result<ureq::http::Uri, _> = endpoint.parse();
    let should = "should be the address of a collector, like \"http://127.0.0.1:4318\"";
    match uri {
        Ok(uri) if uri.scheme_str() == Some("https") => Some(format!(
            "is \"{endpoint}\"; {should}: it is spoken to without TLS. A collector beside this program passes spans on with it"
        )),
        Ok(uri) if uri.scheme_str() == Some("http") && uri.host().is_some() && uri.query().is_none() => None,
        _ => Some(format!("is \"{endpoint}\"; {should}")),
    }
}

/// Sends a batch and blocks: it runs on the thread of the exporter, which has nothing else to do.
#[derive(Debug)]
struct Client(ureq::Agent);

impl Client {
    fn new() -> Self {
        let config = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).http_status_as_error(false);
        Self(config.build().into())
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = request.into_parts();
        let (head, mut body) = self.0.run(Request::from_parts(head, &body[..]))?.into_parts();
        Ok(Response::from_parts(head, body.read_to_vec()?.into()))
    }
}

/// Says once that spans cannot be exported, and once that they can be again.
#[derive(Debug)]
struct Outspoken<E> {
    exporter: E,
    url: String,
    failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Outspoken<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let exported = self.exporter.export(batch).await;
        let was_failing = self.failing.swap(exported.is_err(), Ordering::Relaxed);
        let url = &self.url;
        match &exported {
            Err(error) if !was_failing => {
                tracing::warn!(%error, "spans cannot be exported to {url} and are dropped meanwhile: {error}");
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
    fn a_collector_is_an_address_without_tls_and_anything_else_is_a_mistake_in_the_settings() {
        for good in ["http://127.0.0.1:4318", "http://collector:4318/", "http://[::1]:4318/otlp"] {
            assert_eq!(complaint(good), None);
        }
        for (wrong, why) in [
            ("127.0.0.1:4318", "should be the address of a collector"),
            ("http://", "should be the address of a collector"),
            ("ftp://collector", "should be the address of a collector"),
            ("https://collector", "without TLS"),
        ] {
            let said = complaint(wrong).unwrap();
            assert!(said.contains(why) && said.contains(wrong), "{said}");
        }
    }
}
