//! The permissions that `eirs setup --print-iam` prints are enough, on an emulated AWS that
//! enforces them: setup and cleanup run as an operator who has those and no others, the web host
//! and the workers with the roles that setup made.

use serde_json::Value;

use crate::{
    cloud::{Cloud, free_address, parse, said},
    harness::{Site, eventually, image, request},
};

#[test]
fn the_printed_permissions_are_enough_for_everybody() {
    let address = free_address();
    let site = Site::new().set("EIRS_WEB__LISTEN", &address);
    let Some(cloud) = Cloud::of(site, &[]) else { return };
    let before = cloud.state();
    let printed = parse(&String::from_utf8_lossy(&cloud.eirs(&["setup", "--print-iam"]).stdout));
    let operator = cloud.make_user("operator", &printed["operator"]);
    cloud.emulator.harness("POST", "enforce-iam", r#"{"on": true}"#);
    let as_operator = |arguments: &[&str]| {
        let mut command = cloud.site.command("eirs");
        command.env("AWS_ACCESS_KEY_ID", &operator.0).env("AWS_SECRET_ACCESS_KEY", &operator.1);
        let output = command.args(arguments).output().expect("eirs runs");
        assert!(output.status.success(), "eirs {}: {}", arguments.join(" "), said(&output));
        said(&output)
    };
    let told = as_operator(&["setup", "--uploads-from", "203.0.113.0/24", "--yes"]);
    assert!(told.contains("/upload"), "the address is printed: {told}");

    // The web host and the workers have what the metadata of their instances gives them, and
    // nothing of this test's.
    let form = crate::harness::form(&[("myfile", "x", &image(1))]);
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

    // An update tries a machine, replaces the others, and upgrades the web host where it stands.
    let mut update = cloud.site.command("eirs");
    update.env("AWS_ACCESS_KEY_ID", &operator.0).env("AWS_SECRET_ACCESS_KEY", &operator.1);
    update.env("EIRS_SETUP__UPLOADS_FROM", "[\"203.0.113.0/24\"]").env("EIRS_WORKER__SLOTS", "5");
    let output = update.args(["update", "--yes"]).output().expect("eirs runs");
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains(", upgraded"), "{}", said(&output));
    let now = cloud.instances().into_iter().find(|it| it["id"] == host["id"]).expect("the same host");
    assert_ne!(now["tags"]["eirs:bundle"], host["tags"]["eirs:bundle"]);
    let form = crate::harness::form(&[("myfile", "x", &image(2))]);
    let answer = eventually("it serves", || request(&address, "POST", "/upload", &headers, &form).ok());
    assert_eq!((answer.status, answer.body.trim()), (200, "noop"), "{answer:?}");
    cloud.until_all_are_parked();

    as_operator(&["cleanup", "--mode", "delete", "--yes"]);
    cloud.emulator.harness("POST", "enforce-iam", r#"{"on": false}"#);
    cloud.remove_user("operator");
    assert_eq!(cloud.state(), before);
}
