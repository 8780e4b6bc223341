use serde_json::Value;

use crate::harness::{Answer, Site, image};

/// What a service whose script is `shell` answers to an image, tried at most twice.
fn answer_of(shell: &str) -> (Site, Answer) {
    let site = Site::with_script(shell)
        .set("EIRS_QUEUE__MAX_RECEIVES", "2")
        .set("EIRS_MODELS__DEFAULT__TIMEOUT", "1s");
    let (web, _worker) = (site.web(), site.worker());
    let answer = web.upload("", "dog.jpg", &image(1));
    (site, answer)
}

#[test]
fn a_script_is_given_a_path_and_prints_name_and_label() {
    let (_site, answer) = answer_of("test -f \"$1\" && echo \"$(basename \"$1\"),golden retriever, young\"");
    assert_eq!(answer.json()["label"], "golden retriever, young", "{answer:?}");
}

#[test]
fn a_script_that_crashes_hangs_floods_or_talks_nonsense_ends_as_a_dead_letter_and_a_sentence() {
    for shell in
        ["echo oops >&2; exit 3", "kill -9 $$", "sleep 600", "yes label", "true", "printf '\\377\\376'"]
    {
        let (site, answer) = answer_of(shell);
        assert_eq!(answer.status, 500, "{shell}: {answer:?}");
        assert!(answer.problem().contains("tried 2 times"), "{shell}: {answer:?}");
        let check = site.command("eirs").args(["check", "--json"]).output().expect("eirs check runs");
        let check: Value = serde_json::from_slice(&check.stdout).expect("JSON");
        assert!(check.to_string().contains("dead-default"), "{check}");
    }
}

#[test]
fn an_image_that_was_given_up_is_tried_again_when_it_is_uploaded_again() {
    let site = Site::with_script("test -f fixed && echo cat || exit 1").set("EIRS_QUEUE__MAX_RECEIVES", "1");
    let (web, _worker) = (site.web(), site.worker());
    assert_eq!(web.upload("", "x", &image(1)).status, 500);
    std::fs::write(site.folder.path().join("fixed"), "").expect("the operator mends it");
    assert_eq!(web.upload("", "x", &image(1)).json()["label"], "cat");
}

#[test]
fn a_job_that_takes_longer_than_its_lease_is_renewed_and_done_once() {
    let site = Site::with_script("echo once >> calls; sleep 5; echo cat");
    let (web, _first, _second) = (site.web(), site.worker(), site.worker());
    assert_eq!(web.upload("", "x", &image(1)).json()["label"], "cat");
    let calls = std::fs::read_to_string(site.folder.path().join("calls")).expect("the script's notes");
    assert_eq!(calls.lines().count(), 1, "a lease of two seconds, renewed until the job was done");
}
