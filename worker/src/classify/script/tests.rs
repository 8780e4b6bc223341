//! Tests of scripts that the service for scripts runs. Here the service is a thread of this
//! process; `cli/tests/systemd/` tests it as another user, with the filter of systemd.

use std::{
    net::{IpAddr, Ipv4Addr},
    os::fd::AsFd,
    path::PathBuf,
    time::{Duration, Instant},
};

use eirs_platform::settings::{Classifier as Kind, Model, Protocol};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use tempfile::TempDir;

use super::{Script, host};
use crate::classify::{Classifier, Failure, Image, Loaded};

/// A service that runs until the tests end.
fn service(open: fn() -> Option<IpAddr>) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    std::fs::create_dir(folder.path().join("images")).unwrap();
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    listen(&socket, 16).unwrap();
    std::thread::spawn(move || host::serve_on(socket.as_fd(), open));
    (folder, path)
}

fn model(socket: PathBuf, protocol: Protocol, script: &str) -> Model {
    let command = ["/bin/sh", "-c", script, "sh"].map(str::to_owned).to_vec();
    let timeout = Duration::from_secs(30);
    Model {
        classifier: Kind::Script,
        protocol,
        command,
        timeout,
        script_socket: Some(socket),
        ..Model::default()
    }
}

fn ask(classifier: &mut dyn Classifier) -> Result<String, Failure> {
    let image = Image { name: "photo.jpg".into(), bytes: b"some bytes".as_slice().into() };
    classifier.classify(&[image]).remove(0).map(|mut guesses| guesses.remove(0).label)
}

fn classifier(model: &Model) -> Box<dyn Classifier> {
    Script::load(model).unwrap().classifier().unwrap()
}

fn failed(answer: Result<String, Failure>) -> String {
    let Err(Failure::Failed(why)) = answer else { panic!("{answer:?}") };
    why
}

/// Waits for a file, and returns the process number in it.
fn process_in(file: &std::path::Path) -> rustix::process::Pid {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        if let Some(pid) = text.trim().parse().ok().and_then(rustix::process::Pid::from_raw) {
            return pid;
        }
        assert!(Instant::now() < deadline, "the script writes {}", file.display());
        std::thread::yield_now();
    }
}

fn until_gone(pid: rustix::process::Pid) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let is_gone = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
    };
    while !is_gone() {
        assert!(Instant::now() < deadline, "{pid} must exit");
        std::thread::yield_now();
    }
}

#[test]
fn both_protocols_work_as_for_children_of_the_worker() {
    let (_folder, socket) = service(|| None);
    let once = model(socket.clone(), Protocol::Once, "echo note > /dev/stderr; echo \"cat $(cat \"$1\")\"");
    let mut once = classifier(&once);
    for _ in 0..3 {
        assert_eq!(ask(&mut *once).unwrap(), "cat some bytes");
    }
    let line = r#"while read -r path; do printf '{"label": "%s %s"}\n' $$ "$(cat "$path")"; done"#;
    let mut stream = classifier(&model(socket, Protocol::Stream, line));
    let first = ask(&mut *stream).unwrap();
    assert!(first.ends_with(" some bytes"), "{first}");
    assert_eq!(ask(&mut *stream).unwrap(), first, "the process keeps running");
}

#[test]
fn failures_are_reported_as_for_children_of_the_worker() {
    let (_folder, socket) = service(|| None);
    let once = |script: &str| ask(&mut *classifier(&model(socket.clone(), Protocol::Once, script)));
    let why = failed(once("echo too bad >&2; exit 3"));
    assert!(why.contains("exit status: 3") && why.contains("too bad"), "{why}");
    assert!(matches!(once("exit 75"), Err(Failure::Later(_))));
    assert!(failed(once("kill -9 $$")).contains("signal: 9"));
    let missing = Model {
        command: vec!["/bin/sh".into()],
        env: vec!["PATH=/nowhere".into()],
        ..model(socket.clone(), Protocol::Once, "")
    };
    let mut missing = classifier(&missing);
    assert!(failed(ask(&mut *missing)).contains("ended with"), "the image is no script");
}

#[test]
fn a_script_that_times_out_is_killed_with_all_its_processes() {
    let (folder, socket) = service(|| None);
    let noted = folder.path().join("pid");
    let script = format!("setsid sh -c 'echo $$ > {}; exec sleep 600' & sleep 600", noted.display());
    let hanging = Model { timeout: Duration::from_secs(2), ..model(socket, Protocol::Once, &script) };
    let why = failed(ask(&mut *classifier(&hanging)));
    assert!(why.contains("took longer than 2s"), "{why}");
    until_gone(process_in(&noted));
}

#[test]
fn what_a_successful_script_left_running_is_killed() {
    let (folder, socket) = service(|| None);
    let noted = folder.path().join("pid");
    let file = noted.display();
    let script = format!(
        "(setsid sh -c 'echo $$ > {file}; exec sleep 600 < /dev/null > /dev/null 2>&1' &); \
         until [ -s {file} ]; do sleep 0.01; done; echo cat"
    );
    let mut once = classifier(&model(socket, Protocol::Once, &script));
    assert_eq!(ask(&mut *once).unwrap(), "cat");
    until_gone(process_in(&noted));
}

#[test]
fn a_run_ends_when_its_connection_does() {
    let (folder, socket) = service(|| None);
    let noted = folder.path().join("pid");
    let script = format!("echo $$ > {}; exec sleep 600", noted.display());
    let order = super::order::Order {
        command: vec!["/bin/sh".into(), "-c".into(), script],
        env: Vec::new(),
        talk: false,
        mark: "test-apart-1.".into(),
        worker: "test-apart-".into(),
    };
    let (run, pipes) = super::apart::Apart::start(&socket, &order).unwrap();
    assert_eq!(pipes.len(), 2);
    let pid = process_in(&noted);
    drop(run);
    until_gone(pid);
}

#[test]
fn no_script_runs_if_it_could_read_the_credentials_of_the_machine() {
    let (folder, socket) = service(|| Some(Ipv4Addr::new(169, 254, 169, 254).into()));
    let noted = folder.path().join("ran");
    let why = failed(ask(&mut *classifier(&model(
        socket,
        Protocol::Once,
        &format!("touch {}; echo cat", noted.display()),
    ))));
    assert!(why.contains("169.254.169.254 can be reached"), "{why}");
    assert!(!noted.exists());
}

#[test]
fn the_error_for_a_missing_service_names_its_socket() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("images")).unwrap();
    let socket = folder.path().join("socket");
    let why = failed(ask(&mut *classifier(&model(socket.clone(), Protocol::Once, "echo cat"))));
    assert!(why.contains(&socket.display().to_string()), "{why}");
}
