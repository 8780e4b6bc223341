//! Texts of the page that could easily claim too much.

use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};

use crate::visit::Visit;
use eirs_harness::{Site, eventually};

/// The text about an image that was sent, given the state of its pool and the number of images
/// before it.
fn said(visit: &Visit, pool: &Value, before: Option<u32>) -> String {
    let body = "const [pool, before] = arguments;
      return import('/assets/words.js').then(({ waitingFor }) => waitingFor(pool, before));";
    let said = visit.browser.script(body, &[pool.clone(), json!(before)]).expect("a script that runs");
    said.as_str().expect("words").to_owned()
}

#[test]
fn a_waiting_image_shows_only_known_facts() {
    let site = Site::new();
    let web = site.web();
    let Some(visit) = Visit::to(&web) else { return };
    let unknown = "waiting for its label";
    assert_eq!(said(&visit, &Value::Null, None), unknown);
    // Workers that are ready, starting and wanted; jobs that are waiting and in flight; and the
    // number of images before this one.
    for (workers, jobs, before, expected) in [
        ([0, 0, 0], [1, 0], Some(0), "waiting for a worker"),
        ([0, 0, 2], [1, 0], Some(0), "waiting for a worker"),
        ([0, 1, 1], [1, 0], Some(0), "starting a worker"),
        ([0, 1, 1], [1, 0], None, "starting a worker"),
        // A worker that is leaving may have the job.
        ([0, 0, 0], [0, 1], Some(0), "classifying"),
        ([1, 0, 1], [0, 1], Some(0), "classifying"),
        ([1, 0, 1], [0, 4], None, unknown),
        ([1, 0, 1], [0, 0], Some(0), unknown),
        ([1, 0, 1], [41, 4], Some(40), "waiting behind about 40 images"),
        ([1, 0, 1], [41, 4], Some(1), "waiting behind about 1 image"),
        ([1, 0, 1], [41, 4], Some(0), unknown),
        ([1, 0, 1], [41, 4], None, unknown),
    ] {
        let pool = json!({"ready": workers[0], "starting": workers[1], "desired": workers[2],
            "visible": jobs[0], "in_flight": jobs[1], "paused": null, "learnt": {"start_delay_s": null}});
        assert_eq!(said(&visit, &pool, before), expected, "{pool} {before:?}");
    }
    let mut pool = json!({"ready": 0, "starting": 0, "visible": null, "in_flight": null, "paused": {}});
    assert_eq!(said(&visit, &pool, Some(0)), "waiting: the pool is paused");
    pool["learnt"] = json!({"start_delay_s": 95.2});
    pool["starting"] = 1.into();
    assert_eq!(said(&visit, &pool, Some(0)), "starting a worker (usually 1 min)");
    pool["ready"] = 1.into();
    assert_eq!(said(&visit, &pool, Some(0)), unknown, "the queue could not be read");
}

#[test]
fn the_names_of_plots_have_their_time_span() {
    for (seconds, expected) in [(120, "10 minutes"), (25 * 60 + 30, "25 minutes"), (3590, "hour")] {
        let site = Site::new();
        let file = site.state().join("recording/observations.jsonl");
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        let line = |age| {
            let at = Utc::now() - TimeDelta::seconds(age);
            json!({"v": 1, "at": at, "pool": "default", "arrived": 1, "visible": 0, "in_flight": 0,
                "ready": 1, "starting": 0, "leaving": 0, "desired": 1})
        };
        let lines: Vec<_> = (0..=seconds).rev().step_by(30).map(|age| line(age).to_string()).collect();
        std::fs::write(file, lines.join("\n")).expect("a recording");
        let web = site.web();
        let Some(visit) = Visit::to(&web) else { return };
        let title = format!("The last {expected}");
        eventually("the heading says it", || (visit.text("#past") == title).then_some(()));
        for name in visit.plots() {
            assert!(name.starts_with(&format!("Over the last {expected}: ")), "{name}");
        }
    }
}

#[test]
fn a_worker_that_becomes_ready_counts_once() {
    let site = Site::new();
    let web = site.web();
    let Some(visit) = Visit::to(&web) else { return };
    let body = "
const statuses = [...arguments];
return import('/assets/charts.js').then((charts) => {
  charts.begin({ every_s: 10, columns: [], rows: [] });
  statuses.forEach(charts.add);
  return document.querySelector('#instances + .axis').textContent;
});";
    let status = |second: u32, starting: u32, ready: u32| {
        let pool = json!({"starting": starting, "ready": ready, "desired": 4});
        json!({"at": format!("2026-01-01T00:00:0{second}Z"), "controller": {"pools": [pool]}})
    };
    let axis = visit.browser.script(body, &[status(1, 4, 0), status(2, 0, 4)]).expect("a script that runs");
    assert!(axis.as_str().is_some_and(|axis| axis.contains("up to 5")), "{axis}");
}

#[test]
fn costs_are_shown_with_readable_digits() {
    let site = Site::new();
    let web = site.web();
    let Some(visit) = Visit::to(&web) else { return };
    for (usd, expected) in [
        (json!(null), "\u{2013}"),
        (json!(0), "$0"),
        (json!(9.6e-7), "< $0.0001"),
        (json!(0.0001), "$0.00010"),
        (json!(0.0123), "$0.01"),
        (json!(12.345), "$12.35"),
    ] {
        let body = "return import('/assets/words.js').then(({ money }) => money(arguments[0]));";
        let body = body.replace("arguments[0]", &usd.to_string());
        assert_eq!(visit.script(&body), expected, "{usd}");
    }
}
