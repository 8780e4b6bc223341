//! Every refusal arrives, even if the client sends all of its body before it reads the answer.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    time::{Duration, Instant},
};

use eirs_harness::{Answer, NEVER, Site, Web, eventually, image, read_answer, request};

/// Sends a body of a given size, like clients that read only after sending everything.
fn send(address: &str, path: &str, bytes: usize) -> std::io::Result<Answer> {
    let mut body = image(1);
    body.resize(bytes, 7);
    request(address, "POST", path, &[("content-type", "image/bmp")], &body)
}

fn check(address: &str, path: &str, status: u16, bytes: usize) -> Answer {
    let mut last = None;
    for attempt in 0..10 {
        let answer = send(address, path, bytes);
        let answer =
            answer.unwrap_or_else(|error| panic!("{status}, {bytes} bytes, attempt {attempt}: {error}"));
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(!answer.problem().is_empty());
        last = Some(answer);
    }
    last.expect("ten attempts")
}

#[test]
fn a_client_that_sends_before_it_reads_sees_why_it_was_refused() {
    let site = Site::new().set("EIRS_WEB__MAX_BACKLOG", "0").set("EIRS_WEB__MAX_IMAGE", "4MiB");
    let web = site.web();
    for bytes in [10_000, 3_000_000, 30_000_000] {
        check(&web.address, "/upload?model=nope", 404, bytes);
        check(&web.address, "/upload?wait=soon", 400, bytes);
        check(&web.address, "/nowhere", 404, bytes);
        check(&web.address, "/livez", 405, bytes);
    }
    check(&web.address, "/upload", 413, 30_000_000);
    let full = check(&web.address, "/upload", 503, 3_000_000);
    assert!(full.header("retry-after").is_some(), "{full:?}");
}

#[test]
fn refusals_by_rate_or_token_arrive_despite_a_large_body() {
    let site = Site::new().set("EIRS_WEB__RATE_PER_ADDRESS", "0.01").set("EIRS_WEB__RATE_BURST", "1");
    let web = site.web();
    assert_eq!(request(&web.address, "GET", "/results/x", &[], b"").expect("an answer").status, 404);
    let often = check(&web.address, "/upload", 429, 12_000_000);
    assert!(often.header("retry-after").is_some(), "{often:?}");
}

#[test]
fn a_client_with_expect_100_continue_is_refused_before_its_body() {
    let site = Site::new();
    let web = site.web();
    let mut stream = web.connect();
    let head = "POST /upload?model=nope HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n\
        content-length: 5000000\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("sent");
    let answer = read_answer(&mut stream).expect("an answer, and the end of the connection");
    assert_eq!(answer.status, 404, "{answer:?}");
}

#[test]
fn a_too_large_content_length_is_refused_before_the_body() {
    let site = Site::new();
    let web = site.web();
    for expects in ["", "expect: 100-continue\r\n"] {
        let mut stream = web.connect();
        let head = format!(
            "POST /upload HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
             {expects}content-length: 99999999999\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).expect("sent");
        let mut begin = [0; 12];
        stream.read_exact(&mut begin).expect("an answer");
        assert_eq!(&begin, b"HTTP/1.1 413");
    }
}

/// Returns the answer to a client that sends one byte per second.
fn dribble(web: &Web, head: &str) -> Answer {
    let mut stream = web.connect();
    stream.write_all(head.as_bytes()).expect("sent");
    let mut sending = stream.try_clone().expect("a handle");
    let sender = std::thread::spawn(move || {
        while sending.write_all(b"1\r\nB\r\n").is_ok() {
            std::thread::park_timeout(Duration::from_millis(200));
        }
    });
    let answer = read_answer(&mut stream).expect("an answer");
    let _gone = stream.shutdown(Shutdown::Both);
    sender.join().expect("no panic");
    answer
}

#[test]
fn a_very_slow_client_blocks_no_other_and_is_disconnected() {
    let site = Site::new().set("EIRS_WEB__UPLOAD_DEADLINE", "2s").set("EIRS_WEB__LINGER", "1s");
    let (web, _worker) = (site.web(), site.worker());
    std::thread::scope(|scope| {
        let dribbling = scope.spawn(|| {
            dribble(
                &web,
                "POST /upload HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n",
            )
        });
        // A client that announces the largest image and sends nothing takes no memory, either.
        let mut silent: Vec<_> = (0..8).map(|_| web.connect()).collect();
        for stream in &mut silent {
            let head = b"POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: 16777216\r\n\r\n";
            stream.write_all(head).expect("sent");
        }
        let began = Instant::now();
        assert_eq!(web.upload("?wait=5s", "x", &image(1)).status, 200);
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        assert_eq!(dribbling.join().expect("no panic").status, 408);
    });
}

#[test]
fn abandoned_uploads_take_no_place() {
    let site = Site::new().set("EIRS_WEB__MAX_UPLOADS", "4");
    let web = site.web();
    let left: Vec<TcpStream> = (0..4)
        .map(|number| {
            let mut stream = web.connect();
            let form = eirs_harness::form(&[("myfile", "x", &image(number))]);
            // With bytes after the form, which are not needed but must be read.
            let head = format!(
                "POST /upload HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=XX\r\n\
                 content-length: {}\r\n\r\n",
                form.len() + 5
            );
            stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&form)).expect("sent");
            stream.write_all(b"after").expect("sent");
            stream
        })
        .collect();
    eventually("all wait", || (web.get("/status").json()["waiting"] == 4).then_some(()));
    assert_eq!(web.upload("?wait=0", "x", &image(9)).status, 429);
    drop(left);
    eventually("their places are free", || (web.get("/status").json()["uploads"] == 0).then_some(()));
    assert_eq!(web.upload("?wait=0", "x", &image(9)).status, 202);
}

#[test]
fn connections_per_address_and_the_time_for_headers_are_limited() {
    let site = Site::new()
        .set("EIRS_WEB__MAX_CONNECTIONS_PER_ADDRESS", "5")
        .set("EIRS_WEB__HEADER_TIMEOUT", "1s")
        .set("EIRS_WEB__IDLE_TIMEOUT", "1s");
    let web = site.web();
    let mut slow: Vec<_> = (0..5).map(|_| web.connect()).collect();
    for stream in &mut slow {
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost:").expect("sent");
    }
    let refused = eventually("the sixth is refused", || {
        request(&web.address, "GET", "/livez", &[], b"").ok().filter(|answer| answer.status == 429)
    });
    assert_eq!((refused.header("retry-after"), refused.problem().contains("connections")), (Some("1"), true));
    eventually("the slow ones are gone", || {
        request(&web.address, "GET", "/livez", &[], b"").ok().filter(|answer| answer.status == 200)
    });
    for mut stream in slow {
        let mut rest = Vec::new();
        let _reset = stream.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
    }
    // An idle connection ends by itself.
    let mut idle = web.connect();
    idle.set_read_timeout(Some(NEVER)).expect("a time-out");
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").expect("sent");
    let mut all = String::new();
    idle.read_to_string(&mut all).expect("it ends");
    assert!(all.starts_with("HTTP/1.1 200") && all.ends_with("ok\n"), "{all}");
}

#[test]
fn when_all_connections_are_taken_idle_ones_are_closed() {
    let site = Site::new().set("EIRS_WEB__MAX_CONNECTIONS", "10");
    let web = site.web();
    let _idle: Vec<_> = (0..30).map(|_| web.connect()).collect();
    for _ in 0..5 {
        assert_eq!(request(&web.address, "GET", "/livez", &[], b"").expect("an answer").status, 200);
    }
}
