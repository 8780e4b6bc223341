//! Starts the real executables in a folder of their own and talks plain HTTP to them.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;

/// How long anything may take on a busy machine before it counts as never.
pub const NEVER: Duration = Duration::from_secs(60);

/// From zero to three instances, that go after a second of silence.
pub const POLICY: &str = "
[pool]
model = \"default\"
min = 0
max = 3
[[rule]]
kind = \"backlog\"
per_instance = 10
[instance]
billing_minimum = \"0s\"
[scale_in]
idle = \"1s\"
window = \"1s\"
drain_deadline = \"5s\"
";

/// Polls until there is a value.
pub fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    eventually_within(NEVER, what, look)
}

/// The same for what by its nature takes longer.
#[expect(
    clippy::disallowed_methods,
    reason = "between two looks at another process there is nothing to wait on"
)]
pub fn eventually_within<T>(within: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a process has ended. One that was killed stays in the table until its new parent has
/// looked.
pub fn is_gone(pid: &impl std::fmt::Display) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
}

/// An installation: a state folder, settings by environment, and the processes that a test starts
/// in it.
pub struct Site {
    pub folder: tempfile::TempDir,
    environment: Vec<(String, String)>,
    logs: AtomicU32,
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

    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// A command for one of the executables, with this site's settings and nothing of the caller's.
    pub fn command(&self, program: &str) -> Command {
        let path = Path::new(env!("CARGO_BIN_EXE_eirs")).with_file_name(program);
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

    pub fn worker(&self) -> Process {
        let worker = self.start("eirs-worker", &[]);
        eventually("the worker takes jobs", || worker.log().contains("taking jobs").then_some(()));
        worker
    }

    pub fn web(&self) -> Web {
        self.web_on("127.0.0.1:0")
    }

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

    pub fn stored_results(&self) -> usize {
        self.stored("results")
    }

    pub fn stored_images(&self) -> usize {
        self.stored("images")
    }

    fn stored(&self, what: &str) -> usize {
        let seen = self.command("eirs").args(["check", "--json"]).output().expect("eirs runs").stdout;
        let seen: Value = serde_json::from_slice(&seen).expect("a report");
        seen[what]["count"].as_u64().unwrap_or_else(|| panic!("no count of {what} in {seen}")) as usize
    }
}

/// A process that does not outlive its test.
pub struct Process {
    pub child: Child,
    log: PathBuf,
}

impl Process {
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it can be signalled");
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it can be waited for");
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("its status").is_some()
    }

    pub fn exit(&mut self) -> ExitStatus {
        eventually("the process leaves", || self.child.try_wait().expect("its status"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.log());
        }
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

/// A running web server.
pub struct Web {
    pub process: Process,
    pub address: String,
    /// The address of the operator's side, where it has a listener of its own.
    pub admin: Option<String>,
}

/// An answer to a request.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let line = |line: &str| line.to_ascii_lowercase().starts_with(&format!("{name}:"));
        self.head
            .lines()
            .find(|text| line(text))
            .and_then(|text| text.split_once(": "))
            .map(|(_, value)| value)
    }

    /// A refusal is a problem document with one sentence.
    pub fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        problem["detail"].as_str().expect("a sentence").to_owned()
    }
}

impl Web {
    /// The pids of the running instances, as `/status` has them.
    pub fn workers(&self) -> Vec<i32> {
        let pools = self.get("/status").json()["controller"]["pools"].as_array().cloned().unwrap_or_default();
        let instances =
            pools.iter().flat_map(|pool| pool["instances"].as_array().cloned().unwrap_or_default());
        instances.filter_map(|instance| instance["pid"].as_i64()).map(|pid| pid as i32).collect()
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("the web server accepts");
        stream.set_read_timeout(Some(NEVER)).expect("a time-out");
        stream
    }

    /// Asks where it is: status and metrics are on the operator's side.
    pub fn get(&self, path: &str) -> Answer {
        let admin = self.admin.as_ref().filter(|_| matches!(path, "/status" | "/metrics"));
        request(admin.unwrap_or(&self.address), "GET", path, &[], b"").expect("an answer")
    }

    /// Uploads one image as a form and wants JSON.
    pub fn upload(&self, query: &str, name: &str, image: &[u8]) -> Answer {
        upload(&self.address, query, name, image).expect("an answer")
    }

    /// Uploads the bare image and wants text.
    pub fn upload_bare(&self, image: &[u8]) -> Answer {
        request(&self.address, "POST", "/upload", &[("content-type", "image/jpeg")], image)
            .expect("an answer")
    }

    pub fn result(&self, id: &str) -> Answer {
        eventually("the result", || {
            Some(self.get(&format!("/results/{id}"))).filter(|answer| answer.status != 202)
        })
    }
}

pub fn upload(address: &str, query: &str, name: &str, image: &[u8]) -> std::io::Result<Answer> {
    let form = form(&[("myfile", name, image)]);
    let headers = [("content-type", "multipart/form-data; boundary=XX"), ("accept", "application/json")];
    request(address, "POST", &format!("/upload{query}"), &headers, &form)
}

/// A form with these parts: field, file name, content.
pub fn form(parts: &[(&str, &str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (field, name, content) in parts {
        let escaped = name.replace('"', "%22").replace('\n', "%0A");
        let head = format!(
            "--XX\r\nContent-Disposition: form-data; name=\"{field}\"; filename=\"{escaped}\"\r\n\r\n"
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--XX--\r\n");
    body
}

/// One request on a connection of its own.
pub fn request(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(NEVER))?;
    stream.set_write_timeout(Some(NEVER))?;
    ask(&mut stream, method, path, headers, body)
}

/// One request on this connection, and the last.
pub fn ask(
    stream: &mut (impl Read + Write),
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<Answer> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("content-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    read_answer(stream)
}

pub fn read_answer(stream: &mut impl Read) -> std::io::Result<Answer> {
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let broken = || std::io::Error::other(format!("not an HTTP answer: {text:?}"));
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(broken)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(broken)?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { unchunked(body) } else { body.to_owned() };
    Ok(Answer { status, head: head.to_owned(), body })
}

fn unchunked(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        whole += rest.get(..size).unwrap_or_default();
        body = rest.get(size + 2..).unwrap_or_default();
    }
    whole
}

/// A small image that no other call gives: a bitmap of one pixel, and a number behind it.
pub fn image(number: u32) -> Vec<u8> {
    let mut file = b"BM\x3a\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\x18\0".to_vec();
    file.resize(0x36, 0);
    file.extend_from_slice(&number.to_le_bytes());
    file
}

/// A file of the built-in model's samples.
pub fn sample(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/shapes/samples").join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
