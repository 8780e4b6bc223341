//! Scripts as another user than the worker, as `eirs setup` has them run in AWS.

use std::fs;

use crate::machine::{Machine, Plan, project};
use eirs_harness::{eventually, image};

/// With the service for scripts, of which `drop_in` has further lines.
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

/// What it may: read its image, write to a folder of its own. What it may not: write beside the
/// image, read the worker's state and environment, end the worker, connect to the service itself,
/// and reach the metadata, by UDP and by TCP.
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
fn a_script_is_another_user_who_reaches_its_image_and_neither_the_worker_nor_the_metadata() {
    let Some(machine) = machine(SCRIPT, "") else { return };
    machine.run("sh", &["-c", "systemctl show --value -p MainPID eirs-worker > /srv/worker"]);
    let answer = machine.upload("", &image(1)).json();
    assert_eq!(answer["label"], "eirs-script-yyy-nnnnnnnnn-y", "{answer}");
    // The machine itself can send there: it is the filter that keeps the script from it.
    let send = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', \
        ('169.254.169.254', 80))";
    machine.run("python3", &["-c", send]);
}

#[test]
fn no_script_is_run_where_systemd_cannot_keep_it_from_the_metadata() {
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
fn the_scripts_of_a_worker_that_is_killed_or_that_drains_end_with_it() {
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
    // systemd starts the worker again, and the job, whose lease runs out, is done by the same
    // service.
    machine.expect_results(&ids, "cat");
    machine.systemctl(&["stop", "eirs-worker", "eirs-script.socket", "eirs-script.service"]);
    machine.never_says("eirs-script", "SIGKILL");
    machine.never_says("eirs-script", "Failed with result");
}
