//! `make install` and `make uninstall`.

use std::{fs, path::Path, process::Command};

use crate::machine::{self, Machine, Plan, programs, project, run, said};
use eirs_harness::{eventually, sample};

/// Runs a target, which must succeed; returns its output.
fn make(target: &str, variables: &[(&str, &str)]) -> String {
    let output = machine::make(target, variables);
    assert!(output.status.success(), "make {target}: {}", said(&output));
    said(&output)
}

fn files(folder: &Path) -> Vec<String> {
    let listed = run(Command::new("find").arg(".").args(["-type", "f"]).current_dir(folder));
    let mut files: Vec<_> = listed.lines().map(|line| line.trim_start_matches("./").to_owned()).collect();
    files.sort();
    files
}

#[test]
fn an_installation_with_destdir_is_complete_and_its_removal_keeps_edited_files() {
    let root = tempfile::tempdir().expect("a folder");
    let (destination, built) = (root.path().to_str().expect("text"), programs());
    let variables =
        [("DESTDIR", destination), ("PREFIX", "/opt/eirs"), ("PROGRAMS", built.to_str().expect("text"))];
    let there = |path: &str| root.path().join(path.trim_start_matches('/'));
    let text = |path: &str| fs::read_to_string(there(path)).unwrap_or_default();
    assert_eq!(make("install", &variables), "");
    for program in ["eirs", "eirs-web", "eirs-controller", "eirs-worker"] {
        run(Command::new(there("/opt/eirs/bin").join(program)).arg("--version"));
    }
    let unit = text("/opt/eirs/lib/systemd/system/eirs-controller.service");
    assert!(
        unit.contains("ExecReload=/opt/eirs/bin/eirs-controller ") && !unit.contains("/usr/bin/"),
        "{unit}"
    );
    for file in ["sysusers.d/eirs.conf", "tmpfiles.d/eirs.conf"] {
        assert!(there("/opt/eirs/lib").join(file).exists(), "{file}");
    }

    for file in ["METRICS.md", "alerts.yml", "grafana-dashboard.json", "decisions/0001-embedded-queue.md"] {
        assert!(there("/opt/eirs/share/doc/eirs/docs").join(file).exists(), "{file}");
    }

    for (file, word) in [
        ("bash-completion/completions/eirs", "dead-letters"),
        ("zsh/site-functions/_eirs", "#compdef eirs"),
        ("fish/vendor_completions.d/eirs.fish", "dead-letters"),
    ] {
        assert!(text(&format!("/opt/eirs/share/{file}")).contains(word), "{file}");
    }
    for (page, word) in [
        ("eirs", "Exit codes"),
        ("eirs-load", "num"),
        ("eirs-token-add", "expires"),
        ("eirs-worker", "model"),
    ] {
        let file = there("/opt/eirs/share/man/man1").join(format!("{page}.1.gz"));
        let shown = run(Command::new("gzip").arg("-dc").arg(&file));
        assert!(shown.contains(word), "{page}: {shown}");
    }

    // A previous version, with one edited and one unchanged file.
    for (file, edited) in [("eirs.toml", true), ("policies/default.toml", false)] {
        fs::write(there("/opt/eirs/share/eirs/shipped").join(file), "old").expect("a file");
        fs::write(there("/etc/eirs").join(file), if edited { "edited" } else { "old" }).expect("a file");
    }
    let printed = make("install", &variables);
    assert_eq!(
        printed,
        "/etc/eirs/eirs.toml was edited and stays as it is; the new one is /etc/eirs/eirs.toml.new\n"
    );
    assert_eq!(text("/etc/eirs/eirs.toml"), "edited");
    let (shipped, policy) = (project().join("systemd/eirs.toml"), project().join("policies/default.toml"));
    assert_eq!(text("/etc/eirs/eirs.toml.new"), fs::read_to_string(shipped).expect("the file"));
    assert_eq!(text("/etc/eirs/policies/default.toml"), fs::read_to_string(policy).expect("the file"));
    assert_eq!(make("install", &variables), "", "nothing has changed, so nothing is printed");

    assert_eq!(make("uninstall", &variables), "/etc/eirs/eirs.toml was edited and is left\n");
    assert_eq!(files(root.path()), ["etc/eirs/eirs.toml", "etc/eirs/eirs.toml.new"]);
}

/// Returns the folder into which `make onnxruntime` downloads the library, if it exists.
pub fn onnxruntime() -> Option<std::path::PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(Into::into).or_else(home)?;
    let folder = cache.join("eirs/onnxruntime");
    let is_library =
        |entry: fs::DirEntry| entry.file_name().to_string_lossy().starts_with("libonnxruntime.so");
    fs::read_dir(&folder).ok()?.flatten().any(is_library).then_some(folder)
}

/// Checks that the worker of a service user classifies an upload, with the downloaded ONNX Runtime,
/// if any.
pub fn expect_classified(machine: &Machine) {
    assert_eq!(machine.upload("", &sample("star_0.jpg")).json()["label"], "star");
    let engine = if onnxruntime().is_some() { "onnxruntime" } else { "rten" };
    eventually(engine, || {
        let found = machine.status()["pools"][0]["instances"][0]["engine"].as_str().map(str::to_owned);
        found.filter(|found| found.starts_with(engine))
    });
    // Some builds of ONNX Runtime would store a device id there.
    assert!(!machine.path("/var/lib/eirs/.cache").exists());
}

#[test]
fn an_installation_on_a_running_machine_starts_and_can_be_removed() {
    let mut plan = Plan::bare().show(&project(), "/srv/eirs").show(&programs(), "/srv/programs");
    if let Some(folder) = onnxruntime() {
        plan = plan.show(&folder, "/srv/cache/eirs/onnxruntime");
    }
    let plan = plan
        .set("EIRS_WEB__LISTEN", "127.0.0.1:0")
        .set("EIRS_WEB__ADDRESS_FILE", "/var/lib/eirs/web.address");
    let Some(machine) = plan.boot() else { return };
    let make = |target: &str| {
        machine.run(
            "make",
            &[
                "-C",
                "/srv/eirs",
                "--no-print-directory",
                target,
                "PROGRAMS=/srv/programs",
                "XDG_CACHE_HOME=/srv/cache",
            ],
        )
    };
    let printed = make("install");
    assert!(printed.contains("A web host: systemctl enable --now eirs.target"), "{printed}");
    machine.systemctl(&["enable", "--now", "--quiet", "eirs.target"]);
    expect_classified(&machine);

    let printed = make("uninstall");
    assert!(printed.contains("/var/lib/eirs is left"), "{printed}");
    let gone = machine.try_run("systemctl", &["status", "eirs-web", "eirs-controller", "eirs.target"]);
    assert!(said(&gone).contains("Unit eirs-web.service could not be found"), "{}", said(&gone));
    assert!(!machine.path("/etc/eirs").exists() && machine.path("/var/lib/eirs/queue.db").exists());
    assert!(!machine.path("/etc/systemd/system/multi-user.target.wants/eirs.target").exists());
}
