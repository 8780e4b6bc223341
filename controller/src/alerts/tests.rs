use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
};

use chrono::TimeDelta;
use serde_json::Value;

use super::*;
use crate::decide::{
    Action, decide,
    tests::{NOW, at, busy, history, policies, seen, stopped},
};

const KEY: &str = "whsec_a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=";

fn found(policies: &Policies, seen: &Observation, history: &History) -> Vec<Kind> {
    let plan = decide(policies, seen, history);
    let alerts = find(policies, seen, &plan, history, &BTreeMap::new());
    assert!(alerts.iter().all(|alert| alert.summary.starts_with("p: ")), "{alerts:?}");
    alerts.into_iter().map(|alert| alert.alert).collect()
}

fn refused(error: &str, count: u32, capacity: bool) -> Refused {
    Refused { verb: Verb::Start, count, since: at(NOW), at: at(NOW), error: error.to_owned(), capacity }
}

#[test]
fn a_working_pool_has_no_alert_and_failing_starts_are_one() {
    let policies = policies(&[("p", "max = 3")]);
    let mut seen = seen(&[("p", Some(30))], vec![busy("p-1"), stopped("p-2"), stopped("p-3")]);
    let history = history(&[(2000, 30)], &seen);
    assert_eq!(found(&policies, &seen, &history), []);
    seen.refused.insert("p-2".into(), refused("no such image", 2, false));
    assert_eq!(found(&policies, &seen, &history), [], "twice may be chance");
    seen.refused.insert("p-2".into(), refused("no such image", 3, false));
    assert_eq!(found(&policies, &seen, &history), [Kind::StartsFail]);
    seen.refused.insert("p-2".into(), refused("none left", 9, true));
    seen.refused.insert("p-3".into(), refused("none left", 9, true));
    assert_eq!(found(&policies, &seen, &history), [Kind::NoCapacity]);
    seen.hears = false;
    assert!(found(&policies, &seen, &history).contains(&Kind::Deaf));
}

#[test]
fn instances_that_fail_repeatedly_are_an_alert() {
    let policies = policies(&[("p", "max = 3")]);
    let seen = seen(&[("p", Some(30))], vec![busy("p-1"), stopped("p-2")]);
    let mut history = history(&[(2000, 30)], &seen);
    for failures in 1..=3 {
        assert_eq!(found(&policies, &seen, &history), [], "after {} failures", failures - 1);
        let mut plan = decide(&policies, &seen, &history);
        let (deadline, cause) = (Duration::ZERO, crate::decide::Cause::NeverReady);
        let drain = Action::Drain { id: "p-2".into(), deadline, cause };
        plan.pools.get_mut("p").unwrap().actions = vec![drain];
        history = history.remember(&plan);
    }
    assert_eq!(found(&policies, &seen, &history), [Kind::StartsFail]);
}

#[test]
fn a_budget_is_an_alert_at_half_at_four_fifths_and_when_it_pays_for_no_instance() {
    let policy = |text: &str| crate::policy::parse(std::path::Path::new("p.toml"), text).unwrap();
    let one_hour = policy("[budget]\ninstance_hours_per_day = 1");
    let step = |used_s, affordable| budget_step(used_s, &one_hour, Some(affordable));
    assert_eq!([step(1799.0, 1), step(1800.0, 1), step(2880.0, 1)], [0, 50, 80]);
    assert_eq!(
        [step(3500.0, 0), step(3600.0, 1), step(100.0, 0)],
        [100, 100, 0],
        "a paced budget pays again later"
    );
    assert_eq!(budget_step(1e9, &policy(""), None), 0);
}

fn alert(alert: Kind) -> Alert {
    Alert { alert, pool: "p".into(), summary: "p: it is so".into(), since: at(0) }
}

#[test]
fn an_alert_begins_after_a_minute_and_ends_after_five() {
    let mut ledger = Ledger::default();
    let deaf = || vec![alert(Kind::Deaf)];
    assert_eq!(ledger.observe(deaf(), at(0)), []);
    assert_eq!(ledger.observe(vec![], at(30)), []);
    assert_eq!(ledger.observe(deaf(), at(60)), [], "the minute begins again");
    let events = ledger.observe(deaf(), at(120));
    assert_eq!((events.len(), events[0].state), (1, State::Firing));
    assert_eq!(ledger.observe(deaf(), at(125)), events, "it was not accepted yet");
    ledger.taken(events);
    assert_eq!(ledger.observe(deaf(), at(130)), []);
    assert_eq!(ledger.observe(vec![], at(140)), []);
    assert_eq!(ledger.observe(deaf(), at(300)), []);
    assert_eq!(ledger.observe(vec![], at(310)), []);
    let ended = ledger.observe(vec![], at(610));
    assert_eq!((ended[0].state, ended[0].until), (State::Resolved, Some(at(310))));
    ledger.taken(ended);
    assert_eq!(ledger.observe(vec![], at(9999)), []);
}

#[test]
fn a_new_controller_knows_which_alerts_were_sent() {
    let mut ledger = Ledger::default();
    ledger.observe(vec![alert(Kind::NoCapacity)], at(0));
    let events = ledger.observe(vec![alert(Kind::NoCapacity)], at(60));
    ledger.taken(events);
    let mut next: Ledger = serde_json::from_value(serde_json::to_value(&ledger).unwrap()).unwrap();
    assert_eq!(next.observe(vec![alert(Kind::NoCapacity)], at(9999)), []);
    assert_eq!(next.observe(vec![], at(10_000)), []);
    assert_eq!(next.observe(vec![], at(10_300)).len(), 1);
}

/// Runs a pass per second until the receiver has got this many requests. It answers with these
/// statuses, and then with 204.
async fn received(statuses: &[u16], requests: usize) -> Vec<(String, String, Value)> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let statuses = statuses.to_vec();
    let receiver = std::thread::spawn(move || {
        let statuses = statuses.into_iter().chain(std::iter::repeat(204));
        let serve = |(stream, status): (std::io::Result<std::net::TcpStream>, u16)| {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut header = BTreeMap::new();
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                match line.trim().split_once(": ") {
                    Some((name, value)) => drop(header.insert(name.to_lowercase(), value.to_owned())),
                    None if line.trim().is_empty() => break,
                    None => {}
                }
            }
            let mut body = vec![0; header["content-length"].parse().unwrap()];
            reader.read_exact(&mut body).unwrap();
            write!(stream, "HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").unwrap();
            let stamp = header["webhook-timestamp"].parse().unwrap();
            let keys = eirs_platform::webhook::Keys::parse(KEY.as_bytes()).unwrap();
            assert_eq!(header["webhook-signature"], keys.sign(&header["webhook-id"], stamp, &body));
            let id = header["webhook-id"].clone();
            (id, String::from_utf8(body.clone()).unwrap(), serde_json::from_slice(&body).unwrap())
        };
        listener.incoming().zip(statuses).take(requests).map(serve).collect()
    });
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    std::fs::write(&key, KEY).unwrap();
    let settings = eirs_platform::settings::AlertWebhook { url: Some(url), key: Some(key) };
    let mut sender = Sender::open(&settings).unwrap().unwrap();
    let mut ledger = Ledger::default();
    for second in 0.. {
        let now = at(NOW) + TimeDelta::seconds(second);
        sender.update(&mut ledger, vec![alert(Kind::Budget80), alert(Kind::SloBurn)], now).await;
        if !ledger.known.is_empty() {
            break;
        }
        let answered = async {
            while sender.is_sending() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), answered).await.expect("an answer from the receiver");
        assert!(second < 10_000, "no request was accepted");
    }
    receiver.join().unwrap()
}

#[tokio::test]
async fn new_alerts_are_sent_signed_in_one_request() {
    let all = received(&[], 1).await;
    let (_, _, message) = &all[0];
    assert_eq!(message["type"], "eirs.alerts");
    let said = |n: usize, key: &str| message["data"][n][key].as_str().unwrap().to_owned();
    assert_eq!([said(0, "alert"), said(1, "alert")], ["budget_80", "slo_burn"]);
    let first = ["state", "pool", "summary", "since"].map(|key| said(0, key));
    assert_eq!(first, ["firing", "p", "p: it is so", "1970-01-01T00:00:00Z"]);
}

#[tokio::test]
async fn a_refused_message_is_sent_again_unchanged() {
    let all = received(&[503, 422], 3).await;
    let [(id, body, _), (again, same, _), (third, whole, _)] = &all[..] else { panic!("{all:?}") };
    assert_eq!([again, third], [id, id]);
    assert_eq!([same, whole], [body, body]);
}

#[test]
fn an_invalid_key_is_refused_with_its_setting_and_without_an_address_nothing_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    std::fs::write(&key, "hunter2").unwrap();
    let url = Some("http://127.0.0.1:1/".to_owned());
    let settings = eirs_platform::settings::AlertWebhook { url, key: Some(key) };
    let why = Sender::open(&settings).unwrap_err();
    assert!(why.starts_with("controller.webhook.key: ") && !why.contains("hunter2"), "{why}");
    assert!(Sender::open(&Default::default()).unwrap().is_none());
}
