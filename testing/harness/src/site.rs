//! An installation in a temporary folder.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

use crate::{Process, Web, eventually};

/// An installation: a state folder, settings by environment, and the processes that a test starts
/// in it.
pub struct Site {
    /// Where all of it is.
    pub folder: tempfile::TempDir,
    environment: Vec<(String, String)>,
    logs: AtomicU32,
}

impl Default for Site {
    fn default() -> Self {
        Self::new()
    }
}

impl Site {
    /// With the classifier that answers `noop` to everything, and leases that run out soon.
    pub fn new() -> Self {
        let site = Self {
            folder: tempfile::tempdir().expect("a folder"),
            environment: Vec::new(),
            logs: AtomicU32::new(0),
        };
        site.set("EIRS_MODELS__DEFAULT__CLASSIFIER", "noop")
            .set("EIRS_QUEUE__VISIBILITY", "2s")
            .set("EIRS_WORKER__HEARTBEAT", "500ms")
            .set("EIRS_WORKER__THREADS", "1")
            // Tests run beside each other.
            .set("EIRS_WEB__ADMIN_LISTEN", "127.0.0.1:0")
    }

    /// With the operator's script `shell` (a line of `sh`, the image's path is `$1`).
    pub fn with_script(shell: &str) -> Self {
        let command = Value::from(vec!["sh", "-c", shell, "sh"]).to_string();
        Self::new()
            .set("EIRS_MODELS__DEFAULT__CLASSIFIER", "script")
            .set("EIRS_MODELS__DEFAULT__COMMAND", &command)
    }

    /// With the model that is built in.
    pub fn with_model() -> Self {
        Self::new().set("EIRS_MODELS__DEFAULT__CLASSIFIER", "onnx")
    }

    /// With a setting, by its environment variable.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.environment.push((key.into(), value.into()));
        self
    }

    /// Without what [`new`](Self::new) sets for the sake of the tests.
    #[must_use]
    pub fn unset(mut self, key: &str) -> Self {
        self.environment.retain(|(set, _)| set != key);
        self
    }

    /// The variables that every program of this site gets.
    pub fn settings(&self) -> impl Iterator<Item = (&str, &str)> {
        self.environment.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The state folder.
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// A command for one of the executables, with this site's settings and nothing of the caller's.
    pub fn command(&self, program: &str) -> Command {
        let path = programs().join(program);
        assert!(
            path.exists(),
            "{} is missing: `cargo build --workspace` comes before the tests",
            path.display()
        );
        let mut command = Command::new(path);
        let inherited = std::env::vars().filter(|(key, _)| key.starts_with("EIRS_"));
        inherited.for_each(|(key, _)| _ = command.env_remove(key));
        command
            .envs(self.environment.iter().cloned())
            .env("EIRS_LOCAL__STATE", self.state())
            .stdin(Stdio::null());
        command.current_dir(self.folder.path());
        command
    }

    /// Starts a program; its output is its log.
    pub fn start(&self, program: &str, arguments: &[&str]) -> Process {
        self.start_with(program, arguments, &[])
    }

    /// With further settings.
    pub fn start_with(
        &self,
        program: &str,
        arguments: &[&str],
        settings: &[(&'static str, String)],
    ) -> Process {
        let log =
            self.folder.path().join(format!("{program}.{}.log", self.logs.fetch_add(1, Ordering::Relaxed)));
        let file = File::create(&log).expect("a log file");
        let mut command = self.command(program);
        command.args(arguments).stdout(file.try_clone().expect("a second handle")).stderr(file);
        command.envs(settings.iter().cloned());
        Process { child: command.spawn().expect("the program starts"), log }
    }

    /// Starts a worker, which takes jobs already.
    pub fn worker(&self) -> Process {
        let worker = self.start("eirs-worker", &[]);
        eventually("the worker takes jobs", || worker.log().contains("taking jobs").then_some(()));
        worker
    }

    /// Starts a web server on a free port.
    pub fn web(&self) -> Web {
        self.web_on("127.0.0.1:0")
    }

    /// Starts a web server on this address.
    pub fn web_on(&self, listen: &str) -> Web {
        let address_file = self.folder.path().join("web.address");
        let admin_file = self.folder.path().join("web.admin.address");
        for file in [&address_file, &admin_file] {
            let _none = fs::remove_file(file);
        }
        let mut command = self.command("eirs-web");
        let log = self.folder.path().join(format!("web.{}.log", self.logs.fetch_add(1, Ordering::Relaxed)));
        let out = File::create(&log).expect("a log file");
        command.args(["--listen", listen]).env("EIRS_WEB__ADDRESS_FILE", &address_file).stderr(out);
        command.env("EIRS_WEB__ADMIN_ADDRESS_FILE", &admin_file);
        let mut process = Process { child: command.spawn().expect("the web server starts"), log };
        let address = eventually("the web server listens", || {
            let gone = process.child.try_wait().expect("its status");
            assert!(gone.is_none(), "the web server left: {}", process.log());
            fs::read_to_string(&address_file).ok().filter(|text| !text.is_empty())
        });
        // Where it has one, this was written before the other.
        let admin = fs::read_to_string(&admin_file).ok();
        Web { process, address, admin }
    }

    /// A policy, and a controller that follows it.
    pub fn controller(&self, policy: &str) -> Process {
        let policies = self.folder.path().join("policies");
        fs::create_dir_all(&policies).expect("a folder");
        fs::write(policies.join("default.toml"), policy).expect("a policy");
        self.start("eirs-controller", &["--policies", "policies"])
    }

    /// How many results are stored.
    pub fn stored_results(&self) -> usize {
        self.stored("results")
    }

    /// How many images are stored.
    pub fn stored_images(&self) -> usize {
        self.stored("images")
    }

    fn stored(&self, what: &str) -> usize {
        let seen = self.command("eirs").args(["check", "--json"]).output().expect("eirs runs").stdout;
        let seen: Value = serde_json::from_slice(&seen).expect("a report");
        seen[what]["count"].as_u64().unwrap_or_else(|| panic!("no count of {what} in {seen}")) as usize
    }
}

/// Workers outlive their controller, as they should. After the end of their site they would run
/// without end.
impl Drop for Site {
    fn drop(&mut self) {
        let records = fs::read_dir(self.state().join("instances")).into_iter().flatten().flatten();
        for record in records.filter_map(|record| fs::read(record.path()).ok()) {
            let record: Value = serde_json::from_slice(&record).unwrap_or_default();
            let Some(pid) = record["process"]["pid"].as_i64().and_then(|pid| Pid::from_raw(pid as i32))
            else {
                continue;
            };
            // The number may be another process's by now.
            let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if command.contains("eirs-worker") {
                let _gone = kill_process_group(pid, Signal::KILL);
            }
        }
    }
}

/// The folder of the programs: that of the test's own executable, or the one above.
fn programs() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let folder = test.parent().expect("a folder");
    if folder.ends_with("deps") { folder.parent().expect("a folder").into() } else { folder.into() }
}
