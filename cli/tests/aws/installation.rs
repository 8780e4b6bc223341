//! `eirs setup` and `eirs cleanup`: what they create, find, change and delete, and what they leave
//! unchanged.

use std::{fs, os::unix::fs::PermissionsExt};

use serde_json::{Value, json};

use crate::cloud::{Cloud, INPUT, POLICY, parse, said};
use eirs_harness::{eventually, image};

/// Returns the actions for all resources in `eirs setup --plan --json`.
fn verbs(cloud: &Cloud) -> Vec<(String, String)> {
    let output = cloud.eirs(&["setup", "--web-host", "none", "--plan", "--json"]);
    assert!(output.status.success(), "{}", said(&output));
    let plan = parse(&String::from_utf8_lossy(&output.stdout));
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let steps = plan["steps"].as_array().expect("steps").iter();
    steps.map(|step| (text(&step["verb"]), text(&step["what"]))).collect()
}

/// Returns the resources that setup would create or change.
pub fn changes(cloud: &Cloud) -> Vec<String> {
    verbs(cloud).into_iter().filter(|(verb, _)| verb != "keep").map(|(_, what)| what).collect()
}

#[test]
fn cleanup_restores_the_account_and_foreign_resources_stay() {
    let Some(cloud) = Cloud::new(&[]) else { return };
    cloud.make_strangers();
    eventually("the stranger runs", || (cloud.in_state("running").len() == 1).then_some(()));
    let before = cloud.state();
    let plan = verbs(&cloud);
    assert!(plan.len() >= 12 && plan.iter().all(|(verb, _)| verb == "make"), "{plan:?}");
    assert_eq!(cloud.state(), before, "a plan only shows");

    cloud.set_up();
    assert_eq!(changes(&cloud), Vec::<String>::new());
    assert_eq!(
        (cloud.in_state("stopped").len(), cloud.in_state("running").len()),
        (3, 1),
        "only the stranger runs"
    );
    let looked = cloud.expect(&["check"]);
    assert!(looked.contains("pool default: 3 stopped\n") && looked.ends_with("All is well.\n"), "{looked}");
    let key = fs::metadata(cloud.folder().join("eirs-eu-central-1.pem")).expect("the private key");
    assert_eq!(key.permissions().mode() & 0o777, 0o600);

    let (web, mut controller) = (cloud.site.web(), cloud.site.start("eirs-controller", &[]));
    assert_eq!(web.upload("", "dog.jpg", &image(1)).json()["label"], "noop");
    let refused = cloud.eirs(&["cleanup", "--mode", "delete", "--yes"]);
    assert!(said(&refused).contains("controller is running on this machine"), "{}", said(&refused));
    cloud.until_all_are_parked();
    controller.signal(rustix::process::Signal::TERM);
    assert!(controller.exit().success());
    drop(web);

    let with_everything = cloud.state();
    let plan = cloud.expect(&["cleanup", "--mode", "delete", "--plan"]);
    assert!(plan.contains(INPUT) && plan.contains("eirs-worker"), "{plan}");
    assert_eq!(cloud.state(), with_everything, "a plan only shows");
    cloud.expect(&["cleanup", "--mode", "delete", "--yes"]);
    assert_eq!(cloud.state(), before);
    let again = cloud.expect(&["cleanup", "--mode", "delete", "--yes"]);
    assert!(again.contains("Nothing to clean up"), "{again}");
}

#[test]
fn an_interrupted_setup_is_completed_by_the_next_run() {
    let Some(cloud) = Cloud::new(&[]) else { return };
    let before = cloud.state();
    // Each run gets a little further, and is interrupted in a step.
    for operation in [
        "PutBucketEncryption",
        "CreateQueue",
        "CreateDocument",
        "CreateKeyPair",
        "PutRolePolicy",
        "AddRoleToInstanceProfile",
        "CreateSecurityGroup",
        // Of the archive. A report of a machine is a `PutObject`, which `curl` retries for minutes.
        "UploadPart",
        "CreateImage",
        "StopInstances",
    ] {
        cloud.fault(json!({ "op": operation, "code": "InternalError", "http": 500, "times": 12 }));
        let output = cloud.eirs(&["setup", "--web-host", "none", "--yes"]);
        assert_eq!(output.status.code(), Some(1), "{operation}: {}", said(&output));
        cloud.no_more_faults();
    }
    // Killed between the launch and the parking.
    let mut run = cloud.site.start("eirs", &["setup", "--web-host", "none", "--yes"]);
    eventually("an instance is launched", || {
        run.log()
            .contains("parking")
            .then_some(())
            .or_else(|| (!cloud.in_state("running").is_empty()).then_some(()))
    });
    run.kill();
    cloud.set_up();
    assert_eq!(changes(&cloud), Vec::<String>::new());
    assert_eq!(cloud.instances().len(), 3, "no more than the pool may have, and nothing that was left over");
    assert_eq!(cloud.state()["images"].as_array().map(Vec::len), Some(1));

    // The same for an interrupted cleanup.
    for operation in ["DeregisterImage", "DeleteRolePolicy", "DeleteQueue", "DeleteObjects"] {
        cloud.fault(json!({ "op": operation, "code": "InternalError", "http": 500, "times": 12 }));
        let output = cloud.eirs(&["cleanup", "--mode", "delete", "--yes"]);
        assert_eq!(output.status.code(), Some(1), "{operation}: {}", said(&output));
        cloud.no_more_faults();
    }
    cloud.expect(&["cleanup", "--mode", "delete", "--yes"]);
    assert_eq!(cloud.state(), before);
}

#[test]
fn another_model_gives_another_image_and_parked_workers_are_replaced() {
    let Some(cloud) = Cloud::new(&[]) else { return };
    cloud.set_up();
    let first: Vec<_> = cloud.in_state("stopped");
    // Other settings of the workers give another archive.
    let output = cloud
        .site
        .command("eirs")
        .env("EIRS_WORKER__SLOTS", "5")
        .args(["setup", "--web-host", "none", "--yes"])
        .output();
    let output = output.expect("eirs runs");
    assert!(output.status.success(), "{}", said(&output));
    let second = cloud.in_state("stopped");
    assert_eq!(second.len(), 3);
    assert!(second.iter().all(|id| !first.contains(id)), "{first:?} {second:?}");
}

#[test]
fn a_smaller_pool_loses_parked_workers_and_a_larger_one_gets_more() {
    let Some(cloud) = Cloud::new(&[]) else { return };
    cloud.set_up();
    let first = cloud.in_state("stopped");
    for (max, kept) in [(1, 1), (4, 1)] {
        cloud.policy(&POLICY.replace("max = 3", &format!("max = {max}")));
        cloud.set_up();
        let now = cloud.in_state("stopped");
        assert_eq!(now.len(), max);
        assert_eq!(now.iter().filter(|id| first.contains(id)).count(), kept, "{first:?} {now:?}");
    }
}

#[test]
fn a_machine_that_fails_its_self_test_becomes_no_image_and_reports_the_reason() {
    let Some(cloud) = Cloud::new(&[]) else { return };
    fs::write(cloud.folder().join("prepare.sh"), "echo the mirror is down; exit 3\n").expect("a script");
    let mut setup = cloud.site.command("eirs");
    setup.args(["setup", "--web-host", "none", "--yes"]).env("EIRS_SETUP__PREPARE", "prepare.sh");
    let output = setup.output().expect("eirs runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("the mirror is down"), "{}", said(&output));
    eventually("what failed costs nothing", || cloud.instances().is_empty().then_some(()));
    cloud.set_up();
}

#[test]
fn a_worker_that_does_not_come_up_is_replaced_before_it_is_handed_over() {
    let Some(cloud) = Cloud::new(&["--pending", "1.5"]) else { return };
    let mut setup = cloud.site.start("eirs", &["setup", "--web-host", "none", "--yes"]);
    let first = eventually("a worker is launched", || {
        let is_worker =
            |instance: &Value| instance["tags"]["eirs:role"] == "worker" && instance["state"] == "pending";
        cloud.instances().into_iter().find(is_worker)
    });
    let id = first["id"].as_str().expect("an id");
    cloud.kill_instance(id);
    assert!(setup.exit().success(), "{}", setup.log());
    let parked = cloud.in_state("stopped");
    assert!(parked.len() == 3 && parked.iter().all(|other| other != id), "{parked:?} {id}");
}

#[test]
fn a_launch_without_capacity_is_retried_with_one_machine_at_a_time() {
    let Some(cloud) = Cloud::new(&[]) else { return };
    let fault =
        json!({ "op": "RunInstances", "code": "VcpuLimitExceeded", "times": 3, "match": "eirs%3Apool" });
    cloud.fault(fault);
    let printed = cloud.set_up();
    assert!(printed.contains("one at a time"), "{printed}");
    assert_eq!(cloud.in_state("stopped").len(), 3);
}

#[test]
fn a_cleared_installation_is_empty_and_works() {
    let Some(cloud) = Cloud::new(&[]) else { return };
    cloud.set_up();
    let (web, mut controller) = (cloud.site.web(), cloud.site.start("eirs-controller", &[]));
    assert_eq!(web.upload("", "x", &image(1)).json()["label"], "noop");
    cloud.until_all_are_parked();
    controller.signal(rustix::process::Signal::TERM);
    assert!(controller.exit().success());
    let pending = web.upload("?wait=0", "x", &image(2));
    assert_eq!(pending.status, 202);
    cloud.expect(&["cleanup", "--mode", "clear", "--yes"]);
    assert_eq!((cloud.stored(INPUT), cloud.stored(crate::cloud::OUTPUT)), (0, 0));
    assert_eq!(cloud.instances().len(), 3);
    assert_eq!(changes(&cloud), Vec::<String>::new());
    let _controller = cloud.site.start("eirs-controller", &[]);
    assert_eq!(web.upload("", "x", &image(3)).json()["label"], "noop");
    cloud.until_all_are_parked();
}

#[test]
fn a_worker_takes_no_job_on_an_instance_that_is_not_handed_over() {
    let Some(cloud) = Cloud::new(&[]) else { return };
    cloud.set_up();
    let web = cloud.site.web();
    assert_eq!(web.upload("?wait=0", "x", &image(1)).status, 202);
    let id = cloud.in_state("stopped").remove(0);
    cloud.tag_instance(&id, "eirs:handed-over", "no");
    cloud.start_instance(&id);
    let metadata = eventually("its metadata", || {
        let instance = parse(&cloud.emulator.harness("GET", &format!("instance/{id}"), ""));
        instance["imds"].as_str().map(str::to_owned)
    });
    let mut worker = cloud.site.command("eirs-worker");
    worker.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata);
    let output = worker.output().expect("the worker runs");
    assert!(output.status.success(), "{}", said(&output));
    assert!(
        said(&output).contains("is not handed over to the controller, and takes no jobs"),
        "{}",
        said(&output)
    );
}

#[test]
fn impossible_options_are_refused_in_one_sentence() {
    let Some(cloud) = Cloud::new(&[]) else { return };
    let refused = |arguments: &[&str], code: i32, hint: &str| {
        let output = cloud.eirs(arguments);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(hint) && !said.contains("panicked"), "{hint}: {said}");
    };
    refused(
        &["setup"],
        2,
        "nobody could upload to the web host: name the allowed networks with --uploads-from",
    );
    refused(&["setup", "--uploads-from", "here"], 78, "setup.uploads_from: `here` is not a network");
    refused(&["setup", "--web-host", "none"], 2, "no terminal to ask for confirmation");
    refused(
        &["setup", "--web-host", "none", "--worker-type", "t9.nano", "--yes"],
        1,
        "the instance type t9.nano is not offered in any zone",
    );
    cloud.policy("[pool]\nmaximum = 3\n");
    refused(&["setup", "--web-host", "none"], 78, "maximum");
}
