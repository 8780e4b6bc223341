//! Counts the calls of the service to AWS at the emulator: under load, during a burst, and when
//! idle. `make bench-aws` prints the figures.

use std::collections::BTreeMap;

use crate::{
    cloud::{Cloud, OUTPUT, POLICY, parse},
    serving::controller,
};
use eirs_harness::{Site, Web, eventually, form, image, request};

/// USD per request, in the first price tier of us-east-1. EC2, SSM, STS and IAM are free.
const SQS_USD: f64 = 0.4e-6;
const S3_READ_USD: f64 = 0.4e-6;
const S3_WRITE_USD: f64 = 5e-6;

const S3: [(&str, f64); 6] = [
    ("PutObject", S3_WRITE_USD),
    ("GetObject", S3_READ_USD),
    ("HeadObject", S3_READ_USD),
    ("ListObjectsV2", S3_WRITE_USD),
    ("DeleteObject", 0.0),
    ("DeleteObjects", 0.0),
];
const SQS: [&str; 12] = [
    "SendMessage",
    "SendMessageBatch",
    "ReceiveMessage",
    "DeleteMessage",
    "DeleteMessageBatch",
    "ChangeMessageVisibility",
    "ChangeMessageVisibilityBatch",
    "GetQueueAttributes",
    "GetQueueUrl",
    "ListQueues",
    "TagQueue",
    "SetQueueAttributes",
];

/// The number of calls of each operation since the last `forget`.
struct Calls(BTreeMap<String, u64>);

impl Calls {
    fn of(cloud: &Cloud) -> Self {
        Self(serde_json::from_value(parse(&cloud.emulator.harness("GET", "calls", ""))).expect("counts"))
    }

    fn forget(cloud: &Cloud) {
        cloud.emulator.harness("DELETE", "calls", "");
    }

    fn count(&self, operation: &str) -> u64 {
        self.0.get(operation).copied().unwrap_or(0)
    }

    fn sqs(&self) -> u64 {
        SQS.iter().map(|operation| self.count(operation)).sum()
    }

    fn s3(&self) -> u64 {
        S3.iter().map(|(operation, _)| self.count(operation)).sum()
    }

    fn usd(&self) -> f64 {
        let s3: f64 = S3.iter().map(|(operation, price)| self.count(operation) as f64 * price).sum();
        s3 + self.sqs() as f64 * SQS_USD
    }
}

/// Prints a line of the table of `make bench-aws`. A figure that depends on the speed of the
/// machine has a limit beyond which something is broken, in addition to its target on an idle
/// machine.
fn show(what: &str, value: f64, asked: f64, most: f64) {
    let met = if value <= asked { "met" } else { "missed" };
    eprintln!("  {what:<44} {value:>9.4}   <= {asked} {met}");
    assert!(value <= most, "{what}: {value} is more than {most}");
}

#[test]
fn an_image_at_load_costs_few_requests_of_sqs_and_three_of_s3() {
    // A worker with many jobs in flight, like a fast model on a large machine. Its leases are those
    // of the default settings.
    let site = Site::new().set("EIRS_WORKER__SLOTS", "40");
    let site = site.set("EIRS_QUEUE__VISIBILITY", "30s").set("EIRS_WORKER__HEARTBEAT", "10s");
    let Some(cloud) = Cloud::of(site, &[]) else { return };
    cloud.policy(&POLICY.replace("max = 3", "max = 1"));
    cloud.set_up();
    let web = cloud.site.web();
    Calls::forget(&cloud);
    let count = 300;
    send_burst(&web, count);
    let _controller = controller(&cloud);
    eventually("every image has its result, and their version its note", || {
        (cloud.stored(OUTPUT) == u64::from(count) + 1).then_some(())
    });
    eventually("every answer has come", || (web.get("/status").json()["waiting"] == 0).then_some(()));
    cloud.until_all_are_parked();
    let calls = Calls::of(&cloud);
    let per_image = |calls: u64| calls as f64 / f64::from(count);
    for operation in SQS.iter().filter(|operation| calls.count(operation) > 0) {
        eprintln!("    {operation:<42} {:>9.4}", per_image(calls.count(operation)));
    }
    // A message waits for others for a twentieth of its job's duration, so the batch size depends
    // on the speed of the emulator. A single image takes six requests: job and reply are each sent,
    // received and deleted.
    show("SQS requests for an image", per_image(calls.sqs()), 1.5, 1.5);
    // The upload, the download and the result of each image. The others are for the whole load: the
    // note of erased images, the claim of the controller, the note of the version.
    let objects =
        Calls(serde_json::from_value(parse(&cloud.emulator.harness("GET", "objects", ""))).unwrap());
    let own = objects.count("images") + objects.count("results");
    eprintln!("    {:?}", objects.0);
    show("S3 requests for an image", per_image(own), 3.0, 3.0);
    let others = calls.s3() - own;
    show("S3 requests of the load besides", others as f64, 10.0, 12.0);
    show("S3 requests, all of them, by images", per_image(calls.s3()), 3.05, 3.05);
    show("USD for a thousand images, EC2 not counted", calls.usd() * 1e3 / f64::from(count), 0.02, 0.0125);
}

/// The emulator takes seconds for a burst of images, during which a controller would see it grow;
/// so the controller starts when all images are there.
#[test]
fn a_burst_to_fifteen_instances_is_at_most_two_calls_of_start_instances() {
    let Some(cloud) = Cloud::of(Site::with_script("sleep 1; echo cat"), &[]) else { return };
    cloud.policy(&POLICY.replace("max = 3", "max = 15"));
    cloud.set_up();
    let web = cloud.site.web();
    Calls::forget(&cloud);
    send_burst(&web, 150);
    let _controller = controller(&cloud);
    eventually("all of them run", || (cloud.in_state("running").len() == 15).then_some(()));
    show(
        "calls of StartInstances for a burst to 15",
        Calls::of(&cloud).count("StartInstances") as f64,
        2.0,
        2.0,
    );
}

/// Uploads a number of images at once, without waiting.
fn send_burst(web: &Web, count: u32) {
    let images: Vec<_> = (0..count).map(image).collect();
    let parts: Vec<_> = images.iter().map(|image| ("myfile", "x", image.as_slice())).collect();
    let headers = [("content-type", "multipart/form-data; boundary=XX")];
    let taken = request(&web.address, "POST", "/upload?wait=0", &headers, &form(&parts)).expect("an answer");
    assert_eq!(taken.body.lines().filter(|line| line.contains("pending")).count(), count as usize);
}

/// Takes a minute and depends on timing, so only `make bench-aws` runs it.
#[test]
#[ignore = "measures for a minute"]
fn an_idle_hour_costs_at_most_a_cent_of_requests() {
    let Some(cloud) = Cloud::new(&[]) else { return };
    cloud.set_up();
    let (_web, _controller) = (cloud.site.web(), controller(&cloud));
    cloud.until_all_are_parked();
    Calls::forget(&cloud);
    let began = std::time::Instant::now();
    let minute = std::time::Duration::from_secs(60);
    std::thread::park_timeout(minute);
    let last = Calls::of(&cloud);
    let hours = began.elapsed().as_secs_f64() / 3600.0;
    let all: u64 = last.0.values().sum();
    show("requests of an idle hour, of every service", all as f64 / hours, 20_000.0, 20_000.0);
    show("USD for them", last.usd() / hours, 0.01, 0.01);
}
