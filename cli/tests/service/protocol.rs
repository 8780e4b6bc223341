//! Unusual but valid HTTP requests, and invalid ones.

use std::{
    io::{Read, Write},
    net::Shutdown,
};

use eirs_harness::{Answer, Site, Web, eventually, image, read_answer};

/// Sends these bytes, and reads to the end.
fn exchange(web: &Web, request: &[u8]) -> Answer {
    let mut stream = web.connect();
    stream.write_all(request).expect("sent");
    read_answer(&mut stream).expect("an answer")
}

/// An upload with these header lines, whose body is sent unchanged.
fn post(lines: &str, body: &[u8]) -> Vec<u8> {
    [format!("POST /upload HTTP/1.1\r\nconnection: close\r\n{lines}\r\n").as_bytes(), body].concat()
}

fn chunked(body: &[u8], extension: &str, trailers: &str) -> Vec<u8> {
    let head = format!("{:x}{extension}\r\n", body.len());
    [head.as_bytes(), body, format!("\r\n0\r\n{trailers}\r\n").as_bytes()].concat()
}

#[test]
fn a_request_of_http_1_1_names_one_host_and_one_of_http_1_0_need_not() {
    let site = Site::new();
    let (web, _worker) = (site.web(), site.worker());
    let length = format!("content-length: {}\r\n", image(1).len());
    for hosts in ["", "host: a\r\nhost: b\r\n", "host: a b\r\n", "host: a/b\r\n", "host: user@a\r\n"] {
        let answer = exchange(&web, &post(&format!("{hosts}{length}"), &image(1)));
        assert_eq!(answer.status, 400, "{hosts:?}: {answer:?}");
        assert!(answer.problem().to_ascii_lowercase().contains("host"), "{answer:?}");
    }
    for host in ["host:\r\n", "host: a:80\r\n", "host: [::1]:8000\r\n", "host: 192.0.2.1\r\n"] {
        let answer = exchange(&web, &post(&format!("{host}{length}"), &image(1)));
        assert_eq!(answer.status, 200, "{host:?}: {answer:?}");
    }
    let old = String::from_utf8(post(&length, b"")).expect("text").replace("HTTP/1.1", "HTTP/1.0");
    let answer = exchange(&web, &[old.as_bytes(), &image(1)].concat());
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[test]
fn an_http_1_0_client_that_half_closed_still_gets_its_answer() {
    let site = Site::new().set("EIRS_WEB__MAX_UPLOADS", "1");
    let web = site.web();
    let ask = |number| {
        let mut stream = web.connect();
        let head = format!("POST /upload HTTP/1.0\r\ncontent-length: {}\r\n\r\n", image(number).len());
        stream.write_all(&[head.as_bytes(), &image(number)].concat()).expect("sent");
        eventually("the upload waits", || (web.get("/status").json()["uploads"] == 1).then_some(()));
        stream
    };
    // A client that has left looks the same, and keeps no place.
    drop(ask(1));
    eventually("it has left", || (web.get("/status").json()["uploads"] == 0).then_some(()));
    let mut half = ask(2);
    half.shutdown(Shutdown::Write).expect("half closed");
    let mut first = [0];
    half.read_exact(&mut first).expect("the beginning of the answer");
    let _worker = site.worker();
    let mut rest = String::new();
    half.read_to_string(&mut rest).expect("the rest of it");
    let answer = String::from_utf8_lossy(&first) + &*rest;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.ends_with("noop"), "{answer}");
}

#[test]
fn chunks_are_read_with_extensions_and_trailers_and_other_codings_are_refused() {
    let site = Site::new();
    let (web, _worker) = (site.web(), site.worker());
    let lines = |coding: &str| format!("host: x\r\ntransfer-encoding: {coding}\r\n");
    for (extension, trailers) in
        [("", ""), (";", ""), (";a=\"b;c\"", ""), (" ", ""), ("", "x-sum: 1\r\ncontent-length: 7\r\n")]
    {
        let answer = exchange(&web, &post(&lines("chunked"), &chunked(&image(1), extension, trailers)));
        assert_eq!((answer.status, &*answer.body), (200, "noop"), "{extension:?} {trailers:?}: {answer:?}");
    }
    for coding in ["gzip, chunked", "chunked, chunked", "chunked\r\ntransfer-encoding: chunked"] {
        let answer = exchange(&web, &post(&lines(coding), &chunked(&image(1), "", "")));
        assert_eq!(answer.status, 501, "{coding}: {answer:?}");
        assert!(answer.problem().contains("Transfer-Encoding"), "{answer:?}");
    }
    for broken in ["zz\r\n", "fffffffffffffffff\r\n", "5\nhello"] {
        let answer = exchange(&web, &post(&lines("chunked"), broken.as_bytes()));
        assert_eq!(answer.status, 400, "{broken:?}: {answer:?}");
        assert!(answer.problem().starts_with("the body is broken: "), "{answer:?}");
    }
}

/// Sends a request of HTTP/2 with a header field of this many bytes. Returns status and body.
fn asked_in_http_2(web: &Web, bytes: usize) -> (u16, String) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let tcp = tokio::net::TcpStream::connect(&web.address).await.expect("a connection");
        let (mut sender, connection) =
            hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
                .handshake(hyper_util::rt::TokioIo::new(tcp))
                .await
                .expect("HTTP/2");
        let connection = tokio::spawn(connection);
        let request =
            hyper::Request::get(format!("http://{}/livez", web.address)).header("a", "x".repeat(bytes));
        let request = request.body(http_body_util::Empty::<bytes::Bytes>::new()).expect("a request");
        let (head, body) = sender.send_request(request).await.expect("an answer").into_parts();
        let body = http_body_util::BodyExt::collect(body).await.expect("a body").to_bytes();
        drop(sender);
        connection.await.expect("no panic").expect("it ends in order");
        (head.status.as_u16(), String::from_utf8(body.to_vec()).expect("text"))
    })
}

#[test]
fn a_header_of_http_2_that_is_too_large_is_refused_with_a_sentence() {
    let site = Site::new();
    let web = site.web();
    assert_eq!(asked_in_http_2(&web, 32_000), (200, "ok\n".to_owned()));
    for bytes in [33_000, 60_000] {
        let (status, body) = asked_in_http_2(&web, bytes);
        assert_eq!(status, 431, "{bytes}");
        let problem: serde_json::Value = serde_json::from_str(&body).expect("a document");
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(detail.contains("at most 32 KiB"), "{bytes}: {body}");
    }
    assert_eq!(asked_in_http_2(&web, 100_000), (431, String::new()), "docs/decisions/0017");
}

/// A refusal is well-formed even if no request could be parsed.
#[test]
fn invalid_http_is_refused_with_a_status_and_a_sentence() {
    let site = Site::new();
    let web = site.web();
    // With several requests at once, hyper reads a little more than its limit.
    let long = "x".repeat(100_000);
    let many = "a: b\r\n".repeat(101);
    for (request, status, what) in [
        ("hello\r\n\r\n", 400, "does not begin with a method"),
        ("G(T / HTTP/1.1\r\nhost: x\r\n\r\n", 400, "does not begin with a method"),
        ("GET /a\x07b HTTP/1.1\r\nhost: x\r\n\r\n", 400, "is not a URI"),
        ("GET / HTTP/1.1\r\nhost x\r\n\r\n", 400, "is not `name: value`"),
        ("GET / HTTP/1.1\r\nhost: x\r\n y: folded\r\n\r\n", 400, "is not `name: value`"),
        ("POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", 400, "Content-Length"),
        (
            "POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            400,
            "Content-Length",
        ),
        ("POST /upload HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n", 400, "Transfer-Encoding"),
        ("POST /upload HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n", 400, "Transfer-Encoding"),
        ("GET / HTTP/3.0\r\nhost: x\r\n\r\n", 505, "unsupported version of HTTP"),
        ("GET / HTTP/1.2\r\nhost: x\r\n\r\n", 505, "unsupported version of HTTP"),
        (&format!("GET / HTTP/1.1\r\nhost: x\r\na: {long}\r\n\r\n"), 431, "at most 32 KiB and 100 fields"),
        (&format!("GET /{long} HTTP/1.1\r\nhost: x\r\n\r\n"), 431, "at most 32 KiB"),
        (&format!("GET / HTTP/1.1\r\nhost: x\r\n{many}\r\n"), 431, "at most 32 KiB and 100 fields"),
    ] {
        let shown = &request[..request.len().min(80)];
        let answer = exchange(&web, request.as_bytes());
        assert_eq!(answer.status, status, "{shown:?}: {answer:?}");
        assert!(answer.problem().contains(what), "{shown:?}: {answer:?}");
        assert!(
            answer.header("date").is_some() && answer.header("connection") == Some("close"),
            "{answer:?}"
        );
        // The same after an answered request, and if both arrive at once.
        let both = [b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n", request.as_bytes()].concat();
        let second = exchange(&web, &both).body;
        assert!(second.starts_with(&format!("ok\nHTTP/1.1 {status} ")), "{shown:?}: {second}");
        assert!(second.ends_with("}\n") && second.contains(what), "{shown:?}: {second}");
    }
}

#[test]
fn a_client_that_keeps_sending_after_invalid_http_sees_the_refusal() {
    let site = Site::new();
    let web = site.web();
    for _ in 0..10 {
        let head = b"POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: 3 MB\r\n\r\n";
        let answer = exchange(&web, &[&head[..], &vec![7; 3_000_000]].concat());
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(answer.problem().contains("Content-Length"), "{answer:?}");
    }
}

/// Clients that leave give back their place at once, at any point.
#[test]
fn clients_that_leave_at_any_point_keep_no_place() {
    let site = Site::new().set("EIRS_WEB__MAX_UPLOADS", "1");
    let web = site.web();
    let uploads = |wanted: u64| {
        eventually("that many uploads", || (web.get("/status").json()["uploads"] == wanted).then_some(()));
    };
    let length = image(1).len();
    let whole = |more: &str| {
        [post(&format!("host: x\r\ncontent-length: {length}\r\n"), &image(1)), more.into()].concat()
    };
    let two = [chunked(&image(2), "", "").as_slice(), b"after"].concat();
    let phases: [(&str, Vec<u8>); 7] = [
        ("before its body", post("host: x\r\ncontent-length: 5000\r\n", b"")),
        ("in its body", post("host: x\r\ncontent-length: 5000\r\n", b"BM12345")),
        ("in a chunk", post("host: x\r\ntransfer-encoding: chunked\r\n", b"500\r\nBM12345")),
        (
            "when it was asked for its body",
            post("host: x\r\nexpect: 100-continue\r\ncontent-length: 500\r\n", b""),
        ),
        ("after its body", whole("")),
        ("after a line too much", whole("\r\n")),
        ("after another request", [whole(""), two].concat()),
    ];
    for (what, request) in phases {
        for is_half in [false, true] {
            let mut stream = web.connect();
            stream.write_all(&request).expect("sent");
            uploads(1);
            if is_half {
                stream.shutdown(Shutdown::Write).expect("half closed");
            }
            drop(stream);
            uploads(0);
            println!("{what}, half closed first: {is_half}");
        }
    }
}
