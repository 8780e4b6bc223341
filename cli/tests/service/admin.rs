//! The operator's listener, separate or shared.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
};

use rustix::process::Signal;

use eirs_harness::{NEVER, POLICY, Site, eventually, image, request, upload};

const OPERATORS: [(&str, &str, u16); 3] =
    [("GET", "/status", 200), ("GET", "/metrics", 200), ("POST", "/doorbell", 202)];

#[test]
fn operator_endpoints_are_not_on_the_upload_listener() {
    let site = Site::new();
    let web = site.web();
    let admin = web.admin.clone().expect("it has a listener of its own");
    assert!(admin.starts_with("127.0.0.1:") && admin != web.address);
    for (method, path, status) in OPERATORS {
        let asked = |address: &str| request(address, method, path, &[], b"").expect("an answer").status;
        assert_eq!((asked(&admin), asked(&web.address)), (status, 404), "{path}");
    }
    for path in ["/livez", "/readyz"] {
        assert_eq!(request(&admin, "GET", path, &[], b"").expect("an answer").status, 200);
    }
    assert_eq!(request(&admin, "POST", "/upload", &[], b"x").expect("an answer").status, 404);
}

#[test]
fn without_an_admin_listener_operator_endpoints_need_a_token() {
    let site = Site::new().set("EIRS_WEB__ADMIN_LISTEN", "");
    let web = site.web();
    assert_eq!(web.admin, None);
    for (method, path, status) in OPERATORS {
        assert_eq!(
            request(&web.address, method, path, &[], b"").expect("an answer").status,
            status,
            "{path}"
        );
    }
    drop(web);
    let site = site.set("EIRS_WEB__TOKENS", "tokens.json");
    assert!(site.command("eirs").args(["token", "add", "x"]).output().expect("it runs").status.success());
    let web = site.web();
    for (method, path, _) in OPERATORS {
        assert_eq!(request(&web.address, method, path, &[], b"").expect("an answer").status, 401, "{path}");
    }
}

/// Requests the event stream, which has no end.
fn watch(address: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(NEVER)).expect("a socket");
    stream.write_all(b"GET /events HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("it is sent");
    stream
}

#[test]
fn the_operator_sees_a_drain_to_its_end_and_clients_are_disconnected() {
    let site = Site::with_script("until test -f go; do sleep 0.05; done; echo cat");
    let (mut web, _worker) = (site.web(), site.worker());
    let admin = web.admin.clone().expect("it has a listener of its own");
    let address = web.address.clone();
    let held = std::thread::spawn(move || upload(&address, "", "x", &image(1)).expect("an answer"));
    eventually("it waits", || (web.get("/status").json()["waiting"] == 1).then_some(()));
    let (mut client, mut operator) = (watch(&web.address), BufReader::new(watch(&admin)));
    web.process.signal(Signal::TERM);
    client.read_to_end(&mut Vec::new()).expect("an end");
    let mut line = String::new();
    while !line.contains("\"draining\":true") {
        line.clear();
        assert!(operator.read_line(&mut line).expect("an event") > 0, "it ended before that was sent");
    }
    std::fs::write(site.folder.path().join("go"), "").expect("a file");
    assert_eq!(held.join().expect("it ends").json()["label"], "cat");
    assert!(web.process.exit().success(), "{}", web.process.log());
}

#[test]
fn the_live_state_can_be_hidden_from_clients() {
    let page = |address: &str| {
        let html = [("accept", "text/html")];
        request(address, "GET", "/", &html, b"").expect("an answer").body
    };
    let description = |address: &str| {
        let answer = request(address, "GET", "/openapi.json", &[], b"").expect("an answer");
        answer.json()["paths"]["/events"].is_object()
    };
    let events = |address: &str| {
        let mut head = [0; 15];
        watch(address).read_exact(&mut head).expect("an answer");
        String::from_utf8_lossy(&head).into_owned()
    };
    for (live, at_uploads, mark, status) in [
        ("everybody", true, "<body>", "HTTP/1.1 200 OK"),
        ("operator", false, "<body data-half=\"uploads\" data-hints=\"{", "HTTP/1.1 404 No"),
    ] {
        let web = Site::new().set("EIRS_WEB__LIVE", live).web();
        let admin = web.admin.clone().expect("it has a listener of its own");
        assert!(page(&web.address).contains(mark), "{live}");
        assert_eq!((events(&web.address).as_str(), description(&web.address)), (status, at_uploads));
        assert!(page(&admin).contains("<body data-half=\"live\">"), "{live}");
        assert_eq!((events(&admin).as_str(), description(&admin)), ("HTTP/1.1 200 OK", true));
    }
}

#[test]
fn dns_rebinding_gives_no_access_to_operator_endpoints() {
    let web = Site::new().set("EIRS_WEB__ADMIN_HOSTS", "[\"ops.example.org\"]").web();
    let admin = web.admin.clone().expect("it has a listener of its own");
    let status = |address: &str, method: &str, path: &str, host: &str| {
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(NEVER)).expect("a socket");
        write!(stream, "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")
            .expect("sent");
        let mut head = [0; 12];
        stream.read_exact(&mut head).expect("an answer");
        String::from_utf8_lossy(&head[9..]).into_owned()
    };
    for (method, path, code) in OPERATORS {
        assert_eq!(status(&admin, method, path, "evil.example"), "421", "{path}");
        for own in [&*admin, "localhost", "ops.example.org"] {
            assert_eq!(status(&admin, method, path, own), code.to_string(), "{path} of {own}");
        }
    }
    assert_eq!(status(&web.address, "GET", "/livez", "photos.example"), "200", "a proxy passes its name on");
}

#[test]
fn one_address_cannot_take_all_event_streams() {
    let web = Site::new().web();
    let begin = |stream: &mut TcpStream| {
        let mut head = [0; 12];
        stream.read_exact(&mut head).expect("an answer");
        String::from_utf8_lossy(&head[9..]).into_owned()
    };
    let mut watching: Vec<_> = (0..50).map(|_| watch(&web.address)).collect();
    assert!(watching.iter_mut().all(|stream| begin(stream) == "200"));
    assert_eq!(begin(&mut watch(&web.address)), "429");
    // A closed connection makes room.
    watching.pop();
    eventually("a place is free", || (begin(&mut watch(&web.address)) == "200").then_some(()));
}

#[test]
fn the_doorbell_triggers_a_pass_long_before_the_tick() {
    let site = Site::new().set("EIRS_CONTROLLER__TICK", "10m");
    let web = site.web();
    let _controller = site.controller(POLICY);
    let looked = || web.get("/status").json()["controller"]["at"].as_str().map(str::to_owned);
    let first = eventually("it has looked", looked);
    let admin = web.admin.clone().expect("it has a listener of its own");
    eventually("it looks again", || {
        let rung = request(&admin, "POST", "/doorbell", &[], b"").expect("an answer");
        assert_eq!(rung.status, 202, "{rung:?}");
        looked().filter(|at| *at != first)
    });
}

#[test]
fn a_taken_port_is_one_sentence_with_the_setting() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("its address").to_string();
    let site = Site::new().set("EIRS_WEB__ADMIN_LISTEN", &address).set("EIRS_WEB__LISTEN", "127.0.0.1:0");
    let mut process = site.start("eirs-web", &[]);
    assert_eq!(process.exit().code(), Some(1));
    let log = process.log();
    assert!(
        log.contains(&format!("web.admin_listen: cannot listen on {address}")) && log.contains("in use"),
        "{log}"
    );
}
