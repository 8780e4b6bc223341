//! `eirs update`: a new image for running machines, during uploads and after kills. One machine is
//! tried, the others follow in waves, and a bad image changes nothing.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};

use serde_json::Value;

use crate::{
    cloud::{Cloud, OUTPUT, POLICY, parse, said},
    serving::controller,
};
use eirs_harness::{Process, Site, eventually, eventually_within, image, upload};

/// A machine runs the baked programs and settings, not those of the test's folder.
const BAKED: [&str; 2] = ["--instance-command", "eirs-worker --config $DESTDIR/etc/eirs/eirs.toml"];
const MINUTES: std::time::Duration = std::time::Duration::from_secs(300);

/// The classifier as a setting: a line of `sh`.
fn classifier(shell: &str) -> (&'static str, String) {
    ("EIRS_MODELS__DEFAULT__COMMAND", Value::from(vec!["sh", "-c", shell, "sh"]).to_string())
}

fn cloud(policy: &str) -> Option<Cloud> {
    let cloud = Cloud::of(Site::with_script("echo cat"), &BAKED)?;
    cloud.policy(policy);
    cloud.set_up();
    Some(cloud)
}

/// Runs `eirs update` with another classifier; returns the exit code and the output.
fn update(cloud: &Cloud, shell: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let (key, value) = classifier(shell);
    let mut command = cloud.site.command("eirs");
    let output = command.env(key, value).args(["update", "--yes"]).args(arguments).output();
    let output = output.expect("eirs runs");
    (output.status.code(), said(&output))
}

/// The same, without waiting for the end.
fn begin(cloud: &Cloud, shell: &str, arguments: &[&str]) -> Process {
    cloud.site.start_with("eirs", &[&["update", "--yes"], arguments].concat(), &[classifier(shell)])
}

fn status(cloud: &Cloud) -> Value {
    let output = cloud.eirs(&["update", "--status", "--json"]);
    assert!(output.status.success(), "{}", said(&output));
    parse(&String::from_utf8_lossy(&output.stdout))
}

/// Returns the workers of the controller, with the image of each.
fn workers(cloud: &Cloud) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let handed_over = cloud.instances().into_iter().filter(|it| it["tags"]["eirs:handed-over"] == "yes");
    handed_over.map(|it| (text(&it["id"]), text(&it["image"]), text(&it["state"]))).collect()
}

fn images_of_workers(cloud: &Cloud) -> BTreeSet<String> {
    workers(cloud).into_iter().map(|(_, image, _)| image).collect()
}

#[test]
fn a_pool_of_fifteen_gets_a_new_model_under_uploads_without_errors() {
    const MIN: usize = 2;
    let policy = POLICY.replace("max = 3", "max = 15\nmin = 2");
    let Some(cloud) = cloud(&policy) else { return };
    let (web, _controller) = (cloud.site.web(), controller(&cloud));
    let running = || workers(&cloud).iter().filter(|(_, _, state)| state == "running").count();
    eventually("the least that may run", || (running() >= MIN).then_some(()));
    let before = images_of_workers(&cloud);
    let (is_over, next) = (AtomicBool::new(false), AtomicU32::new(0));
    let labels = std::sync::Mutex::new(Vec::new());
    let (code, printed, fewest) = std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let answer = upload(&web.address, "?wait=60s", "x", &image(number)).expect("an answer");
                    labels.lock().expect("no panic").push((answer.status, answer.json()["label"].clone()));
                    std::thread::park_timeout(std::time::Duration::from_millis(400));
                }
            });
        }
        let fewest = scope.spawn(|| {
            let mut fewest = usize::MAX;
            while !is_over.load(Ordering::Relaxed) {
                fewest = fewest.min(running());
                std::thread::park_timeout(std::time::Duration::from_millis(100));
            }
            fewest
        });
        eventually("something was uploaded", || (cloud.stored(OUTPUT) > 5).then_some(()));
        let (code, printed) = update(&cloud, "printf 'cat\\n'", &[]);
        is_over.store(true, Ordering::Relaxed);
        (code, printed, fewest.join().expect("no panic"))
    });
    assert_eq!(code, Some(0), "{printed}");
    let after = workers(&cloud);
    assert!(
        after.len() == 15 && after.iter().all(|(_, image, _)| !before.contains(image)),
        "{after:?} {printed}"
    );
    let labels = labels.into_inner().expect("no panic");
    assert!(
        labels.len() > 20 && labels.iter().all(|(status, label)| *status == 200 && label == "cat"),
        "{labels:?}"
    );
    assert!(fewest >= MIN, "{fewest} ran, and {MIN} is the least: {printed}");
    let status = status(&cloud);
    assert_eq!(
        (&status["update"]["phase"], &status["pools"]["default"]["of_it"]),
        (&"done".into(), &15.into())
    );
    assert_eq!(
        status["update"]["verdicts"]["default"]["agreed"],
        status["update"]["verdicts"]["default"]["known"]
    );
}

#[test]
fn a_bad_model_is_rolled_back_after_one_machine_without_errors() {
    let Some(cloud) = cloud(POLICY) else { return };
    let (web, _controller) = (cloud.site.web(), controller(&cloud));
    for number in 0..6 {
        assert_eq!(web.upload("?wait=60s", "x", &image(number)).json()["label"], "cat");
    }
    cloud.until_all_are_parked();
    let (stored, before) = (cloud.stored(OUTPUT), workers(&cloud));
    let images = cloud.state()["images"].clone();
    for (bad, why) in [
        ("echo dog", "0 of 6 images that were uploaded lately got the label that they have"),
        ("sleep 2; echo cat", "times as long as before"),
    ] {
        let launched = cloud.emulator.calls("RunInstances");
        let (code, printed) = update(&cloud, bad, &[]);
        assert_eq!(code, Some(1), "{printed}");
        assert!(printed.contains(why) && printed.contains("have the previous image again"), "{printed}");
        assert_eq!(
            cloud.emulator.calls("RunInstances") - launched,
            2,
            "the one that is baked, and one: {printed}"
        );
        assert_eq!(workers(&cloud), before, "the machines are those of before");
        assert_eq!(cloud.stored(OUTPUT), stored, "nothing of it is stored");
        assert_eq!(cloud.state()["images"], images, "and its image is gone");
        assert_eq!(status(&cloud)["update"]["phase"], "rolled_back");
    }
    assert_eq!(web.upload("?wait=60s", "x", &image(100)).json()["label"], "cat");
}

#[test]
fn a_killed_update_is_continued_and_a_paused_one_can_be_rolled_back() {
    let Some(cloud) = cloud(&POLICY.replace("max = 3", "max = 5")) else { return };
    let _controller = controller(&cloud);
    let before = images_of_workers(&cloud);
    let is_mixed = || images_of_workers(&cloud).len() == 2;
    let mut first = begin(&cloud, "printf 'cat\\n'", &["--wave", "1"]);
    eventually_within(MINUTES, "some are new", || is_mixed().then_some(()));
    first.kill();
    assert_eq!(workers(&cloud).len().max(5), workers(&cloud).len(), "never fewer than there were");
    let (code, printed) = update(&cloud, "printf 'cat\\n'", &["--wave", "2"]);
    assert_eq!(code, Some(0), "{printed}");
    let new = images_of_workers(&cloud);
    assert!(new.len() == 1 && new.is_disjoint(&before) && workers(&cloud).len() == 5, "{new:?} {before:?}");

    // The next update is paused after its first machine, and rolled back.
    let mut second = begin(&cloud, "printf 'cat\\n\\n'", &["--wave", "1"]);
    eventually_within(MINUTES, "some are new", || is_mixed().then_some(()));
    cloud.expect(&["update", "--pause"]);
    assert_eq!(second.exit().code(), Some(1), "{}", second.log());
    assert!(second.log().contains("The update is paused"), "{}", second.log());
    let paused = status(&cloud);
    assert_eq!((&paused["update"]["is_paused"], &paused["is_carried_out"]), (&true.into(), &false.into()));
    let (code, printed) = update(&cloud, "printf 'cat\\n\\n'", &[]);
    assert!(code == Some(1) && printed.contains("An update is paused"), "{printed}");
    cloud.expect(&["update", "--rollback"]);
    assert!(images_of_workers(&cloud) == new && workers(&cloud).len() == 5, "{:?}", workers(&cloud));
    assert_eq!(status(&cloud)["update"]["phase"], "rolled_back");
}

#[test]
fn machines_that_the_controller_launched_are_replaced_too_under_uploads() {
    let launch = "[launch]\nmost = 3\nstart_delay = \"2s\"\n";
    let policy =
        POLICY.replace("max = 3", "max = 1").replace("per_instance = 5", "per_instance = 2") + launch;
    let Some(cloud) = Cloud::of(Site::with_script("sleep 1; echo cat"), &BAKED) else { return };
    cloud.policy(&policy);
    cloud.set_up();
    let (web, _controller) = (cloud.site.web(), controller(&cloud));
    let launched = || {
        let all = cloud.instances().into_iter().filter(|it| it["tags"]["eirs:tier"] == "launched");
        all.map(|it| it["image"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    let before = images_of_workers(&cloud);
    let (is_over, next) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let answer = upload(&web.address, "?wait=60s", "x", &image(number)).expect("an answer");
                    assert_eq!((answer.status, answer.json()["label"].clone()), (200, "cat".into()));
                }
            });
        }
        let _ends_the_uploads = Ends(&is_over);
        eventually("some are launched", || (launched().len() >= 2).then_some(()));
        let (code, printed) = update(&cloud, "sleep 1; printf 'cat\\n'", &[]);
        assert_eq!(code, Some(0), "{printed}");
        assert!(printed.contains("waiting until") && printed.contains("is drained"), "{printed}");
        assert!(launched().iter().all(|image| !before.contains(image)), "{printed}");
        eventually("more are launched, of the new image", || (!launched().is_empty()).then_some(()));
        assert!(images_of_workers(&cloud).is_disjoint(&before), "{:?} {printed}", workers(&cloud));
    });
}

/// Signals the end, even after a failed assertion.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_newer_base_image_gives_another_image_and_the_last_ones_are_kept() {
    let Some(cloud) = cloud(POLICY) else { return };
    for number in 1..=4 {
        let (code, printed) = update(&cloud, &format!("echo cat # {number}"), &[]);
        assert_eq!(code, Some(0), "{printed}");
    }
    let images = cloud.state()["images"].as_array().map(Vec::len);
    // That of the machines, the previous one, and two more.
    assert_eq!(images, Some(4));
    let printed = cloud.expect(&["update", "--status"]);
    assert!(printed.contains("pool default: 3 with the new image, 0 with others"), "{printed}");
}

/// EC2's descriptions of machines are seconds old: setup, update and cleanup take longer, with the
/// same result.
fn late(lag: &str) {
    let options = [&BAKED[..], &["--describe-lag", lag]].concat();
    let Some(cloud) = Cloud::of(Site::with_script("echo cat"), &options) else { return };
    let before = cloud.state();
    cloud.set_up();
    assert_eq!(cloud.instances().len(), 3, "no more than the pool may have");
    let first = images_of_workers(&cloud);
    let launched = cloud.emulator.calls("RunInstances");
    let (code, printed) = update(&cloud, "printf 'cat\\n'", &["--wave", "2"]);
    assert_eq!(code, Some(0), "{printed}");
    assert!(workers(&cloud).len() == 3 && images_of_workers(&cloud).is_disjoint(&first), "{printed}");
    assert_eq!(
        cloud.emulator.calls("RunInstances") - launched,
        4,
        "the one that is baked, and three: {printed}"
    );
    cloud.expect(&["cleanup", "--mode", "delete", "--yes"]);
    assert_eq!(cloud.state(), before);
}

#[test]
fn setup_update_and_cleanup_work_with_late_descriptions() {
    late("4");
}

/// Takes minutes: `make bench-aws` runs it.
#[test]
#[ignore = "waits for minutes"]
fn setup_update_and_cleanup_work_with_descriptions_half_a_minute_late() {
    late("30");
}
