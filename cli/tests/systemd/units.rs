//! The shipped units and settings, parsed without starting anything.

use std::{collections::BTreeMap, fs, path::Path, process::Command, time::Duration};

use eirs_controller::{drain, policy, reload};
use eirs_platform::settings::{Layers, Settings};

use eirs_platform::testing::not_run;

use crate::machine::{programs, project, run};

const SERVICES: [&str; 3] = ["eirs-web", "eirs-controller", "eirs-worker"];

/// Returns the keys of a unit with all their values, in order.
fn unit(name: &str) -> BTreeMap<String, Vec<String>> {
    let text =
        fs::read_to_string(project().join("systemd").join(format!("{name}.service"))).expect("the unit");
    let mut keys = BTreeMap::<_, Vec<_>>::new();
    for (key, value) in
        text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='))
    {
        keys.entry(key.to_owned()).or_default().push(value.to_owned());
    }
    keys
}

/// Parses a time of a unit; a bare number is in seconds.
fn time(unit: &BTreeMap<String, Vec<String>>, key: &str) -> Duration {
    let text = unit[key][0].as_str();
    text.parse().map_or_else(|_| humantime(text), Duration::from_secs)
}

fn humantime(text: &str) -> Duration {
    let (number, factor) =
        text.strip_suffix("min").map_or((text.trim_end_matches('s'), 1), |number| (number, 60));
    Duration::from_secs(factor * number.parse::<u64>().expect("a time"))
}

#[test]
fn every_unit_notifies_checks_its_settings_and_drains_before_the_network_stops() {
    for name in SERVICES {
        let unit = unit(name);
        let is = |key: &str, value: &str| assert_eq!(unit[key], [value], "{name}: {key}");
        is("Type", "notify");
        is("KillMode", "mixed");
        is("PartOf", "eirs.target");
        is("RestartPreventExitStatus", "78");
        assert!(time(&unit, "WatchdogSec") > Duration::ZERO);
        assert_eq!(
            unit["ExecStartPre"][0],
            format!("{} --check", unit["ExecStart"][0]),
            "the same settings are checked"
        );
        assert!(unit["After"][0].starts_with("network.target network-online.target"), "{name}");
        assert_eq!(unit["Wants"], ["network-online.target"]);
    }
    assert!(
        unit("eirs-web")["After"][0].ends_with("eirs-controller.service eirs-worker.service"),
        "web stops first"
    );
}

#[test]
fn the_stop_timeout_exceeds_every_drain_deadline() {
    let settings = Settings::default();
    let stop = |name: &str| time(&unit(name), "TimeoutStopSec");
    // After web's deadline, answers have 5 s to be sent, and a poll for replies may have to end.
    assert!(stop("eirs-web") >= settings.web.drain_deadline + Duration::from_secs(5 + 20));
    assert!(
        stop("eirs-worker")
            >= settings.worker.poll + settings.worker.drain_deadline + Duration::from_secs(10)
    );
    let policies = policy::load_dir(&project().join("policies")).expect("good policies");
    for policy in policies.pools.values() {
        let deadline = policy.scale_in.drain_deadline;
        assert!(stop("eirs-controller") > deadline + drain::KILLED_BY);
        assert!(
            deadline > settings.worker.drain_deadline + settings.worker.poll,
            "workers end by themselves"
        );
    }
}

#[test]
fn a_reload_times_out_before_systemd() {
    assert!(time(&unit("eirs-controller"), "TimeoutStartSec") >= reload::DEADLINE + Duration::from_secs(10));
}

#[test]
fn the_shipped_settings_are_valid_as_they_are_and_uncommented() {
    let shipped = project().join("systemd/eirs.toml");
    let settings = Layers::of(Some(&shipped), &[]).load().expect("good settings");
    assert_eq!(settings.local.state, Path::new("/var/lib").join(&unit("eirs-web")["StateDirectory"][0]));
    assert_eq!(settings.controller.policies, Path::new("/etc/eirs/policies"));
    let text = fs::read_to_string(&shipped).expect("the file");
    let in_force = |line: &str| match line.strip_prefix("# ") {
        Some(setting) if setting.contains(" = ") => setting.to_owned(),
        _ => line.to_owned(),
    };
    let whole = text.lines().map(in_force).collect::<Vec<_>>().join("\n");
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("eirs.toml"), &whole).expect("a file");
    let uncommented = Layers::of(Some(&folder.path().join("eirs.toml")), &[]).load().expect("good settings");
    // Commented settings show the defaults, except for files that only an operator has.
    let (defaults, shown) = (Settings::default(), uncommented);
    assert_eq!((shown.web.wait, shown.web.max_image), (defaults.web.wait, defaults.web.max_image), "{whole}");
    assert_eq!(
        (shown.web.listen, shown.web.drain_deadline),
        (defaults.web.listen, defaults.web.drain_deadline)
    );
    assert_eq!(
        (shown.worker.threads, shown.worker.drain_deadline),
        (defaults.worker.threads, defaults.worker.drain_deadline)
    );
    assert_eq!((shown.local.sync, shown.controller.instance_limit), (false, 0));
    assert!(shown.models["default"].path.is_some());
}

fn has_systemd_analyze() -> bool {
    let there = Command::new("systemd-analyze").arg("--version").output().is_ok();
    if !there {
        not_run("there is no systemd-analyze", "sudo make test");
    }
    there
}

#[test]
fn systemd_analyze_finds_no_errors_in_the_units() {
    if !has_systemd_analyze() {
        return;
    }
    let (folder, programs) = (tempfile::tempdir().expect("a folder"), programs());
    let names = SERVICES.map(|name| format!("{name}.service")).into_iter().chain(
        [
            "eirs.target",
            "eirs-policies.path",
            "eirs-guard.service",
            "eirs-guard.timer",
            "eirs-logs.service",
            "eirs-logs.timer",
            "eirs-script.socket",
            "eirs-script.service",
        ]
        .map(str::to_owned),
    );
    let names = names.chain(["eirs-logs-last.service".to_owned()]);
    let files: Vec<_> = names
        .map(|name| {
            let text = fs::read_to_string(project().join("systemd").join(&name)).expect("the unit");
            let file = folder.path().join(name);
            fs::write(&file, text.replace("/usr/bin", programs.to_str().expect("text"))).expect("a file");
            file
        })
        .collect();
    let verify = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=yes"])
        .args(files)
        .env("SYSTEMD_UNIT_PATH", format!("{}:", folder.path().display()))
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&verify.stderr).into_owned();
    assert!(verify.status.success() && !said.contains("eirs"), "{said}");
}

#[test]
fn every_unit_has_an_exposure_level_of_at_most_two() {
    if !has_systemd_analyze() {
        return;
    }
    for name in SERVICES.into_iter().chain(["eirs-script"]) {
        let file = project().join("systemd").join(format!("{name}.service"));
        let table = run(Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--threshold=20"])
            .arg(file));
        assert!(table.contains("Overall exposure level"), "{table}");
    }
}
