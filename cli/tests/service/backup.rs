//! A backup under load, and a service on the restored state.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use serde_json::Value;

use eirs_harness::{Site, eventually, image, upload};

fn eirs(site: &Site, arguments: &[&str]) -> Output {
    site.command("eirs").args(arguments).output().expect("it can be started")
}

/// As in docs/OPERATIONS.md: first the queue, then the images.
fn back_up(site: &Site, to: &Path) -> Value {
    let file = to.join("queue.db");
    let output = eirs(site, &["backup", &file.to_string_lossy(), "--json"]);
    assert!(output.status.success(), "{output:?}");
    let copied = Command::new("cp").arg("-a").args([site.state().join("images"), to.join("images")]).output();
    assert!(copied.is_ok_and(|copied| copied.status.success()));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn a_backup_under_load_ends_and_its_restore_has_all_accepted_images() {
    let site = Site::new();
    let web = site.web();
    let worker = site.worker();
    let (next, stop) = (AtomicU32::new(0), AtomicBool::new(false));
    let promised: Mutex<Vec<String>> = Mutex::default();
    let folder = tempfile::tempdir().expect("a folder");
    let (made, before) = std::thread::scope(|scope| {
        let uploading = || {
            while !stop.load(Relaxed) {
                let number = next.fetch_add(1, Relaxed);
                // Some are done before the backup; the jobs of others are in it.
                let query = if number.is_multiple_of(2) { "?wait=0" } else { "?wait=10s" };
                let answer = upload(&web.address, query, "x", &image(number)).expect("an answer");
                assert!(matches!(answer.status, 200 | 202), "{answer:?}");
                promised
                    .lock()
                    .expect("no panic")
                    .push(answer.json()["id"].as_str().expect("an id").to_owned());
            }
        };
        for _ in 0..8 {
            scope.spawn(uploading);
        }
        eventually("some uploads", || (next.load(Relaxed) > 400).then_some(()));
        let before = promised.lock().expect("no panic").clone();
        let start = Instant::now();
        let made = back_up(&site, folder.path());
        stop.store(true, Relaxed);
        assert!(start.elapsed() < Duration::from_secs(30), "it took {:?}", start.elapsed());
        (made, before)
    });
    let (web_log, worker_log) = (web.process.log(), worker.log());
    drop((web, worker));
    assert!(made["bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{made}");
    assert!(!web_log.contains("ERROR") && !worker_log.contains("ERROR"), "{web_log}\n{worker_log}");

    let restored = Site::new();
    fs::create_dir_all(restored.state()).expect("a folder");
    for name in ["queue.db", "images"] {
        fs::rename(folder.path().join(name), restored.state().join(name)).expect("both on one file system");
    }
    let web = restored.web();
    let _worker = restored.worker();
    assert!(before.len() > 300, "{} uploads were answered before", before.len());
    for id in before {
        assert_eq!(web.result(&id).json()["label"], "noop", "{id}");
    }
}

#[test]
fn a_backup_that_is_impossible_is_refused_in_one_sentence() {
    let site = Site::new();
    let refused = |arguments: &[&str], part: &str| {
        let output = eirs(&site, arguments);
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(part) && said.lines().count() == 1, "{said}");
    };
    refused(&["backup", "copy.db"], "nothing has run on the state folder");
    drop(site.web());
    assert!(eirs(&site, &["backup", "copy.db"]).status.success());
    refused(&["backup", "copy.db"], "the file exists already");
    refused(&["backup", "no/copy.db"], "no/copy.db");
}
