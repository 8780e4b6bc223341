//! Services that crash, hang, or cannot start.

use crate::machine::{Plan, said};
use eirs_harness::eventually;

const UNITS: [&str; 3] = ["eirs-web", "eirs-controller", "eirs-worker"];

#[test]
fn a_killed_service_is_restarted_and_no_job_is_lost() {
    let Some(machine) = Plan::with_script("sleep 0.3; echo cat").boot() else { return };
    machine.systemctl(&["start", "eirs.target", "eirs-worker"]);
    let mut ids = machine.hand_over(0..30);
    eventually("the first results", || (machine.stored_results() >= 2).then_some(()));
    let child = eventually("the controller has a worker of its own", || {
        let pools = machine.status()["pools"].as_array().cloned().unwrap_or_default();
        pools.iter().find_map(|pool| pool["instances"][0]["pid"].as_u64())
    });
    for unit in UNITS {
        machine.signal(unit, "KILL");
    }
    for unit in UNITS {
        machine.becomes(unit, "NRestarts", "1");
        machine.becomes(unit, "ActiveState", "active");
    }
    let lives = machine.try_run("test", &["-e", &format!("/proc/{child}")]).status.success();
    assert!(!lives, "it went with the controller's unit, and its jobs come back");
    ids.extend(machine.hand_over(30..35));
    machine.expect_results(&ids, "cat");
}

#[test]
fn a_hanging_service_is_killed_by_the_watchdog_and_restarted() {
    let mut plan = Plan::with_script("echo cat");
    for unit in UNITS {
        plan = plan.drop_in(unit, "[Service]\nWatchdogSec=1\nRestartSec=100ms\n");
    }
    let Some(machine) = plan.boot() else { return };
    machine.systemctl(&["start", "eirs.target", "eirs-worker"]);
    // Waiting is not hanging.
    let ids = machine.hand_over(0..3);
    machine.expect_results(&ids, "cat");
    for unit in UNITS {
        assert_eq!(machine.show(unit, "NRestarts"), "0");
        machine.signal(unit, "STOP");
    }
    for unit in UNITS {
        machine.becomes(unit, "NRestarts", "1");
        machine.becomes(unit, "ActiveState", "active");
        machine.says(unit, "Watchdog timeout");
    }
    let ids = machine.hand_over(3..6);
    machine.expect_results(&ids, "cat");
}

#[test]
fn bad_settings_fail_with_78_and_the_key_and_without_restarts() {
    let Some(machine) = Plan::with_model().boot() else { return };
    let good = machine.read("/etc/eirs/eirs.toml");
    machine.write(
        "/etc/eirs/eirs.toml",
        &format!("{good}\n[queue]\nvisibilty = \"1m\"\nmax_receives = \"x\"\n"),
    );
    for unit in UNITS {
        let refused = machine.try_run("systemctl", &["start", unit]);
        assert!(!refused.status.success(), "{}", said(&refused));
        // Not `activating`, which would mean waiting for the next attempt.
        assert_eq!(
            (machine.show(unit, "ActiveState"), machine.show(unit, "NRestarts")),
            ("failed".into(), "0".into())
        );
        let log = machine.log(unit);
        let lines = |text: &str| log.iter().filter(|line| line.contains(text)).count();
        assert_eq!(lines("unknown key `queue.visibilty`; did you mean `queue.visibility`?"), 1, "{log:#?}");
        assert_eq!(lines("queue.max_receives: "), 1, "{log:#?}");
        assert_eq!(lines("status=78/CONFIG"), 1, "{log:#?}");
    }
    let failed = machine.systemctl(&["--failed", "--plain", "--no-legend"]);
    assert_eq!(failed.lines().filter(|line| line.starts_with("eirs-")).count(), 3, "{failed}");

    // An error that only the start itself detects is not retried either.
    machine.write("/etc/eirs/eirs.toml", &good);
    machine.write("/etc/eirs/policies/default.toml", "[pool]\nmax = 1.5\n");
    machine.write(
        "/etc/systemd/system.conf.d/60-model.conf",
        "[Manager]\n\
        DefaultEnvironment=EIRS_MODELS__DEFAULT__CLASSIFIER=onnx EIRS_MODELS__DEFAULT__PATH=/nowhere.onnx\n",
    );
    machine.systemctl(&["daemon-reexec"]);
    machine.systemctl(&["reset-failed"]);
    for (unit, reason) in
        [("eirs-worker", "/nowhere.onnx"), ("eirs-controller", "default.toml:2: pool.max: is 1.5")]
    {
        assert!(!machine.try_run("systemctl", &["start", unit]).status.success());
        assert_eq!(
            (machine.show(unit, "ActiveState"), machine.show(unit, "NRestarts")),
            ("failed".into(), "0".into())
        );
        machine.says(unit, reason);
    }
}

#[test]
fn a_controller_with_a_wrong_policy_starts_when_that_is_repaired_unless_it_was_stopped() {
    let Some(machine) = Plan::with_script("echo cat").boot() else { return };
    const FILE: &str = "/etc/eirs/policies/default.toml";
    let good = machine.read(FILE);
    let edit = |text: &str| _ = machine.run("sh", &["-c", &format!("cat > {FILE} <<'END'\n{text}\nEND")]);
    let refusals =
        |line: &str| machine.log("eirs-controller").iter().filter(|said| said.contains(line)).count();
    edit("[pool]\nmax = 1.5");
    machine.systemctl(&["start", "eirs.target"]);
    machine.becomes("eirs-controller", "ActiveState", "failed");
    machine.becomes("eirs-policies.path", "ActiveState", "active");
    let ids = machine.hand_over(0..1);
    edit("[pool]\nmax = 2.5");
    eventually("it is refused again", || (refusals("pool.max: is 2.5") > 0).then_some(()));
    machine.becomes("eirs-controller", "ActiveState", "failed");
    edit(&good);
    machine.becomes("eirs-controller", "ActiveState", "active");
    machine.expect_results(&ids, "cat");
    machine.systemctl(&["stop", "eirs-controller"]);
    machine.becomes("eirs-policies.path", "ActiveState", "inactive");

    // The same if it was stopped while it was down.
    edit("[pool]\nmax = 1.5");
    for stopped in ["eirs-controller", "eirs.target"] {
        assert!(!machine.try_run("systemctl", &["start", "eirs-controller"]).status.success());
        machine.becomes("eirs-policies.path", "ActiveState", "active");
        machine.systemctl(&["stop", stopped]);
        machine.becomes("eirs-policies.path", "ActiveState", "inactive");
    }
}

#[test]
fn a_repeatedly_failing_service_is_given_up_and_shown() {
    let plan = Plan::with_script("echo cat")
        .drop_in("eirs-web", "[Unit]\nStartLimitBurst=4\n[Service]\nRestartSec=100ms\n");
    let Some(machine) = plan.boot() else { return };
    machine.write("/var/lib/eirs/layout", "999");
    let refused = machine.try_run("systemctl", &["start", "eirs-web"]);
    assert!(!refused.status.success());
    machine.becomes("eirs-web", "ActiveState", "failed");
    machine.becomes("eirs-web", "NRestarts", "4");
    machine.says("eirs-web", "has layout \"999\"");
    let failed = machine.systemctl(&["--failed", "--plain", "--no-legend"]);
    assert!(failed.starts_with("eirs-web.service"), "{failed}");
    let looked = machine
        .run("sh", &["-c", "mkdir -p /tmp/s; printf 1 > /tmp/s/layout; eirs check --state /tmp/s || true"]);
    assert!(looked.contains("Wrong: eirs-web has failed ("), "{looked}");
}
