//! Orderly stops during jobs: nothing is lost, no process is killed, and services stop in the right
//! order.

use serde_json::Value;

use crate::machine::{Machine, PROGRAMS, Plan};
use eirs_harness::{eventually, image, upload};

/// Returns the index of the journal entry with this text.
#[track_caller]
fn place(journal: &[Value], text: &str) -> usize {
    let found =
        journal.iter().position(|entry| entry["MESSAGE"].as_str().is_some_and(|said| said.contains(text)));
    found.unwrap_or_else(|| panic!("nobody says {text:?}"))
}

/// Returns the index of the entry in which systemd reports a start or stop of a unit.
#[track_caller]
fn event(journal: &[Value], verb: &str, unit: &str) -> usize {
    let is_it = |entry: &Value| {
        entry["UNIT"] == format!("{unit}.service")
            && entry["MESSAGE"].as_str().is_some_and(|said| said.starts_with(verb))
    };
    journal.iter().position(is_it).unwrap_or_else(|| panic!("no {verb:?} of {unit}"))
}

fn nobody_was_killed(machine: &Machine) {
    for unit in &PROGRAMS[1..] {
        machine.never_says(unit, "SIGKILL");
        machine.never_says(unit, "Failed with result");
    }
}

#[test]
fn a_worker_stopped_during_jobs_finishes_them_and_loses_none() {
    let Some(machine) = Plan::with_script("sleep 0.3; echo cat").set("EIRS_WORKER__SLOTS", "4").boot() else {
        return;
    };
    machine.systemctl(&["start", "eirs-web", "eirs-worker"]);
    let address = machine.address();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..12)
            .map(|number| {
                scope.spawn({
                    let address = &address;
                    move || upload(address, "", "x", &image(number)).expect("an answer")
                })
            })
            .collect();
        eventually("the first results", || (machine.stored_results() >= 2).then_some(()));
        machine.systemctl(&["stop", "eirs-worker"]);
        assert_eq!(machine.show("eirs-worker", "Result"), "success");
        machine.says("eirs-worker", "drained");
        assert!(machine.stored_results() < 12, "the rest is for the next worker");
        machine.systemctl(&["start", "eirs-worker"]);
        for client in clients {
            assert_eq!(client.join().expect("no panic").json()["label"], "cat");
        }
    });
    nobody_was_killed(&machine);
}

#[test]
fn a_restart_of_the_controller_during_jobs_drains_its_workers_and_loses_none() {
    let Some(machine) = Plan::with_script("sleep 0.3; echo cat").boot() else { return };
    machine.systemctl(&["start", "eirs.target"]);
    let mut ids = machine.hand_over(0..20);
    for round in 1..=2 {
        eventually("some results", || (machine.stored_results() >= 2 * round).then_some(()));
        machine.systemctl(&["restart", "eirs-controller"]);
    }
    ids.extend(machine.hand_over(20..25));
    machine.expect_results(&ids, "cat");
    machine.says("eirs-controller", "drained");
    nobody_was_killed(&machine);
}

#[test]
fn the_target_stops_web_first_which_finishes_its_uploads_and_then_the_workers() {
    let Some(machine) = Plan::with_script("sleep 0.3; echo cat").boot() else { return };
    machine.systemctl(&["start", "eirs.target", "eirs-worker"]);
    let address = machine.address();
    let ids = machine.hand_over(100..120);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|number| {
                scope.spawn({
                    let address = &address;
                    move || upload(address, "", "x", &image(number)).expect("an answer")
                })
            })
            .collect();
        eventually("the uploads are held", || (machine.get("/status").json()["uploads"] == 4).then_some(()));
        machine.systemctl(&["stop", "eirs.target"]);
        // The workers continued for web.
        for client in clients {
            assert_eq!(client.join().expect("no panic").json()["label"], "cat");
        }
    });
    for unit in &PROGRAMS[1..] {
        machine.becomes(unit, "ActiveState", "inactive");
    }
    let journal = machine.journal();
    let web_is_gone = event(&journal, "Stopped", "eirs-web");
    for unit in ["eirs-controller", "eirs-worker"] {
        assert!(web_is_gone < event(&journal, "Stopping", unit), "{unit}");
    }
    nobody_was_killed(&machine);
    machine.write("/var/lib/eirs/web.address", "");
    machine.systemctl(&["start", "eirs.target"]);
    machine.expect_results(&ids, "cat");
}

#[test]
fn a_poweroff_during_jobs_drains_before_the_network_stops() {
    let network = "[Unit]\nBefore=network.target network-online.target\nWants=network.target\n\
        [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/echo the network is there\n\
        ExecStop=/bin/echo the network goes\n";
    let plan =
        Plan::with_script("sleep 1; echo cat").file("/etc/systemd/system/test-network.service", network);
    let wanted = "[Unit]\nWants=test-network.service\n";
    let plan = plan.file("/etc/systemd/system/network-online.target.d/test.conf", wanted);
    let Some(machine) = plan.boot() else { return };
    machine.systemctl(&["start", "eirs.target", "eirs-worker"]);
    let ids = machine.hand_over(0..20);
    let of_pool = |what: &str| machine.status()["pools"][0][what].as_u64();
    eventually("both kinds of workers are at work", || {
        (of_pool("in_flight") >= Some(2) && of_pool("ready") >= Some(1)).then_some(())
    });
    machine.poweroff();

    let journal = machine.journal();
    let gone = place(&journal, "the network goes");
    assert!(place(&journal, "the network is there") < event(&journal, "Starting", "eirs-web"));
    for unit in &PROGRAMS[1..] {
        assert!(event(&journal, "Stopped", unit) < gone, "{unit} outlived the network");
    }
    let drained =
        |entry: &&Value| entry["SYSLOG_IDENTIFIER"] == "eirs-worker" && entry["MESSAGE"] == "drained";
    assert!(
        journal[..gone].iter().filter(drained).count() >= 2,
        "a worker's unit, and a worker of the controller's"
    );
    nobody_was_killed(&machine);
    // Every job is done or waiting, and none is held.
    let state = machine.path("/var/lib/eirs");
    let mut check = std::process::Command::new(env!("CARGO_BIN_EXE_eirs"));
    let report = check.args(["check", "--json", "--state"]).arg(&state).output().expect("it runs").stdout;
    let report: Value = serde_json::from_slice(&report).expect("JSON");
    let queues = report["queues"].as_array().expect("queues");
    let requests = queues.iter().find(|queue| queue["name"] == "requests-default").expect("the queue");
    assert_eq!(requests["in_flight"], 0, "{report}");
    let left = requests["visible"].as_u64().expect("a number") as usize;
    let done = report["results"]["count"].as_u64().expect("a number") as usize;
    assert_eq!(left + done, ids.len(), "{report}");
}

#[test]
fn a_drain_longer_than_the_timeout_of_the_unit_is_completed() {
    let short = "[Service]\nTimeoutStopSec=1\n";
    let plan = Plan::with_script("sleep 4; echo cat").set("EIRS_QUEUE__VISIBILITY", "30s");
    let plan =
        plan.drop_in("eirs-web", short).drop_in("eirs-worker", short).drop_in("eirs-controller", short);
    // Workers have the policy's own deadline of 5 seconds.
    let Some(machine) = plan.boot() else { return };
    machine.systemctl(&["start", "eirs-web"]);
    let address = machine.address();
    for (number, unit) in ["eirs-worker", "eirs-controller"].into_iter().enumerate() {
        machine.systemctl(&["start", unit]);
        let ids = machine.hand_over(number as u32..number as u32 + 1);
        eventually("the job is held", || {
            let check = machine.run("sh", &["-c", "eirs check --json || true"]);
            let report: Value = serde_json::from_str(&check).ok()?;
            let queues = report["queues"].as_array().cloned().unwrap_or_default();
            queues
                .iter()
                .any(|queue| queue["name"] == "requests-default" && queue["in_flight"] == 1)
                .then_some(())
        });
        machine.systemctl(&["stop", unit]);
        assert_eq!(machine.show(unit, "Result"), "success");
        machine.expect_results(&ids, "cat");
    }
    machine.systemctl(&["start", "eirs-worker"]);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| upload(&address, "", "x", &image(9)).expect("an answer"));
        eventually("the upload is held", || {
            machine.show("eirs-web", "StatusText").contains("1 uploads").then_some(())
        });
        machine.systemctl(&["stop", "eirs-web"]);
        assert_eq!(client.join().expect("no panic").json()["label"], "cat");
    });
    nobody_was_killed(&machine);
}
