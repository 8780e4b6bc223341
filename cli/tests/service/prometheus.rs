//! Metrics and alerts, checked with Prometheus's own tool.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use eirs_platform::testing;

use eirs_harness::{POLICY, Site, eventually, image, request};

/// Runs `promtool` in the project with this standard input; it must find no errors.
fn promtool(arguments: &[&str], input: &str) {
    let Some(promtool) = testing::promtool() else {
        return testing::not_run("there is no promtool", "make test, on Debian or Ubuntu");
    };
    let mut command = Command::new(promtool);
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool starts");
    child.stdin.take().expect("its input").write_all(input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{arguments:?}: {said}");
}

#[test]
fn prometheus_accepts_the_alerts_and_they_fire_as_tested() {
    promtool(&["check", "rules", "docs/alerts.yml"], "");
    promtool(&["test", "rules", "testing/prometheus/alerts.yml"], "");
}

#[test]
fn every_alert_has_a_test() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |path: PathBuf| std::fs::read_to_string(path).expect("a file");
    let tests = read(project.join("testing/prometheus/alerts.yml"));
    let alerts = read(project.join("docs/alerts.yml"));
    let names: Vec<_> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        let fires = [format!("alertname=\"{name}\""), format!("alertname: {name}\n")];
        assert!(fires.iter().any(|fires| tests.contains(fires)), "{name} fires in no test");
    }
}

#[test]
fn prometheus_finds_no_errors_in_a_scrape() {
    let site = Site::new().set("EIRS_WORKER__REPORT_EVERY", "500ms").set("EIRS_CONTROLLER__TICK", "200ms");
    let (web, _controller) = (site.web(), site.controller(&POLICY.replace("min = 0", "min = 1")));
    assert_eq!(web.upload("", "x", &image(1)).json()["label"], "noop");
    let scrape = eventually("the worker has reported", || {
        Some(web.get("/metrics").body).filter(|text| text.contains("eirs_worker_service_seconds{"))
    });
    promtool(&["check", "metrics"], &scrape);
}

#[test]
fn scrapers_get_the_requested_format() {
    let site = Site::new();
    let web = site.web();
    let admin = web.admin.as_deref().expect("it has a listener of its own");
    let prometheus = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    for (accept, content_type, counter, is_openmetrics) in [
        (
            prometheus,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            "eirs_images counter",
            true,
        ),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8", "eirs_images_total counter", false),
    ] {
        let answer = request(admin, "GET", "/metrics", &[("accept", accept)], b"").expect("an answer");
        assert_eq!(answer.header("content-type"), Some(content_type));
        assert!(answer.body.contains(&format!("\n# TYPE {counter}\n")), "{}", answer.body);
        assert_eq!(answer.body.ends_with("# EOF\n"), is_openmetrics, "{}", answer.body);
        assert!(answer.body.contains("\neirs_images_total{answer=\"cached\"} 0\n"), "{}", answer.body);
    }
}
