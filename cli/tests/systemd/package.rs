//! `make package`, installed with dpkg on a machine on which the service runs.

use std::{fs, path::Path, process::Command};

use eirs_platform::testing::not_run;

use crate::{
    install::expect_classified,
    machine::{Plan, make, programs, run, said},
};

/// Builds the next version of a package: the same programs, with another policy.
fn next_version(first: &Path, folder: &Path) -> std::path::PathBuf {
    let (tree, next) = (folder.join("tree"), folder.join("next.deb"));
    run(Command::new("dpkg-deb").arg("--raw-extract").arg(first).arg(&tree));
    let control = tree.join("DEBIAN/control");
    let text = fs::read_to_string(&control).expect("the control file");
    let version = |revision| format!("Version: {}-{revision}", env!("CARGO_PKG_VERSION"));
    fs::write(&control, text.replace(&version(1), &version(2))).expect("a file");
    let policy = tree.join("etc/eirs/policies/default.toml");
    let text = fs::read_to_string(&policy).expect("the policy");
    fs::write(&policy, format!("{text}# Version 2.\n")).expect("a file");
    run(Command::new("dpkg-deb").args(["-Znone", "--root-owner-group", "--build"]).arg(&tree).arg(&next));
    next
}

#[test]
fn the_package_installs_upgrades_keeping_edited_files_removes_and_purges() {
    if Command::new("dpkg").arg("--version").output().is_err() {
        return not_run("this system has no dpkg", "make test, on Debian or Ubuntu");
    }
    if !make("cargo-deb", &[]).status.success() {
        return not_run("cargo-deb cannot be built here", "make cargo-deb && make test");
    }
    let plan = Plan::bare().set("EIRS_WEB__LISTEN", "127.0.0.1:0");
    let plan = plan.set("EIRS_WEB__ADDRESS_FILE", "/var/lib/eirs/web.address");
    let folder = tempfile::tempdir().expect("a folder");
    let Some(machine) = plan.show(folder.path(), "/srv/packages").boot() else { return };
    let (first, built) = (folder.path().join("first.deb"), programs());
    let [out, built] = [&first, &built].map(|path| path.to_str().expect("text"));
    let packed = make("package-built", &[("PROGRAMS", built), ("DEB_FLAGS", "--fast"), ("DEB_OUT", out)]);
    assert!(packed.status.success(), "{}", said(&packed));
    next_version(&first, folder.path());
    let dpkg = |arguments: &[&str]| machine.run("dpkg", arguments);

    dpkg(&["--install", "/srv/packages/first.deb"]);
    assert_eq!(machine.show("eirs-web", "ActiveState"), "inactive", "the operator enables the services");
    machine.systemctl(&["enable", "--now", "--quiet", "eirs.target"]);
    expect_classified(&machine);

    // An upgrade during operation: two files were edited, and the new version changes one of them.
    let settings = format!("{}# Mine.\n", machine.read("/etc/eirs/eirs.toml"));
    let policy = machine.read("/etc/eirs/policies/default.toml").replace("max = 10", "max = 7");
    machine.write("/etc/eirs/eirs.toml", &settings);
    machine.write("/etc/eirs/policies/default.toml", &policy);
    let before = machine.show("eirs-web", "MainPID");
    dpkg(&["--force-confold", "--install", "/srv/packages/next.deb"]);
    assert!(dpkg(&["--status", "eirs"]).contains(&format!("{}-2", env!("CARGO_PKG_VERSION"))));
    assert_eq!(machine.read("/etc/eirs/eirs.toml"), settings);
    assert_eq!(machine.read("/etc/eirs/policies/default.toml"), policy);
    assert!(machine.read("/etc/eirs/policies/default.toml.dpkg-dist").ends_with("# Version 2.\n"));
    assert_ne!(machine.show("eirs-web", "MainPID"), before, "the new version serves");
    for unit in ["eirs-web", "eirs-controller"] {
        assert_eq!(machine.show(unit, "ActiveState"), "active");
        machine.never_says(unit, "SIGKILL");
    }
    // Only names of policies count, and `.dpkg-dist` is not `.toml`.
    assert_eq!(machine.status()["policy_errors"].as_array().map(Vec::len), Some(0));
    assert_eq!(machine.status()["pools"][0]["max"], 7);

    machine.write("/etc/eirs/policies/mine.toml", "[pool]\nmodel = \"mine\"\n");
    dpkg(&["--remove", "eirs"]);
    let gone = said(&machine.try_run("systemctl", &["status", "eirs-web", "eirs.target"]));
    assert!(gone.contains("Unit eirs-web.service could not be found"), "{gone}");
    assert_eq!(machine.read("/etc/eirs/eirs.toml"), settings, "a removal leaves what was edited");
    assert!(machine.path("/var/lib/eirs/queue.db").exists());
    dpkg(&["--purge", "eirs"]);
    let places = "/etc/eirs /var/lib/eirs /usr/lib/eirs /usr/share/eirs";
    let left = machine.run("sh", &["-c", &format!("find {places} -type f 2>/dev/null || true")]);
    assert_eq!(left, "/etc/eirs/policies/mine.toml\n");
}
