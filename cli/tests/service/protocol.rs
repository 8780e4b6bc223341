//! Requests as HTTP allows them and clients seldom send them, and such as it does not allow.

use std::{
    io::{Read, Write},
    net::Shutdown,
};

use eirs_harness::{Answer, Site, Web, eventually, image, read_answer};

/// Sends this as it is, and reads to the end.
fn exchange(web: &Web, request: &[u8]) -> Answer {
    let mut stream = web.connect();
    stream.write_all(request).expect("sent");
    read_answer(&mut stream).expect("an answer")
}

/// An upload with these lines in its header, of a body that is sent as it is.
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
fn a_client_of_http_1_0_that_has_closed_its_sending_half_still_gets_its_answer() {
    let site = Site::new().set("EIRS_WEB__MAX_UPLOADS", "1");
    let web = site.web();
    let ask = |number| {
        let mut stream = web.connect();
        let head = format!("POST /upload HTTP/1.0\r\ncontent-length: {}\r\n\r\n", image(number).len());
        stream.write_all(&[head.as_bytes(), &image(number)].concat()).expect("sent");
        eventually("the upload waits", || (web.get("/status").json()["uploads"] == 1).then_some(()));
        stream
    };
    // One that has left looks the same, and keeps no place.
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

/// Everybody who leaves gives back the place at once, wherever they were.
#[test]
fn clients_that_leave_keep_no_place_whatever_they_were_at() {
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
