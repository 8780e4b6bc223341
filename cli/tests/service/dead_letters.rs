//! An operator finds and requeues jobs that were given up.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use eirs_harness::{Process, Site, Web, eventually, image};

/// A service whose script fails until it is fixed, with a single attempt per job.
fn broken() -> (Site, Web, Process) {
    let site = Site::with_script("test -f fixed && echo cat || exit 3").set("EIRS_QUEUE__RETRY_FOR", "0s");
    let (web, worker) = (site.web(), site.worker());
    (site, web, worker)
}

/// Runs `eirs dead-letters`: returns the exit code and the output.
fn dead_letters(site: &Site, arguments: &[&str]) -> (i32, String) {
    let output = site.command("eirs").arg("dead-letters").args(arguments).output().expect("eirs runs");
    let printed = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    (output.status.code().expect("an exit code"), printed.concat())
}

fn letters(site: &Site) -> Vec<Value> {
    let (code, printed) = dead_letters(site, &["list", "--json"]);
    assert_eq!(code, 0, "{printed}");
    let listing: Value = serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"));
    listing["letters"].as_array().expect("letters").clone()
}

#[test]
fn a_dead_letter_is_listed_with_its_reason_and_redriven_after_the_fix() {
    let (site, web, _worker) = broken();
    for (number, name) in [(1, "dog.jpg"), (2, "sly\u{202e}gpj.exe")] {
        assert_eq!(web.upload("", name, &image(number)).status, 500);
    }
    let listed =
        eventually("both are dead letters", || Some(letters(&site)).filter(|letters| letters.len() == 2));
    assert_eq!(listed[0]["name"], "dog.jpg");
    let why = listed[0]["why"].as_str().expect("a reason");
    assert!(why.contains("1 attempt failed") && why.contains("exit status: 3"), "{why}");
    assert_eq!(listed[0]["image_stored"], true);
    let (code, printed) = dead_letters(&site, &["list"]);
    assert!(
        code == 0 && printed.starts_with("2 dead letters\n") && printed.contains("1 attempt failed"),
        "{printed}"
    );
    assert!(
        !printed.contains('\u{202e}') && printed.lines().all(|line| line.chars().count() <= 80),
        "{printed}"
    );

    // Too early: the job fails again, and becomes a dead letter again.
    let id = listed[0]["id"].as_str().expect("an id").to_owned();
    let (code, printed) = dead_letters(&site, &["redrive", &id[..8], "--yes"]);
    assert!(code == 0 && printed.ends_with("1 redriven.\n"), "{printed}");
    eventually("it fails again", || (letters(&site).len() == 2).then_some(()));

    fs::write(site.folder.path().join("fixed"), "").expect("the operator fixes it");
    let (code, printed) = dead_letters(&site, &["redrive", "--all"]);
    assert!(code == 2 && printed.contains("use --yes"), "{printed}");
    let (code, printed) = dead_letters(&site, &["redrive", "--all", "--yes"]);
    assert!(code == 0 && printed.ends_with("2 redriven.\n"), "{printed}");
    let labelled = || (web.result(&id).json()["label"] == "cat").then_some(());
    eventually("what was given up has a label", labelled);
    assert_eq!(letters(&site), Vec::<Value>::new());
    assert_eq!(
        dead_letters(&site, &["redrive", "--all", "--yes"]),
        (0, "There are no dead letters.\n".into())
    );
}

#[test]
fn letters_held_by_a_killed_command_return() {
    let (site, web, _worker) = broken();
    for number in 0..3 {
        assert_eq!(web.upload("", "dog.jpg", &image(number)).status, 500);
    }
    eventually("they are dead letters", || (letters(&site).len() == 3).then_some(()));
    let id = letters(&site)[0]["id"].as_str().expect("an id").to_owned();
    let mut asked = Asked::start(&site, &format!("purge {id}"));
    asked.child.kill().expect("its terminal can be closed");
    asked.child.wait().expect("the terminal's status");
    eventually("the lease runs out", || (letters(&site).len() == 3).then_some(()));

    // After a signal, it gives its letters back at once.
    let mut asked = Asked::start(&site, &format!("purge {id}"));
    asked.typed(b"\x03");
    assert_eq!(asked.child.wait().expect("its status").code(), Some(1), "{}", asked.printed());
    assert!(asked.printed().contains("Nothing was changed."), "{}", asked.printed());
    assert_eq!(letters(&site).len(), 3);
    let mut asked = Asked::start(&site, &format!("purge {id}"));
    asked.typed(b"y\n");
    assert_eq!(asked.child.wait().expect("its status").code(), Some(0), "{}", asked.printed());
    assert_eq!(letters(&site).len(), 2);
}

/// `eirs dead-letters` on a terminal, which asks for confirmation.
struct Asked {
    child: Child,
    screen: PathBuf,
}

impl Asked {
    fn start(site: &Site, arguments: &str) -> Self {
        let screen = site.folder.path().join("screen");
        let eirs = site.command("eirs");
        // Without `exec`, a shell in between may handle the key in its own way.
        let line = format!("exec {} dead-letters {arguments}", Path::new(eirs.get_program()).display());
        // `script` creates a pseudo-terminal for the command; closing it sends a hang-up, like any
        // terminal.
        let mut command = Command::new("script");
        command.args(["-qfec", &line, "/dev/null"]).stdin(Stdio::piped()).current_dir(site.folder.path());
        for (key, value) in eirs.get_envs() {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        let child = command.stdout(File::create(&screen).expect("a file")).spawn().expect("`script` starts");
        let asked = Self { child, screen };
        eventually("it asks", || asked.printed().contains("[y/N]").then_some(()));
        asked
    }

    fn typed(&mut self, keys: &[u8]) {
        self.child.stdin.as_mut().expect("a keyboard").write_all(keys).expect("the terminal is open");
    }

    fn printed(&self) -> String {
        fs::read_to_string(&self.screen).unwrap_or_default()
    }
}
