//! `eirs local`, and the tools that use its service.

use std::{fs, path::Path};

use rustix::process::{Pid, Signal, kill_process};

use eirs_harness::{Process, Site, eventually, is_gone, request, sample, upload};

/// A running `eirs local` on a free port.
struct Service {
    site: Site,
    process: Process,
    url: String,
}

impl Service {
    fn start(site: Site) -> Self {
        let process = site.start("eirs", &["local", "--listen", "127.0.0.1:0", "--max", "2"]);
        let url = eventually("the service is ready", || {
            let log = process.log();
            let rest = log.split_once("EIRS is ready at ")?.1;
            rest.split_whitespace().next().map(str::to_owned)
        });
        Self { site, process, url }
    }

    /// Runs `eirs`: returns the exit code and the output.
    fn eirs(&self, arguments: &[&str]) -> (i32, String) {
        let mut process = self.site.start("eirs", arguments);
        let code = process.exit().code().expect("an exit code");
        (code, process.log())
    }

    fn pid_of(&self, program: &str) -> Pid {
        self.find(program).expect("the program runs")
    }

    fn find(&self, program: &str) -> Option<Pid> {
        let parent = self.process.child.id();
        let children =
            fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
        let runs_it = |pid: &&str| {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split('\0').next().is_some_and(|path| path.ends_with(program))
        };
        let pid = children.split_whitespace().find(runs_it).and_then(|pid| pid.parse().ok());
        pid.and_then(Pid::from_raw)
    }
}

fn samples() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/shapes/samples").display().to_string()
}

#[test]
fn a_service_from_its_first_upload_to_an_orderly_end() {
    let mut service = Service::start(Site::with_model());
    let labels = format!("{}/labels.csv", samples());
    let load = ["load", "--url", &service.url, "--image-folder", &samples(), "--labels", &labels, "--json"];
    let (code, report) = service.eirs(&load);
    assert_eq!(code, 0, "{report}");
    let report: serde_json::Value = serde_json::from_str(&report).expect("one JSON object and nothing else");
    assert_eq!(report["results"], report["images"]);
    assert!(report["accuracy"]["share"].as_f64().is_some_and(|share| share > 0.9), "{report}");

    let (code, printed) = service.eirs(&["check"]);
    assert_eq!(code, 0, "{printed}");
    assert!(printed.contains("is running, process") && printed.contains("All is well."), "{printed}");
    let heart = format!("{}/heart_0.jpg", samples());
    let (code, printed) = service.eirs(&["classify", &heart, "--url", &service.url]);
    assert!(code == 0 && printed.starts_with("heart_0.jpg: heart (0."), "{printed}");

    let (code, printed) = service.eirs(&["local"]);
    assert!(code == 1 && printed.contains(&format!("process {}", service.process.child.id())), "{printed}");
    let (code, printed) = service.eirs(&["cleanup", "--mode", "clear", "--yes"]);
    assert!(code == 1 && printed.contains("stop it first"), "{printed}");

    service.process.signal(Signal::TERM);
    assert_eq!(service.process.exit().code(), Some(0), "{}", service.process.log());
    assert_eq!(fs::read_dir(service.site.state().join("instances")).map_or(0, Iterator::count), 0);
    let (code, printed) = service.eirs(&["cleanup", "--mode", "delete", "--yes"]);
    assert!(code == 0 && !service.site.state().exists(), "{printed}");
}

#[test]
fn two_services_run_concurrently_and_each_prints_its_status_url() {
    let services = [(); 2].map(|()| Service::start(Site::new().unset("EIRS_WEB__ADMIN_LISTEN")));
    let places = services.each_ref().map(|service| {
        let log = service.process.log();
        let (_, rest) = log.split_once("Live view: http://").expect("it says where");
        let address = rest.split('/').next().expect("an address").to_owned();
        assert_eq!(request(&address, "GET", "/status", &[], b"").expect("an answer").status, 200);
        address
    });
    assert_ne!(places[0], places[1]);
}

#[test]
fn a_killed_program_is_restarted_and_the_service_continues() {
    let mut service = Service::start(Site::with_model());
    let address = service.url.trim_start_matches("http://").to_owned();
    for (program, star) in [("eirs-web", "star_0.jpg"), ("eirs-controller", "star_1.jpg")] {
        let killed = service.pid_of(program);
        kill_process(killed, Signal::KILL).expect("it can be killed");
        eventually("it is started again", || {
            let log = service.process.log();
            log.contains(&format!("{program} was killed by signal 9; restarting it")).then_some(())
        });
        let label = eventually("it serves as before", || {
            Some(upload(&address, "", star, &sample(star)).ok()?).filter(|answer| answer.status == 200)
        });
        assert_eq!(label.json()["label"], "star");
        assert_ne!(service.pid_of(program), killed);
    }
    service.process.signal(Signal::INT);
    assert_eq!(service.process.exit().code(), Some(0), "{}", service.process.log());
}

#[test]
fn a_repeatedly_killed_program_is_restarted_after_an_announced_pause() {
    let mut service = Service::start(Site::new());
    for _ in 0..4 {
        let killed = eventually("it runs", || service.find("eirs-controller"));
        kill_process(killed, Signal::KILL).expect("it can be killed");
        eventually("it is gone", || is_gone(&killed).then_some(()));
    }
    let said = "eirs-controller was killed by signal 9, as several times in this minute; restarting it in 5s";
    eventually("it says so", || service.process.log().contains(said).then_some(()));
    eventually("it runs again", || service.find("eirs-controller"));
    assert!(!service.process.has_ended());
}

/// A service whose controller was killed while its policy was invalid, and waits for a fix.
fn with_a_bad_policy(good: &str) -> (Service, std::path::PathBuf, Pid) {
    let site = Site::with_model();
    let policies = site.folder.path().join("policies");
    fs::create_dir_all(&policies).expect("a folder");
    let policy = policies.join("default.toml");
    fs::write(&policy, good).expect("a policy");
    let service = Service::start(site);
    let record = service.site.state().join("instances/default-1.json");
    let worker = eventually("a worker is started", || {
        let record: serde_json::Value = serde_json::from_slice(&fs::read(&record).ok()?).ok()?;
        Pid::from_raw(i32::try_from(record["process"]["pid"].as_i64()?).ok()?)
    });
    fs::write(&policy, "[pool]\nmaximum = 1\n").expect("a policy");
    kill_process(service.pid_of("eirs-controller"), Signal::KILL).expect("it can be killed");
    eventually("it says what to correct", || {
        let log = service.process.log();
        (log.contains("unknown key `pool.maximum`") && log.contains("trying again in 5s")).then_some(())
    });
    (service, policy, worker)
}

#[test]
fn a_killed_controller_with_a_bad_policy_restarts_when_it_is_fixed() {
    let good = "[pool]\nmin = 1\nmax = 1\n";
    let (mut service, policy, worker) = with_a_bad_policy(good);
    assert!(!service.process.has_ended() && !is_gone(&worker), "it serves meanwhile");
    fs::write(&policy, good).expect("a policy");
    eventually("the controller runs again", || {
        let (code, said) = service.eirs(&["status"]);
        (code == 0 && said.contains("The controller is running")).then_some(())
    });
    service.process.signal(Signal::INT);
    assert_eq!(service.process.exit().code(), Some(0), "{}", service.process.log());
    eventually("the worker is gone", || is_gone(&worker).then_some(()));
}

#[test]
fn a_worker_without_controller_ends_with_the_service() {
    let (mut service, _policy, worker) = with_a_bad_policy("[pool]\nmin = 1\nmax = 1\n");
    service.process.signal(Signal::INT);
    assert_eq!(service.process.exit().code(), Some(1), "{}", service.process.log());
    eventually("the worker is gone", || is_gone(&worker).then_some(()));
    assert!(service.process.log().contains("killed the workers that no controller drained"));
}

#[test]
fn a_second_signal_kills_even_a_busy_worker() {
    let site = Site::with_script("echo $$ > script.pid; exec sleep 600");
    let script = site.folder.path().join("script.pid");
    let mut service = Service::start(site);
    let upload = ["load", "--url", &service.url, "--image-folder", &samples(), "--num-request", "1"];
    let _load = service.site.start("eirs", &upload);
    let record = service.site.state().join("instances/default-1.json");
    let worker = eventually("a worker is started", || {
        let record: serde_json::Value = serde_json::from_slice(&fs::read(&record).ok()?).ok()?;
        Pid::from_raw(i32::try_from(record["process"]["pid"].as_i64()?).ok()?)
    });
    let script = eventually("its script runs", || {
        let pid = fs::read_to_string(&script).ok().filter(|text| text.ends_with('\n'))?;
        Pid::from_raw(pid.trim().parse().ok()?)
    });
    service.process.signal(Signal::INT);
    eventually("it drains", || service.process.log().contains("stopping eirs-web").then_some(()));
    service.process.signal(Signal::INT);
    assert_eq!(service.process.exit().code(), Some(1), "{}", service.process.log());
    eventually("the worker and its script are gone", || [worker, script].iter().all(is_gone).then_some(()));
}

#[test]
fn a_bad_policy_is_78_with_file_line_and_key() {
    let site = Site::new();
    let policies = site.folder.path().join("policies");
    fs::create_dir_all(&policies).expect("a folder");
    fs::write(policies.join("default.toml"), "[pool]\nmaximum = 3\n").expect("a policy");
    for arguments in [&["local", "--listen", "127.0.0.1:0"][..], &["policy", "check"]] {
        let mut process = site.start("eirs", arguments);
        assert_eq!(process.exit().code(), Some(78), "{}", process.log());
        assert!(
            process.log().contains("policies/default.toml:2: unknown key `pool.maximum`"),
            "{}",
            process.log()
        );
    }
}

#[test]
fn a_service_whose_port_is_taken_says_so_and_exits() {
    let (site, other) = (Site::new(), Site::new());
    let web = site.web();
    let mut process = other.start("eirs", &["local", "--listen", &web.address]);
    assert_eq!(process.exit().code(), Some(1));
    assert!(
        process.log().contains("cannot listen on") && process.log().contains("in use"),
        "{}",
        process.log()
    );
}
