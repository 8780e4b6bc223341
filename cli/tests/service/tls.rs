//! HTTPS, with a certificate authority created by each test.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
};

use chrono::{DateTime, Datelike, TimeDelta, Utc};
use rcgen::{CertificateParams, DnType, KeyPair, SanType, date_time_ymd};
use rustix::process::Signal;
use serde_json::Value;
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto::ring, pki_types::CertificateDer,
};

use crate::authority::Authority;
use eirs_harness::{Answer, NEVER, Site, Web, eventually, image, read_answer, request};

/// An authority that the client trusts, and a site whose server has its certificate.
struct Secured {
    site: Site,
    authority: Authority,
    client: Arc<ClientConfig>,
}

type Stream = StreamOwned<ClientConnection, TcpStream>;

impl Secured {
    fn new() -> Self {
        let authority = Authority::new();
        let mut roots = RootCertStore::empty();
        roots.add(authority.certificate.clone()).expect("it is one");
        let mut client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.alpn_protocols = vec![b"http/1.1".to_vec()];
        let site = Site::new()
            .set("EIRS_WEB__TLS__CERTIFICATE", "certificate.pem")
            .set("EIRS_WEB__TLS__KEY", "key.pem");
        let secured = Self { site, authority, client: Arc::new(client) };
        secured.write("authority.pem", &secured.authority.pem);
        secured.issue();
        secured
    }

    /// Writes a new pair like a renewal: one file after the other.
    fn issue(&self) -> CertificateDer<'static> {
        self.issue_as(|_| {})
    }

    /// Issues a certificate that expires at the start of the day this many days from now.
    fn issue_for(&self, days: i64) -> DateTime<Utc> {
        let end = (Utc::now() + TimeDelta::days(days)).date_naive();
        let (month, day) = (end.month() as u8, end.day() as u8);
        self.issue_as(|params| params.not_after = date_time_ymd(end.year(), month, day));
        end.and_hms_opt(0, 0, 0).expect("midnight").and_utc()
    }

    fn issue_as(&self, change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let pair = self.authority.issue_as(change);
        self.write("certificate.pem", &pair.pem);
        self.write("key.pem", &pair.key.serialize_pem());
        pair.certificate
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.site.folder.path().join(name), text).expect("it is written");
    }

    fn connect(&self, web: &Web) -> std::io::Result<Stream> {
        self.connect_as(web, self.client.clone())
    }

    fn connect_as(&self, web: &Web, client: Arc<ClientConfig>) -> std::io::Result<Stream> {
        let mut tcp = TcpStream::connect(&web.address)?;
        tcp.set_read_timeout(Some(NEVER))?;
        let name = "localhost".try_into().expect("a name");
        let mut connection = ClientConnection::new(client, name).expect("a client");
        while connection.is_handshaking() {
            connection.complete_io(&mut tcp)?;
        }
        Ok(StreamOwned::new(connection, tcp))
    }

    /// Returns the certificate that a new connection gets.
    fn shown(&self, web: &Web) -> CertificateDer<'static> {
        let stream = self.connect(web).expect("it is trusted");
        stream.conn.peer_certificates().expect("it has one")[0].clone().into_owned()
    }
}

fn ask(stream: &mut Stream, method: &str, path: &str, body: &[u8]) -> Answer {
    eirs_harness::ask(stream, method, path, &[("content-type", "image/bmp")], body).expect("an answer")
}

/// Sends one request on a connection that stays open, and returns the status line.
fn ask_and_keep(stream: &mut Stream) -> String {
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("it is sent");
    let mut text = Vec::new();
    // The body is `ok` and a line end.
    while !text.ends_with(b"\r\n\r\nok\n") {
        let mut byte = [0];
        stream
            .read_exact(&mut byte)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&text)));
        text.push(byte[0]);
    }
    String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned()
}

#[test]
fn uploads_need_https() {
    let secured = Secured::new();
    let web = secured.site.web();
    // Larger than the buffer that is read at once.
    let mut large = image(1);
    large.resize(300_000, 0);
    let answer = ask(&mut secured.connect(&web).expect("a connection"), "POST", "/upload?wait=0", &large);
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(answer.header("strict-transport-security"), Some("max-age=31536000"));
    assert_eq!(web.get("/metrics").status, 200, "the admin listener still uses HTTP");
    assert!(web.process.log().contains("accepting uploads on https://127.0.0.1:"), "{}", web.process.log());
}

#[test]
fn plain_http_on_the_https_port_gets_an_explanation_even_with_a_large_body() {
    let secured = Secured::new();
    let web = secured.site.web();
    for (method, path, bytes) in [("GET", "/livez", 0), ("POST", "/upload", 3_000_000)] {
        let answer = request(&web.address, method, path, &[], &vec![7; bytes]).expect("an answer");
        assert_eq!(answer.status, 400, "{answer:?}");
        assert_eq!(answer.problem(), "this port speaks HTTPS; use https:// in the address");
    }
    // Other protocols are refused in the same way.
    let mut stream = web.connect();
    stream.write_all(b"hello\r\n\r\n").expect("it is sent");
    assert_eq!(read_answer(&mut stream).expect("an answer").status, 400);
    assert_eq!(ask(&mut secured.connect(&web).expect("a connection"), "GET", "/livez", b"").status, 200);
}

#[test]
fn tls_on_the_http_port_is_logged() {
    let secured = Secured::new();
    let site = Site::new().set("EIRS_TELEMETRY__FILTER", "info,eirs_web=debug");
    let plain = site.web();
    assert!(secured.connect(&plain).is_err(), "the handshake must fail");
    let said = "a request was refused: this port speaks plain HTTP; use http:// in the address";
    eventually("it is logged", || plain.process.log().contains(said).then_some(()));
}

#[test]
fn invalid_http_is_refused_with_a_sentence_over_https_too() {
    let secured = Secured::new();
    let web = secured.site.web();
    let mut stream = secured.connect(&web).expect("a connection");
    stream.write_all(b"POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n").expect("it is sent");
    let answer = read_answer(&mut stream).expect("an answer, and the end in the way of TLS");
    assert_eq!(answer.status, 400, "{answer:?}");
    assert_eq!(answer.problem(), "the Content-Length header is not one number");
}

#[test]
fn after_close_notify_a_client_still_gets_its_answer_and_keeps_no_place() {
    let mut secured = Secured::new();
    secured.site = secured.site.set("EIRS_WEB__MAX_UPLOADS", "1");
    let web = secured.site.web();
    let uploads = |wanted: u64| {
        eventually("that many uploads", || (web.get("/status").json()["uploads"] == wanted).then_some(()));
    };
    let ask = |number| {
        let mut stream = secured.connect(&web).expect("a connection");
        let head =
            format!("POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", image(number).len());
        stream.write_all(&[head.as_bytes(), &image(number)].concat()).expect("sent");
        uploads(1);
        stream.conn.send_close_notify();
        stream.flush().expect("sent");
        stream
    };
    drop(ask(1));
    uploads(0);
    let mut half = ask(2);
    let mut first = [0];
    half.read_exact(&mut first).expect("the beginning of the answer");
    let _worker = secured.site.worker();
    let mut rest = String::new();
    half.read_to_string(&mut rest).expect("the rest of it");
    let answer = String::from_utf8_lossy(&first) + &*rest;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("noop"), "{answer}");
}

#[test]
fn http_2_is_supported() {
    let secured = Secured::new();
    let web = secured.site.web();
    let mut client = (*secured.client).clone();
    client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut stream = secured.connect_as(&web, Arc::new(client)).expect("a connection");
    assert_eq!(stream.conn.alpn_protocol(), Some(&b"h2"[..]));
    // The connection preface, with empty settings; the server responds with its own settings (RFC
    // 9113, 3.4).
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").expect("it is sent");
    let mut frame = [0; 9];
    stream.read_exact(&mut frame).expect("a frame");
    assert_eq!(frame[3], 4, "{frame:?}");
}

#[test]
fn a_renewed_certificate_applies_to_new_connections_and_closes_none() {
    let secured = Secured::new();
    let web = secured.site.web();
    let mut held = secured.connect(&web).expect("a connection");
    assert_eq!(ask_and_keep(&mut held), "HTTP/1.1 200 OK");
    let first = secured.shown(&web);

    let second = secured.issue();
    assert_ne!(first, second);
    eventually("it is shown", || (secured.shown(&web) == second).then_some(()));
    assert_eq!(ask_and_keep(&mut held), "HTTP/1.1 200 OK");

    let third = secured.issue();
    web.process.signal(Signal::HUP);
    eventually("it is shown", || (secured.shown(&web) == third).then_some(()));
    assert_eq!(ask_and_keep(&mut held), "HTTP/1.1 200 OK");
    assert!(!web.process.log().contains("stays in force"), "{}", web.process.log());
}

#[test]
fn a_broken_pair_keeps_the_last_valid_one_in_force_until_it_is_fixed() {
    let secured = Secured::new();
    let web = secured.site.web();
    let first = secured.shown(&web);
    secured.write("key.pem", &KeyPair::generate().expect("a key").serialize_pem());
    let sentence =
        "key.pem: is not the key of the certificate in certificate.pem; the last good version stays in force";
    eventually("it is logged", || web.process.log().contains(sentence).then_some(()));
    assert_eq!(secured.shown(&web), first);
    let second = secured.issue();
    eventually("it is shown", || (secured.shown(&web) == second).then_some(()));
}

/// Returns the expiry of the certificate in `/metrics`.
fn expires(web: &Web) -> Option<i64> {
    let text = web.get("/metrics").body;
    let value =
        text.lines().find_map(|line| line.strip_prefix("eirs_tls_certificate_expires_timestamp_seconds "))?;
    Some(value.parse::<f64>().expect("a number") as i64)
}

#[test]
fn the_end_of_the_certificate_in_force_is_a_metric_and_only_with_https() {
    let secured = Secured::new();
    let first = secured.issue_for(90);
    let web = secured.site.web();
    assert_eq!(expires(&web), Some(first.timestamp()));
    let second = secured.issue_for(180);
    eventually("it is renewed", || (expires(&web) == Some(second.timestamp())).then_some(()));
    assert!(!web.process.log().contains("expire"), "{}", web.process.log());
    assert_eq!(expires(&Site::new().web()), None);
}

#[test]
fn an_expiring_certificate_is_logged_at_the_start_and_at_each_reload() {
    let secured = Secured::new();
    let logged = |web: &Web, what: &str| {
        let log = web.process.log();
        log.lines().filter(|line| line.contains("WARN") && line.contains(what)).count()
    };
    let end = secured.issue_for(10).format("%F 00:00:00 UTC");
    let web = secured.site.web();
    let soon = format!("web.tls.certificate: certificate.pem: expires on {end}, in 9 days");
    assert_eq!(logged(&web, &soon), 1, "{}", web.process.log());
    secured.issue_for(-3);
    let over = "web.tls.certificate: certificate.pem: expired on ";
    eventually("it is logged", || (logged(&web, over) == 1).then_some(()));
    web.process.signal(Signal::HUP);
    eventually("it is logged again", || (logged(&web, over) == 2).then_some(()));
    assert_eq!(logged(&web, &soon), 1, "{}", web.process.log());

    let check = || {
        let check = secured.site.command("eirs").args(["check", "--json"]).output().expect("it runs");
        let report: Value = serde_json::from_slice(&check.stdout).expect("JSON");
        report["problems"].to_string()
    };
    assert!(check().contains(over), "{}", check());
    secured.issue();
    assert!(!check().contains("web.tls"), "{}", check());
}

#[test]
fn a_client_without_handshake_blocks_no_other() {
    let secured = Secured::new();
    let web = secured.site.web();
    let _silent: Vec<_> = (0..20).map(|_| TcpStream::connect(&web.address).expect("a connection")).collect();
    assert_eq!(ask(&mut secured.connect(&web).expect("a connection"), "GET", "/livez", b"").status, 200);
}

#[test]
fn an_invalid_pair_at_start_is_78_and_named() {
    let secured = Secured::new();
    let ends_with = |hint: &str| {
        for arguments in [&["--check"][..], &[]] {
            let mut process = secured.site.start("eirs-web", arguments);
            assert_eq!(process.exit().code(), Some(78), "{}", process.log());
            assert!(process.log().contains(hint), "{hint}: {}", process.log());
        }
    };
    secured.write("key.pem", &KeyPair::generate().expect("a key").serialize_pem());
    ends_with("web.tls: key.pem: is not the key of the certificate in certificate.pem");
    secured.write("key.pem", "nothing of that kind");
    ends_with("web.tls: key.pem: has no private key");
    secured.issue();
    secured.write("certificate.pem", "");
    ends_with("web.tls: certificate.pem: has no certificate");
    fs::remove_file(secured.site.folder.path().join("certificate.pem")).expect("it goes");
    ends_with("web.tls: certificate.pem: cannot be read");
}

#[test]
fn eirs_local_serves_https_and_says_so() {
    let secured = Secured::new();
    let mut process = secured.site.start("eirs", &["local", "--listen", "127.0.0.1:0"]);
    eventually("it is ready", || process.log().contains("EIRS is ready at https://127.0.0.1:").then_some(()));
    process.signal(Signal::TERM);
    assert_eq!(process.exit().code(), Some(0), "{}", process.log());
}

/// Runs `eirs load` and `eirs classify` with a server, trusting the authorities in this file.
fn tools_at(secured: &Secured, web: &Web, trusted: &str) -> [(Option<i32>, String); 2] {
    let samples = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/shapes/samples");
    let heart = format!("{samples}/heart_0.jpg");
    let url = format!("https://localhost:{}", web.address.rsplit(':').next().expect("a port"));
    let load = ["load", "--url", &url, "--image-folder", samples, "--num-request", "20", "--quiet"];
    [&load[..], &["classify", &heart, "--url", &url]].map(|arguments| {
        let mut command = secured.site.command("eirs");
        command.args(arguments).env("SSL_CERT_FILE", trusted).env_remove("SSL_CERT_DIR");
        let output = command.output().expect("it runs");
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    })
}

#[test]
fn the_tools_use_https_with_a_trusted_server() {
    let secured = Secured::new();
    let (web, _worker) = (secured.site.web(), secured.site.worker());
    let [(load, figures), (classify, label)] = tools_at(&secured, &web, "authority.pem");
    assert!(load == Some(0) && figures.contains("Results     20\n"), "{figures}");
    assert!(classify == Some(0) && label.starts_with("heart_0.jpg: "), "{label}");
}

#[test]
fn the_tools_upload_nothing_to_an_untrusted_server() {
    let mut other = CertificateParams::new(Vec::new()).expect("no name");
    other.distinguished_name.push(DnType::CommonName, "another authority");
    let key = KeyPair::generate().expect("a key");
    let other = other.self_signed(&key).expect("a certificate").pem();
    let elsewhere = || SanType::DnsName("elsewhere.example".try_into().expect("a name"));
    for (is_elsewhere, trusted, why) in [
        (
            false,
            "other.pem",
            "the certificate is not trusted here (invalid peer certificate: UnknownIssuer); \
             SSL_CERT_FILE=FILE",
        ),
        (true, "authority.pem", "certificate not valid for name"),
        (false, "none.pem", "No such file or directory"),
        (false, "empty.pem", "this machine has no trusted certificates"),
    ] {
        let secured = Secured::new();
        secured.write("other.pem", &other);
        secured.write("empty.pem", "");
        if is_elsewhere {
            secured.issue_as(|params| params.subject_alt_names = vec![elsewhere()]);
        }
        let web = secured.site.web();
        for (code, said) in tools_at(&secured, &web, trusted) {
            assert!(code == Some(1) && said.contains(": no secure connection: "), "{said}");
            assert!(said.contains(why), "{why}: {said}");
        }
    }
}
