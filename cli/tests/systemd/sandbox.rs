//! The permissions of an operator's script as a worker, and how to extend them.

use crate::machine::Plan;
use eirs_harness::image;

/// Writes to the system, reads a home folder and a file of the operator, and uses memory that is
/// writable and executable.
const SCRIPT: &str = r#"
try() { "$@" >/dev/null 2>&1 && printf 'y' || printf 'n'; }
printf 'x,'
try test -r "$1"; try sh -c 'echo x > "$TMPDIR/x" || echo x > /tmp/x'
try python3 -c 'import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_READ|mmap.PROT_WRITE|mmap.PROT_EXEC)'
try python3 -c 'import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})'
try test -r /proc/cpuinfo
printf -- -
try cat /srv/labels.txt; try cat /home/me/labels.txt; try sh -c 'echo x > /srv/written'
printf -- -
try touch /etc/eirs/x; try cat ~root/.profile; try test -e /proc/1/cmdline; try test -e /dev/kmsg; try unshare -U true
"#;

#[test]
fn a_script_has_minimal_permissions_which_a_drop_in_extends() {
    let plan = || {
        Plan::with_script(SCRIPT)
            .file("/srv/labels.txt", "cat")
            .file("/home/me/labels.txt", "cat")
            .set("EIRS_QUEUE__RETRY_FOR", "0s")
    };
    let opened = "[Service]\nProtectHome=tmpfs\nBindReadOnlyPaths=/home/me/labels.txt\nReadWritePaths=/srv\n";
    let opening = plan().drop_in("eirs-worker", opened).drop_in("eirs-controller", opened);
    for (plan, label) in [(plan(), "yyyyy-ynn-nnnnn"), (opening, "yyyyy-yyy-nnnnn")] {
        let Some(machine) = plan.boot() else { return };
        machine.run("chown", &["eirs:", "/srv"]);
        machine.systemctl(&["start", "eirs-web", "eirs-worker"]);
        assert_eq!(machine.upload("", &image(1)).json()["label"], label, "by the worker's unit");
        machine.systemctl(&["stop", "eirs-worker"]);
        // A worker that the controller starts runs in the controller's sandbox.
        machine.systemctl(&["start", "eirs-controller"]);
        assert_eq!(machine.upload("", &image(2)).json()["label"], label, "by the controller's own");
    }
}
