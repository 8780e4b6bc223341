//! Uploads on AWS: workers start from zero, classify, drain and stop, and several web hosts serve
//! at the same time.

use std::collections::BTreeMap;

use rustix::process::Signal;

use crate::cloud::{Cloud, OUTPUT, POLICY, free_address, parse};
use eirs_harness::{Process, Site, eventually, eventually_within, image, request, sample, upload};

/// A controller that follows the policies of the cloud's folder.
pub fn controller(cloud: &Cloud) -> Process {
    let controller = cloud.site.start("eirs-controller", &[]);
    eventually("the controller looks", || cloud.site.state().join("status.json").exists().then_some(()));
    controller
}

/// Uploads images concurrently, retrying until they are accepted, and returns the label of each.
pub fn upload_all(address: &str, numbers: std::ops::Range<u32>) -> BTreeMap<u32, String> {
    let next = std::sync::atomic::AtomicU32::new(numbers.start);
    let labels = std::sync::Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if number >= numbers.end {
                        return;
                    }
                    let label = eventually("an image gets its label", || {
                        let answer = upload(address, "?wait=20s", "x", &image(number)).ok()?;
                        (answer.status == 200)
                            .then(|| answer.json()["label"].as_str().map(str::to_owned))
                            .flatten()
                    });
                    labels.lock().expect("no panic").insert(number, label);
                }
            });
        }
    });
    labels.into_inner().expect("no panic")
}

#[test]
fn workers_start_from_zero_classify_drain_over_ssm_and_return_to_zero() {
    let Some(cloud) = Cloud::of(Site::with_model(), &[]) else { return };
    cloud.set_up();
    assert_eq!(cloud.in_state("stopped").len(), 3, "parked, and nobody pays");
    let (web, mut controller) = (cloud.site.web(), controller(&cloud));
    let answer = web.upload("", "heart_0.jpg", &sample("heart_0.jpg")).json();
    assert_eq!(answer["label"], "heart", "{answer}");
    let worker = answer["worker"].as_str().expect("a worker").to_owned();
    assert!(
        cloud.instances().iter().any(|instance| instance["id"] == worker.as_str()),
        "it is an instance: {answer}"
    );
    assert_eq!(web.result(answer["id"].as_str().expect("an id")).json()["label"], "heart");
    cloud.until_all_are_parked();
    let log = cloud.instance_log(&worker);
    assert!(log.contains("taking jobs") && log.contains("drained"), "{log}");
    assert!(cloud.emulator.calls("SendCommand") >= 1, "it was drained over SSM");

    // And again, with many uploads at once.
    let mut seen = BTreeMap::new();
    for name in ["star_0.jpg", "ring_1.jpg", "cross_0.jpg", "bolt_1.jpg"] {
        seen.insert(name, web.upload("", name, &sample(name)).json()["label"].clone());
    }
    let expected = ["star", "ring", "cross", "bolt"];
    assert!(expected.iter().all(|label| seen.values().any(|seen| seen == label)), "{seen:?}");
    cloud.until_all_are_parked();
    controller.signal(Signal::TERM);
    assert!(controller.exit().success(), "{}", controller.log());
    assert_eq!(cloud.stored(OUTPUT), 6, "five results, and the note of their version");
}

#[test]
fn a_burst_uses_several_instances_and_survives_the_loss_of_some() {
    let site = Site::with_script("sleep 0.3; echo cat");
    let Some(cloud) = Cloud::of(site, &[]) else { return };
    cloud.set_up();
    let (web, mut controller) = (cloud.site.web(), controller(&cloud));
    std::thread::scope(|scope| {
        let uploads = scope.spawn(|| upload_all(&web.address, 0..40));
        let several = eventually("several instances work", || {
            Some(cloud.in_state("running")).filter(|running| running.len() >= 2)
        });
        cloud.kill_instance(&several[0]);
        let labels = uploads.join().expect("no panic");
        assert_eq!(labels.len(), 40);
        assert!(labels.values().all(|label| label == "cat"), "{labels:?}");
    });
    cloud.until_all_are_parked();
    assert_eq!(cloud.stored(OUTPUT), 41, "one result each, the note of their version, and nothing else");
    controller.signal(Signal::TERM);
    assert!(controller.exit().success());
}

/// Parked machines cost nothing here, and a launched one a dollar per second.
#[test]
fn eirs_status_counts_launched_machines_at_their_own_price() {
    let Some(cloud) = Cloud::of(Site::with_script("sleep 1; echo cat"), &[]) else { return };
    let free = "[instance]\nusd_per_hour = 0\ndisk_usd_per_month = 0\n";
    let policy = POLICY.replace("max = 3", "max = 1").replace("[instance]\n", free);
    cloud.policy(&(policy + "[launch]\nmost = 3\nstart_delay = \"2s\"\nusd_per_hour = 3600\n"));
    cloud.set_up();
    let (web, mut controller) = (cloud.site.web(), controller(&cloud));
    let today = || {
        let status = parse(&String::from_utf8_lossy(&cloud.eirs(&["status", "--json"]).stdout));
        let today = &status["controller"]["pools"][0]["today"];
        (today["cost_usd"].as_f64().unwrap_or(-1.0), today["instance_hours"].as_f64().unwrap_or(-1.0))
    };
    assert_eq!(web.upload("", "x", &image(100)).json()["label"], "cat");
    let (cost, hours) = today();
    assert!(cost == 0.0 && hours >= 0.0, "the parked one did it: {cost} USD, {hours} h");
    assert_eq!(upload_all(&web.address, 0..20).len(), 20);
    cloud.until_all_are_parked();
    let (cost, hours) = eventually("what was launched is charged", || Some(today()).filter(|it| it.0 > 0.0));
    assert!(
        cost >= 1.0 && cost <= hours * 3600.0,
        "some seconds, and no more than all: {cost} USD, {hours} h"
    );
    let shown = cloud.expect(&["status"]);
    assert!(shown.contains(" today") && shown.contains('$'), "{shown}");
    controller.signal(Signal::TERM);
    assert!(controller.exit().success());
}

#[test]
fn the_successor_of_a_killed_controller_knows_running_and_draining_instances() {
    let Some(cloud) = Cloud::of(Site::with_script("sleep 0.2; echo cat"), &[]) else { return };
    cloud.set_up();
    cloud.policy(&POLICY.replace("max = 3", "max = 3\nmin = 1"));
    let (web, mut first) = (cloud.site.web(), controller(&cloud));
    let running =
        eventually("one runs", || Some(cloud.in_state("running")).filter(|running| running.len() == 1));
    assert_eq!(web.upload("", "x", &image(1)).json()["label"], "cat");
    first.kill();
    let mut second = controller(&cloud);
    let adopted = eventually("the next controller knows it", || {
        let status = web.get("/status").json()["controller"].clone();
        let instances = status["pools"][0]["instances"].as_array().cloned().unwrap_or_default();
        let ready = instances.into_iter().find(|instance| instance["state"] == "ready");
        ready.filter(|_| status["pid"] == second.child.id())
    });
    assert_eq!(adopted["id"], running[0].as_str(), "the same instance, and no other");
    assert_eq!(web.upload("", "x", &image(2)).json()["worker"], running[0].as_str());
    cloud.policy(POLICY);
    cloud.until_all_are_parked();
    second.signal(Signal::TERM);
    assert!(second.exit().success());
}

#[test]
fn two_web_hosts_get_their_own_replies_and_share_results() {
    let Some(cloud) = Cloud::new(&[]) else { return };
    cloud.set_up();
    let mut controller = controller(&cloud);
    let (mut one, two) = (cloud.site.web(), cloud.site.web_on(&free_address()));
    let queues = || {
        let queues = cloud.state()["queues"].as_array().cloned().unwrap_or_default();
        queues.iter().filter(|name| name.as_str().is_some_and(|name| name.contains("-responses-"))).count()
    };
    assert_eq!(queues(), 2, "each has a response queue of its own");
    std::thread::scope(|scope| {
        let both = [
            scope.spawn(|| upload_all(&one.address, 0..20)),
            scope.spawn(|| upload_all(&two.address, 100..120)),
        ];
        for labels in both {
            assert!(labels.join().expect("no panic").values().all(|label| label == "noop"));
        }
    });
    let id = one.upload("", "x", &image(1)).json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(two.get(&format!("/results/{id}")).json()["label"], "noop");
    one.process.signal(Signal::TERM);
    assert!(one.process.exit().success(), "{}", one.process.log());
    assert_eq!(queues(), 1, "it takes its queue with it");
    assert_eq!(two.upload("", "x", &image(500)).json()["label"], "noop");
    cloud.until_all_are_parked();
    controller.signal(Signal::TERM);
    assert!(controller.exit().success());
}

/// Starts another controller with its own state folder, as on another machine. It is on standby.
fn second_controller(cloud: &Cloud) -> Process {
    let second = cloud.site.start("eirs-controller", &["--state", "other"]);
    eventually("it stands by", || second.log().contains("standing by: the controller").then_some(()));
    second
}

/// Waits until the other controller acts, within a time limit; returns its process.
fn until_the_second_acts(cloud: &Cloud) -> u64 {
    let status = cloud.folder().join("other/status.json");
    let pid = eventually_within(MINUTE, "the second one acts", || {
        let status = std::fs::read_to_string(&status).ok()?;
        crate::cloud::parse(&status)["pid"].as_u64()
    });
    let _next = std::fs::remove_file(status);
    pid
}

const MINUTE: std::time::Duration = std::time::Duration::from_secs(60);

#[test]
fn a_standby_controller_takes_over_within_a_minute() {
    let Some(cloud) = Cloud::of(Site::with_script("sleep 0.2; echo cat"), &[]) else { return };
    cloud.set_up();
    let (web, mut first) = (cloud.site.web(), controller(&cloud));
    let mut second = second_controller(&cloud);
    assert_eq!(web.upload("", "x", &image(1)).json()["label"], "cat");
    cloud.until_all_are_parked();
    let starts = cloud.emulator.calls("StartInstances");
    assert_eq!(starts, 1, "of two controllers one acts");
    assert!(!cloud.folder().join("other/status.json").exists(), "the other one only looks at the claim");
    first.kill();
    assert_eq!(until_the_second_acts(&cloud), u64::from(second.child.id()));
    assert_eq!(web.upload("?wait=60s", "x", &image(2)).json()["label"], "cat");
    cloud.until_all_are_parked();
    assert_eq!(cloud.emulator.calls("StartInstances"), starts + 1, "no order is given twice");
    // The first one returns on standby; it takes over at once when the other one ends in an orderly
    // way.
    let back = cloud.site.start("eirs-controller", &[]);
    eventually("it stands by", || back.log().contains("standing by: the controller").then_some(()));
    second.signal(Signal::TERM);
    assert!(second.exit().success(), "{}", second.log());
    eventually("the first one goes on", || back.log().contains("this one takes over").then_some(()));
}

#[test]
fn a_frozen_controller_leaves_the_workers_to_its_successor() {
    let Some(cloud) = Cloud::of(Site::with_script("sleep 0.2; echo cat"), &[]) else { return };
    cloud.set_up();
    let (web, mut first) = (cloud.site.web(), controller(&cloud));
    let _second = second_controller(&cloud);
    first.signal(Signal::STOP);
    until_the_second_acts(&cloud);
    let starts = cloud.emulator.calls("StartInstances");
    first.signal(Signal::CONT);
    assert_eq!(web.upload("?wait=60s", "x", &image(1)).json()["label"], "cat");
    assert_eq!(first.exit().code(), Some(1), "{}", first.log());
    assert!(first.log().contains("now runs on"), "{}", first.log());
    cloud.until_all_are_parked();
    assert_eq!(cloud.emulator.calls("StartInstances"), starts + 1, "the one that woke up gave no order");
}

#[test]
fn a_controller_without_a_renewed_claim_gives_no_orders() {
    let Some(cloud) = Cloud::of(Site::with_script("sleep 0.2; echo cat"), &[]) else { return };
    cloud.set_up();
    let (web, first) = (cloud.site.web(), controller(&cloud));
    // Only the claim; the other blobs are images and results.
    cloud.fault(serde_json::json!({
        "op": "PutObject", "match": "control/claim", "code": "InternalError", "http": 500, "times": 10_000
    }));
    eventually_within(MINUTE, "it stops acting", || {
        first.log().contains("nothing is started or drained").then_some(())
    });
    assert_eq!(web.upload("?wait=0", "x", &image(1)).status, 202);
    eventually("it wants a worker", || first.log().contains("default: 1 desired, 0 running").then_some(()));
    assert_eq!(cloud.emulator.calls("StartInstances"), 0);
    cloud.no_more_faults();
    assert_eq!(web.upload("?wait=60s", "x", &image(1)).json()["label"], "cat");
    assert!(first.log().contains("this controller acts again"), "{}", first.log());
}

#[test]
fn a_deleted_response_queue_is_created_again() {
    let Some(cloud) = Cloud::new(&[]) else { return };
    cloud.set_up();
    let (web, mut controller) = (cloud.site.web(), controller(&cloud));
    let response_queue = || {
        let queues = cloud.state()["queues"].as_array().cloned().unwrap_or_default();
        let names = queues.iter().filter_map(|name| name.as_str().map(str::to_owned));
        names.into_iter().find(|name| name.contains("-responses-"))
    };
    let first = response_queue().expect("there is one");
    cloud.delete_queue(&first);
    eventually("there is another one", || response_queue().filter(|name| *name != first));
    assert_eq!(web.upload("", "x", &image(1)).json()["label"], "noop");
    cloud.until_all_are_parked();
    controller.signal(Signal::TERM);
    assert!(controller.exit().success());
}

/// The worker is classifying the image, and only the host that erased it knows of that.
#[test]
fn a_result_after_another_host_erased_its_image_is_deleted() {
    let Some(cloud) = Cloud::of(Site::with_script("sleep 3; echo cat"), &[]) else { return };
    cloud.set_up();
    let (web, other, _controller) = (cloud.site.web(), cloud.site.web(), controller(&cloud));
    let id = web.upload("?wait=0", "x", &image(1)).json()["id"].as_str().expect("an id").to_owned();
    let pool = || web.get("/status").json()["controller"]["pools"][0].clone();
    eventually("a worker has it", || (pool()["in_flight"] == 1).then_some(()));
    let path = format!("/results/{id}");
    let erased = request(&other.address, "DELETE", &path, &[], b"").expect("an answer");
    assert_eq!(erased.status, 204);
    eventually("the job is over", || (web.get("/status").json()["waiting"] == 0).then_some(()));
    eventually("nothing is in the queue", || {
        let pool = pool();
        (pool["visible"] == 0 && pool["in_flight"] == 0).then_some(())
    });
    assert_eq!(cloud.stored(OUTPUT), 1, "the note of the version, and no result");
}

/// A new image causes no lookup; for a stored one, the cost is a refused write and a read of its
/// result.
#[test]
fn an_image_uploaded_to_another_host_gets_its_result_without_a_second_job() {
    let Some(cloud) = Cloud::new(&[]) else { return };
    cloud.set_up();
    let mut controller = controller(&cloud);
    let (one, two) = (cloud.site.web(), cloud.site.web_on(&free_address()));
    let first = one.upload("", "x", &image(1));
    assert_eq!((first.status, &first.json()["cached"]), (200, &false.into()));
    cloud.until_all_are_parked();
    controller.signal(Signal::TERM);
    assert!(controller.exit().success());
    let reads = cloud.emulator.calls("GetObject");
    let sent = cloud.emulator.calls("SendMessageBatch");
    let again = two.upload("?wait=0", "x", &image(1));
    assert_eq!(
        (again.status, &again.json()["cached"], &again.json()["label"]),
        (200, &true.into(), &"noop".into())
    );
    assert_eq!(cloud.emulator.calls("SendMessageBatch"), sent, "nothing was sent, and nobody was rung for");
    assert_eq!(cloud.emulator.calls("GetObject") - reads, 1);
    // From memory now.
    assert_eq!(two.upload("", "x", &image(1)).json()["cached"], true);
    assert_eq!(cloud.emulator.calls("GetObject") - reads, 1);
}
