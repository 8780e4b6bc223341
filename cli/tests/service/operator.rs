//! Orders and views of an operator while the real controller runs.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;

use eirs_harness::{POLICY, Process, Site, Web, eventually, image};

/// A controller with a short tick, and a web server.
fn service(site: &Site) -> (Web, Process) {
    let web = site.web();
    let controller = site.controller(POLICY);
    eventually("the controller has looked", || site.state().join("status.json").exists().then_some(()));
    (web, controller)
}

/// Runs `eirs`: returns the exit code and the output.
fn eirs(site: &Site, arguments: &[&str]) -> (i32, String) {
    let output = site.command("eirs").args(arguments).output().expect("eirs runs");
    let printed = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    (output.status.code().expect("an exit code"), printed.concat())
}

fn json(site: &Site, arguments: &[&str]) -> Value {
    let (code, printed) = eirs(site, arguments);
    assert_eq!(code, 0, "{printed}");
    serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
}

fn pool(web: &Web) -> Value {
    web.get("/status").json()["controller"]["pools"][0].clone()
}

#[test]
fn a_paused_controller_does_nothing_and_a_plan_shows_what_it_would_do() {
    // The tick is too long to happen, so every pass here is triggered.
    let site = Site::new().set("EIRS_CONTROLLER__TICK", "10m");
    let (web, controller) = service(&site);
    let (code, printed) = eirs(&site, &["pause"]);
    assert!(code == 0 && printed.starts_with("Every pool is paused (by "), "{printed}");
    eventually("the controller obeys", || pool(&web)["paused"]["since"].is_string().then_some(()));

    let pending = web.upload("?wait=0", "x", &image(1));
    assert_eq!(pending.status, 202);
    eventually("it is decided about", || (pool(&web)["would"][0] == "start default-1").then_some(()));
    let plan = json(&site, &["plan", "--json"]);
    assert_eq!(plan["pools"]["default"]["would"], serde_json::json!(["start default-1"]), "{plan}");
    assert!(plan["controller_at"].is_string(), "{plan}");
    let (code, printed) = eirs(&site, &["plan"]);
    assert!(
        code == 0 && printed.contains("would     start default-1") && printed.contains("paused    by "),
        "{printed}"
    );
    let (code, printed) = eirs(&site, &["check"]);
    assert!(code == 1 && printed.contains("the pool default is paused by"), "{printed}");
    assert!(web.workers().is_empty());
    assert!(controller.log().contains("would start default-1, but is paused by"), "{}", controller.log());

    let (code, printed) = eirs(&site, &["resume"]);
    assert!(code == 0 && printed.contains("The controller obeys at once."), "{printed}");
    let id = pending.json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(web.result(&id).json()["label"], "noop");
    leave_nothing(&site, &web, controller);
}

#[test]
fn a_cordoned_instance_is_drained_at_once_and_not_started_again() {
    let site = Site::new().set("EIRS_CONTROLLER__TICK", "10m");
    let web = site.web();
    let mut controller = site.controller(&POLICY.replace("min = 0", "min = 1"));
    let running = |id: &str| {
        let instances = pool(&web)["instances"].as_array().cloned().unwrap_or_default();
        instances.iter().any(|instance| instance["id"] == id && instance["state"] == "ready")
    };
    eventually("default-1 serves", || running("default-1").then_some(()));
    let (code, printed) = eirs(&site, &["cordon", "default-9"]);
    assert_eq!(code, 2, "{printed}");
    assert!(
        printed.contains("unknown instance `default-9`; known: default-1, default-2, default-3"),
        "{printed}"
    );
    let (code, printed) = eirs(&site, &["cordon", "default-1", "--drain"]);
    assert!(code == 0 && printed.starts_with("default-1 is cordoned and drained"), "{printed}");
    eventually("default-2 serves instead", || (running("default-2") && !running("default-1")).then_some(()));

    // The order and the worker outlive the controller.
    controller.kill();
    controller = site.controller(&POLICY.replace("min = 0", "min = 3"));
    let pid = controller.child.id();
    eventually("the others serve", || {
        let is_next = web.get("/status").json()["controller"]["pid"] == pid;
        (is_next && running("default-2") && running("default-3")).then_some(())
    });
    let (_, printed) = eirs(&site, &["status"]);
    assert!(printed.contains("default-1: cordoned and drained by"), "{printed}");
    assert!(printed.contains("waiting: the only stopped instance is cordoned"), "{printed}");
    eirs(&site, &["uncordon", "default-1"]);
    eventually("it serves again", || running("default-1").then_some(()));
    leave_nothing(&site, &web, controller);
}

/// Workers outlive their controller unless it must drain them.
fn leave_nothing(site: &Site, web: &Web, mut controller: Process) {
    fs::write(site.folder.path().join("policies/default.toml"), POLICY.replace("max = 3", "max = 0"))
        .expect("a policy");
    eventually("the workers go", || web.workers().is_empty().then_some(()));
    controller.signal(Signal::TERM);
    assert!(controller.exit().success(), "{}", controller.log());
}

#[test]
fn a_plan_can_use_other_policies_and_needs_a_controller_for_history() {
    let site = Site::new().set("EIRS_CONTROLLER__TICK", "200ms");
    let (web, mut controller) = service(&site);
    let others = site.folder.path().join("others");
    fs::create_dir(&others).expect("a folder");
    fs::write(others.join("default.toml"), "[pool]\nmin = 7\nmax = 9\n").expect("a policy");
    let plan = json(&site, &["plan", "--json", "--policies", "others"]);
    assert_eq!(plan["pools"]["default"]["desired"], 7, "{plan}");
    assert_eq!(plan["pools"]["default"]["would"].as_array().map(Vec::len), Some(7), "{plan}");
    assert!(web.workers().is_empty(), "nothing was done");

    fs::write(others.join("default.toml"), "[pool]\nminimum = 7\n").expect("a policy");
    let (code, printed) = eirs(&site, &["plan", "--policies", "others"]);
    assert!(code == 78 && printed.contains("default.toml:2: unknown key `pool.minimum`"), "{printed}");

    controller.signal(Signal::TERM);
    assert!(controller.exit().success());
    let (code, printed) = eirs(&site, &["plan"]);
    assert!(
        code == 0 && printed.starts_with("No controller is running. The first pass of a new one"),
        "{printed}"
    );
}

#[test]
fn the_status_is_json_with_stable_keys_or_text() {
    let site = Site::new().set("EIRS_CONTROLLER__TICK", "200ms");
    let (code, printed) = eirs(&site, &["status"]);
    assert!(code == 1 && printed.contains("nothing has run on the state folder"), "{printed}");
    let (web, controller) = service(&site);
    assert_eq!(web.upload("", "x", &image(1)).json()["label"], "noop");
    let status = json(&site, &["status", "--json"]);
    assert_eq!((&status["running"], &status["pid"]), (&true.into(), &controller.child.id().into()));
    let pool = &status["controller"]["pools"][0];
    for key in [
        "name",
        "model",
        "min",
        "max",
        "visible",
        "in_flight",
        "desired",
        "ready",
        "wishes",
        "learnt",
        "today",
    ] {
        assert!(!pool[key].is_null(), "{key}: {pool}");
    }
    assert_eq!(pool["instances"][0]["id"], "default-1");
    let (code, printed) = eirs(&site, &["status"]);
    assert!(code == 0 && printed.starts_with("The controller is running as process"), "{printed}");
    assert!(printed.contains("default-1") && printed.contains("start default-1"), "{printed}");
    assert!(
        !printed.contains('\u{1b}') && printed.lines().all(|line| line.chars().count() <= 80),
        "{printed}"
    );
    leave_nothing(&site, &web, controller);
}

#[test]
fn observations_are_recorded_and_arrivals_add_up() {
    let site = Site::new().set("EIRS_CONTROLLER__TICK", "200ms");
    let (web, controller) = service(&site);
    for number in 0..5 {
        assert_eq!(web.upload("", "x", &image(number)).json()["label"], "noop");
    }
    let lines = || -> Vec<Value> {
        let text = fs::read_to_string(site.state().join("recording/observations.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    };
    eventually("all arrivals are recorded", || {
        let arrived: u64 = lines().iter().filter_map(|line| line["arrived"].as_u64()).sum();
        assert!(arrived <= 5, "counted twice: {:?}", lines());
        (arrived == 5).then_some(())
    });
    eventually("a ready worker too", || lines().iter().any(|line| line["ready"] == 1).then_some(()));
    assert!(
        lines().iter().all(|line| line["v"] == 1 && line["pool"] == "default" && line["desired"].is_u64())
    );
    leave_nothing(&site, &web, controller);
}

#[test]
fn the_next_controller_knows_of_a_refused_start() {
    let site = Site::new()
        .set("EIRS_CONTROLLER__TICK", "200ms")
        .set("EIRS_CONTROLLER__SIMULATE__CAPACITY_ERROR", "1");
    let (web, mut controller) = service(&site);
    web.upload("?wait=0", "x", &image(1));
    let refused = || pool(&web)["instances"][0]["refused"]["count"].as_u64().filter(|count| *count >= 2);
    eventually("it is refused again and again", refused);
    let (code, printed) = eirs(&site, &["check"]);
    assert!(
        code == 1 && printed.contains("default-1 refused to start") && printed.contains("no capacity"),
        "{printed}"
    );
    let (_, printed) = eirs(&site, &["status"]);
    assert!(printed.contains("100% are refused"), "{printed}");
    controller.signal(Signal::TERM);
    assert!(controller.exit().success());
    let learnt = fs::read_to_string(site.state().join("learnt.json")).expect("it was written at the end");
    assert!(learnt.contains("\"capacity\": true"), "{learnt}");
    // An invalid file is one warning, and the controller starts without history.
    fs::write(site.state().join("learnt.json"), "{").expect("a broken file");
    let next = site.controller(POLICY);
    eventually("it says so and goes on", || {
        let log = next.log();
        (log.contains("is broken") && log.contains("learnt again") && refused().is_some()).then_some(())
    });
}

#[test]
fn a_simulated_start_delay_and_failing_boots_are_observed() {
    let site = Site::new()
        .set("EIRS_CONTROLLER__TICK", "200ms")
        .set("EIRS_CONTROLLER__SIMULATE__START_DELAY", "1s..2s");
    let (web, controller) = service(&site);
    let start = std::time::Instant::now();
    assert_eq!(web.upload("", "x", &image(1)).json()["label"], "noop");
    assert!(start.elapsed() >= std::time::Duration::from_secs(1), "{:?}", start.elapsed());
    // A new controller without a pass would not know the worker, and leave it running.
    eventually("the controller has seen the worker", || (!web.workers().is_empty()).then_some(()));
    leave_nothing(&site, &web, controller);
    drop(web);

    let site = site.set("EIRS_CONTROLLER__SIMULATE__BOOT_FAILURE", "1");
    let web = site.web();
    // With this seed, at least one of three failing starts ends at once.
    let _controller = site.controller(&POLICY.replace("min = 0", "min = 3"));
    eventually("a start comes to nothing", || {
        let error = pool(&web)["instances"].to_string();
        error.contains("did not start (simulated").then_some(())
    });
}
