//! A job that no worker took within `queue.retention`: no client waits for it any more, but it is
//! not lost.

use std::process::Output;

use serde_json::Value;

use eirs_harness::{Site, eventually, image};

fn eirs(site: &Site, arguments: &[&str]) -> Output {
    site.command("eirs").args(arguments).output().expect("it can be started")
}

#[test]
fn an_expired_job_is_a_dead_letter_its_result_is_410_and_its_image_can_be_uploaded_again() {
    let site = Site::new().set("EIRS_QUEUE__RETENTION", "1s");
    let web = site.web();
    let pending = web.upload("?wait=0", "x", &image(1));
    assert_eq!(pending.status, 202, "{pending:?}");
    let id = pending.json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(web.result(&id).status, 410);
    assert!(web.process.log().contains("became dead letters"), "{}", web.process.log());
    let letters: Value =
        serde_json::from_slice(&eirs(&site, &["dead-letters", "list", "--json"]).stdout).expect("JSON");
    assert!(letters.to_string().contains(&id), "{letters}");

    let _worker = site.worker();
    eventually("the image is classified", || {
        let again = web.upload("?wait=2s", "x", &image(1));
        (again.status == 200).then(|| assert_eq!(again.json()["label"], "noop"))
    });
}
