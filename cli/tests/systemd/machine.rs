//! A temporary machine with its own systemd, on which EIRS is installed as by `make install`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use eirs_platform::testing::not_run;
use serde_json::Value;

use eirs_harness::{Answer, POLICY, eventually};

pub const PROGRAMS: [&str; 4] = ["eirs", "eirs-web", "eirs-controller", "eirs-worker"];

/// The checkout.
pub fn project() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    path.canonicalize().expect("the checkout is there")
}

/// The folder of the built programs.
pub fn programs() -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_eirs")).parent().expect("a folder").to_owned();
    for name in PROGRAMS {
        assert!(
            folder.join(name).exists(),
            "{name} is missing: `cargo build --workspace` comes before the tests"
        );
    }
    folder
}

/// The configuration of a machine before its boot.
#[derive(Default)]
pub struct Plan {
    environment: Vec<(String, String)>,
    files: Vec<(String, String)>,
    options: Vec<String>,
    bare: bool,
}

/// A running machine, which is removed when this is dropped or the tests are killed.
pub struct Machine {
    name: String,
    root: PathBuf,
}

impl Plan {
    /// EIRS with short leases, its own port, and the script `shell` as its model (a line of `sh`;
    /// `$1` is the path of the image).
    pub fn with_script(shell: &str) -> Self {
        let command = Value::from(vec!["sh", "-c", shell, "sh"]).to_string();
        Self::with_model()
            .set("EIRS_MODELS__DEFAULT__CLASSIFIER", "script")
            .set("EIRS_MODELS__DEFAULT__COMMAND", &command)
    }

    /// The same with the built-in model.
    pub fn with_model() -> Self {
        Self::default()
            .set("EIRS_WEB__LISTEN", "127.0.0.1:0")
            .set("EIRS_WEB__ADDRESS_FILE", "/var/lib/eirs/web.address")
            .set("EIRS_WEB__ADMIN_LISTEN", "127.0.0.1:0")
            .set("EIRS_WEB__ADMIN_ADDRESS_FILE", "/var/lib/eirs/web.admin.address")
            .set("EIRS_QUEUE__VISIBILITY", "2s")
            .set("EIRS_WORKER__HEARTBEAT", "500ms")
            .set("EIRS_WORKER__THREADS", "1")
            .set("EIRS_CONTROLLER__TICK", "200ms")
            .file("/etc/eirs/policies/default.toml", POLICY)
    }

    /// A machine without EIRS.
    pub fn bare() -> Self {
        Self { bare: true, ..Self::default() }
    }

    /// Sets a variable of every service and every command inside.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    #[must_use]
    pub fn file(mut self, path: &str, text: &str) -> Self {
        self.files.push((path.into(), text.into()));
        self
    }

    /// Adds lines to a unit, as an operator would.
    #[must_use]
    pub fn drop_in(self, unit: &str, text: &str) -> Self {
        self.file(&format!("/etc/systemd/system/{unit}.service.d/test.conf"), text)
    }

    /// Makes a file or folder of the host visible inside.
    #[must_use]
    pub fn show(mut self, from: &Path, to: &str) -> Self {
        self.options.push(format!("--bind-ro={}:{to}", from.display()));
        self
    }

    /// Boots the machine; `None` if that is impossible, which is noted.
    pub fn boot(self) -> Option<Machine> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let lack =
            String::from_utf8(tool("check", "").output().expect("the tool runs").stdout).expect("text");
        if !lack.is_empty() {
            not_run(lack.trim(), "sudo make test");
            return None;
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("eirs-{}-{number}", std::process::id());
        let staged = tempfile::tempdir().expect("a folder");
        let mut up = tool("up", &name);
        up.arg(format!("--owner={}", std::process::id()))
            .arg(format!("--copy={}:/", staged.path().display()));
        if !self.bare {
            let root = staged.path().to_str().expect("a path of text");
            run(Command::new("sh").arg(project().join("systemd/install.sh")).arg("install").envs([
                ("DESTDIR", root),
                ("PROGRAMS", ""),
                ("ONNXRUNTIME", ""),
            ]));
            for name in PROGRAMS {
                up.arg(format!("--bind-ro={}:/usr/bin/{name}", programs().join(name).display()));
            }
        }
        for (path, text) in &self.files {
            let file = staged.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(file.parent().expect("a folder")).expect("it can be made");
            fs::write(file, text).expect("it can be written");
        }
        let environment = tempfile::NamedTempFile::new().expect("a file");
        let lines: String =
            self.environment.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        fs::write(environment.path(), lines).expect("it can be written");
        up.arg(format!("--env-file={}", environment.path().display())).args(&self.options);
        run(&mut up);
        let root = run(&mut tool("root", &name));
        let machine = Machine { name, root: root.trim().into() };
        if !self.bare {
            machine.run("systemd-sysusers", &[]);
            machine.run("systemd-tmpfiles", &["--create"]);
        }
        Some(machine)
    }
}

impl Machine {
    /// Returns the path on the host of a file of the machine.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_default()
    }

    pub fn write(&self, path: &str, text: &str) {
        fs::write(self.path(path), text).unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    /// Runs a command inside, as root.
    pub fn try_run(&self, program: &str, arguments: &[&str]) -> Output {
        tool("exec", &self.name).arg(program).args(arguments).output().expect("the tool runs")
    }

    /// The same, but it must succeed; returns its output.
    #[track_caller]
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        run(tool("exec", &self.name).arg(program).args(arguments))
    }

    #[track_caller]
    pub fn systemctl(&self, arguments: &[&str]) -> String {
        self.run("systemctl", arguments)
    }

    /// Returns a property of a unit.
    pub fn show(&self, unit: &str, property: &str) -> String {
        self.systemctl(&["show", "--value", "-p", property, unit]).trim().to_owned()
    }

    /// Waits for a property of a unit.
    #[track_caller]
    pub fn becomes(&self, unit: &str, property: &str, expected: &str) {
        let now = || self.show(unit, property) == expected;
        eventually(&format!("{unit}: {property}={expected}"), || now().then_some(()));
    }

    /// Sends a signal to the main process of a unit.
    pub fn signal(&self, unit: &str, signal: &str) {
        self.run("kill", &["-s", signal, &self.show(unit, "MainPID")]);
    }

    /// Returns the journal so far, or after a poweroff the whole: JSON, in order.
    pub fn journal(&self) -> Vec<Value> {
        if self.try_run("journalctl", &["--sync"]).status.success() {
            return entries(&self.run("journalctl", &["--output=json", "--all"]));
        }
        let mut command = Command::new("journalctl");
        let folder = self.path("/var/log/journal");
        entries(&run(command.args(["--output=json", "--all", "--directory"]).arg(folder)))
    }

    /// Returns the messages of and about a unit.
    pub fn log(&self, unit: &str) -> Vec<String> {
        let unit = format!("{unit}.service");
        let is_of = |entry: &&Value| entry["_SYSTEMD_UNIT"] == *unit || entry["UNIT"] == *unit;
        self.journal()
            .iter()
            .filter(is_of)
            .filter_map(|entry| Some(entry["MESSAGE"].as_str()?.to_owned()))
            .collect()
    }

    #[track_caller]
    pub fn says(&self, unit: &str, text: &str) {
        let log = self.log(unit);
        assert!(log.iter().any(|line| line.contains(text)), "{unit} does not say {text:?}: {log:#?}");
    }

    #[track_caller]
    pub fn never_says(&self, unit: &str, text: &str) {
        let log = self.log(unit);
        assert!(!log.iter().any(|line| line.contains(text)), "{unit} says {text:?}: {log:#?}");
    }

    /// Returns the address of the web server, once it exists.
    pub fn address(&self) -> String {
        eventually("web tells its address", || {
            Some(self.read("/var/lib/eirs/web.address")).filter(|text| !text.is_empty())
        })
    }

    pub fn upload(&self, query: &str, image: &[u8]) -> Answer {
        eirs_harness::upload(&self.address(), query, "x", image).expect("an answer")
    }

    /// Requests status or metrics from the admin listener.
    pub fn get(&self, path: &str) -> Answer {
        // After the upload address, which is written later.
        let mut address = self.address();
        if matches!(path, "/status" | "/metrics") {
            address = self.read("/var/lib/eirs/web.admin.address");
        }
        eirs_harness::request(&address, "GET", path, &[], b"").expect("an answer")
    }

    /// Uploads images without waiting; returns their ids.
    pub fn hand_over(&self, numbers: std::ops::Range<u32>) -> Vec<String> {
        let id = |number| {
            self.upload("?wait=0", &eirs_harness::image(number)).json()["id"].as_str().map(str::to_owned)
        };
        numbers.map(|number| id(number).expect("an id")).collect()
    }

    /// Waits until every image has its result.
    #[track_caller]
    pub fn expect_results(&self, ids: &[String], label: &str) {
        for id in ids {
            let result = eventually("the result", || {
                let answer =
                    eirs_harness::request(&self.address(), "GET", &format!("/results/{id}"), &[], b"");
                answer.ok().filter(|answer| answer.status != 202)
            });
            assert_eq!((result.status, &result.json()["label"]), (200, &label.into()), "{result:?}");
        }
    }

    pub fn stored_results(&self) -> usize {
        // `eirs check` exits with 1 if it reports problems.
        let checked = self.run("sh", &["-c", "eirs check --json || true"]);
        let seen: Value = serde_json::from_str(&checked).unwrap_or_default();
        seen["results"]["count"].as_u64().unwrap_or(0) as usize
    }

    /// Returns what the controller wrote in its last pass.
    pub fn status(&self) -> Value {
        serde_json::from_str(&self.read("/var/lib/eirs/status.json")).unwrap_or_default()
    }

    /// Shuts the machine down in an orderly way. Its files stay.
    pub fn poweroff(&self) {
        run(&mut tool("poweroff", &self.name));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let line = |entry: &Value| {
                Some(format!("{}: {}\n", entry["SYSLOG_IDENTIFIER"].as_str()?, entry["MESSAGE"].as_str()?))
            };
            eprintln!("--- {}\n{}", self.name, self.journal().iter().filter_map(line).collect::<String>());
        }
        let _gone = tool("down", &self.name).output();
    }
}

fn tool(command: &str, name: &str) -> Command {
    let mut tool = Command::new(project().join("testing/booted-systemd"));
    tool.arg(command).args((!name.is_empty()).then_some(name)).stdin(Stdio::null());
    tool
}

/// Runs a command, which must succeed; returns its output.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = command.output().expect("the program starts");
    assert!(output.status.success(), "{command:?}: {}: {}", output.status, said(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a target of `make` in the checkout, with these variables.
pub fn make(target: &str, variables: &[(&str, &str)]) -> Output {
    let mut make = Command::new("make");
    make.arg("--no-print-directory").arg("-C").arg(project()).arg(target);
    make.args(variables.iter().map(|(name, value)| format!("{name}={value}")));
    // Variables of an outer `make test` must not affect this one.
    make.env_remove("MAKEFLAGS").env_remove("MAKELEVEL").output().expect("there is a make")
}

/// Returns the whole output of a command.
pub fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text)).concat()
}

fn entries(lines: &str) -> Vec<Value> {
    lines.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}
