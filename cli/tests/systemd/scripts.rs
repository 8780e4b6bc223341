//! Scripts with another user than the worker, as `eirs setup` configures on AWS.

use std::fs;

use crate::machine::{Machine, Plan, project};
use eirs_harness::{eventually, image};

/// A machine with the service for scripts, with `drop_in` as additional lines of its unit.
fn machine(script: &str, drop_in: &str) -> Option<Machine> {
    let file = |name: &str| fs::read_to_string(project().join("systemd").join(name)).expect("it is there");
    let machine = Plan::with_script(script)
        .set("EIRS_MODELS__DEFAULT__SCRIPT_SOCKET", "/run/eirs-script/socket")
        .set("EIRS_QUEUE__RETRY_FOR", "0s")
        .file("/usr/lib/systemd/system/eirs-script.socket", &file("eirs-script.socket"))
        .file("/usr/lib/systemd/system/eirs-script.service", &file("eirs-script.service"))
        .file("/usr/lib/sysusers.d/eirs-script.conf", &file("eirs-script.sysusers"))
        .file("/usr/lib/tmpfiles.d/eirs-script.conf", &file("eirs-script.tmpfiles"))
        .drop_in("eirs-script", drop_in)
        .boot()?;
    machine.systemctl(&["enable", "--now", "eirs-script.socket"]);
    machine.systemctl(&["start", "eirs-web", "eirs-worker"]);
    Some(machine)
}

/// A script may read its image and write to its own folder. It may not write to the folder of the
/// image, read the worker's state and environment, kill the worker, connect to the service itself,
/// or reach the metadata by UDP or TCP.
const SCRIPT: &str = r#"
try() { "$@" >/dev/null 2>&1 && printf 'y' || printf 'n'; }
printf 'x,%s-' "$(id -un)"
try test -r "$1"; try sh -c 'echo x > /tmp/x'; try touch here; echo heard > /dev/stderr
printf -- -
try touch "$(dirname "$1")/x"; try ls /var/lib/eirs;
worker=$(cat /srv/worker); try kill -0 "$worker"; try cat "/proc/$worker/environ"
try python3 -c 'import socket; socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect("/run/eirs-script/socket")'
try python3 -c 'import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("169.254.169.254", 80))'
try python3 -c 'import socket; socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto(b"x", ("fd00:ec2::254", 80))'
try timeout 2 python3 -c 'import socket; socket.create_connection(("169.254.169.254", 80))'
try timeout 2 python3 -c 'import socket; s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.sendto(b"x", ("::ffff:169.254.169.254", 80))'
printf -- -
try python3 -c 'import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9))'
echo
"#;

#[test]
fn a_script_has_another_user_without_access_to_worker_and_metadata() {
    let Some(machine) = machine(SCRIPT, "") else { return };
    machine.run("sh", &["-c", "systemctl show --value -p MainPID eirs-worker > /srv/worker"]);
    let answer = machine.upload("", &image(1)).json();
    assert_eq!(answer["label"], "eirs-script-yyy-nnnnnnnnn-y", "{answer}");
    // The machine itself can send there, so the filter is what stops the script.
    let send = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', \
        ('169.254.169.254', 80))";
    machine.run("python3", &["-c", send]);
}

#[test]
fn no_script_runs_if_systemd_cannot_block_the_metadata() {
    let Some(machine) = machine("touch ran; echo cat", "[Service]\nIPAddressDeny=\n") else { return };
    let answer = machine.upload("", &image(1));
    assert!(answer.json()["label"].is_null(), "{answer:?}");
    eventually("the worker says why", || {
        let log = machine.log("eirs-worker");
        log.iter().any(|line| line.contains("169.254.169.254 can be reached")).then_some(())
    });
    let folder = machine.path("/var/lib/eirs-script");
    assert!(folder.is_dir() && !folder.join("ran").exists());
}

#[test]
fn scripts_end_with_a_killed_or_draining_worker() {
    let Some(machine) = machine("echo $$ > pid; test -e /srv/fast && echo cat || exec sleep 600", "") else {
        return;
    };
    let ids = machine.hand_over(0..1);
    let pid = eventually("the script runs", || {
        Some(machine.read("/var/lib/eirs-script/pid")).filter(|pid| !pid.is_empty())
    });
    let runs = || machine.try_run("kill", &["-0", pid.trim()]).status.success();
    assert!(runs());
    machine.write("/srv/fast", "");
    machine.signal("eirs-worker", "KILL");
    eventually("the script is gone", || (!runs()).then_some(()));
    // systemd restarts the worker, and the same service runs the job after its lease has expired.
    machine.expect_results(&ids, "cat");
    machine.systemctl(&["stop", "eirs-worker", "eirs-script.socket", "eirs-script.service"]);
    machine.never_says("eirs-script", "SIGKILL");
    machine.never_says("eirs-script", "Failed with result");
}
