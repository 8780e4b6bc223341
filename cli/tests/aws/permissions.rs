//! The permissions that `eirs setup --print-iam` prints are sufficient, with an emulated AWS that
//! enforces them: setup and cleanup run as an operator with only these permissions, the web host
//! and the workers with the roles that setup creates.

use eirs_platform::aws;
use serde_json::Value;

use crate::{
    cloud::{Cloud, POLICY, free_address, parse, said},
    serving::upload_all,
};
use eirs_harness::{Site, eventually, image, request};

const BOUNDARY: &str = "arn:aws:iam::123456789012:policy/eirs-boundary";

#[test]
fn an_operator_creates_no_role_without_the_boundary_and_launches_only_tagged_machines() {
    let site = Site::new().set("EIRS_SETUP__PERMISSIONS_BOUNDARY", BOUNDARY);
    let Some(cloud) = Cloud::of(site, &[]) else { return };
    let printed = parse(&String::from_utf8_lossy(&cloud.eirs(&["setup", "--print-iam"]).stdout));
    let operator = cloud.make_user("operator", &printed["operator"]);
    cloud.make_policy("eirs-boundary", &printed["boundary"]);
    cloud.emulator.harness("POST", "enforce-iam", r#"{"on": true}"#);
    let role = "eirs-eu-central-1-web";
    cloud.with_sdk_as(Some(&operator), async |config| {
        let (iam, ec2) = (aws_sdk_iam::Client::new(&config), aws_sdk_ec2::Client::new(&config));
        let trust = printed["trust"].to_string();
        let make = || iam.create_role().role_name(role).assume_role_policy_document(&trust);
        let code = aws::code(&make().send().await.expect_err("it has no boundary")).map(str::to_owned);
        assert_eq!(code.as_deref(), Some("AccessDenied"));
        make().permissions_boundary(BOUNDARY).send().await.expect("it is bounded");
        let everything = r#"{"Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}"#;
        let put = iam.put_role_policy().role_name(role).policy_name("eirs").policy_document(everything);
        put.send().await.expect("what the role may do ends at its boundary");
        let unbound = iam.delete_role_permissions_boundary().role_name(role).send().await;
        assert_eq!(aws::code(&unbound.expect_err("it stays")), Some("AccessDenied"));
        let images = ec2.describe_images().owners("amazon").send().await.expect("images");
        let image = images.images()[0].image_id().expect("its id").to_owned();
        let launch = ec2.run_instances().image_id(image).min_count(1).max_count(1);
        let refused = launch.send().await.expect_err("without our tag");
        assert_eq!(aws::code(&refused), Some("UnauthorizedOperation"));
    });
}

#[test]
fn the_printed_permissions_are_sufficient() {
    let address = free_address();
    let site =
        Site::new().set("EIRS_WEB__LISTEN", &address).set("EIRS_SETUP__PERMISSIONS_BOUNDARY", BOUNDARY);
    let site = site.set("EIRS_SETUP__ELASTIC_IP", "true");
    let Some(cloud) = Cloud::of(site, &[]) else { return };
    let before = cloud.state();
    let printed = parse(&String::from_utf8_lossy(&cloud.eirs(&["setup", "--print-iam"]).stdout));
    cloud.make_policy("eirs-boundary", &printed["boundary"]);
    let operator = cloud.make_user("operator", &printed["operator"]);
    cloud.emulator.harness("POST", "enforce-iam", r#"{"on": true}"#);
    let as_operator = |arguments: &[&str]| {
        let mut command = cloud.site.command("eirs");
        command.env("AWS_ACCESS_KEY_ID", &operator.0).env("AWS_SECRET_ACCESS_KEY", &operator.1);
        let output = command.args(arguments).output().expect("eirs runs");
        assert!(output.status.success(), "eirs {}: {}", arguments.join(" "), said(&output));
        said(&output)
    };
    let printed = as_operator(&["setup", "--uploads-from", "203.0.113.0/24", "--yes"]);
    let addresses = cloud.state()["addresses"].as_array().cloned().unwrap_or_default();
    let [ip] = addresses.try_into().expect("one Elastic IP");
    let upload_to = format!("http://{}:{}/upload", ip.as_str().unwrap(), address.rsplit_once(':').unwrap().1);
    assert!(printed.contains(&upload_to), "the address is printed: {upload_to}: {printed}");

    // The web host and the workers only have the credentials from the metadata of their instances.
    let form = eirs_harness::form(&[("myfile", "x", &image(1))]);
    let headers = [("content-type", "multipart/form-data; boundary=XX")];
    let answer =
        eventually("the web host answers", || request(&address, "POST", "/upload", &headers, &form).ok());
    assert_eq!((answer.status, answer.body.trim()), (200, "noop"), "{answer:?}");
    cloud.until_all_are_parked();
    assert!(cloud.emulator.calls("SendCommand") >= 1);
    let log = parse(&cloud.emulator.harness("GET", "log", ""));
    let denied: Vec<&Value> =
        log.as_array().into_iter().flatten().filter(|call| call["status"] == 403).collect();
    assert!(denied.is_empty(), "{denied:?}");
    as_operator(&["check"]);
    let mut on_host = cloud.site.command("eirs");
    on_host.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    let host = cloud
        .instances()
        .into_iter()
        .find(|instance| instance["tags"]["eirs:role"] == "web")
        .expect("a host");
    let metadata = host["imds"].as_str().expect("its metadata");
    on_host
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata)
        .env("EIRS_SETUP__UPLOADS_FROM", "[\"203.0.113.0/24\"]");
    let output = on_host.arg("check").output().expect("eirs runs");
    assert!(output.status.success() && said(&output).contains("All is well."), "{}", said(&output));

    // An update tries one machine, replaces the others, and upgrades the web host in place.
    let mut update = cloud.site.command("eirs");
    update.env("AWS_ACCESS_KEY_ID", &operator.0).env("AWS_SECRET_ACCESS_KEY", &operator.1);
    update.env("EIRS_SETUP__UPLOADS_FROM", "[\"203.0.113.0/24\"]").env("EIRS_WORKER__SLOTS", "5");
    let output = update.args(["update", "--yes"]).output().expect("eirs runs");
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains(", upgraded"), "{}", said(&output));
    let now = cloud.instances().into_iter().find(|it| it["id"] == host["id"]).expect("the same host");
    assert_ne!(now["tags"]["eirs:bundle"], host["tags"]["eirs:bundle"]);
    let form = eirs_harness::form(&[("myfile", "x", &image(2))]);
    let answer = eventually("it serves", || request(&address, "POST", "/upload", &headers, &form).ok());
    assert_eq!((answer.status, answer.body.trim()), (200, "noop"), "{answer:?}");
    cloud.until_all_are_parked();

    as_operator(&["cleanup", "--mode", "delete", "--yes"]);
    cloud.emulator.harness("POST", "enforce-iam", r#"{"on": false}"#);
    cloud.remove_user("operator");
    cloud.remove_policy(BOUNDARY);
    assert_eq!(cloud.state(), before);
}

/// One machine is parked. The web host launches more for the work that it cannot do in time, with
/// its own role.
#[test]
fn with_the_printed_permissions_a_burst_is_launched_and_terminated() {
    let address = free_address();
    let site = Site::with_script("sleep 1; echo cat").set("EIRS_WEB__LISTEN", &address);
    let Some(cloud) = Cloud::of(site, &[]) else { return };
    cloud.policy(&(POLICY.replace("max = 3", "max = 1") + "[launch]\nmost = 3\nstart_delay = \"2s\"\n"));
    let before = cloud.state();
    cloud.expect(&["setup", "--uploads-from", "203.0.113.0/24", "--yes"]);
    let calls = cloud.emulator.calls("RunInstances");
    cloud.emulator.harness("POST", "enforce-iam", r#"{"on": true}"#);
    let labels = upload_all(&address, 0..20);
    assert!(labels.len() == 20 && labels.values().all(|label| label == "cat"), "{labels:?}");
    assert!((1..=3).contains(&(cloud.emulator.calls("RunInstances") - calls)), "few calls for all");
    let log = parse(&cloud.emulator.harness("GET", "log", ""));
    let of_op = |op: &str| {
        let calls = log.as_array().into_iter().flatten().filter(move |call| call["op"] == op);
        calls.cloned().collect::<Vec<_>>()
    };
    let by_host = |call: &Value| call["principal"].to_string().contains("eirs-eu-central-1-web");
    assert!(of_op("RunInstances").iter().any(by_host), "{:?}", of_op("RunInstances"));
    eventually("what was launched is gone, and what was parked is parked", || {
        let workers: Vec<_> = cloud.instances();
        let workers = workers.iter().filter(|it| it["tags"]["eirs:role"] == "worker");
        let left: Vec<_> = workers.map(|it| (it["state"].clone(), it["tags"]["eirs:tier"].clone())).collect();
        (left == [("stopped".into(), Value::Null)]).then_some(())
    });
    let log = parse(&cloud.emulator.harness("GET", "log", ""));
    let denied: Vec<_> = log.as_array().into_iter().flatten().filter(|call| call["status"] == 403).collect();
    assert!(denied.is_empty(), "{denied:?}");
    cloud.emulator.harness("POST", "enforce-iam", r#"{"on": false}"#);
    cloud.expect(&["cleanup", "--mode", "delete", "--yes"]);
    assert_eq!(cloud.state(), before);
}

/// The names of the instance profiles of the machines.
fn profiles(cloud: &Cloud) -> Vec<String> {
    cloud.with_sdk_as(None, async |config| {
        let ec2 = aws_sdk_ec2::Client::new(&config);
        let described = ec2.describe_instances().send().await.expect("the instances");
        let machines = described.reservations().iter().flat_map(|it| it.instances());
        let arns = machines.filter_map(|it| it.iam_instance_profile()?.arn());
        arns.filter_map(|arn| Some(arn.rsplit_once('/')?.1.to_owned())).collect()
    })
}

#[test]
fn a_worker_reaches_only_the_queue_of_its_model_and_setup_follows_a_pool_to_another_model() {
    let site = Site::new().set("EIRS_MODELS__DOGS__CLASSIFIER", "noop");
    let Some(cloud) = Cloud::of(site, &[]) else { return };
    cloud.policy(&POLICY.replace("max = 3", "max = 2"));
    let before = cloud.state();
    cloud.set_up();
    assert_eq!(profiles(&cloud), ["eirs-eu-central-1-worker-default"; 2]);

    let printed = parse(&String::from_utf8_lossy(&cloud.eirs(&["setup", "--print-iam"]).stdout));
    let worker = cloud.make_user("worker", &printed["worker-dogs"]);
    cloud.emulator.harness("POST", "enforce-iam", r#"{"on": true}"#);
    let received = |queue: &str| {
        cloud.with_sdk_as(Some(&worker), async |config| {
            let url = format!("{}/123456789012/eirs-{queue}", cloud.emulator.url());
            let call = aws_sdk_sqs::Client::new(&config).receive_message().queue_url(url);
            call.send().await.map(|_| ()).map_err(|error| aws::code(&error).map(str::to_owned))
        })
    };
    assert_eq!(received("requests-dogs"), Ok(()));
    for other in ["requests-default", "dead-dogs", "trial-default"] {
        assert_eq!(received(other), Err(Some("AccessDenied".into())), "{other}");
    }
    cloud.emulator.harness("POST", "enforce-iam", r#"{"on": false}"#);
    cloud.remove_user("worker");

    cloud.policy(&POLICY.replace("max = 3", "max = 2\nmodel = \"dogs\""));
    let checked = said(&cloud.eirs(&["check"]));
    let words = checked.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("2 instances of the pool default cannot reach the queue of dogs"), "{words}");
    let operator = cloud.make_user("operator", &printed["operator"]);
    cloud.emulator.harness("POST", "enforce-iam", r#"{"on": true}"#);
    let mut setup = cloud.site.command("eirs");
    setup.env("AWS_ACCESS_KEY_ID", &operator.0).env("AWS_SECRET_ACCESS_KEY", &operator.1);
    let output = setup.args(["setup", "--web-host", "none", "--yes"]).output().expect("eirs runs");
    assert!(output.status.success(), "{}", said(&output));
    cloud.emulator.harness("POST", "enforce-iam", r#"{"on": false}"#);
    cloud.remove_user("operator");
    assert_eq!(profiles(&cloud), ["eirs-eu-central-1-worker-dogs"; 2]);
    let checked = said(&cloud.eirs(&["check"]));
    assert!(!checked.contains("cannot reach the queue"), "{checked}");
    cloud.expect(&["cleanup", "--mode", "delete", "--yes"]);
    assert_eq!(cloud.state(), before);
}
