//! HTTPS, with a certificate authority that each test makes.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustix::process::Signal;
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto::ring, pki_types::CertificateDer,
};

use crate::harness::{self, Answer, NEVER, Site, Web, eventually, image, request};

/// An authority that the client trusts, and a site whose server has a certificate of it.
struct Secured {
    site: Site,
    issuer: Issuer<'static, KeyPair>,
    client: Arc<ClientConfig>,
}

type Stream = StreamOwned<ClientConnection, TcpStream>;

impl Secured {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no name");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let authority = params.self_signed(&key).expect("a certificate");
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).expect("it is one");
        let mut client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.alpn_protocols = vec![b"http/1.1".to_vec()];
        let site = Site::new()
            .set("EIRS_WEB__TLS__CERTIFICATE", "certificate.pem")
            .set("EIRS_WEB__TLS__KEY", "key.pem");
        let secured = Self { site, issuer: Issuer::new(params, key), client: Arc::new(client) };
        secured.write("authority.pem", &authority.pem());
        secured.issue();
        secured
    }

    /// A new pair, as renewals write it: one file after the other.
    fn issue(&self) -> CertificateDer<'static> {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        self.write("certificate.pem", &certificate.pem());
        self.write("key.pem", &key.serialize_pem());
        certificate.der().clone()
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

    /// The certificate that a new connection is shown.
    fn shown(&self, web: &Web) -> CertificateDer<'static> {
        let stream = self.connect(web).expect("it is trusted");
        stream.conn.peer_certificates().expect("it has one")[0].clone().into_owned()
    }
}

fn ask(stream: &mut Stream, method: &str, path: &str, body: &[u8]) -> Answer {
    harness::ask(stream, method, path, &[("content-type", "image/bmp")], body).expect("an answer")
}

/// One request on a connection that goes on, and how it was answered.
fn ask_and_keep(stream: &mut Stream) -> String {
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("it is sent");
    let mut text = Vec::new();
    // The body is `ok` and the end of a line.
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
fn uploads_come_encrypted_and_not_otherwise() {
    let secured = Secured::new();
    let web = secured.site.web();
    // Larger than what is read of a connection at a time.
    let mut large = image(1);
    large.resize(300_000, 0);
    let answer = ask(&mut secured.connect(&web).expect("a connection"), "POST", "/upload?wait=0", &large);
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(answer.header("strict-transport-security"), Some("max-age=31536000"));
    assert!(request(&web.address, "GET", "/livez", &[], b"").is_err(), "plain HTTP is not answered");
    assert_eq!(web.get("/metrics").status, 200, "the operator's side is as it was");
    assert!(web.process.log().contains("taking uploads on https://127.0.0.1:"), "{}", web.process.log());
}

#[test]
fn clients_that_speak_http_2_are_answered_in_it() {
    let secured = Secured::new();
    let web = secured.site.web();
    let mut client = (*secured.client).clone();
    client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut stream = secured.connect_as(&web, Arc::new(client)).expect("a connection");
    assert_eq!(stream.conn.alpn_protocol(), Some(&b"h2"[..]));
    // The preface, and settings without any; the server's own settings are the answer (RFC 9113, 3.4).
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").expect("it is sent");
    let mut frame = [0; 9];
    stream.read_exact(&mut frame).expect("a frame");
    assert_eq!(frame[3], 4, "{frame:?}");
}

#[test]
fn a_renewed_certificate_counts_for_new_connections_and_cuts_off_nobody() {
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
fn a_broken_pair_leaves_the_last_good_one_in_force_until_it_is_mended() {
    let secured = Secured::new();
    let web = secured.site.web();
    let first = secured.shown(&web);
    secured.write("key.pem", &KeyPair::generate().expect("a key").serialize_pem());
    let told =
        "key.pem: is not the key of the certificate in certificate.pem; the last good version stays in force";
    eventually("it is told", || web.process.log().contains(told).then_some(()));
    assert_eq!(secured.shown(&web), first);
    let second = secured.issue();
    eventually("it is shown", || (secured.shown(&web) == second).then_some(()));
}

#[test]
fn a_client_that_does_not_say_hello_holds_up_nobody() {
    let secured = Secured::new();
    let web = secured.site.web();
    let _silent: Vec<_> = (0..20).map(|_| TcpStream::connect(&web.address).expect("a connection")).collect();
    assert_eq!(ask(&mut secured.connect(&web).expect("a connection"), "GET", "/livez", b"").status, 200);
}

#[test]
fn a_pair_that_is_none_at_the_start_is_78_and_named() {
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
    ends_with("web.tls: key.pem: holds no private key");
    secured.issue();
    secured.write("certificate.pem", "");
    ends_with("web.tls: certificate.pem: holds no certificate");
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

#[test]
fn the_tools_speak_https_with_servers_that_somebody_trusted_vouches_for() {
    let secured = Secured::new();
    let (web, _worker) = (secured.site.web(), secured.site.worker());
    let port = web.address.rsplit(':').next().expect("a port");
    let samples = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/shapes/samples");
    let heart = format!("{samples}/heart_0.jpg");
    let mut other = CertificateParams::new(Vec::new()).expect("no name");
    other.distinguished_name.push(DnType::CommonName, "another authority");
    let key = KeyPair::generate().expect("a key");
    secured.write("other.pem", &other.self_signed(&key).expect("a certificate").pem());
    secured.write("empty.pem", "");
    let run = |host: &str, trusted: &str| {
        let url = format!("https://{host}:{port}");
        let load = ["load", "--url", &url, "--image-folder", samples, "--num-request", "20", "--quiet"];
        [&load[..], &["classify", &heart, "--url", &url]].map(|arguments| {
            let mut command = secured.site.command("eirs");
            command.args(arguments).env("SSL_CERT_FILE", trusted).env_remove("SSL_CERT_DIR");
            let output = command.output().expect("it runs");
            let said = [output.stdout, output.stderr].concat();
            (output.status.code(), String::from_utf8_lossy(&said).into_owned())
        })
    };
    let [(load, figures), (classify, label)] = run("localhost", "authority.pem");
    assert!(load == Some(0) && figures.contains("Results     20\n"), "{figures}");
    assert!(classify == Some(0) && label.starts_with("heart_0.jpg: "), "{label}");
    for (host, trusted, why) in [
        ("localhost", "other.pem", "invalid peer certificate: UnknownIssuer; SSL_CERT_FILE=FILE"),
        ("127.0.0.1", "authority.pem", "certificate not valid for name"),
        ("localhost", "none.pem", "No such file or directory"),
        ("localhost", "empty.pem", "this machine trusts no authority"),
    ] {
        for (code, said) in run(host, trusted) {
            assert_eq!(code, Some(1), "{said}");
            assert!(said.contains(&format!("https://{host}:{port}: no secure connection: ")), "{said}");
            assert!(said.contains(why), "{said}");
        }
    }
}
