//! Working scripts, and scripts with all kinds of failures.

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

/// A timeout that no working script exceeds, even on a busy machine.
const PATIENT: Duration = Duration::from_secs(30);
/// A timeout for scripts that hang on purpose.
const SHORT: Duration = Duration::from_millis(300);
/// Time limit for giving up a failed script.
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

/// Waits until the process with this number is gone, or fails.
fn assert_gone(pid: &str) {
    let deadline = Instant::now() + BOUND;
    let lives = |pid: &str| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // A killed process may wait for its parent to reap it, which is not this process if the
        // parent was killed as well.
        !stat.is_empty() && !stat.contains(") Z ")
    };
    while lives(pid) {
        assert!(Instant::now() < deadline, "process {pid} lives on");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

#[test]
fn once_reads_the_label_after_the_name_of_the_file() {
    assert_eq!(label(once(r#"echo "loading"; echo "$(basename "$1"),hot dog, hotdog""#)), "hot dog, hotdog");
    assert_eq!(label(once("echo dog")), "dog");
}

#[test]
fn once_a_configured_label_that_begins_like_the_name_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let labels = folder.path().join("labels.txt");
    std::fs::write(&labels, "n01440764 tench, Tinca tinca\nn01443537 goldfish\n").unwrap();
    let model =
        Model { labels: Some(labels.clone()), ..model(Protocol::Once, PATIENT, "echo 'tench, Tinca tinca'") };
    let mut script = load(&model).unwrap().classifier().unwrap();
    assert_eq!(label(ask(&mut *script, "tench.jpg")), "tench, Tinca tinca");
    std::fs::remove_file(&labels).unwrap();
    assert!(load(&model).err().unwrap().to_string().contains("labels.txt: cannot be read"));
}

#[test]
fn once_other_lines_do_not_become_the_label() {
    for noise in ["echo 'done in 20 ms'", r"printf '  0%%\r 50%%\r100%%\r'", "echo; echo 'a, b'; echo"] {
        let answer = r#"echo "$(basename "$1"),dog""#;
        for script in [format!("{noise}; {answer}"), format!("{answer}; {noise}")] {
            assert_eq!(label(once(&script)), "dog", "{script}");
        }
    }
}

#[test]
fn exit_code_75_means_retry_later_in_both_protocols() {
    let later = |answer| matches!(&answer, Err(Failure::Later(why)) if why.contains("the GPU is taken"));
    assert!(later(once("echo 'the GPU is taken' >&2; exit 75")));
    let script = "read p; echo 'the GPU is taken' >&2; exit 75";
    assert!(later(ask(&mut *classifier(Protocol::Stream, PATIENT, script), "a.jpg")));
}

#[test]
fn once_passes_the_image_with_a_safe_name_like_the_clients() {
    let mut script = classifier(Protocol::Once, PATIENT, r#"echo "$(cat "$1") in $(basename "$1")""#);
    assert_eq!(label(ask(&mut *script, "my $(rm -rf) dog.JPEG")), "some bytes in my___rm_-rf__dog.JPEG");
}

#[test]
fn no_file_remains() {
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
fn once_a_label_on_standard_error_is_none_and_is_quoted() {
    let why = failed(once("echo dog >&2"));
    assert!(why.contains("printed nothing") && why.contains("dog"), "{why}");
}

#[test]
fn stream_the_end_of_the_output_ends_the_last_line() {
    let script = r#"read p; printf '{"label": "%s"}' "$(basename "$p")""#;
    let mut script = classifier(Protocol::Stream, PATIENT, script);
    for name in ["a.jpg", "b.jpg"] {
        assert_eq!(label(ask(&mut *script, name)), name);
    }
    let cut = r#"read p; printf '{"label": "ca'"#;
    let why = failed(ask(&mut *classifier(Protocol::Stream, PATIENT, cut), "a.jpg"));
    assert!(why.contains("without a result") && why.contains("ca"), "{why}");
}

#[test]
fn stream_that_leaves_after_an_image_fails_none() {
    // It may still be there when it is asked, and be gone before it reads.
    let leaves = r#"read p; echo "{\"label\": \"$(basename "$p")\"}"; sleep 0.05; exit 0"#;
    let mut script = classifier(Protocol::Stream, PATIENT, leaves);
    for name in ["a.jpg", "b.jpg", "c.jpg"] {
        assert_eq!(label(ask(&mut *script, name)), name);
    }
    let fails = r#"read p; echo "{\"label\": \"$p\"}"; read p; exit 1"#;
    let mut script = classifier(Protocol::Stream, PATIENT, fails);
    ask(&mut *script, "a.jpg").unwrap();
    assert!(failed(ask(&mut *script, "b.jpg")).contains("status: 1"));
}

#[test]
fn a_file_that_the_system_cannot_run_is_refused_with_its_reason() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("classify");
    let write = |text: &str, mode| {
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let command = vec![file.to_str().unwrap().to_owned()];
    let model = Model { command, ..model(Protocol::Once, PATIENT, "") };
    for (text, mode, part) in [
        ("#!/bin/sh\r\necho dog\r\n", 0o755, "dos2unix"),
        ("#!/no/such/sh\necho dog\n", 0o755, "the interpreter /no/such/sh"),
        ("#!/bin/sh\necho dog\n", 0o644, "chmod +x"),
    ] {
        write(text, mode);
        let Err(error) = load(&model) else { panic!("{text:?} is refused") };
        assert!(format!("{error:#}").contains(part), "{text:?}: {error:#}");
    }
    // What only the attempt shows, or what changes while the worker runs.
    write("#!/bin/sh\necho dog\n", 0o755);
    let mut script = load(&model).unwrap().classifier().unwrap();
    assert_eq!(label(ask(&mut *script, "photo.jpg")), "dog");
    for (text, part) in [("echo dog\n", "like `#!/bin/sh`"), ("#!/bin/sh\r\n", "dos2unix")] {
        write(text, 0o755);
        let why = failed(ask(&mut *script, "photo.jpg"));
        assert!(why.contains("could not be started") && why.contains(part), "{why}");
    }
}

#[test]
fn once_reports_a_crash_with_its_last_output() {
    let why = failed(once("echo label; echo first >&2; echo 'no such model' >&2; exit 3"));
    assert!(why.contains("status: 3") && why.contains("first | no such model"), "{why}");
    assert!(failed(once("kill -SEGV $$")).contains("signal: 11"));
}

#[test]
fn once_refuses_invalid_labels() {
    for (script, expected) in [
        ("true", "nothing"),
        ("echo dog; echo 'done in 20 ms'", r#""dog", "done in 20 ms""#),
        (r"printf '\377\376'", "UTF-8"),
        ("head -c 2000 /dev/zero | tr '\\0' x", "2000 bytes"),
    ] {
        let why = failed(once(script));
        assert!(why.contains(expected), "{script}: {why}");
    }
}

#[test]
fn once_kills_a_hanging_script_with_all_its_children() {
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
fn once_kills_processes_of_a_hanging_script_in_other_sessions() {
    let pids = tempfile::NamedTempFile::new().unwrap();
    let script = format!("setsid sh -c 'echo $$ > {}; exec sleep 1000' & sleep 1000", pids.path().display());
    let mut script = classifier(Protocol::Once, Duration::from_secs(2), &script);
    assert!(failed(ask(&mut *script, "photo.jpg")).contains("took longer than 2s"));
    let pid = std::fs::read_to_string(pids.path()).unwrap();
    assert!(!pid.is_empty());
    assert_gone(pid.trim());
}

#[test]
fn once_kills_what_a_successful_script_left_running() {
    let noted = tempfile::NamedTempFile::new().unwrap();
    let daemon = "exec sleep 1000 < /dev/null > /dev/null 2>&1";
    let file = noted.path().display();
    // In a session of its own, and without a parent.
    let script = format!(
        "(setsid sh -c 'echo $$ > {file}; {daemon}' &); until [ -s {file} ]; do sleep 0.01; done; echo cat"
    );
    let mut script = classifier(Protocol::Once, PATIENT, &script);
    for _ in 0..3 {
        std::fs::write(noted.path(), "").unwrap();
        assert_eq!(label(ask(&mut *script, "photo.jpg")), "cat");
        assert_gone(std::fs::read_to_string(noted.path()).unwrap().trim());
    }
}

#[test]
fn a_script_gets_the_usual_and_configured_environment() {
    let mut model = model(Protocol::Once, PATIENT, r#"env | cut -d= -f1 | tr '\n' ' '"#);
    model.env = vec!["CARGO_MANIFEST_*".to_owned(), "MODE=fast".to_owned()];
    let names = label(ask(&mut *load(&model).unwrap().classifier().unwrap(), "photo.jpg"));
    let has = |name: &str| names.split(' ').any(|found| found == name);
    assert!(has("PATH") && has("MODE") && has("CARGO_MANIFEST_DIR") && !has("CARGO_PKG_NAME"), "{names}");
}

#[test]
fn once_does_not_wait_for_grandchildren_with_open_outputs() {
    let start = Instant::now();
    let pid = label(once("for i in 1 2 3; do sleep 1000 & done; echo $!"));
    assert!(start.elapsed() < BOUND);
    assert_gone(&pid);
}

#[test]
fn once_ends_a_script_that_floods_its_output() {
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

/// Responds with its process number and the number of the image.
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
fn stream_rejects_images_that_the_script_reports_as_invalid() {
    let mut script =
        classifier(Protocol::Stream, PATIENT, r#"while read p; do echo '{"error": "no face in it"}'; done"#);
    assert_eq!(ask(&mut *script, "photo.jpg"), Err(Failure::Rejected("no face in it".into())));
}

#[test]
fn stream_fails_one_image_and_continues_with_the_next() {
    let bad = [
        ("echo dying >&2; exit 7", "status: 7"),
        ("echo nonsense; exit 0", r#"no valid response: "nonsense""#),
        (r#"echo '{"path": "/another", "label": "cat"}'; exit 0"#, "other images"),
        (r#"echo '{"label": "cat", "confidence": 97}'"#, "between 0 and 1"),
        (r#"echo '{"label": "cat", "confidence": NaN}'"#, "NaN"),
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
fn stream_restarts_a_hanging_script() {
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
fn stream_never_uses_a_late_response_for_another_image() {
    // Each response is followed by an unsolicited one, as from a script that lost count.
    let twice = r#"while read p; do printf '{"label": "%s"}\n{"label": "late"}\n' "$(basename "$p")"; done"#;
    let mut script = classifier(Protocol::Stream, PATIENT, twice);
    for name in ["a.jpg", "b.jpg", "c.jpg", "d.jpg"] {
        assert_eq!(label(ask(&mut *script, name)), name);
    }
}

#[test]
fn stream_an_answer_that_comes_before_the_path_was_read_is_to_no_image() {
    // The second answer to an image comes when the next one is asked for. Where the script reads
    // the path at the same moment, it takes some images until that is certain.
    let answer = r#"printf '{"label": "%s"}\n' "$(basename "$p")""#;
    let slow = format!("while read p; do {answer}; sleep 0.1; {answer}; done");
    let mut script = classifier(Protocol::Stream, PATIENT, &slow);
    let names = ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg", "f.jpg", "g.jpg", "h.jpg", "i.jpg"];
    let labels = names.map(|name| label(ask(&mut *script, name)));
    assert_eq!(labels[6..], names[6..], "{labels:?}");
    // Each process begins with an answer of its own.
    let first =
        format!(r#"sleep 0.1; echo '{{"label": "warm"}}'; sleep 0.1; while read p; do {answer}; done"#);
    let mut script = classifier(Protocol::Stream, PATIENT, &first);
    let why = failed(ask(&mut *script, "a.jpg"));
    assert!(why.contains("before it read which image") && why.contains("warm"), "{why}");
}

#[test]
fn stream_ignores_a_late_response_that_names_another_image() {
    let line = r#"{\"path\": \"$q\", \"label\": \"$(basename "$q")\"}"#;
    // First the response for the previous image again, and only then the one for the current image.
    let behind =
        format!(r#"while read p; do [ -n "$q" ] && echo "{line}"; q=$p; sleep 0.05; echo "{line}"; done"#);
    let mut script = classifier(Protocol::Stream, PATIENT, &behind);
    for name in ["a.jpg", "b.jpg", "c.jpg"] {
        assert_eq!(label(ask(&mut *script, name)), name);
    }
}

#[test]
fn stream_ignores_other_lines_and_keeps_the_process() {
    let noisy = r#"echo 'Using the CPU backend.'; printf '\033[1mwarming up\033[0m\r\n\n[]\n3\n'
        n=0; while read p; do n=$((n+1)); printf '  0%%\r100%%\r'; echo "{\"label\": \"$n\", \"confidence\": 1.0000001}"
        echo '{"level": "info", "message": "done"}'; done"#;
    let mut script = classifier(Protocol::Stream, PATIENT, noisy);
    for n in ["1", "2", "3"] {
        let guess = ask(&mut *script, "a.jpg").unwrap().remove(0);
        assert_eq!((guess.label.as_str(), guess.confidence), (n, 1.0));
    }
}

#[test]
fn stream_without_responses_is_quoted_in_bounded_time() {
    let start = Instant::now();
    let chatty = "while true; do echo 'still loading'; sleep 0.01; done";
    let why = failed(ask(&mut *classifier(Protocol::Stream, SHORT, chatty), "a.jpg"));
    assert!(why.contains("took longer than 300ms") && why.contains(r#""still loading""#), "{why}");
    let why = failed(ask(&mut *classifier(Protocol::Stream, PATIENT, "read p; yes"), "a.jpg"));
    assert!(why.contains("without a result") && why.len() < 3000, "{why}");
    assert!(start.elapsed() < BOUND);
}

#[test]
fn stream_retries_one_image_later_and_continues() {
    let line = r#"while read p; do case "$p" in *busy*) echo '{"retry": "no GPU"}';; *) echo "{\"label\": \"$$\"}";; esac; done"#;
    let mut script = classifier(Protocol::Stream, PATIENT, line);
    let first = label(ask(&mut *script, "a.jpg"));
    let answer = ask(&mut *script, "busy.jpg");
    assert!(matches!(&answer, Err(Failure::Later(why)) if why.contains("no GPU")), "{answer:?}");
    assert_eq!(label(ask(&mut *script, "a.jpg")), first, "the same process");
}

#[test]
fn stream_responses_only_count_for_the_path_that_they_name() {
    // Always one image late, but responding in time: only `path` reveals it.
    let behind = r#"while read p; do echo "{\"path\": \"${q-$p}\", \"label\": \"$(basename "${q-$p}")\"}"; q=$p; done"#;
    let mut script = classifier(Protocol::Stream, Duration::from_secs(3), behind);
    assert_eq!(label(ask(&mut *script, "a.jpg")), "a.jpg");
    assert!(failed(ask(&mut *script, "b.jpg")).contains("other images"));
    assert_eq!(label(ask(&mut *script, "c.jpg")), "c.jpg");
}

#[test]
fn stream_that_cannot_start_fails_every_image_quickly() {
    let mut script = classifier(Protocol::Stream, PATIENT, "echo 'no model here' >&2; exit 1");
    let start = Instant::now();
    for _ in 0..4 {
        failed(ask(&mut *script, "photo.jpg"));
    }
    assert!(start.elapsed() < BOUND);
}

#[test]
fn stream_survives_an_exit_between_two_images() {
    // It exits after its response, so the next image finds it dead, and must not fail.
    let mut script = classifier(Protocol::Stream, PATIENT, r#"read p; echo "{\"label\": \"$$\"}"; exit 0"#);
    let first = label(ask(&mut *script, "a.jpg"));
    assert_gone(&first);
    assert_ne!(label(ask(&mut *script, "b.jpg")), first);
}

#[test]
fn stream_does_not_wait_for_grandchildren_with_open_outputs() {
    let mut script = classifier(Protocol::Stream, PATIENT, "sleep 1000 & read p; echo $! >&2; exit 5");
    let start = Instant::now();
    let why = failed(ask(&mut *script, "photo.jpg"));
    assert!(why.contains("status: 5") && start.elapsed() < BOUND, "{why}");
    assert_gone(why.rsplit(' ').next().unwrap());
}

#[test]
fn huge_images_are_refused_for_scripts_too() {
    let mut model = model(Protocol::Once, PATIENT, "echo dog");
    model.max_pixels = 10;
    let bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/images/palette.png")).unwrap();
    let image = Image { name: "palette.png".into(), bytes: bytes.into() };
    let answer = load(&model).unwrap().classifier().unwrap().classify(&[image]).remove(0);
    assert!(matches!(&answer, Err(Failure::Rejected(why)) if why.contains("48 x 32")), "{answer:?}");
}

#[test]
fn a_command_that_is_not_a_program_is_refused_at_load() {
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

/// An image that the example scripts do not know.
fn super_strange() -> Image {
    Image { name: "strange".into(), bytes: b"????????".as_slice().into() }
}
