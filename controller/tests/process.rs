//! Tests the real controller with the local backend and real signals. The workers are [a
//! script](fixtures/worker.sh), as the work of workers is tested elsewhere.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "what a test's helpers cannot do, the test cannot do"
)]

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    os::unix::{net::UnixDatagram, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use chrono::Utc;
use eirs_controller::{
    observe::Stage,
    reload::reload,
    status::{InstanceStatus, PoolStatus, Status},
};
use eirs_platform::{
    backend::Backend,
    clock::SystemClock,
    job::{self, Event, VERSION, WebReport},
    settings::Settings,
};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

const LONG: Duration = Duration::from_secs(20);
const RULE: &str = "[[rule]]\nkind = 'backlog'\n[scale_in]\ndrain_deadline = '1s'\n";

/// A state folder with policies. Remaining processes are killed at the end.
struct Home {
    folder: tempfile::TempDir,
}

/// A controller that is killed at the end.
struct Controller(Child);

impl Home {
    fn new(policy: &str) -> Self {
        let home = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(home.path("policies")).unwrap();
        home.write_policy(policy);
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write_policy(&self, text: &str) {
        fs::write(self.path("policies/p.toml"), text).unwrap();
    }

    fn command(&self, flags: &[&str]) -> Command {
        let worker = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/worker.sh");
        let mut command = Command::new(env!("CARGO_BIN_EXE_eirs-controller"));
        command.args(["--state".as_ref(), self.path("").as_os_str()]);
        command.args(["--policies".as_ref(), self.path("policies").as_os_str()]);
        command.args(flags);
        command.env("EIRS_CONTROLLER__WORKER_PROGRAM", worker).env("EIRS_TELEMETRY__FORMAT", "text");
        // Tests wait for changes to be noticed, and not for a tick.
        command.env("EIRS_CONTROLLER__TICK", "10m");
        command.stderr(Stdio::piped());
        command
    }

    fn start(&self, flags: &[&str]) -> Controller {
        let mut child = self.command(flags).spawn().unwrap();
        let mut log = child.stderr.take().unwrap();
        // Workers share this stderr, so its end is not the end of the controller.
        std::thread::spawn(move || {
            let mut text = String::new();
            let _closed = log.read_to_string(&mut text);
            eprint!("{text}");
        });
        let pid = child.id();
        let controller = Controller(child);
        self.until("the controller writes its status", |status| status.pid == pid);
        controller
    }

    /// Waits for a status. Panics with the last one if it does not come.
    #[track_caller]
    fn until(&self, what: &str, is_so: impl Fn(&Status) -> bool) -> Status {
        let deadline = Instant::now() + LONG;
        loop {
            let read = fs::read(self.path("status.json"))
                .ok()
                .map(|text| serde_json::from_slice::<Status>(&text).unwrap());
            match read {
                Some(status) if is_so(&status) => return status,
                last => assert!(Instant::now() < deadline, "{what}; last seen: {last:#?}"),
            }
            pause();
        }
    }

    #[track_caller]
    fn until_instance(&self, what: &str, is_so: impl Fn(&InstanceStatus) -> bool) -> InstanceStatus {
        let first = |status: &Status| status.pools.first().and_then(|pool| pool.instances.first().cloned());
        first(&self.until(what, |status| first(status).is_some_and(|instance| is_so(&instance)))).unwrap()
    }

    fn settings(&self) -> Settings {
        let mut settings = Settings::default();
        settings.local.state = self.path("");
        settings
    }

    /// Sends one job and rings the doorbell.
    async fn upload(&self) {
        let settings = self.settings();
        let backend = Backend::open(&settings, Arc::new(SystemClock)).await.unwrap();
        backend.requests("default").await.unwrap().send(vec![Bytes::from_static(b"{}")]).await.unwrap();
        let arrivals = BTreeMap::from([("default".to_owned(), 1)]);
        let doorbell = Event::Web(WebReport {
            v: VERSION,
            host: "w".into(),
            arrivals,
            doorbell: true,
            since: None,
            at: Utc::now(),
        });
        backend.events().await.unwrap().send(vec![job::encode(&doorbell)]).await.unwrap();
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for record in fs::read_dir(self.path("instances")).into_iter().flatten() {
            let record: serde_json::Value =
                serde_json::from_slice(&fs::read(record.unwrap().path()).unwrap()).unwrap();
            if let Some(pid) = record["process"]["pid"].as_u64() {
                kill(pid as u32, Signal::KILL);
            }
        }
    }
}

impl Controller {
    fn signal(&self, signal: Signal) {
        kill(self.0.id(), signal);
    }

    fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + LONG;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the controller does not end");
            pause();
        }
    }

    fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _status = self.0.wait();
    }
}

fn pause() {
    std::thread::park_timeout(Duration::from_millis(2));
}

fn pid(pid: u32) -> Pid {
    Pid::from_raw(pid.cast_signed()).unwrap()
}

fn kill(process: u32, signal: Signal) {
    let _gone = kill_process(pid(process), signal);
}

fn lives(process: u32) -> bool {
    let is_zombie =
        || fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| stat.contains(") Z "));
    test_kill_process(pid(process)).is_ok() && !is_zombie()
}

fn runs(instance: &InstanceStatus) -> bool {
    instance.state == Stage::Starting
}

#[tokio::test]
async fn the_first_upload_starts_a_worker_at_once_in_its_own_process_group_with_the_state_folder() {
    let home = Home::new(RULE);
    let _controller = home.start(&[]);
    home.until_instance("no worker runs yet", |instance| instance.state == Stage::Stopped);
    home.upload().await;
    let rung = Instant::now();
    let instance = home.until_instance("p-1 runs", runs);
    // Far below the tick. The exact time is measured by a benchmark.
    assert!(rung.elapsed() < Duration::from_secs(5));
    let process = instance.pid.unwrap();
    let read = |file: &str| fs::read_to_string(format!("/proc/{process}/{file}")).unwrap();
    let group = read("stat").rsplit_once(") ").unwrap().1.split(' ').nth(2).unwrap().to_owned();
    assert_eq!(group, process.to_string());
    let arguments =
        format!("--instance\0p-1\0--generation\0{}\0--model\0default\0", instance.generation.unwrap());
    assert!(read("cmdline").ends_with(&arguments), "{:?}", read("cmdline"));
    assert!(read("environ").contains(&format!("EIRS_LOCAL__STATE={}", home.path("").display())));
}

#[tokio::test]
async fn workers_survive_a_stopped_or_killed_controller_and_the_next_one_adopts_them() {
    let home = Home::new(RULE);
    let mut first = home.start(&[]);
    home.upload().await;
    let before = home.until_instance("p-1 runs", runs);
    first.signal(Signal::KILL);
    assert_eq!(first.wait().signal(), Some(9));

    let second = home.start(&[]);
    let adopted = home.until_instance("p-1 is adopted", runs);
    assert_eq!(
        (adopted.pid, adopted.generation, adopted.since),
        (before.pid, before.generation, before.since)
    );
    assert_eq!(second.stop().code(), Some(0));
    assert!(lives(before.pid.unwrap()));

    let third = home.start(&["--on-exit", "drain"]);
    home.until_instance("p-1 is adopted again", runs);
    assert_eq!(third.stop().code(), Some(0));
    assert!(!lives(before.pid.unwrap()));
}

#[tokio::test]
async fn a_worker_that_ignores_its_drain_is_killed_when_the_controller_stops() {
    let home = Home::new(&format!("[pool]\nmodel = 'stubborn'\nmin = 1\n{RULE}"));
    let settings = "[models.stubborn]\n";
    fs::write(home.path("eirs.toml"), settings).unwrap();
    let config = home.path("eirs.toml");
    let controller = home.start(&["--on-exit", "drain", "--config", config.to_str().unwrap()]);
    let process = home.until_instance("p-1 runs", runs).pid.unwrap();
    let line = fs::read_to_string(format!("/proc/{process}/cmdline")).unwrap();
    assert!(line.ends_with(&format!("--config\0{}\0", config.display())), "{line:?}");
    assert_eq!(controller.stop().code(), Some(0));
    assert!(!lives(process));
}

#[tokio::test]
async fn a_worker_that_dies_is_started_again_after_a_while() {
    let home = Home::new(&format!("[pool]\nmin = 1\nmax = 1\n{RULE}"));
    let mut command = home.command(&[]);
    command.env("EIRS_CONTROLLER__TICK", "100ms").stderr(Stdio::null());
    let _controller = Controller(command.spawn().unwrap());
    let first = home.until_instance("p-1 runs", runs);
    kill(first.pid.unwrap(), Signal::KILL);
    let second =
        home.until_instance("p-1 runs again", |instance| runs(instance) && instance.pid != first.pid);
    assert_eq!(second.crashes, 1);
    assert!(second.last_error.unwrap().starts_with("was killed by signal 9"));
}

#[tokio::test]
async fn a_worker_with_wrong_settings_is_not_started_in_a_tight_loop_and_the_status_says_why() {
    let home = Home::new(&format!("[pool]\nmodel = 'broken'\nmin = 1\nmax = 1\n{RULE}"));
    let mut command = home.command(&[]);
    command.env("EIRS_CONTROLLER__TICK", "100ms").env("EIRS_MODELS__BROKEN__TOP", "5").stderr(Stdio::null());
    let _controller = Controller(command.spawn().unwrap());
    let status = home.until("it crashed twice", |status| {
        let crashes =
            |pool: &PoolStatus| pool.instances[0].crashes >= 2 && pool.instances[0].not_before.is_some();
        status.pools.first().is_some_and(crashes)
    });
    let pool = &status.pools[0];
    assert!(pool.instances[0].last_error.as_ref().unwrap().starts_with("exited with code 78"));
    assert!(
        status.at - status.started_at >= chrono::TimeDelta::seconds(1),
        "the second start comes after a second"
    );
    home.until("the reason names the failures", |status| {
        status.pools[0].reason.contains("the other instances failed recently")
    });
}

#[test]
fn a_second_controller_on_the_same_folder_exits_with_one_sentence() {
    let home = Home::new(RULE);
    let first = home.start(&[]);
    let second = home.command(&[]).output().unwrap();
    let said = String::from_utf8(second.stderr).unwrap();
    assert_eq!((second.status.code(), said.lines().count()), (Some(1), 1), "{said}");
    assert!(
        said.contains(&format!("another controller (process {}) runs on the state folder", first.0.id())),
        "{said}"
    );
}

#[test]
fn the_watchdog_is_notified_in_every_pass_and_often_enough_even_with_rare_ticks() {
    let home = Home::new(RULE);
    let socket = UnixDatagram::bind(home.path("notify")).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut command = home.command(&[]);
    command.env("NOTIFY_SOCKET", home.path("notify")).env("WATCHDOG_USEC", "600000").stderr(Stdio::null());
    let controller = Controller(command.spawn().unwrap());
    // Counts notifications until there are enough or the time is over.
    let pings = |enough: usize, within: Duration| {
        let (deadline, mut pings) = (Instant::now() + within, 0);
        let mut message = [0; 4096];
        while pings < enough && Instant::now() < deadline {
            let Ok(length) = socket.recv(&mut message) else { continue };
            let text = String::from_utf8_lossy(&message[..length]).into_owned();
            pings += usize::from(text.lines().any(|line| line == "WATCHDOG=1"));
        }
        pings
    };
    // Each pass notifies twice. Five passes happen within a tick of ten minutes.
    assert_eq!(pings(10, LONG), 10);
    assert_eq!(controller.stop().code(), Some(0));
}

#[test]
fn wrong_settings_and_policies_are_all_reported_with_exit_code_78() {
    let home = Home::new("[pool]\nmax = 'x'\nmodle = 'y'");
    let refused = |flags: &[&str]| {
        let output = home.command(flags).output().unwrap();
        assert_eq!(output.status.code(), Some(78));
        String::from_utf8(output.stderr).unwrap()
    };
    let said = refused(&[]);
    assert!(
        said.contains("p.toml:2: pool.max: is 'x'") && said.contains("did you mean `pool.model`?"),
        "{said}"
    );
    assert!(refused(&["--on-exit", "explode"]).contains("controller.on_exit"));
    home.write_policy("[pool]\nmin = 4");
    assert!(refused(&["--instance-limit", "3"]).contains("controller.instance_limit is 3"));
}

#[test]
fn a_changed_policy_and_a_reload_take_effect_at_once_and_an_invalid_file_leaves_the_last_valid_one() {
    let home = Home::new("[pool]\nmax = 1");
    let controller = home.start(&[]);
    home.write_policy("[pool]\nmax = 2");
    home.until("the changed file is in force", |status| status.pools[0].max == 2);
    home.write_policy("[pool]\nmax = -2");
    let status = home.until("the invalid file is reported", |status| !status.policy_errors.is_empty());
    assert!(
        status.policy_errors[0].contains("p.toml:2: pool.max: is -2; must be a whole number"),
        "{status:#?}"
    );
    assert_eq!(
        (status.pools[0].max, status.pools[0].policy_error.as_ref()),
        (2, Some(&status.policy_errors[0]))
    );

    home.write_policy("[pool]\nmax = 3");
    controller.signal(Signal::HUP);
    let status = home.until("the reload is counted", |status| status.reloads == 1);
    assert_eq!((status.pools[0].max, status.policy_errors), (3, vec![]));
    assert_eq!(controller.stop().code(), Some(0));
}

#[tokio::test]
async fn a_reload_returns_when_the_policies_are_in_force_even_with_concurrent_reloads() {
    let home = Home::new("[pool]\nmax = 1");
    let controller = home.start(&[]);
    let settings = home.settings();
    // Other reloads that are already under way.
    let hammer = std::thread::spawn({
        let process = controller.0.id();
        let enough = Instant::now() + Duration::from_millis(500);
        move || {
            while Instant::now() < enough {
                kill(process, Signal::HUP);
                std::thread::yield_now();
            }
        }
    });
    for max in 2..50 {
        home.write_policy(&format!("[pool]\nmax = {max}"));
        assert_eq!(reload(&settings, &SystemClock, LONG).await.unwrap(), Vec::<String>::new());
        let status: Status = serde_json::from_slice(&fs::read(settings.status_file()).unwrap()).unwrap();
        assert_eq!(status.pools[0].max, max);
    }
    hammer.join().unwrap();
    home.write_policy("[pool]\nmax = 0.5");
    let output = home.command(&["--reload"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), said.lines().count()), (Some(78), 1), "{said}");
    assert!(said.contains("p.toml:2: pool.max: is 0.5"), "{said}");
    assert_eq!(home.until("the last valid version stays", |_| true).pools[0].max, 49);
    home.write_policy("[pool]\nmax = 3");
    let output = home.command(&["--reload"]).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[tokio::test]
async fn a_reload_reports_a_controller_that_hangs_or_has_ended() {
    let home = Home::new("[pool]\nmax = 1");
    let mut controller = home.start(&[]);
    let process = controller.0.id();
    controller.signal(Signal::STOP);
    let error = reload(&home.settings(), &SystemClock, Duration::from_millis(100)).await.unwrap_err();
    let said = format!("the controller (process {process}) has not read its policies within 100ms: it hangs");
    assert!(error.to_string().starts_with(&said), "{error}");

    let settings = home.settings();
    let reloading = tokio::spawn(async move { reload(&settings, &SystemClock, LONG).await });
    tokio::task::yield_now().await;
    controller.signal(Signal::KILL);
    controller.wait();
    let error = reloading.await.unwrap().unwrap_err().to_string();
    // The signal may come before or after the end of the controller.
    assert!(error.contains("ended before it had read") || error.starts_with("no controller runs"), "{error}");
    let error = reload(&home.settings(), &SystemClock, LONG).await.unwrap_err().to_string();
    assert_eq!(error, format!("no controller runs on the state folder {}", home.path("").display()));
}

#[tokio::test]
async fn workers_of_a_killed_controller_can_be_drained() {
    let home = Home::new(RULE);
    let mut first = home.start(&[]);
    home.upload().await;
    let process = home.until_instance("p-1 runs", runs).pid.unwrap();
    let drain = || home.command(&["--drain-processes"]).output().unwrap();
    let output = drain();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("another controller (process"), "{said}");
    first.signal(Signal::KILL);
    first.wait();
    assert!(lives(process));
    // A start that failed before a controller ran has left no workers, and has reported its error.
    let mut command = home.command(&["--drain-processes", "--on-exit", "nonsense"]);
    let output = command.env("SERVICE_RESULT", "exit-code").output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty() && lives(process), "{output:?}");
    assert!(drain().status.success());
    assert!(!lives(process));
    assert!(drain().status.success(), "no worker is left");
}
