//! The webhook: the result of each 202 reaches the operator's receiver, signed, despite failures on
//! either side.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;

use eirs_harness::{Site, Web, eventually, image};

/// 32 bytes of the letter `k`.
const KEY: &str = "whsec_a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=";

/// The behaviour of the receiver.
#[derive(Debug, Clone, PartialEq)]
enum Mood {
    Takes,
    /// Responds to everything with this status.
    Says(&'static str),
    /// Does not respond until the mood changes.
    Silent,
    /// Refuses events that contain this name, like a receiver that cannot parse them.
    Refuses(&'static str),
}

/// A receiver that runs until the tests end.
struct Receiver {
    address: SocketAddr,
    mood: Arc<Mutex<Mood>>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    /// The names of images whose events were accepted, once per event.
    taken: Vec<String>,
    /// The ids of events, likewise.
    events: Vec<String>,
    requests: usize,
    paths: BTreeSet<String>,
}

impl Receiver {
    fn new(mood: Mood) -> Self {
        Self::on(&TcpListener::bind("127.0.0.1:0").expect("a port"), mood)
    }

    fn on(listener: &TcpListener, mood: Mood) -> Self {
        let listener = listener.try_clone().expect("a handle");
        let address = listener.local_addr().expect("an address");
        let (mood, seen) = (Arc::new(Mutex::new(mood)), Arc::<Mutex<Seen>>::default());
        thread::spawn({
            let (mood, seen) = (mood.clone(), seen.clone());
            move || {
                for stream in listener.incoming().flatten() {
                    let (mood, seen) = (mood.clone(), seen.clone());
                    thread::spawn(move || serve(stream, &mood, &seen));
                }
            }
        });
        Self { address, mood, seen }
    }

    fn is_now(&self, mood: Mood) {
        *self.mood.lock().expect("no panic") = mood;
    }

    fn taken(&self) -> Vec<String> {
        self.seen.lock().expect("no panic").taken.clone()
    }

    fn requests(&self) -> usize {
        self.seen.lock().expect("no panic").requests
    }

    fn site(&self) -> Site {
        let site = Site::new()
            .set("EIRS_WEB__WEBHOOK__URL", &format!("http://{}/hook", self.address))
            .set("EIRS_WEB__WEBHOOK__KEY", "key");
        fs::write(site.folder.path().join("key"), KEY).expect("the key");
        site
    }

    /// Waits until each of these was accepted at least once.
    fn has(&self, names: &[&str]) {
        eventually(&format!("{names:?} were taken"), || {
            let taken = self.taken();
            names.iter().all(|name| taken.iter().any(|taken| taken == name)).then_some(())
        });
    }
}

/// Serves the requests of one connection.
fn serve(stream: TcpStream, mood: &Mutex<Mood>, seen: &Mutex<Seen>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut stream = stream;
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if line.trim().is_empty() {
                break;
            }
            head.push(line.trim().to_owned());
        }
        let header = |name: &str| {
            let with = |line: &&String| line.to_ascii_lowercase().starts_with(&format!("{name}:"));
            head.iter().find(with).and_then(|line| line.split_once(": ")).map(|(_, value)| value.to_owned())
        };
        let mut body = vec![0; header("content-length")?.parse().ok()?];
        reader.read_exact(&mut body).ok()?;
        {
            let mut seen = seen.lock().expect("no panic");
            seen.requests += 1;
            seen.paths.insert(head.first()?.clone());
        }
        verify(&header("webhook-id")?, &header("webhook-timestamp")?, &header("webhook-signature")?, &body);
        let message: Value = serde_json::from_slice(&body).expect("JSON");
        let events = message["data"].as_array().expect("events").clone();
        let said = loop {
            let mood = mood.lock().expect("no panic").clone();
            match mood {
                Mood::Takes => break "204 No Content",
                Mood::Says(status) => break status,
                Mood::Refuses(name) if events.iter().any(|event| event["name"] == name) => {
                    break "422 Unprocessable Content";
                }
                Mood::Refuses(_) => break "200 OK",
                Mood::Silent => thread::park_timeout(Duration::from_millis(20)),
            }
        };
        if said.starts_with('2') {
            let mut seen = seen.lock().expect("no panic");
            let text = |value: &Value| value.as_str().expect("a text").to_owned();
            seen.taken.extend(events.iter().map(|event| text(&event["name"])));
            seen.events.extend(events.iter().map(|event| text(&event["event"])));
        }
        stream.write_all(format!("HTTP/1.1 {said}\r\ncontent-length: 0\r\n\r\n").as_bytes()).ok()?;
    }
}

/// Verifies a signature as in docs/WEBHOOK.md.
fn verify(id: &str, timestamp: &str, signatures: &str, body: &[u8]) {
    let key = STANDARD.decode(KEY.trim_start_matches("whsec_")).expect("the key");
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("a key");
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    let expected = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
    assert!(signatures.split(' ').any(|signature| signature == expected), "{signatures}, and not {expected}");
    let age_s = chrono::Utc::now().timestamp() - timestamp.parse::<i64>().expect("a time");
    assert!((-5..300).contains(&age_s), "signed {age_s} s ago");
}

fn promised(web: &Web, numbers: &[u32]) {
    for number in numbers {
        let answer = web.upload("?wait=0", &format!("{number}.bmp"), &image(*number));
        // A quick worker may have finished it already.
        assert!([200, 202].contains(&answer.status), "{answer:?}");
    }
}

#[test]
fn every_finished_job_is_delivered_once() {
    let receiver = Receiver::new(Mood::Takes);
    let site = receiver.site();
    let web = site.web();
    promised(&web, &[1, 2, 3]);
    let _worker = site.worker();
    receiver.has(&["1.bmp", "2.bmp", "3.bmp"]);
    eventually("it is counted", || {
        let metrics = web.get("/metrics").body;
        let has = |begin: &str| metrics.lines().any(|line| line.starts_with(begin));
        (has("eirs_webhook_events_total{outcome=\"taken\"} 3") && has("eirs_webhook_waiting 0")).then_some(())
    });
    assert_eq!(receiver.taken().len(), 3, "each once");
}

#[test]
fn events_are_retried_until_the_receiver_accepts_them() {
    for mood in [
        Mood::Says("500 Internal Server Error"),
        Mood::Says("302 Found\r\nlocation: /elsewhere"),
        Mood::Silent,
    ] {
        let receiver = Receiver::new(mood.clone());
        let site = receiver.site();
        let (web, _worker) = (site.web(), site.worker());
        // Uploads do not wait for the receiver.
        for number in 0..3 {
            let answer = web.upload("", &format!("{number}.bmp"), &image(number));
            assert_eq!((answer.status, &answer.json()["label"]), (200, &"noop".into()), "{mood:?}");
        }
        eventually("it was asked", || (receiver.requests() >= 1).then_some(()));
        assert!(receiver.taken().is_empty());
        receiver.is_now(Mood::Takes);
        receiver.has(&["0.bmp", "1.bmp", "2.bmp"]);
        let paths = receiver.seen.lock().expect("no panic").paths.clone();
        assert_eq!(paths.len(), 1, "no redirect is followed: {paths:?}");
    }
}

#[test]
fn a_receiver_gets_all_events_after_an_outage() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let site = {
        let gone = Receiver { address, mood: Arc::new(Mutex::new(Mood::Takes)), seen: Arc::default() };
        gone.site()
    };
    drop(listener);
    let (web, _worker) = (site.web(), site.worker());
    promised(&web, &[1, 2]);
    eventually("it was seen to be down", || {
        let failed = |line: &str| {
            line.starts_with("eirs_webhook_events_total{outcome=\"failed\"} ") && !line.ends_with(" 0")
        };
        web.get("/metrics").body.lines().any(failed).then_some(())
    });
    let receiver = Receiver::on(&TcpListener::bind(address).expect("the port is free again"), Mood::Takes);
    receiver.has(&["1.bmp", "2.bmp"]);
}

#[test]
fn a_killed_web_server_loses_no_event() {
    let receiver = Receiver::new(Mood::Says("503 Service Unavailable"));
    let site = receiver.site();
    let _worker = site.worker();
    let numbers: Vec<u32> = (0..20).collect();
    let mut web = site.web();
    for (n, number) in numbers.iter().enumerate() {
        promised(&web, &[*number]);
        if n % 5 == 4 {
            web.process.kill();
            web = site.web();
        }
    }
    web.process.kill();
    receiver.is_now(Mood::Takes);
    let _web = site.web();
    let names: Vec<_> = numbers.iter().map(|number| format!("{number}.bmp")).collect();
    receiver.has(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let seen = receiver.seen.lock().expect("no panic");
    let distinct: BTreeSet<_> = seen.events.iter().collect();
    assert_eq!(distinct.len(), numbers.len(), "an event that comes twice has the same id");
}

#[test]
fn an_event_that_the_receiver_refuses_blocks_no_other() {
    let receiver = Receiver::new(Mood::Silent);
    let site = receiver.site();
    let (web, _worker) = (site.web(), site.worker());
    let numbers: Vec<u32> = (0..12).collect();
    promised(&web, &numbers);
    eventually("all are done", || (site.stored_results() == numbers.len()).then_some(()));
    receiver.is_now(Mood::Refuses("5.bmp"));
    let others: Vec<_> = numbers.iter().filter(|n| **n != 5).map(|n| format!("{n}.bmp")).collect();
    receiver.has(&others.iter().map(String::as_str).collect::<Vec<_>>());
    receiver.is_now(Mood::Takes);
    // Its lease lasts a minute.
    eirs_harness::eventually_within(Duration::from_secs(120), "the one comes, too", || {
        receiver.taken().contains(&"5.bmp".to_owned()).then_some(())
    });
}

#[test]
fn the_backlog_of_events_is_bounded_and_dropped_ones_are_counted() {
    let receiver = Receiver::new(Mood::Says("500 Internal Server Error"));
    let site = receiver.site().set("EIRS_WEB__WEBHOOK__MAX_WAITING", "2");
    let (web, _worker) = (site.web(), site.worker());
    for number in 0..5 {
        assert_eq!(web.upload("", "x", &image(number)).status, 200);
    }
    eventually("three were dropped", || {
        let dropped = "eirs_webhook_events_total{outcome=\"dropped\"} 3";
        web.get("/metrics").body.lines().any(|line| line == dropped).then_some(())
    });
    assert_eq!(site.stored_results(), 5);
    assert!(web.process.log().contains("web.webhook.max_waiting"), "{}", web.process.log());
}

#[test]
fn an_invalid_key_or_url_is_refused_at_the_start() {
    let ends = |site: &Site| {
        let ended = site.command("eirs-web").arg("--check").output().expect("it runs");
        (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned())
    };
    let receiver = Receiver::new(Mood::Takes);
    let site = receiver.site();
    assert_eq!(ends(&site).0, Some(0));
    fs::write(site.folder.path().join("key"), "hunter2").expect("written");
    let (code, said) = ends(&site);
    assert_eq!(code, Some(78), "{said}");
    assert!(
        said.contains("web.webhook.key: key: line 1 does not begin") && !said.contains("hunter2"),
        "{said}"
    );
    let site = Site::new().set("EIRS_WEB__WEBHOOK__URL", "http://127.0.0.1:1/");
    let (code, said) = ends(&site);
    assert_eq!((code, said.contains("web.webhook: needs both")), (Some(78), true), "{said}");
}
