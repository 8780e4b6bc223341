//! Tests with a state folder of one machine.

use std::path::Path;

use bytes::Bytes;
use chrono::DateTime;
use eirs_controller::status::{PoolStatus, Status};
use eirs_platform::{
    job::{Guess, Outcome, Reply, encode},
    state_folder::{CONTROLLER_LOCK, Lock},
    testing::reply,
};

use super::controller::{Controller, problems};
use super::*;

async fn look(settings: &Settings) -> Report {
    local::Look::new(settings.clone()).look(Utc::now()).await
}

fn page(report: &Report) -> String {
    console::strip_ansi_codes(&report.text(Utc::now(), 80)).into_owned()
}

fn check(json: bool) -> Check {
    Check { json, watch: false }
}

fn settings(folder: &Path) -> Settings {
    let mut settings = Settings::default();
    settings.local.state = folder.to_owned();
    settings
}

fn pool() -> PoolStatus {
    serde_json::from_value(serde_json::json!({
        "name": "default", "model": "default", "policy_file": "policies/default.toml", "policy_error": null,
        "min": 0, "max": 2, "visible": 7, "in_flight": 1, "arrivals_per_s": 0.0, "done_per_s": 0.0,
        "desired": 1, "ready": 1, "starting": 0, "leaving": 0, "reason": "backlog 8",
        "instances": [],
    }))
    .unwrap()
}

fn controller_status(at: DateTime<Utc>) -> Status {
    serde_json::from_value(serde_json::json!({
        "version": "0", "pid": 1, "started_at": at, "at": at, "tick": "5s", "reloads": 0, "pools": [pool()],
        "policy_errors": ["x.toml:1: pool.max: is no number"], "problems": [], "decisions": [],
        "throughput_per_s": 1.5,
    }))
    .unwrap()
}

#[tokio::test]
async fn stores_are_counted_and_the_newest_results_are_shown() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path());
    let backend = state::open(&settings).await.unwrap();
    backend.images().put("images/1", Bytes::from("image")).await.unwrap();
    let classified = Outcome::Classified { top: vec![Guess { label: "tench".into(), confidence: 0.5 }] };
    for (name, outcome) in
        [("fish.jpg", classified), ("text.jpg", Outcome::Rejected { reason: "not an image".into() })]
    {
        let reply = Reply { name: name.into(), ..reply(name, outcome) };
        backend.results().put(&reply.id.result_key("default", "1"), encode(&reply)).await.unwrap();
    }
    let report = look(&settings).await;
    let text = page(&report);
    assert!(text.starts_with("No controller is running on "), "{text}");
    assert!(text.contains("1 image (5 B)\n2 results ("), "{text}");
    assert!(
        text.contains("(fish.jpg, tench)") && text.contains("(text.jpg, rejected: not an image)"),
        "{text}"
    );
    assert!(report.problems.is_empty() && text.ends_with("All is well.\n"), "{text}");
}

#[tokio::test]
async fn waiting_jobs_without_a_controller_are_a_problem() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path());
    let global = Global { config: None, state: Some(folder.path().to_owned()) };
    let backend = state::open(&settings).await.unwrap();
    backend.requests("default").await.unwrap().send(vec![Bytes::from("job")]).await.unwrap();
    let report = look(&settings).await;
    assert_eq!(
        report.problems,
        ["1 job in requests-default, and no controller is running to start \
        a worker"]
    );
    assert_eq!(check(true).run(&global).await.unwrap(), Exit::Failed);

    let _controller = Lock::take(folder.path(), CONTROLLER_LOCK).unwrap();
    assert_eq!(check(false).run(&global).await.unwrap(), Exit::Ok);
}

#[test]
fn complaints_and_silence_of_the_controller_are_problems() {
    let now = Utc::now();
    let running = Controller { running: true, pid: Some(1), at: Some(now), elsewhere: false };
    let found = problems(&running, Some(&controller_status(now)), &[], now);
    assert_eq!(found, ["policy x.toml:1: pool.max: is no number; the last good version is in force"]);
    let found = problems(&running, Some(&controller_status(now - chrono::Duration::seconds(60))), &[], now);
    assert_eq!(found[0], "the controller is running, but its last pass is 1m old; see its log");
}

#[test]
fn a_pause_with_waiting_jobs_and_a_refusing_instance_are_problems() {
    let now = DateTime::UNIX_EPOCH;
    let mut seen = controller_status(now);
    seen.policy_errors.clear();
    let running = Controller { running: true, pid: Some(1), at: Some(now), elsewhere: false };
    let order = serde_json::json!({ "since": now, "by": "alice" });
    seen.pools[0].paused = serde_json::from_value(order).unwrap();
    assert_eq!(problems(&running, Some(&seen), &[], now), Vec::<String>::new());
    seen.pools[0].would = vec!["start default-2".into()];
    seen.pools[0].instances = serde_json::from_value(serde_json::json!([{
        "id": "default-2", "state": "stopped", "since": now, "done_per_s": 0.0, "crashes": 0,
        "refused": { "verb": "start", "count": 3, "since": now, "at": now,
                     "capacity": true, "error": "no more" },
    }]))
    .unwrap();
    assert_eq!(
        problems(&running, Some(&seen), &[], now),
        [
            "the pool default is paused by alice, since 1970-01-01 00:00:00 UTC, with 7 jobs waiting; it \
             would start default-2",
            "default-2 refused to start 3 times in a row, no capacity: no more"
        ]
    );
}

#[test]
fn jobs_without_a_policy_that_wants_workers_are_a_problem() {
    let now = Utc::now();
    let mut seen = controller_status(now);
    seen.policy_errors.clear();
    let running = Controller { running: true, pid: Some(1), at: Some(now), elsewhere: false };
    assert!(problems(&running, Some(&seen), &[], now).is_empty());
    seen.pools[0].desired = 0;
    let found = problems(&running, Some(&seen), &[], now);
    assert_eq!(
        found,
        ["7 jobs waiting in the pool default, and its policy wants no worker for them (backlog 8)"]
    );
}

#[tokio::test]
async fn pools_of_a_running_controller_are_shown_as_a_table() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path());
    drop(state::open(&settings).await.unwrap());
    std::fs::write(settings.status_file(), serde_json::to_vec(&controller_status(Utc::now())).unwrap())
        .unwrap();
    let report = look(&settings).await;
    assert!(report.pools.is_empty(), "no process holds the lock, so the controller has ended");
    let _controller = Lock::take(folder.path(), CONTROLLER_LOCK).unwrap();
    let text = page(&look(&settings).await);
    assert!(
        text.contains("default       1      1         0        0        0        7          1  backlog 8\n"),
        "{text}"
    );
}

#[tokio::test]
async fn a_state_folder_of_another_version_is_reported_and_the_rest_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("layout"), "999").unwrap();
    let _controller = Lock::take(folder.path(), CONTROLLER_LOCK).unwrap();
    let report = look(&settings(folder.path())).await;
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
    assert!(
        report.problems[0].contains("has layout \"999\", this version of EIRS reads"),
        "{:?}",
        report.problems
    );
    let text = page(&report);
    assert!(text.contains(" is running, process ") && text.contains("? images\n"), "{text}");
}

#[tokio::test]
async fn dead_letters_are_a_problem_that_names_the_command_to_list_them() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path());
    let backend = state::open(&settings).await.unwrap();
    backend.dead_letters("default").await.unwrap().send(vec![Bytes::from("job")]).await.unwrap();
    let report = look(&settings).await;
    assert_eq!(report.problems, ["1 dead letter in dead-default; `eirs dead-letters list` says why"]);
    let rows: Vec<_> =
        page(&report).lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert!(rows.contains(&"dead-default 1 0 dead letters".to_owned()), "{rows:?}");
}

#[tokio::test]
async fn a_check_of_no_state_folder_fails_and_does_not_create_it() {
    let folder = tempfile::tempdir().unwrap();
    let global = Global { config: None, state: Some(folder.path().join("none")) };
    for json in [false, true] {
        assert_eq!(check(json).run(&global).await.unwrap(), Exit::Failed, "json: {json}");
    }
    assert!(!folder.path().join("none").exists());
}
