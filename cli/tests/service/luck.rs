//! Bad luck of a running service: replaced files, a read-only disk, and disk space that comes and
//! goes.

use std::{
    fs,
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    thread,
};

use eirs_harness::{POLICY, Site, Web, eventually, image, sample, upload};
use rusqlite::Connection;

use super::{
    full_disk::{SmallDisk, leave_free},
    metrics::value,
};

fn id_of(answer: &eirs_harness::Answer) -> String {
    answer.json()["id"].as_str().expect("an id").to_owned()
}

/// A site with the model of shapes in its own files.
fn with_files() -> Site {
    let site = Site::with_model()
        .set("EIRS_MODELS__DEFAULT__PATH", "model.onnx")
        .set("EIRS_CONTROLLER__TICK", "300ms");
    for (name, file) in [("shapes.onnx", "model.onnx"), ("labels.txt", "labels.txt")] {
        replace(&site, file, &shapes(name));
    }
    site
}

fn shapes(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/shapes").join(name);
    fs::read(path).expect("a file of the model")
}

/// Replaces a file atomically, as a careful operator does.
fn replace(site: &Site, file: &str, content: &[u8]) {
    let (beside, file) = (site.folder.path().join("beside"), site.folder.path().join(file));
    fs::write(&beside, content).expect("a file");
    fs::rename(beside, file).expect("it is in its place");
}

/// A unique image of a star.
fn star(number: u32) -> Vec<u8> {
    [&sample("star_0.jpg")[..], &number.to_le_bytes()].concat()
}

#[test]
fn replacing_the_model_with_a_broken_one_under_load_loses_nothing() {
    let broken: [(&str, Vec<u8>); 3] = [
        ("model.onnx", b"this is no model".to_vec()),
        ("model.onnx", shapes("shapes.onnx")[..20_000].to_vec()),
        ("labels.txt", b"circle\nring\n".to_vec()),
    ];
    for (file, broken) in broken {
        let site = with_files();
        let web = site.web();
        let mut controller = site.controller(POLICY);
        assert_eq!(web.upload("?wait=60s", "x", &star(0)).json()["label"], "star");
        let (whole, next, stop) =
            (fs::read(site.folder.path().join(file)).expect("it"), AtomicU32::new(1), AtomicBool::new(false));
        let promised = thread::scope(|scope| {
            let uploads = scope.spawn(|| {
                let mut promised = Vec::new();
                while !stop.load(Relaxed) {
                    let answer = web.upload("?wait=100ms", "x", &star(next.fetch_add(1, Relaxed)));
                    match answer.status {
                        200 => assert_eq!(answer.json()["label"], "star", "{file}: {answer:?}"),
                        202 => promised.push(id_of(&answer)),
                        _ => panic!("{file}: {answer:?}"),
                    }
                    thread::park_timeout(std::time::Duration::from_millis(20));
                }
                promised
            });
            let _ends = Ends(&stop);
            replace(&site, file, &broken);
            let version = web.get("/status").json()["versions"]["default"].clone();
            eventually("the change is noticed, or refused", || {
                let is_other = web.get("/status").json()["versions"]["default"] != version;
                (is_other || controller.log().contains(file) || web.process.log().contains(file))
                    .then_some(())
            });
            let before = next.load(Relaxed);
            eventually("a while has passed", || (next.load(Relaxed) > before + 40).then_some(()));
            replace(&site, file, &whole);
            let restored = next.load(Relaxed);
            eventually("a new image is classified again", || {
                let again = web.upload("?wait=2s", "x", &star(1_000_000 + next.load(Relaxed)));
                (again.status == 200 && next.load(Relaxed) > restored).then_some(())
            });
            stop.store(true, Relaxed);
            uploads.join().expect("every upload was taken")
        });
        for id in promised {
            assert_eq!(web.result(&id).json()["label"], "star", "{file}: a 202 is a promise");
        }
        controller.kill();
    }
}

#[test]
fn an_image_folder_that_became_a_file_is_created_again() {
    let site = Site::with_script("cat \"$1\" > /dev/null && echo cat");
    let temporary = site.folder.path().join("temporary");
    fs::create_dir(&temporary).expect("a folder");
    let site = site.set("TMPDIR", &temporary.display().to_string());
    let (web, _worker) = (site.web(), site.worker());
    assert_eq!(web.upload("", "x", &image(0)).json()["label"], "cat");
    for folder in fs::read_dir(&temporary).expect("a folder") {
        let folder = folder.expect("an entry").path();
        fs::remove_dir_all(&folder).expect("deleted");
        fs::write(&folder, "").expect("a file");
    }
    assert_eq!(web.upload("?wait=60s", "x", &image(1)).json()["label"], "cat");
}

#[test]
fn a_read_only_state_folder_is_one_sentence_and_its_jobs_are_kept() {
    let site = Site::new();
    let Some(_disk) = SmallDisk::under(&site, "64m") else { return };
    let remount = |how: &str| {
        let options = format!("remount,{how}");
        let done =
            Command::new("mount").args(["-o", &options]).arg(site.state()).output().expect("mount runs");
        assert!(done.status.success(), "{done:?}");
    };
    let id = {
        let web = site.web();
        id_of(&web.upload("?wait=0", "x", &image(0)))
    };
    remount("ro");
    for (program, arguments) in [
        ("eirs-web", &["--listen", "127.0.0.1:0"][..]),
        ("eirs-worker", &[]),
        ("eirs-controller", &[]),
        ("eirs", &["local", "--listen", "127.0.0.1:0"]),
    ] {
        let ended = site.command(program).args(arguments).output().expect("it runs");
        let said = String::from_utf8_lossy(&ended.stderr);
        let sentences: Vec<_> = said.lines().filter(|line| line.contains("Read-only file system")).collect();
        assert_eq!((ended.status.code(), sentences.len()), (Some(1), 1), "{program}: {said}");
        assert!(sentences[0].contains(&site.state().display().to_string()), "{program}: {said}");
    }
    remount("rw");
    let (web, _worker) = (site.web(), site.worker());
    assert_eq!(web.result(&id).json()["label"], "noop");
}

/// Ends the clients when this is dropped.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Uploads until `stop`, with several clients; returns the accepted images, and the number of
/// refusals for lack of space.
fn upload_until(address: &str, stop: &AtomicBool, next: &AtomicU32) -> (Vec<String>, u32) {
    let (mut promised, mut refused) = (Vec::new(), 0);
    while !stop.load(Relaxed) {
        let mut body = image(next.fetch_add(1, Relaxed));
        body.resize(3000, 1);
        let answer = upload(address, "?wait=0", "x", &body).expect("an answer");
        match answer.status {
            200 | 202 => promised.push(id_of(&answer)),
            507 => {
                assert!(answer.header("retry-after").is_some(), "{answer:?}");
                assert_eq!(answer.problem().lines().count(), 1, "{answer:?}");
                refused += 1;
            }
            _ => panic!("{answer:?}"),
        }
        // The disk is small.
        thread::park_timeout(std::time::Duration::from_millis(20));
    }
    (promised, refused)
}

#[test]
fn crossing_the_floor_repeatedly_under_load_loses_nothing() {
    let site = Site::new();
    let Some(_disk) = SmallDisk::under(&site, "96m") else { return };
    let (web, _worker) = (site.web(), site.worker());
    let (stop, next) = (AtomicBool::new(false), AtomicU32::new(0));
    let is_full = |web: &Web| value(web, "eirs_store_full") == Some(1.0);
    let (promised, refused) = thread::scope(|scope| {
        let clients: Vec<_> =
            (0..4).map(|_| scope.spawn(|| upload_until(&web.address, &stop, &next))).collect();
        // Also after a failed assertion below.
        let _ends = Ends(&stop);
        for round in 0..3 {
            let filler = site.state().join("filler");
            let file = fs::File::create(&filler).expect("a file");
            // Well below the floor, which is a tenth of 96 MiB, because the size of the database's
            // log varies.
            leave_free(&file, 3 << 20);
            eventually("the floor is reached", || is_full(&web).then_some(()));
            let before = next.load(Relaxed);
            eventually("uploads are tried meanwhile", || (next.load(Relaxed) > before + 100).then_some(()));
            assert_eq!(web.get("/readyz").status, 507, "round {round}");
            fs::remove_file(&filler).expect("deleted");
            drop(file);
            eventually("it takes images again", || (!is_full(&web)).then_some(()));
            let before = next.load(Relaxed);
            eventually("uploads are tried again", || (next.load(Relaxed) > before + 100).then_some(()));
        }
        stop.store(true, Relaxed);
        let ends: Vec<_> = clients.into_iter().map(|client| client.join().expect("no panic")).collect();
        let refused: u32 = ends.iter().map(|(_, refused)| refused).sum();
        (ends.into_iter().flat_map(|(promised, _)| promised).collect::<Vec<_>>(), refused)
    });
    assert!(refused > 0 && promised.len() > 100, "{refused} refused, {} promised", promised.len());
    eventually("a 202 is a promise", || (site.stored_results() == promised.len()).then_some(()));
    for id in promised.iter().step_by(10) {
        assert_eq!(web.result(id).json()["label"], "noop");
    }
}

#[test]
fn a_state_folder_of_the_first_layout_with_jobs_in_flight_is_migrated() {
    let site = Site::with_model();
    let (waiting, held) = (star(1), star(2));
    fs::create_dir_all(site.state().join("blobs/images")).expect("folders");
    fs::write(site.state().join("layout"), "1").expect("a file");
    // The tables of that version.
    let file = Connection::open(site.state().join("queue.db")).expect("a database");
    file.execute_batch(
        "PRAGMA journal_mode = WAL;
         CREATE TABLE queues (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, messages INTEGER NOT NULL DEFAULT 0);
         CREATE TABLE messages (id INTEGER PRIMARY KEY AUTOINCREMENT, queue INTEGER NOT NULL, visible_from INTEGER NOT NULL,
             receives INTEGER NOT NULL DEFAULT 0, sent_at INTEGER NOT NULL, body BLOB NOT NULL);
         CREATE INDEX by_visibility ON messages (queue, visible_from, id);
         INSERT INTO queues VALUES (1, 'requests-default', 2);
         PRAGMA user_version = 1;",
    )
    .expect("tables");
    let now = chrono::Utc::now();
    let ids = [(&waiting, 0, 0), (&held, 1, 5000)].map(|(content, receives, lease_ms)| {
        let id = eirs_platform::job::JobId::of(content);
        fs::write(site.state().join(format!("blobs/images/{id}")), content).expect("an image");
        let body = serde_json::json!({
            "v": 1, "id": id, "name": "x", "model": "default", "reply_to": "responses-local", "sent_at": now,
        });
        let at = now.timestamp_millis();
        file.execute(
            "INSERT INTO messages (queue, visible_from, receives, sent_at, body) VALUES (1, ?1, ?2, ?3, ?4)",
            rusqlite::params![at + lease_ms, receives, at, body.to_string().into_bytes()],
        )
        .expect("a message");
        id.to_string()
    });
    drop(file);
    let (web, _worker) = (site.web(), site.worker());
    for id in ids {
        assert_eq!(web.result(&id).json()["label"], "star");
    }
}

#[test]
fn an_upload_does_not_wait_for_a_dropped_job_even_if_others_wait() {
    let site = Site::new().set("EIRS_QUEUE__RETENTION", "8s");
    let web = site.web();
    thread::scope(|scope| {
        let old = scope.spawn(|| web.upload("?wait=50s", "x", &image(0)));
        let id = eirs_platform::job::JobId::of(&image(0)).to_string();
        eventually("it is queued", || (web.get(&format!("/results/{id}")).status == 202).then_some(()));
        let polled = scope.spawn({
            let (web, id) = (&web, id.clone());
            move || web.get(&format!("/results/{id}?wait=50s"))
        });
        // Younger jobs wait all the time.
        let mut younger = 1;
        while !old.is_finished() {
            assert_eq!(web.upload("?wait=0", "x", &image(younger)).status, 202);
            younger += 1;
            thread::park_timeout(std::time::Duration::from_millis(100));
        }
        let old = old.join().expect("no panic");
        assert_eq!(old.status, 503, "{old:?}");
        assert!(old.problem().contains("upload it again"), "{old:?}");
        let polled = polled.join().expect("no panic");
        assert_eq!(polled.status, 410, "{polled:?}");
    });
    let id = eirs_platform::job::JobId::of(&image(0)).to_string();
    drop(web);
    let web = site.web();
    assert_eq!(web.upload("?wait=0", "x", &image(100_000)).status, 202);
    assert_eq!(web.get(&format!("/results/{id}")).status, 410, "after a restart as well");
    let _worker = site.worker();
    assert_eq!(
        web.upload("?wait=60s", "x", &image(0)).json()["label"],
        "noop",
        "and it can be uploaded again"
    );
}
