//! The complete installation: setup bakes an image of a machine with its own systemd, launches
//! workers and a web host from its uploads, and the shipped units serve. A drain is a real
//! `systemctl stop`, ordered over SSM.

use std::io::Read;

use serde_json::Value;

use crate::{
    cloud::{Cloud, Machine, OUTPUT, POLICY, free_address},
    serving::upload_all,
};
use eirs_harness::{Site, eventually};

/// Returns the machines of this role.
fn machines(cloud: &Cloud, role: &str) -> Vec<Machine> {
    let of_role = |instance: &Value| instance["tags"]["eirs:role"] == role;
    let ids = cloud.instances().into_iter().filter(of_role);
    ids.filter_map(|instance| instance["id"].as_str().map(|id| Machine(id.to_owned()))).collect()
}

/// Returns the journal entries that a machine has copied to the bucket of the results.
fn shipped_logs(cloud: &Cloud, machine: &Machine) -> Vec<Value> {
    let copied = cloud.objects(OUTPUT, &format!("logs/{}/", machine.0));
    let lines = |packed: &Vec<u8>| {
        let mut text = String::new();
        flate2::read::GzDecoder::new(&packed[..]).read_to_string(&mut text).expect("gzip");
        text.lines().map(|line| serde_json::from_str(line).expect("an entry")).collect::<Vec<Value>>()
    };
    copied.iter().flat_map(lines).collect()
}

/// Returns the index of the first journal entry with a text.
fn place(journal: &[Value], text: &str) -> Option<usize> {
    journal.iter().position(|entry| entry["MESSAGE"].as_str().is_some_and(|message| message.contains(text)))
}

#[test]
fn setup_bakes_machines_whose_units_serve_drain_and_power_off() {
    let address = free_address();
    // As by default in AWS, the script has another user than the worker.
    let site = Site::with_script("[ \"$(id -un)\" = eirs-script ] || exit 1; sleep 0.4; echo cat")
        .set("EIRS_WEB__LISTEN", &address)
        .set("EIRS_WORKER__ABANDONED_AFTER", "8s")
        .set("EIRS_SETUP__SHIP_LOGS", "true");
    let Some(cloud) = Cloud::of_machines(site) else { return };
    let before = cloud.state();
    cloud.expect(&["setup", "--uploads-from", "203.0.113.0/24", "--yes"]);
    assert_eq!(cloud.in_state("stopped").len(), 3);

    let labels = upload_all(&address, 0..30);
    assert!(labels.len() == 30 && labels.values().all(|label| label == "cat"), "{labels:?}");
    cloud.until_all_are_parked();
    let mut served = 0;
    for worker in machines(&cloud, "worker") {
        let journal = worker.journal("eirs-worker");
        let Some(taking) = place(&journal, "taking jobs") else { continue };
        served += 1;
        // The log outlives the machine, from its start to its drain.
        let shipped = eventually("the last logs are in the bucket", || {
            Some(shipped_logs(&cloud, &worker)).filter(|said| place(said, "drained").is_some())
        });
        assert!(place(&shipped, "taking jobs").is_some(), "{shipped:#?}");
        let logged =
            place(&journal, "draining: no new jobs").unwrap_or_else(|| panic!("{worker:?}: {journal:#?}"));
        let drained = place(&journal, "drained").expect("it drained");
        let stopped = place(&journal, "Stopped").expect("systemd says so");
        assert!(taking < logged && logged < drained && drained < stopped, "{journal:#?}");
        assert!(
            place(&journal, "SIGKILL").is_none() && place(&journal, "gave back").is_none(),
            "{journal:#?}"
        );
    }
    assert!(served >= 2, "a burst takes several");

    let [host] = machines(&cloud, "web").try_into().expect("one web host");
    let journal = host.journal("eirs-controller");
    let starts =
        |entry: &&Value| entry["EIRS_ACTIONS"].as_str().is_some_and(|actions| actions.starts_with("start"));
    let decision = journal.iter().find(starts);
    let decision = decision.unwrap_or_else(|| panic!("{journal:#?}"));
    assert_eq!(decision["EIRS_POOL"], "default");
    assert!(decision["EIRS_REASON"].as_str().is_some_and(|reason| !reason.is_empty()), "{decision}");
    // An operator edits the policy and reloads: when the reload returns, the policy is in force.
    let file = "/etc/eirs/policies/default.toml";
    let policy = POLICY.replace("max = 3", "max = 2");
    host.run(&format!("cat > {file} <<'E'\n{policy}\nE\nsystemctl reload eirs-controller"));
    let status: Value = serde_json::from_str(&host.run("eirs status --json")).expect("JSON");
    assert_eq!(status["controller"]["pools"][0]["max"], 2);
    host.run("eirs check");
    host.run("systemctl is-active eirs-web eirs-controller eirs.target");

    // If the controller is gone for good, an idle worker stops by itself.
    host.run(&format!("sed -i 's/max = 2/max = 2\\nmin = 1/' {file} && systemctl reload eirs-controller"));
    assert_eq!(upload_all(&address, 100..104).len(), 4);
    host.run("systemctl stop eirs-controller");
    assert_eq!(cloud.in_state("running").len(), 2, "the web host and a worker");
    cloud.until_all_are_parked();
    let logged = |worker: &Machine| {
        place(&worker.journal("eirs-worker"), "no controller is running, and no job came").is_some()
    };
    assert!(machines(&cloud, "worker").iter().any(logged));
    host.run("systemctl start eirs-controller");
    assert_eq!(upload_all(&address, 200..202).len(), 2, "and comes back with it");

    // A machine whose unit is stopped is useless, and nothing else stops it here.
    host.run("systemctl stop eirs-controller");
    let running = eventually("one worker stays", || {
        let up = |id: &String| machines(&cloud, "worker").iter().any(|worker| worker.0 == *id);
        cloud.in_state("running").into_iter().find(up).map(Machine)
    });
    assert_eq!(running.run("systemctl is-active eirs-guard.timer").trim(), "active");
    running.run(
        "mkdir -p /run/systemd/system/eirs-guard.service.d && \
         printf '[Service]\\nEnvironment=ENDED_SECONDS=0\\n' \
         >/run/systemd/system/eirs-guard.service.d/test.conf && \
         systemctl daemon-reload && systemctl stop eirs-worker && systemctl start --no-block eirs-guard",
    );
    eventually("it is off", || {
        let journal = running.journal("eirs-guard");
        place(&journal, "eirs-worker.service does not run").map(|_| ())
    });

    cloud.expect(&["cleanup", "--mode", "delete", "--yes"]);
    eventually("the account is as it was", || (cloud.state() == before).then_some(()));
}
