//! The service conforms to its own API description.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use eirs_platform::testing;
use serde_json::Value;

use eirs_harness::{POLICY, Site, eventually, request};

/// schemathesis reads the description, sends valid and invalid requests, and checks every answer,
/// as configured in `testing/api/schemathesis.toml`.
#[test]
fn every_answer_conforms_to_the_api_description() {
    let Some(schemathesis) = schemathesis() else {
        return testing::not_run("there is no Python with schemathesis", "make test");
    };
    // Everything on one listener.
    let site = Site::with_model().set("EIRS_WEB__ADMIN_LISTEN", "");
    let (web, _worker) = (site.web(), site.worker());
    // For its part of the status.
    let _controller = site.controller(&POLICY.replace("min = 0", "min = 1"));
    eventually("the controller looks", || {
        web.get("/status").json()["controller"]["pools"][0]["instances"][0].is_object().then_some(())
    });
    let report = site.folder.path().join("report.ndjson");
    let mut command = Command::new(schemathesis);
    command.env("PYTHONPATH", folder()).env("PYTHONDONTWRITEBYTECODE", "1");
    // It writes notes to its working directory.
    command.current_dir(site.folder.path()).arg("--config-file").arg(folder().join("schemathesis.toml"));
    command.arg("run").arg(format!("http://{}/openapi.json", web.address));
    command.args(["--no-color", "--report=ndjson", "--report-ndjson-path"]).arg(&report);
    let run = command.output().expect("schemathesis starts");
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}\n{}", String::from_utf8_lossy(&run.stderr));

    // Seeing only refusals would prove nothing.
    let seen = answers(&std::fs::read_to_string(&report).expect("its report"));
    for (path, statuses) in [("upload", &[200, 202, 400, 404, 415, 422][..]), ("results", &[200, 400, 404])] {
        for status in statuses {
            assert!(seen.contains(&(path.to_owned(), *status)), "no {status} of {path}: {seen:?}\n{said}");
        }
    }
}

/// `schemathesis` is in the folder of its Python.
fn schemathesis() -> Option<PathBuf> {
    testing::python().map(|python| python.with_file_name("schemathesis")).filter(|program| program.exists())
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testing/api")
}

/// Returns the answers in a report: the first part of the path, and the status.
fn answers(report: &str) -> BTreeSet<(String, u64)> {
    let mut answers = BTreeSet::new();
    for line in report.lines() {
        let event: Value = serde_json::from_str(line).expect("a line of JSON");
        let exchanges = event["ScenarioFinished"]["recorder"]["interactions"].as_object();
        for exchange in exchanges.into_iter().flat_map(|exchanges| exchanges.values()) {
            let path = exchange["request"]["uri"].as_str().and_then(|uri| uri.split(['/', '?']).nth(3));
            let status = exchange["response"]["status_code"].as_u64();
            answers.extend(path.map(str::to_owned).zip(status));
        }
    }
    answers
}

#[test]
fn each_listener_describes_what_it_serves() {
    let site = Site::new();
    let web = site.web();
    let admin = web.admin.as_deref().expect("it has a listener of its own");
    for (address, here, not_here) in [(&*web.address, "/upload", "/status"), (admin, "/status", "/upload")] {
        let spec = request(address, "GET", "/openapi.json", &[], b"").expect("an answer").json();
        assert!(spec["paths"][here].is_object() && spec["paths"][not_here].is_null(), "{spec}");
    }
}

#[test]
fn a_wrong_method_is_refused_with_the_allowed_ones() {
    let site = Site::new().set("EIRS_WEB__ADMIN_LISTEN", "");
    let web = site.web();
    let ask = |method, path| request(&web.address, method, path, &[], b"").expect("an answer");
    for (method, path, allow) in [
        ("GET", "/upload", "POST"),
        ("HEAD", "/upload", "POST"),
        ("GET", "/doorbell", "POST"),
        ("POST", "/status", "GET, HEAD"),
        ("PUT", "/results/x", "GET, HEAD, DELETE"),
        ("OPTIONS", "/", "GET, HEAD"),
    ] {
        let answer = ask(method, path);
        assert_eq!((answer.status, answer.header("allow")), (405, Some(allow)), "{method} {path}");
    }
    for path in ["/", "/status", "/livez", "/readyz", "/metrics", "/events", "/openapi.json", "/docs"] {
        let answer = ask("HEAD", path);
        assert_eq!((answer.status, answer.body.as_str()), (200, ""), "{path}");
    }
}

#[test]
fn the_page_of_the_description_is_built_in() {
    let site = Site::new();
    let web = site.web();
    let page = web.get("/docs");
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    let spec = web.get("/openapi.json");
    assert!(page.body.contains(&spec.body), "the page shows the same description");
    for outside in ["src=\"http", "src=\"//", "<link"] {
        assert!(!page.body.contains(outside), "{outside}");
    }
    let policy = page.header("content-security-policy").expect("what the page may load");
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
}
