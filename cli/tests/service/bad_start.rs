use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::Stdio,
};

use eirs_harness::{Process, Site};

/// Checks for one clear sentence and this exit code.
fn assert_ends(mut process: Process, code: i32, hints: &[&str]) {
    let status = process.exit();
    let log = process.log();
    assert_eq!(status.code(), Some(code), "{log}");
    for hint in hints {
        assert!(log.contains(hint), "{hint}: {log}");
    }
    assert!(!log.contains("panicked") && !log.contains("stack backtrace"), "{log}");
}

#[test]
fn an_unknown_settings_key_is_78_and_named_by_every_program() {
    let site = Site::new();
    let file = site.folder.path().join("eirs.toml");
    fs::write(&file, "[web]\nlisten_on = \"x\"\n[queue]\nvisibility = \"soon\"\n").expect("a file");
    for program in ["eirs-web", "eirs-worker", "eirs-controller"] {
        let process = site.start(program, &["--config", "eirs.toml"]);
        assert_ends(
            process,
            78,
            &["eirs.toml: unknown key `web.listen_on`; did you mean `web.listen`?", "queue.visibility:"],
        );
    }
    let process = site.start("eirs", &["--config", "eirs.toml", "check"]);
    assert_ends(process, 78, &["eirs.toml: unknown key `web.listen_on`"]);
}

#[test]
fn a_port_in_use_is_one_sentence() {
    let (site, other) = (Site::new(), Site::new());
    let web = site.web();
    assert_ends(
        other.start("eirs-web", &["--listen", &web.address]),
        1,
        &["web.listen: cannot listen on", "in use"],
    );
}

#[test]
fn a_state_folder_of_another_version_is_refused_by_all() {
    let site = Site::new();
    fs::create_dir_all(site.state()).expect("a folder");
    fs::write(site.state().join("layout"), "999").expect("a file");
    for program in ["eirs-web", "eirs-worker"] {
        assert_ends(site.start(program, &[]), 1, &["has layout \"999\", this version of EIRS reads"]);
    }
}

#[test]
fn a_missing_or_invalid_model_is_78_and_named() {
    let site = Site::with_model().set("EIRS_MODELS__DEFAULT__PATH", "model.onnx");
    assert_ends(site.start("eirs-worker", &[]), 78, &["model.onnx"]);
    fs::write(site.folder.path().join("model.onnx"), "this is no model").expect("a file");
    assert_ends(site.start("eirs-worker", &[]), 78, &["model.onnx"]);
    assert_ends(site.start("eirs", &["classify", "heart.jpg"]), 78, &["model.onnx"]);
}

#[test]
fn a_script_that_cannot_be_run_is_78_with_the_reason() {
    use std::os::unix::fs::PermissionsExt;
    let site = Site::with_script("echo dog").set("EIRS_MODELS__DEFAULT__COMMAND", "[\"./classify.sh\"]");
    let file = site.folder.path().join("classify.sh");
    assert_ends(site.start("eirs-worker", &[]), 78, &["./classify.sh", "there is no such file in"]);
    fs::write(&file, "#!/bin/sh\r\necho dog\r\n").expect("a script");
    assert_ends(site.start("eirs-worker", &[]), 78, &["chmod +x ./classify.sh"]);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("its owner");
    assert_ends(site.start("eirs-worker", &[]), 78, &["line ends of Windows"]);
    fs::write(&file, "#!/bin/sh\necho dog\n").expect("a script");
    let (web, _worker) = (site.web(), site.worker());
    assert_eq!(web.upload("", "dog.jpg", &eirs_harness::image(1)).json()["label"], "dog");
}

#[test]
fn images_wait_until_the_model_is_fixed() {
    let site = Site::with_model().set("EIRS_MODELS__DEFAULT__PATH", "model.onnx");
    let web = site.web();
    let pending = web.upload("?wait=0", "x", &eirs_harness::sample("heart_0.jpg")).json();
    assert_ends(site.start("eirs-worker", &[]), 78, &["model.onnx"]);
    let shapes = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/shapes");
    fs::copy(shapes.join("shapes.onnx"), site.folder.path().join("model.onnx")).expect("a model");
    fs::copy(shapes.join("labels.txt"), site.folder.path().join("labels.txt")).expect("its labels");
    let _worker = site.worker();
    assert_eq!(web.result(pending["id"].as_str().expect("an id")).json()["label"], "heart");
}

#[test]
fn an_invalid_queue_file_is_one_sentence() {
    let site = Site::new();
    {
        let _web = site.web();
    }
    fs::write(site.state().join("queue.db"), vec![7; 100_000]).expect("a broken file");
    let _none = fs::remove_file(site.state().join("queue.db-wal"));
    assert_ends(site.start("eirs-web", &[]), 1, &["queue.db", "not a database"]);
}

/// Root may read and write everything, so this needs another user that may also run the programs.
#[test]
fn a_queue_file_of_another_user_is_one_sentence() {
    const NOBODY: u32 = 65534;
    let site = Site::new();
    drop(site.web());
    let allow = |path: &std::path::Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
    };
    let file = site.state().join("queue.db");
    let mut command = site.command("eirs-web");
    command.args(["--listen", "127.0.0.1:0"]).stdout(Stdio::null()).stderr(Stdio::piped());
    if rustix::process::geteuid().is_root() {
        for folder in
            [site.folder.path(), &site.state(), &site.state().join("images"), &site.state().join("bells")]
        {
            allow(folder, 0o777);
        }
        for name in ["queue.lock", "layout"] {
            allow(&site.state().join(name), 0o666);
        }
        allow(&file, 0o600);
        command.uid(NOBODY).gid(NOBODY);
    } else {
        allow(&file, 0o000);
    }
    let output = match command.spawn() {
        Ok(process) => process.wait_with_output().expect("its output"),
        Err(error) => return println!("not run: another user cannot start the programs here ({error})"),
    };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let sentences: Vec<_> =
        said.lines().filter(|line| line.contains("ERROR") || line.contains("queue.db")).collect();
    assert_eq!(sentences.len(), 1, "{said}");
    assert!(
        sentences[0].contains("this user may not read and write") && sentences[0].contains("queue.db"),
        "{said}"
    );
}

#[test]
fn a_queue_damaged_in_the_middle_is_one_sentence_with_advice() {
    let site = Site::new();
    {
        let web = site.web();
        for number in 0..50 {
            assert_eq!(web.upload("?wait=0", "x", &eirs_harness::image(number)).status, 202);
        }
        web.process.signal(rustix::process::Signal::TERM);
        let mut process = web.process;
        assert!(process.exit().success());
    }
    let file = site.state().join("queue.db");
    let mut bytes = fs::read(&file).expect("the queue");
    bytes[4096..].fill(0x5a);
    fs::write(&file, bytes).expect("a damaged queue");
    assert_ends(
        site.start("eirs-web", &[]),
        1,
        &["queue.db is damaged", "restore a backup (docs/OPERATIONS.md)"],
    );
}
