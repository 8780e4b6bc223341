//! One upload, one trace: the spans that the real programs export to a collector. A failing
//! collector has no effect on uploads.

mod collector;

use rustix::process::Signal;

use self::collector::{Collector, Span};
use crate::authority::Authority;
use eirs_harness::{Answer, POLICY, Process, Site, Web, eventually, image, request, sample};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CLIENT: &str = "00f067aa0ba902b7";

fn upload(web: &Web, image: &[u8], headers: &[(&str, &str)]) -> Answer {
    let headers: Vec<_> = [("content-type", "image/jpeg")].iter().chain(headers).copied().collect();
    request(&web.address, "POST", "/upload", &headers, image).expect("an answer")
}

/// Drains a program, which has then exported everything.
fn drained(mut process: Process) {
    process.signal(Signal::TERM);
    assert!(process.exit().success(), "{}", process.log());
}

/// Returns the only span with this name and program.
fn only<'a>(spans: &'a [Span], program: &str, name: &str) -> &'a Span {
    let found: Vec<_> = spans.iter().filter(|span| span.program == program && span.name == name).collect();
    let [span] = found[..] else { panic!("{} spans {name} of {program}: {spans:#?}", found.len()) };
    span
}

#[test]
fn an_upload_is_one_trace_from_the_client_through_web_queue_and_worker_and_back() {
    let collector = Collector::start();
    let site = Site::with_model().set("EIRS_TELEMETRY__OTLP_ENDPOINT", &collector.address());
    let (web, worker) = (site.web(), site.worker());
    let parent = format!("00-{TRACE}-{CLIENT}-01");
    let answer = upload(&web, &sample("star_0.jpg"), &[("traceparent", &parent), ("tracestate", "vendor=1")]);
    assert_eq!(
        (answer.status, answer.body.as_str(), answer.header("x-trace-id")),
        (200, "star", Some(TRACE))
    );
    drained(worker);
    drained(web.process);
    let ended = collector::now();

    let spans = collector.spans();
    assert!(spans.iter().all(|span| span.trace == TRACE), "{spans:#?}");
    let [web, worker] = ["eirs-web", "eirs-worker"];
    let tree = [
        (web, "upload", None),
        (web, "read", Some((web, "upload"))),
        (web, "look", Some((web, "upload"))),
        (web, "store", Some((web, "upload"))),
        (web, "send", Some((web, "upload"))),
        (web, "wait", Some((web, "upload"))),
        (worker, "queue", Some((web, "send"))),
        (worker, "job", Some((web, "send"))),
        (worker, "fetch", Some((worker, "job"))),
        (worker, "classify", Some((worker, "job"))),
        (worker, "turn", Some((worker, "classify"))),
        (worker, "decode", Some((worker, "classify"))),
        (worker, "infer", Some((worker, "classify"))),
        // Result, reply and ack are one transaction of the embedded queue.
        (worker, "end", Some((worker, "job"))),
        (web, "answer", Some((worker, "job"))),
    ];
    // Reading the end of the body is also a span.
    assert!(spans.len() <= tree.len() + 1, "{spans:#?}");
    let began = spans.iter().find(|span| span.name == "upload").expect("the upload").start;
    for (program, name, parent) in tree {
        let found = spans.iter().find(|span| span.program == program && span.name == name);
        let span = found.unwrap_or_else(|| panic!("no span {name} of {program}: {spans:#?}"));
        let expected = parent.map_or(CLIENT, |(program, name)| &only(&spans, program, name).id);
        assert_eq!(span.parent, expected, "{program} {name}");
        assert!(span.start <= span.end && span.start >= began && span.start <= ended, "{span:?}");
        assert_eq!(span.state, "vendor=1", "{span:?}");
    }
    let at = |program: &str, name: &str| only(&spans, program, name);
    for (first, then) in [
        (at(web, "store").end, at(web, "send").start),
        (at(worker, "queue").end, at(worker, "job").end),
        (at(worker, "fetch").end, at(worker, "classify").start),
        (at(worker, "decode").end, at(worker, "infer").start),
        (at(worker, "classify").end, at(worker, "end").start),
        (at(web, "answer").end, at(web, "upload").end),
    ] {
        assert!(first <= then, "{spans:#?}");
    }
    let kinds = [(web, "upload", "server"), (web, "send", "producer"), (worker, "job", "consumer")];
    for (program, name, kind) in kinds {
        assert_eq!(at(program, name).kind, kind, "{name}");
    }
    assert_eq!(at(web, "upload").attributes["http.response.status_code"], "200");
    assert_eq!(at(worker, "job").attributes["image.id"].len(), 64);
}

#[test]
fn the_start_of_a_trace_decides_whether_it_is_sampled() {
    let collector = Collector::start();
    // Set with the standard variable, as in other programs.
    let site = Site::new()
        .set("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.address())
        .set("EIRS_TELEMETRY__SAMPLE_RATIO", "0");
    let (web, worker) = (site.web(), site.worker());
    let unwanted = format!("00-{TRACE}-{CLIENT}-00");
    assert_eq!(upload(&web, &image(1), &[("traceparent", &unwanted)]).header("x-trace-id"), Some(TRACE));
    let wanted = "00-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-bbbbbbbbbbbbbbbb-01";
    assert_eq!(upload(&web, &image(2), &[("traceparent", wanted)]).status, 200);
    let own = upload(&web, &image(3), &[("traceparent", "nonsense")]);
    let own = own.header("x-trace-id").expect("a trace of its own").to_owned();
    assert_eq!(own.len(), 32);
    assert_ne!(
        upload(&web, &image(4), &[]).header("x-trace-id"),
        Some(own.as_str()),
        "each upload has its own"
    );
    drained(worker);
    drained(web.process);
    let spans = collector.spans();
    assert!(spans.iter().all(|span| span.trace == "a".repeat(32)), "{spans:#?}");
    assert_eq!(only(&spans, "eirs-worker", "job").parent, only(&spans, "eirs-web", "send").id);
}

#[test]
fn a_missing_or_silent_collector_affects_neither_uploads_nor_drains() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let gone = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
    for (address, says) in [(gone, true), (silent.local_addr().expect("its address"), false)] {
        let site = Site::new().set("EIRS_TELEMETRY__OTLP_ENDPOINT", &format!("http://{address}"));
        let (web, worker) = (site.web(), site.worker());
        for number in 0..50 {
            let answer = upload(&web, &image(number), &[]);
            assert_eq!((answer.status, answer.body.as_str()), (200, "noop"));
        }
        worker.signal(Signal::TERM);
        web.process.signal(Signal::TERM);
        for mut process in [worker, web.process] {
            assert!(process.exit().success(), "{}", process.log());
            let said = process.log().matches("spans cannot be exported").count();
            assert!(said == usize::from(says) || !says, "{}", process.log());
        }
    }
}

#[test]
fn the_passes_of_the_controller_are_traces_with_its_decisions() {
    let collector = Collector::start();
    let site = Site::new().set("EIRS_TELEMETRY__OTLP_ENDPOINT", &collector.address());
    let controller = site.controller(&POLICY.replace("min = 0", "min = 1"));
    eventually("a start", || controller.log().contains("start default-1").then_some(()));
    drained(controller);
    let spans = collector.spans();
    let decision = |span: &&Span| span.events.iter().any(|event| event.contains("start default-1"));
    let pass = spans.iter().find(decision).expect("the decision");
    assert_eq!((pass.name.as_str(), pass.parent.as_str()), ("pass", ""));
    for part in ["observe", "act"] {
        assert!(spans.iter().any(|span| span.name == part && span.parent == pass.id), "{spans:#?}");
    }
}

#[test]
fn the_log_of_web_and_worker_names_trace_and_image_without_any_collector() {
    let site = Site::with_script("exit 1")
        .set("EIRS_QUEUE__RETRY_FOR", "0s")
        .set("EIRS_TELEMETRY__FILTER", "warn,eirs_web=debug");
    let (web, worker) = (site.web(), site.start("eirs-worker", &[]));
    let parent = format!("00-{TRACE}-{CLIENT}-01");
    let answer = upload(&web, &image(1), &[("traceparent", &parent)]);
    assert_eq!((answer.status, answer.header("x-trace-id")), (500, Some(TRACE)));
    let id = answer.json()["id"].as_str().expect("an id").to_owned();
    for (program, says) in [(&worker, "is given back"), (&worker, "is given up"), (&web.process, "failed")] {
        let log = program.log();
        let line = log.lines().find(|line| line.contains(says)).unwrap_or_else(|| panic!("{says}: {log}"));
        assert!(line.contains(&format!("trace_id=\"{TRACE}\"")) && line.contains(&id), "{line}");
    }
}

#[test]
fn an_invalid_collector_address_is_reported_at_the_start() {
    for (key, name) in [
        ("EIRS_TELEMETRY__OTLP_ENDPOINT", "telemetry.otlp_endpoint"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"),
    ] {
        let site = Site::new().set(key, "collector.example:4318");
        let mut worker = site.start("eirs-worker", &[]);
        assert_eq!(worker.exit().code(), Some(78));
        assert!(worker.log().contains(&format!("{name}: is \"collector.example:4318\"")), "{}", worker.log());
    }
}

/// A site whose collector uses TLS, with its authority in `authority.pem`.
fn with_tls(authority: &Authority) -> (Collector, Site) {
    let collector = Collector::start_with_tls(&authority.issue());
    let site = Site::new().set("EIRS_TELEMETRY__OTLP_ENDPOINT", &collector.address());
    std::fs::write(site.folder.path().join("authority.pem"), &authority.pem).expect("it is written");
    (collector, site)
}

#[test]
fn spans_are_exported_over_tls_with_the_standard_headers_variable() {
    let (collector, site) = with_tls(&Authority::new());
    let site = site
        .set("OTEL_EXPORTER_OTLP_CERTIFICATE", "authority.pem")
        .set("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20of%20good%20news,x-team=eirs");
    let (web, worker) = (site.web(), site.worker());
    assert_eq!(upload(&web, &image(1), &[]).status, 200);
    drained(worker);
    drained(web.process);
    let spans = collector.spans();
    assert_eq!(only(&spans, "eirs-worker", "job").parent, only(&spans, "eirs-web", "send").id);
    let heads = collector.heads();
    assert!(heads.len() >= 2, "of both programs: {heads:?}");
    for head in heads {
        for header in ["authorization: bearer of good news", "x-team: eirs"] {
            assert!(head.iter().any(|line| line == header), "{header}: {head:?}");
        }
    }
}

#[test]
fn without_a_file_the_authorities_of_the_machine_are_trusted() {
    let (collector, site) = with_tls(&Authority::new());
    // Replaces the machine's own list.
    let site = site.set("SSL_CERT_FILE", "authority.pem");
    let web = site.web();
    assert_eq!(web.upload("?wait=0", "x", &image(1)).status, 202);
    drained(web.process);
    only(&collector.spans(), "eirs-web", "upload");
}

#[test]
fn an_untrusted_collector_gets_nothing_which_is_logged_and_harmless() {
    let (collector, site) = with_tls(&Authority::new());
    let stranger = site.folder.path().join("stranger.pem");
    std::fs::write(&stranger, Authority::new().pem).expect("it is written");
    let site = site.set("OTEL_EXPORTER_OTLP_CERTIFICATE", "stranger.pem");
    let mut web = site.web();
    assert_eq!(web.upload("?wait=0", "x", &image(1)).status, 202);
    web.process.signal(Signal::TERM);
    assert!(web.process.exit().success(), "{}", web.process.log());
    let log = web.process.log();
    assert!(log.contains("spans cannot be exported to https://127.0.0.1:"), "{log}");
    assert!(collector.heads().is_empty(), "{:?}", collector.heads());
}

#[test]
fn missing_authorities_for_a_collector_are_reported_at_the_start() {
    for (key, value, says) in [
        (
            "OTEL_EXPORTER_OTLP_CERTIFICATE",
            "nowhere.pem",
            "OTEL_EXPORTER_OTLP_CERTIFICATE: nowhere.pem: cannot be read",
        ),
        ("SSL_CERT_FILE", "nowhere.pem", "telemetry.otlp_endpoint: this machine has no trusted certificates"),
    ] {
        let (_collector, site) = with_tls(&Authority::new());
        // The list may have another path on this machine.
        let site = site.set("SSL_CERT_DIR", "").set(key, value);
        let mut worker = site.start("eirs-worker", &[]);
        assert_eq!(worker.exit().code(), Some(78), "{}", worker.log());
        assert!(worker.log().contains(says), "{}", worker.log());
    }
}
