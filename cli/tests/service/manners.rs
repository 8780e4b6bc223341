//! The command line: output to a terminal and to a pipe, and the errors for typos.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use rustix::process::Signal;
use serde_json::{Value, json};

use eirs_harness::{Site, eventually, sample};

fn eirs(site: &Site, arguments: &[&str]) -> Output {
    let mut command = site.command("eirs");
    command.args(arguments).stdin(Stdio::null()).output().expect("it can be started")
}

/// Runs `eirs` on a pseudo-terminal created by `script`, and returns its output.
fn on_a_terminal(site: &Site, arguments: &str, no_color: Option<&str>) -> String {
    let program = site.command("eirs");
    let line = format!("{} {arguments}", program.get_program().to_string_lossy());
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]).stdin(Stdio::null());
    script.current_dir(program.get_current_dir().unwrap_or(std::path::Path::new(".")));
    for (key, value) in program.get_envs() {
        match value {
            Some(value) => script.env(key, value),
            None => script.env_remove(key),
        };
    }
    script.env("TERM", "xterm-256color").env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE");
    if let Some(no_color) = no_color {
        script.env("NO_COLOR", no_color);
    }
    let output = script.output().expect("`script` of util-linux is there");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Commands with colours on a terminal.
const PAINTED: [&str; 2] = ["check", "--help"];

#[test]
fn a_pipe_gets_no_escape_sequences() {
    let site = Site::new();
    let _web = site.web();
    for command in PAINTED {
        let output = eirs(&site, &[command]);
        let said = [output.stdout, output.stderr].concat();
        assert!(!said.is_empty() && !said.contains(&0x1b), "{command}: {}", String::from_utf8_lossy(&said));
    }
}

#[test]
fn a_terminal_gets_colours_unless_no_color_is_set() {
    let site = Site::new();
    let _web = site.web();
    for command in PAINTED {
        let shown = on_a_terminal(&site, command, None);
        assert!(shown.contains("\u{1b}["), "{command}: {shown:?}");
        let shown = on_a_terminal(&site, command, Some("1"));
        assert!(!shown.is_empty() && !shown.contains('\u{1b}'), "{command}: {shown:?}");
    }
}

#[test]
fn a_mistyped_subcommand_is_2_with_a_suggestion() {
    let site = Site::new();
    let output = eirs(&site, &["statsu"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("'status'"), "{said}");
}

#[test]
fn with_json_stdout_is_one_object_for_every_command() {
    let site = Site::new().set("EIRS_CONTROLLER__POLICIES", "policies");
    std::fs::create_dir(site.folder.path().join("policies")).expect("a folder");
    std::fs::write(site.folder.path().join("policies/default.toml"), "[pool]\nmax = 1").expect("a policy");
    drop(site.web());
    let json = |line: &str| -> Value {
        let output = eirs(&site, &line.split(' ').chain(["--json"]).collect::<Vec<_>>());
        assert!(output.status.success(), "{line}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{line}: {error}: {output:?}"))
    };
    let made = json("token add camera-3 --rate 5 --tokens tokens.json");
    assert!(made["token"].as_str().is_some_and(|token| token.starts_with("eirs_")), "{made}");
    assert_eq!((&made["name"], &made["rate"]), (&"camera-3".into(), &5.0.into()));
    assert_eq!(json("token revoke camera-3 --tokens tokens.json")["revoked"], "camera-3");

    assert!(json("pause")["orders"]["all_paused"]["since"].is_string());
    assert_eq!(json("resume")["orders"], json!({ "paused": {}, "cordoned": {} }));
    assert_eq!(json("cordon default-1 --drain")["orders"]["cordoned"]["default-1"]["drain"], true);
    assert_eq!(json("uncordon default-1")["controller_running"], false);

    assert_eq!(json("dead-letters redrive --all --yes"), json!({ "redriven": 0, "settled": 0, "left": 0 }));
    assert_eq!(json("dead-letters purge --all --yes"), json!({ "deleted": 0 }));

    let copy = json("backup copy.db");
    assert_eq!((&copy["file"], &copy["messages"]), (&"copy.db".into(), &0.into()));

    let plan = json("cleanup --mode clear --plan");
    assert_eq!(
        (&plan["messages"], &plan["images"]["count"], &plan["done"]),
        (&0.into(), &0.into(), &false.into())
    );
    assert_eq!(json("cleanup --mode delete --yes")["done"], true);
    assert!(!site.state().exists());
}

#[test]
fn completions_and_manual_pages_need_no_settings() {
    let site = Site::new().set("EIRS_NO_SUCH", "setting");
    let completions = eirs(&site, &["completions", "bash"]);
    assert!(completions.status.success());
    // The shell itself checks the script.
    let file = site.folder.path().join("eirs.bash");
    std::fs::write(&file, &completions.stdout).expect("a file");
    let shell = "source eirs.bash && COMP_WORDS=(eirs dead-letters re) COMP_CWORD=2 && _eirs eirs re \
                 dead-letters && echo \"${COMPREPLY[*]}\"";
    let asked =
        Command::new("bash").args(["-c", shell]).current_dir(site.folder.path()).output().expect("bash");
    assert_eq!(String::from_utf8_lossy(&asked.stdout).trim(), "redrive", "{asked:?}");

    let pages = site.folder.path().join("man");
    let made = eirs(&site, &["man", "man"]);
    assert!(made.status.success(), "{made:?}");
    assert!(pages.join("eirs-dead-letters-redrive.1").exists() && pages.join("eirs-worker.1").exists());
}

#[test]
fn an_interrupted_bench_ends_its_servers_and_deletes_its_folders() {
    let site = Site::new();
    let (images, temporary) = (site.state().join("images"), site.state().join("temporary"));
    for folder in [&images, &temporary] {
        fs::create_dir_all(folder).unwrap();
    }
    fs::write(images.join("arrow_0.jpg"), sample("arrow_0.jpg")).unwrap();
    let only = ["bench", "--only", "noop", "--image-folder", images.to_str().unwrap()];
    let mut bench = site.start_with("eirs", &only, &[("TMPDIR", temporary.to_str().unwrap().to_owned())]);
    let queue = || find(&temporary, "queue.db");
    let state = eventually("a service of the bench", queue);
    bench.signal(Signal::INT);
    assert_eq!(bench.exit().code(), Some(1), "{}", bench.log());
    assert!(bench.log().contains("interrupted by a signal"), "{}", bench.log());
    assert!(!state.exists() && fs::read_dir(&temporary).unwrap().next().is_none());
}

/// Finds a file with this name in the folder or its subfolders.
fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let mut below =
        entries.filter_map(|path| if path.ends_with(name) { Some(path) } else { find(&path, name) });
    below.next()
}
