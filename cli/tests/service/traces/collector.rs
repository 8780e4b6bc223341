//! A minimal OTLP/HTTP trace collector: accepts `POST /v1/traces`, with or without TLS, and keeps
//! the spans.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex},
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1,
};
use prost::Message;
use tokio_rustls::rustls::{
    ServerConfig, ServerConnection, StreamOwned, crypto::ring, pki_types::PrivateKeyDer,
};

use crate::authority::Pair;

/// A span, as texts. Times are nanoseconds since 1970.
#[derive(Debug, Clone)]
pub struct Span {
    pub program: String,
    pub name: String,
    pub kind: &'static str,
    pub trace: String,
    pub state: String,
    pub id: String,
    /// Empty for a root span.
    pub parent: String,
    pub start: u64,
    pub end: u64,
    pub attributes: BTreeMap<String, String>,
    pub events: Vec<String>,
}

/// A collector that runs until the tests end.
pub struct Collector {
    address: SocketAddr,
    is_encrypted: bool,
    kept: Arc<Mutex<Kept>>,
}

/// The received data.
#[derive(Default)]
struct Kept {
    spans: Vec<Span>,
    /// The header lines of each request, in lower case.
    heads: Vec<Vec<String>>,
}

/// Returns the current time as in spans.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_nanos() as u64
}

impl Collector {
    pub fn start() -> Self {
        Self::start_as(None)
    }

    /// Starts a collector with this certificate.
    pub fn start_with_tls(pair: &Pair) -> Self {
        let key = PrivateKeyDer::try_from(pair.key.serialize_der()).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![pair.certificate.clone()], key);
        Self::start_as(Some(Arc::new(config.expect("a pair"))))
    }

    fn start_as(tls: Option<Arc<ServerConfig>>) -> Self {
        let is_encrypted = tls.is_some();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let kept = Arc::<Mutex<Kept>>::default();
        let keeps = kept.clone();
        thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                let (kept, tls) = (keeps.clone(), tls.clone());
                thread::spawn(move || match tls {
                    Some(tls) => {
                        let server = ServerConnection::new(tls).expect("a server");
                        serve(StreamOwned::new(server, connection), &kept);
                    }
                    None => serve(connection, &kept),
                });
            }
        });
        Self { address, is_encrypted, kept }
    }

    pub fn address(&self) -> String {
        format!("{}://{}", if self.is_encrypted { "https" } else { "http" }, self.address)
    }

    pub fn spans(&self) -> Vec<Span> {
        self.kept.lock().expect("no panic while it was held").spans.clone()
    }

    pub fn heads(&self) -> Vec<Vec<String>> {
        self.kept.lock().expect("no panic while it was held").heads.clone()
    }
}

/// Serves all requests of a connection.
fn serve(connection: impl Read + Write, kept: &Mutex<Kept>) {
    let mut reader = BufReader::new(connection);
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            match reader.read_line(&mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) if line == "\r\n" => break,
                Ok(_) => head.push(line.trim().to_ascii_lowercase()),
            }
        }
        assert_eq!(head[0], "post /v1/traces http/1.1");
        assert!(head.contains(&"content-type: application/x-protobuf".to_owned()), "{head:?}");
        let length = head.iter().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.expect("a length")];
        reader.read_exact(&mut body).expect("the body");
        let request = ExportTraceServiceRequest::decode(&body[..]).expect("what OTLP says");
        let mut kept = kept.lock().expect("no panic while it was held");
        kept.spans.extend(spans(request));
        kept.heads.push(head);
        drop(kept);
        let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
        if reader.get_mut().write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn spans(request: ExportTraceServiceRequest) -> Vec<Span> {
    let mut found = Vec::new();
    for resource in request.resource_spans {
        let resource_attributes =
            attributes(resource.resource.map(|resource| resource.attributes).unwrap_or_default());
        for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            found.push(Span {
                program: resource_attributes["service.name"].clone(),
                kind: match span.kind() {
                    v1::span::SpanKind::Server => "server",
                    v1::span::SpanKind::Producer => "producer",
                    v1::span::SpanKind::Consumer => "consumer",
                    _ => "internal",
                },
                name: span.name,
                trace: hex(&span.trace_id),
                state: span.trace_state,
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                start: span.start_time_unix_nano,
                end: span.end_time_unix_nano,
                attributes: attributes(span.attributes),
                events: span.events.into_iter().map(|event| event.name).collect(),
            });
        }
    }
    found
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attributes(pairs: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |pair: KeyValue| {
        let text = match pair.value.and_then(|value| value.value) {
            Some(Value::StringValue(text)) => text,
            Some(Value::IntValue(number)) => number.to_string(),
            other => format!("{other:?}"),
        };
        (pair.key, text)
    };
    pairs.into_iter().map(text).collect()
}
