//! `eirs load` with a real service: exit codes, the page, and the fleet in the report.

use std::{fs, path::Path};

use rustix::process::Signal;

use eirs_harness::{Site, eventually};

const POLICY: &str = "[pool]\nmax = 1\n[[rule]]\nkind = \"backlog\"\n";

fn samples() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/shapes/samples").display().to_string()
}

/// Runs `eirs load`: returns the exit code and the output.
fn load(site: &Site, url: &str, arguments: &[&str]) -> (i32, String) {
    let images = samples();
    let mut process =
        site.start("eirs", &[&["load", "--url", url, "--image-folder", &images][..], arguments].concat());
    let code = process.exit().code().expect("an exit code");
    (code, process.log())
}

#[test]
fn an_open_loop_reports_as_json_and_as_a_page_and_goals_decide_its_exit_code() {
    // All processes must end with the test.
    let site = Site::new().set("EIRS_CONTROLLER__ON_EXIT", "drain");
    let (web, mut controller) = (site.web(), site.controller(POLICY));
    eventually("the controller's first look", || site.state().join("status.json").exists().then_some(()));
    let open = ["--rate", "40@1s", "--unique", "--json", "--report", "load.html"];

    let (code, said) = load(&site, &web.address, &[&open[..], &["--slo-p95", "1h"]].concat());
    assert_eq!(code, 0, "{said}");
    let report: serde_json::Value = serde_json::from_str(&said).expect("one JSON object and nothing else");
    assert_eq!((&report["images"], &report["results"]), (&40.into(), &40.into()), "{said}");
    assert_eq!((&report["load"]["loop"], &report["load"]["rate"]), (&"open".into(), &"40@1s".into()));
    assert_eq!(report["slo"]["met"], true, "{said}");
    let fleet = report["fleet"].as_array().expect("a list");
    let pool = &fleet.last().expect("the service reported its fleet")["pools"][0];
    assert!(pool["name"] == "default" && pool["ready"].is_u64() && pool["visible"].is_u64(), "{pool}");

    let page = fs::read_to_string(site.folder.path().join("load.html")).expect("the page");
    for figure in
        ["All goals are met.", "<b>40</b><span>with a label</span>", "<b>Backlog</b>", "--slo-p95 1h"]
    {
        assert!(page.contains(figure), "{figure}");
    }

    let (code, said) = load(&site, &web.address, &[&open[..], &["--slo-p50", "0s"]].concat());
    assert!(code == 1 && said.contains("\"met\": false"), "{code} {said}");
    controller.signal(Signal::TERM);
    assert!(controller.exit().success(), "{}", controller.log());
}

#[test]
fn impossible_options_are_refused_before_anything_is_sent() {
    let site = Site::new();
    for (arguments, expected) in [
        (&["--rate", "fast"][..], "--rate `fast`: `fast` is not a rate"),
        (&["--rate", "5", "--concurrency", "3"], "cannot be used with"),
        (&["--rate", "burst:3/10m@10m", "--arrivals", "poisson"], "a trace has its own times"),
        (&["--arrivals", "poisson"], "--rate"),
        (&["--expect", "("], "is neither a JSON pointer nor a pattern"),
        (&["--slo-errors", "many"], "is not a share"),
        (&["--num-request", "0"], "nothing to upload"),
        (&["--duration", "0s"], "nothing to upload"),
        (&["--timeout", "0"], "no upload would be in time"),
    ] {
        let (code, said) = load(&site, "127.0.0.1:9", arguments);
        assert!(code == 2 && said.contains(expected), "{arguments:?}: {code} {said}");
    }
}

#[test]
fn a_run_that_uploads_nothing_has_failed() {
    let site = Site::new();
    let web = site.web();
    let goals = ["--slo-p95", "1h"];
    for arguments in [&["--rate", "0.001", "--duration", "100ms"][..], &["--rate", "1/h@1s"]] {
        let (code, said) = load(&site, &web.address, &[arguments, &goals].concat());
        assert!(code == 1 && said.contains("nothing was uploaded"), "{arguments:?}: {code} {said}");
    }
}

#[test]
fn a_trace_is_replayed_on_a_service_without_a_fleet() {
    let site = Site::new();
    let (web, _worker) = (site.web(), site.worker());
    fs::write(site.folder.path().join("trace.csv"), "t_seconds,count\n0,5\n10,3\n").expect("a trace");
    let (code, said) =
        load(&site, &web.address, &["--rate", "trace.csv", "--speed", "20", "--quiet", "--unique"]);
    assert!(code == 0 && said.contains("Results     8\n") && !said.contains("Fleet"), "{code} {said}");
}
