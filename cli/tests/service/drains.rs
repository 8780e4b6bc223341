use rustix::process::Signal;

use eirs_harness::{POLICY, Site, eventually, image, is_gone, upload};

#[test]
fn a_draining_worker_finishes_its_jobs_and_loses_nothing() {
    let site = Site::with_script("sleep 0.2; echo cat").set("EIRS_WORKER__SLOTS", "4");
    let web = site.web();
    let mut first = site.worker();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..12)
            .map(|number| {
                let address = &web.address;
                scope.spawn(move || upload(address, "", "x", &image(number)).expect("an answer"))
            })
            .collect();
        eventually("the first results", || (site.stored_results() >= 2).then_some(()));
        first.signal(Signal::TERM);
        assert!(first.exit().success(), "{}", first.log());
        assert!(first.log().contains("drained"), "{}", first.log());
        let done = site.stored_results();
        assert!(done < 12, "the rest is for the next worker");
        let _second = site.worker();
        for client in clients {
            let answer = client.join().expect("no panic");
            assert_eq!(answer.json()["label"], "cat");
        }
    });
}

#[test]
fn at_the_drain_deadline_a_worker_gives_its_jobs_back_and_exits() {
    let site =
        Site::with_script("test -f fast || sleep 30; echo cat").set("EIRS_WORKER__DRAIN_DEADLINE", "300ms");
    let web = site.web();
    let mut slow = site.worker();
    let pending = web.upload("?wait=0", "x", &image(1)).json();
    eventually("it is being classified", || (depth(&site)["in_flight"] == 1).then_some(()));
    slow.signal(Signal::TERM);
    assert!(slow.exit().success(), "{}", slow.log());
    assert!(slow.log().contains("gave back unfinished jobs"), "{}", slow.log());
    assert_eq!(depth(&site)["visible"], 1, "at once, not when the lease runs out");
    std::fs::write(site.folder.path().join("fast"), "").expect("a file");
    let _next = site.worker();
    assert_eq!(web.result(pending["id"].as_str().expect("an id")).json()["label"], "cat");
}

#[test]
fn a_second_signal_ends_a_worker_and_its_script_at_once() {
    let site = Site::with_script("echo $$ > script.pid; exec sleep 600");
    let script = || {
        let pid = std::fs::read_to_string(site.folder.path().join("script.pid")).ok()?;
        pid.strip_suffix('\n').map(str::to_owned)
    };
    let web = site.web();
    let mut worker = site.worker();
    web.upload("?wait=0", "x", &image(1));
    let script = eventually("it is being classified", script);
    worker.signal(Signal::TERM);
    eventually("it drains", || worker.log().contains("draining").then_some(()));
    worker.signal(Signal::TERM);
    assert_eq!(worker.exit().code(), Some(143));
    eventually("the script is gone", || is_gone(&script).then_some(()));
}

#[test]
fn web_drains_held_requests_get_their_202_and_new_ones_are_refused() {
    let site = Site::new().set("EIRS_WEB__DRAIN_DEADLINE", "700ms");
    let mut web = site.web();
    std::thread::scope(|scope| {
        let held: Vec<_> = (0..5)
            .map(|number| {
                let address = &web.address;
                scope.spawn(move || upload(address, "", "x", &image(number)).expect("nothing is cut"))
            })
            .collect();
        eventually("all are held", || (web.get("/status").json()["waiting"] == 5).then_some(()));
        // On an existing connection, since the listener closes soon.
        web.process.signal(Signal::TERM);
        for request in held {
            let answer = request.join().expect("no panic");
            assert_eq!(answer.status, 202, "{answer:?}");
        }
    });
    assert!(web.process.exit().success());
    let _worker = site.worker();
    eventually("all are classified all the same", || (site.stored_results() == 5).then_some(()));
}

#[test]
fn an_idle_service_drains_at_once() {
    let site = Site::new();
    let (mut web, mut worker) = (site.web(), site.worker());
    web.process.signal(Signal::TERM);
    worker.signal(Signal::INT);
    assert!(web.process.exit().success() && worker.exit().success());
}

#[test]
fn workers_start_with_the_first_upload_and_stop_when_idle() {
    // All processes must end with the test.
    let site = Site::new().set("EIRS_CONTROLLER__ON_EXIT", "drain");
    let (web, mut controller) = (site.web(), site.controller(POLICY));
    assert_eq!(web.upload("", "x", &image(1)).json()["label"], "noop", "from zero");
    let fleet = || web.get("/status").json()["controller"].to_string();
    eventually("it goes when it is idle", || web.workers().is_empty().then_some(()));
    assert_eq!(web.upload("", "x", &image(2)).json()["label"], "noop", "and comes back: {}", fleet());
    controller.signal(Signal::TERM);
    assert!(controller.exit().success(), "{}", controller.log());
}

#[test]
fn a_restarted_controller_adopts_running_workers() {
    let site = Site::new().set("EIRS_CONTROLLER__TICK", "200ms");
    let web = site.web();
    let policy = POLICY.replace("min = 0", "min = 1");
    let mut first = site.controller(&policy);
    let pids = eventually("a worker runs", || Some(web.workers()).filter(|pids| pids.len() == 1));
    first.kill();
    let mut second = site.controller(&policy);
    let controller = second.child.id();
    eventually("the next controller", || {
        (web.get("/status").json()["controller"]["pid"] == controller).then_some(())
    });
    assert_eq!(web.workers(), pids, "the same process");
    let gone = site.controller(&policy).exit();
    assert_eq!(gone.code(), Some(1), "a third one is refused while the second runs");
    // All processes must end with the test.
    std::fs::write(site.folder.path().join("policies/default.toml"), POLICY.replace("max = 3", "max = 0"))
        .expect("a policy");
    eventually("the worker goes", || web.workers().is_empty().then_some(()));
    second.signal(Signal::TERM);
    assert!(second.exit().success());
}

fn depth(site: &Site) -> serde_json::Value {
    let check = site.command("eirs").args(["check", "--json"]).output().expect("eirs check runs");
    let check: serde_json::Value = serde_json::from_slice(&check.stdout).expect("JSON");
    let queues = check["queues"].as_array().expect("queues").clone();
    queues.into_iter().find(|queue| queue["name"] == "requests-default").unwrap_or_default()
}
