//! Scripts that work, and scripts in all the ways in which they do not.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "clippy.toml allows them in tests, but not in what tests call"
)]

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use eirs_platform::{
    job::Guess,
    settings::{Classifier as Kind, Model, Protocol},
};
use eirs_worker::classify::{Classifier, Failure, Image, load};

/// A time-out that no healthy script reaches, however busy the machine.
const PATIENT: Duration = Duration::from_secs(30);
/// A time-out that hanging scripts are there to reach.
const SHORT: Duration = Duration::from_millis(300);
/// By when a failed script must have been given up.
const BOUND: Duration = Duration::from_secs(20);

fn model(protocol: Protocol, timeout: Duration, script: &str) -> Model {
    // `$1` is the path in the protocol `once`.
    let command = ["/bin/sh", "-c", script, "sh"].map(str::to_owned).to_vec();
    Model { classifier: Kind::Script, protocol, command, timeout, ..Model::default() }
}

fn classifier(protocol: Protocol, timeout: Duration, script: &str) -> Box<dyn Classifier> {
    load(&model(protocol, timeout, script)).unwrap().classifier().unwrap()
}

fn image(name: &str) -> Image {
    Image { name: name.to_owned(), bytes: b"some bytes".as_slice().into() }
}

fn ask(classifier: &mut dyn Classifier, name: &str) -> Result<Vec<Guess>, Failure> {
    let mut answers = classifier.classify(&[image(name)]);
    assert_eq!(answers.len(), 1);
    answers.remove(0)
}

fn once(script: &str) -> Result<Vec<Guess>, Failure> {
    ask(&mut *classifier(Protocol::Once, PATIENT, script), "photo.jpg")
}

fn label(answer: Result<Vec<Guess>, Failure>) -> String {
    answer.unwrap().remove(0).label
}

fn failed(answer: Result<Vec<Guess>, Failure>) -> String {
    match answer {
        Err(Failure::Failed(why)) => why,
        other => panic!("{other:?}"),
    }
}

/// Waits until the process of this number is gone, or fails.
fn assert_gone(pid: &str) {
    let deadline = Instant::now() + BOUND;
    let lives = |pid: &str| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Killed and waiting for its parent, which is not us where the parent was killed as well.
        !stat.is_empty() && !stat.contains(") Z ")
    };
    while lives(pid) {
        assert!(Instant::now() < deadline, "process {pid} lives on");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

#[test]
fn once_reads_the_label_behind_the_name_of_the_file() {
    assert_eq!(label(once(r#"echo "loading"; echo "$(basename "$1"),hot dog, hotdog""#)), "hot dog, hotdog");
    assert_eq!(label(once("echo dog")), "dog");
}

#[test]
fn once_hands_over_the_image_under_a_safe_name_like_the_uploaders() {
    let mut script = classifier(Protocol::Once, PATIENT, r#"echo "$(cat "$1") in $(basename "$1")""#);
    assert_eq!(label(ask(&mut *script, "my $(rm -rf) dog.JPEG")), "some bytes in my___rm_-rf__dog.JPEG");
}

#[test]
fn no_file_is_left_behind() {
    for (protocol, script) in [
        (Protocol::Once, r#"touch "$(dirname "$1")/droppings"; echo "$1""#),
        (
            Protocol::Stream,
            r#"while read p; do touch "$(dirname "$p")/droppings"; echo "{\"label\": \"$p\"}"; done"#,
        ),
    ] {
        let mut script = classifier(protocol, PATIENT, script);
        let path = PathBuf::from(label(ask(&mut *script, "photo.jpg")));
        let folder = path.parent().and_then(Path::parent).unwrap().to_owned();
        assert!(!path.exists() && folder.exists());
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
        drop(script);
        assert!(!folder.exists());
    }
}

#[test]
fn once_reports_a_crash_with_its_last_words() {
    let why = failed(once("echo label; echo first >&2; echo 'no such model' >&2; exit 3"));
    assert!(why.contains("status: 3") && why.contains("first | no such model"), "{why}");
    assert!(failed(once("kill -SEGV $$")).contains("signal: 11"));
}

#[test]
fn once_refuses_what_cannot_be_a_label() {
    for (script, expected) in [
        ("true", "nothing"),
        (r"printf '\377\376'", "UTF-8"),
        ("head -c 2000 /dev/zero | tr '\\0' x", "2000 bytes"),
    ] {
        let why = failed(once(script));
        assert!(why.contains(expected), "{script}: {why}");
    }
}

#[test]
fn once_gives_a_hanging_script_up_with_all_its_children() {
    let pids = tempfile::NamedTempFile::new().unwrap();
    let script =
        format!("sleep 1000 & echo $! > {0}; echo $$ >> {0}; echo stuck >&2; wait", pids.path().display());
    let start = Instant::now();
    let why = failed(ask(&mut *classifier(Protocol::Once, SHORT, &script), "photo.jpg"));
    assert!(why.contains("took longer than 300ms") && why.contains("stuck"), "{why}");
    assert!(start.elapsed() < BOUND);
    std::fs::read_to_string(pids.path()).unwrap().lines().for_each(assert_gone);
}

#[test]
fn once_does_not_wait_for_grandchildren_that_hold_its_outputs_open() {
    let start = Instant::now();
    let pid = label(once("for i in 1 2 3; do sleep 1000 & done; echo $!"));
    assert!(start.elapsed() < BOUND);
    assert_gone(&pid);
}

#[test]
fn once_ends_a_flood() {
    let start = Instant::now();
    let why = failed(once("yes"));
    assert!(why.contains("more than 1048576 bytes"), "{why}");
    let why = failed(ask(&mut *classifier(Protocol::Once, SHORT, "yes >&2"), "photo.jpg"));
    assert!(why.contains("took longer") && why.len() < 5000, "{why}");
    assert!(start.elapsed() < BOUND);
}

#[test]
fn once_leaves_no_zombie() {
    let pid = label(once("echo $$"));
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

/// Answers with the number of its process and of the image.
const COUNTING: &str =
    r#"n=0; while read p; do n=$((n+1)); echo "{\"path\": \"$p\", \"label\": \"$$ $n\"}"; done"#;

#[test]
fn stream_keeps_one_process_for_many_images() {
    let mut script = classifier(Protocol::Stream, PATIENT, COUNTING);
    let answers = script.classify(&[image("a.jpg"), image("b.jpg"), image("c.jpg")]);
    let labels: Vec<_> = answers.into_iter().map(label).collect();
    let pid = labels[0].strip_suffix(" 1").unwrap();
    assert_eq!(labels[1..], [format!("{pid} 2"), format!("{pid} 3")]);
    drop(script);
    assert_gone(pid);
}

#[test]
fn stream_rejects_what_the_script_says_can_never_work() {
    let mut script =
        classifier(Protocol::Stream, PATIENT, r#"while read p; do echo '{"error": "no face in it"}'; done"#);
    assert_eq!(ask(&mut *script, "photo.jpg"), Err(Failure::Rejected("no face in it".into())));
}

#[test]
fn stream_fails_one_image_and_goes_on_with_the_next() {
    let bad = [
        ("echo dying >&2; exit 7", "status: 7"),
        ("echo nonsense", "no answer"),
        (r#"echo '{"path": "/another", "label": "cat"}'"#, "another image"),
        (r#"echo '{"label": "cat", "confidence": 12}'"#, "between 0 and 1"),
        ("yes | tr -d '\\n'", "without an end of line"),
    ];
    for (what, expected) in bad {
        let good = r#"echo '{"label": "good"}'"#;
        let line = format!(r#"while read p; do case "$p" in *bad*) {what};; *) {good};; esac; done"#);
        let mut script = classifier(Protocol::Stream, PATIENT, &line);
        assert_eq!(label(ask(&mut *script, "fine.jpg")), "good");
        let why = failed(ask(&mut *script, "bad.jpg"));
        assert!(why.contains(expected), "{what}: {why}");
        assert_eq!(label(ask(&mut *script, "fine.jpg")), "good", "{what}");
    }
}

#[test]
fn stream_gives_a_hanging_script_up_and_starts_it_again() {
    let line =
        r#"while read p; do case "$p" in *bad*) sleep 1000;; *) echo "{\"label\": \"$$\"}";; esac; done"#;
    let mut script = classifier(Protocol::Stream, PATIENT, line);
    let first = label(ask(&mut *script, "fine.jpg"));
    drop(script);
    assert_gone(&first);

    let mut script = classifier(Protocol::Stream, SHORT, line);
    let start = Instant::now();
    assert!(failed(ask(&mut *script, "bad.jpg")).contains("took longer than 300ms"));
    assert!(start.elapsed() < BOUND);
}

#[test]
fn stream_never_takes_a_late_answer_for_another_image() {
    // Each answer comes with a second one that nobody asked for, as from a script that lost count.
    let twice = r#"while read p; do printf '{"label": "%s"}\n{"label": "late"}\n' "$(basename "$p")"; done"#;
    let mut script = classifier(Protocol::Stream, PATIENT, twice);
    for name in ["a.jpg", "b.jpg", "c.jpg", "d.jpg"] {
        assert_eq!(label(ask(&mut *script, name)), name);
    }
}

#[test]
fn stream_is_held_to_the_path_that_it_names() {
    // Always one image behind, and with lines that come in time: only their `path` tells.
    let behind = r#"while read p; do echo "{\"path\": \"${q-$p}\", \"label\": \"$(basename "${q-$p}")\"}"; q=$p; done"#;
    let mut script = classifier(Protocol::Stream, PATIENT, behind);
    assert_eq!(label(ask(&mut *script, "a.jpg")), "a.jpg");
    assert!(failed(ask(&mut *script, "b.jpg")).contains("another image"));
    assert_eq!(label(ask(&mut *script, "c.jpg")), "c.jpg");
}

#[test]
fn stream_that_cannot_start_fails_every_image_in_good_time() {
    let mut script = classifier(Protocol::Stream, PATIENT, "echo 'no model here' >&2; exit 1");
    let start = Instant::now();
    for _ in 0..4 {
        failed(ask(&mut *script, "photo.jpg"));
    }
    assert!(start.elapsed() < BOUND);
}

#[test]
fn stream_survives_a_death_between_two_images() {
    // It dies after its answer, so the next image finds it dead, and must not suffer for it.
    let mut script = classifier(Protocol::Stream, PATIENT, r#"read p; echo "{\"label\": \"$$\"}"; exit 0"#);
    let first = label(ask(&mut *script, "a.jpg"));
    assert_gone(&first);
    assert_ne!(label(ask(&mut *script, "b.jpg")), first);
}

#[test]
fn stream_does_not_wait_for_grandchildren_that_hold_its_outputs_open() {
    let mut script = classifier(Protocol::Stream, PATIENT, "sleep 1000 & read p; echo $! >&2; exit 5");
    let start = Instant::now();
    let why = failed(ask(&mut *script, "photo.jpg"));
    assert!(why.contains("status: 5") && start.elapsed() < BOUND, "{why}");
    assert_gone(why.rsplit(' ').next().unwrap());
}

#[test]
fn huge_images_are_kept_from_scripts_too() {
    let mut model = model(Protocol::Once, PATIENT, "echo dog");
    model.max_pixels = 10;
    let bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/images/palette.png")).unwrap();
    let image = Image { name: "palette.png".into(), bytes: bytes.into() };
    let answer = load(&model).unwrap().classifier().unwrap().classify(&[image]).remove(0);
    assert!(matches!(&answer, Err(Failure::Rejected(why)) if why.contains("48 x 32")), "{answer:?}");
}

#[test]
fn a_command_that_is_no_program_is_refused_at_load() {
    let text = tempfile::NamedTempFile::new().unwrap();
    let text = text.path().to_str().unwrap();
    for program in ["/nowhere/at/all", "eirs-no-such-program", text, "/tmp"] {
        let model = Model { command: vec![program.to_owned()], ..model(Protocol::Once, PATIENT, "") };
        let error = format!("{:#}", load(&model).err().unwrap());
        assert!(error.contains(program) && error.contains("command"), "{error}");
    }
}

#[test]
fn the_example_scripts_work() {
    let python = std::process::Command::new("python3").arg("--version").output();
    if !python.is_ok_and(|output| output.status.success()) {
        println!("skipped: no python3 here");
        return;
    }
    let bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/images/palette.png")).unwrap();
    let image = Image { name: "a, b.png".into(), bytes: bytes.into() };
    for (protocol, file) in [(Protocol::Once, "classify_once.py"), (Protocol::Stream, "classify_stream.py")] {
        let path = format!("{}/examples/script/{file}", env!("CARGO_MANIFEST_DIR"));
        let command = vec!["python3".to_owned(), path];
        let model = Model { command, ..model(protocol, PATIENT, "") };
        let mut script = load(&model).unwrap().classifier().unwrap();
        for answer in script.classify(&[image.clone(), image.clone()]) {
            assert_eq!(answer.unwrap(), [Guess { label: "png".into(), confidence: 1.0 }], "{file}");
        }
        assert_eq!(script.classify(&[super_strange()]).remove(0).is_err(), protocol == Protocol::Stream);
    }
}

/// What no example script knows.
fn super_strange() -> Image {
    Image { name: "strange".into(), bytes: b"????????".as_slice().into() }
}
