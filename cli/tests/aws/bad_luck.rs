//! The service during failures of AWS: throttling, no capacity, intermediate states, late or lost
//! answers, duplicate messages. No accepted image is lost, and the fleet returns to zero.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    cloud::{Cloud, OUTPUT, POLICY},
    serving::{controller, upload_all},
};
use eirs_harness::{Site, eventually};

/// Uploads during these faults, ends them, and checks the final state.
fn survive(faults: &[Value]) {
    let Some(cloud) = Cloud::of(Site::with_script("sleep 0.1; echo cat"), &["--seed", "7"]) else { return };
    cloud.set_up();
    let (web, mut controller) = (cloud.site.web(), cloud.site.start("eirs-controller", &[]));
    faults.iter().for_each(|fault| cloud.fault(fault.clone()));
    let labels = upload_all(&web.address, 0..40);
    assert!(labels.len() == 40 && labels.values().all(|label| label == "cat"), "{labels:?}");
    cloud.no_more_faults();
    cloud.until_all_are_parked();
    assert_eq!(cloud.stored(OUTPUT), 41, "one result each, and the note of their version");
    eventually("nothing is left in the queue", || {
        let pool = web.get("/status").json()["controller"]["pools"][0].clone();
        (pool["visible"] == 0 && pool["in_flight"] == 0).then_some(())
    });
    let printed =
        cloud.site.command("eirs").args(["dead-letters", "list", "--json"]).output().expect("eirs runs");
    assert!(
        !String::from_utf8_lossy(&printed.stdout).contains("\"id\""),
        "no job may be given up: {printed:?}"
    );
    controller.signal(Signal::TERM);
    assert!(controller.exit().success(), "{}", controller.log());
}

#[test]
fn throttled_queues_and_lost_answers_lose_nothing() {
    survive(&[
        json!({ "op": "SendMessageBatch", "code": "RequestThrottled", "probability": 0.2 }),
        json!({ "op": "ReceiveMessage", "code": "InternalError", "http": 500, "probability": 0.2 }),
        json!({ "op": "DeleteMessageBatch", "code": "InternalError", "http": 500, "probability": 0.2,
            "after": true }),
        json!({ "op": "ChangeMessageVisibilityBatch", "code": "InternalError", "http": 500,
            "probability": 0.3 }),
        json!({ "op": "GetQueueAttributes", "code": "InternalError", "http": 500, "probability": 0.2 }),
        json!({ "op": "GetQueueUrl", "code": "InternalError", "http": 500, "probability": 0.2 }),
    ]);
}

#[test]
fn duplicate_messages_and_wrong_depths_lose_nothing() {
    survive(&[
        json!({ "op": "ReceiveMessage", "duplicates": true, "times": 20, "match": "requests" }),
        json!({ "op": "ReceiveMessage", "duplicates": true, "times": 20, "match": "responses" }),
        json!({
            "op": "GetQueueAttributes", "times": 3,
            "attributes": {
                "ApproximateNumberOfMessages": "0", "ApproximateNumberOfMessagesNotVisible": "0",
                "ApproximateNumberOfMessagesDelayed": "0",
            },
        }),
    ]);
}

#[test]
fn a_slow_and_failing_store_loses_nothing() {
    survive(&[
        json!({ "op": "PutObject", "code": "SlowDown", "http": 503, "probability": 0.2 }),
        json!({ "op": "PutObject", "code": "InternalError", "http": 500, "probability": 0.1, "after": true }),
        json!({ "op": "GetObject", "code": "InternalError", "http": 500, "probability": 0.2 }),
        json!({ "op": "GetObject", "delay": 1.0, "probability": 0.1 }),
        json!({ "op": "PutObject", "hang_up": true, "probability": 0.05, "after": true }),
    ]);
}

#[test]
fn refused_starts_and_silent_agents_lose_nothing_and_leave_no_instance_running() {
    survive(&[
        json!({ "op": "StartInstances", "code": "InsufficientInstanceCapacity", "times": 2 }),
        json!({ "op": "StartInstances", "code": "RequestLimitExceeded", "http": 503, "times": 4 }),
        json!({ "op": "StartInstances", "code": "IncorrectInstanceState", "times": 1 }),
        json!({ "op": "DescribeInstances", "code": "RequestLimitExceeded", "http": 503, "probability": 0.2 }),
        json!({ "op": "CreateTags", "code": "InternalError", "http": 500, "probability": 0.2 }),
        json!({ "op": "SendCommand", "code": "InvalidInstanceId", "times": 2 }),
        json!({ "op": "SendCommand", "code": "InternalServerError", "http": 500, "probability": 0.2,
            "after": true }),
        json!({ "op": "GetCommandInvocation", "code": "InvocationDoesNotExist", "probability": 0.3 }),
        json!({ "op": "StopInstances", "code": "InternalError", "http": 500, "probability": 0.3 }),
    ]);
}

/// Longer than a controller would wait for a call.
#[test]
fn a_zone_without_capacity_and_a_slow_image_do_not_end_a_setup() {
    let Some(cloud) = Cloud::new(&[]) else { return };
    cloud.fault(json!({
        "op": "RunInstances", "code": "InsufficientInstanceCapacity", "zone": "eu-central-1a", "times": 1000,
    }));
    cloud.fault(json!({ "op": "CreateImage", "delay": 12, "times": 1 }));
    cloud.set_up();
    let zones: Vec<_> = cloud.instances().iter().map(|instance| instance["zone"].clone()).collect();
    assert!(zones.len() == 3 && zones.iter().all(|zone| zone != "eu-central-1a"), "{zones:?}");
}

/// The notice is in the metadata of the instance, two minutes before its end.
#[test]
fn an_interrupted_spot_instance_drains_and_every_image_gets_its_label() {
    let Some(cloud) = Cloud::of(Site::with_script("sleep 1; echo cat"), &[]) else { return };
    let launch = "[launch]\nmost = 2\nmarket = \"spot\"\nstart_delay = \"2s\"\n";
    cloud.policy(&(POLICY.replace("max = 3", "max = 1") + launch));
    cloud.set_up();
    let (web, _controller) = (cloud.site.web(), controller(&cloud));
    std::thread::scope(|scope| {
        let uploads = scope.spawn(|| upload_all(&web.address, 0..40));
        let spot = eventually("a spot instance works", || {
            let is_spot = |it: &Value| it["tags"]["eirs:tier"] == "spot" && it["state"] == "running";
            let found = cloud.instances().into_iter().find(is_spot)?;
            let id = found["id"].as_str()?.to_owned();
            cloud.instance_log(&id).contains("the model is loaded").then_some(id)
        });
        let notice = r#"{"action": "terminate", "seconds": 120}"#;
        cloud.emulator.harness("POST", &format!("instance/{spot}/spot-notice"), notice);
        eventually("it reads the notice and drains", || {
            let log = cloud.instance_log(&spot);
            (log.contains("takes this spot instance back") && log.contains("draining: no new jobs"))
                .then_some(())
        });
        eventually("it is terminated when it has drained", || {
            (!cloud.instances().iter().any(|it| it["id"] == *spot)).then_some(())
        });
        let labels = uploads.join().expect("no panic");
        assert!(labels.len() == 40 && labels.values().all(|label| label == "cat"), "{labels:?}");
    });
    cloud.until_all_are_parked();
    assert_eq!(cloud.stored(OUTPUT), 41, "one result each, and the note of their version");
}
