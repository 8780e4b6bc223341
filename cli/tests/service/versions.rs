//! A result belongs to an image and a version of the model, and no failure around a job becomes a
//! result.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use eirs_harness::{Answer, POLICY, Site, eventually, sample};

const NAMES: [&str; 12] = [
    "circle", "ring", "square", "triangle", "star", "cross", "heart", "crescent", "arrow", "wave", "spiral",
    "bolt",
];

/// Replaces the labels atomically, as a careful operator does; `star` is the name of the star.
fn write_labels(file: &Path, star: &str) {
    let beside = file.with_extension("new");
    let names = NAMES.map(|name| if name == "star" { star } else { name });
    fs::write(&beside, names.join("\n")).expect("labels");
    fs::rename(beside, file).expect("labels in their place");
}

/// A site of the built-in model with its own labels, and their path.
fn labelled() -> (Site, PathBuf) {
    let site = Site::with_model();
    let labels = site.folder.path().join("labels.txt");
    write_labels(&labels, "stra");
    let named = labels.display().to_string();
    (site.set("EIRS_MODELS__DEFAULT__LABELS", &named), labels)
}

fn label_of(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["label"].as_str().expect("a label").to_owned()
}

fn id_of(answer: &Answer) -> String {
    answer.json()["id"].as_str().expect("an id").to_owned()
}

#[test]
fn corrected_labels_take_effect_under_load_and_no_upload_fails() {
    let (site, labels) = labelled();
    let web = site.web();
    let _controller = site.controller(POLICY);
    let star = sample("star_0.jpg");
    let first = web.upload("?wait=60s", "star.jpg", &star);
    assert_eq!(label_of(&first), "stra");
    let version = first.json()["version"].clone();
    assert_eq!(web.get("/status").json()["versions"]["default"], version);

    thread::scope(|scope| {
        // Other clients upload all the time, each image again.
        let others = scope.spawn(|| {
            for number in 0..400 {
                let image = [&star[..], &[number as u8, (number >> 8) as u8]].concat();
                let label = label_of(&web.upload("?wait=60s", "other.jpg", &image));
                assert!(label == "stra" || label == "star", "{label}");
                thread::park_timeout(Duration::from_millis(20));
            }
        });
        write_labels(&labels, "star");
        let mended = eventually("the corrected label", || {
            let answer = web.upload("?wait=60s", "star.jpg", &star);
            (label_of(&answer) == "star").then_some(answer)
        });
        assert_ne!(mended.json()["version"], version);
        assert_eq!(web.get("/status").json()["versions"]["default"], mended.json()["version"]);
        others.join().expect("no upload of the others failed");
    });
    let id = id_of(&first);
    assert_eq!(label_of(&web.get(&format!("/results/{id}"))), "star", "the version in force comes first");
    let before = web.get(&format!("/results/{id}?version={}", version.as_str().expect("a version")));
    assert_eq!(label_of(&before), "stra");
    assert_eq!(web.get(&format!("/results/{id}?version=0")).status, 404);
    assert_eq!(web.get(&format!("/results/{id}?version=../x")).status, 400);
}

#[test]
fn a_result_of_an_earlier_version_is_found_but_not_used_for_a_new_upload() {
    let (site, labels) = labelled();
    let star = sample("star_0.jpg");
    let id = {
        let (web, _worker) = (site.web(), site.worker());
        id_of(&web.upload("", "star.jpg", &star))
    };
    write_labels(&labels, "star");
    let web = site.web();
    assert_eq!(label_of(&web.get(&format!("/results/{id}"))), "stra", "the newest there is");
    assert_eq!(web.upload("?wait=0", "star.jpg", &star).status, 202);
    assert_eq!(web.get(&format!("/results/{id}")).status, 202, "a newer one is in progress");
    let _worker = site.worker();
    assert_eq!(label_of(&web.result(&id)), "star");
}

#[test]
fn a_known_image_is_classified_again_on_request() {
    let site = Site::with_script("date +%N > \"$0.n\"; echo n$(cat \"$0.n\")");
    let (web, _worker) = (site.web(), site.worker());
    let image = sample("star_0.jpg");
    let first = label_of(&web.upload("", "a.jpg", &image));
    assert_eq!(label_of(&web.upload("?fresh=0", "a.jpg", &image)), first);
    let fresh = web.upload("?fresh=1", "a.jpg", &image);
    let second = label_of(&fresh);
    assert_ne!(second, first);
    assert_eq!(fresh.json()["cached"], false);
    assert_eq!(label_of(&web.upload("", "a.jpg", &image)), second, "it has replaced the first");
    assert_eq!(label_of(&web.get(&format!("/results/{}", id_of(&fresh)))), second);
    assert_eq!(web.upload("?fresh=maybe", "a.jpg", &image).status, 400);
}

#[test]
fn an_image_refused_by_a_limit_is_tried_again_with_another_limit() {
    let strict = Site::with_model().set("EIRS_MODELS__DEFAULT__MAX_PIXELS", "1000");
    let star = sample("star_0.jpg");
    {
        let (web, _worker) = (strict.web(), strict.worker());
        assert_eq!(web.upload("", "star.jpg", &star).status, 422);
        assert_eq!(web.upload("", "star.jpg", &star).status, 422);
    }
    let site = strict.unset("EIRS_MODELS__DEFAULT__MAX_PIXELS");
    let (web, _worker) = (site.web(), site.worker());
    assert_eq!(label_of(&web.upload("", "star.jpg", &star)), "star");
}

#[test]
fn with_several_models_a_result_is_found_without_the_model() {
    let site = Site::new().set("EIRS_MODELS__DOGS__CLASSIFIER", "noop");
    let web = site.web();
    let image = sample("star_0.jpg");
    let id = id_of(&web.upload("?wait=0&model=dogs", "star.jpg", &image));
    let pending = web.get(&format!("/results/{id}"));
    assert_eq!(pending.status, 202);
    assert_eq!(pending.header("location"), Some(&*format!("/results/{id}?model=dogs")));
    assert_eq!(web.get(&format!("/results/{id}?model=default")).status, 404, "that model was not used");
    drop(web);
    let web = site.web();
    assert_eq!(web.get(&format!("/results/{id}")).status, 202, "after a restart as well");
    let _worker = site.start("eirs-worker", &["--model", "dogs"]);
    let found = web.result(&id);
    assert_eq!((found.status, &found.json()["model"]), (200, &"dogs".into()));
}

#[test]
fn jobs_of_two_models_for_one_image_are_separate() {
    let site = Site::new().set("EIRS_MODELS__DOGS__CLASSIFIER", "noop").set("EIRS_QUEUE__RETENTION", "3s");
    let web = site.web();
    let image = sample("star_0.jpg");
    let id = id_of(&web.upload("?wait=0&model=dogs", "star.jpg", &image));
    let of = |model: &str| web.get(&format!("/results/{id}?model={model}")).status;
    assert_eq!(of("dogs"), 202);
    eventually("the job for dogs is dropped", || (of("dogs") == 410).then_some(()));
    assert_eq!(web.upload("?wait=0", "star.jpg", &image).status, 202);
    assert_eq!((of("dogs"), of("default")), (410, 202));
}

#[test]
fn a_job_dropped_for_its_age_is_reported_and_its_image_can_be_uploaded_again() {
    let site = Site::new().set("EIRS_QUEUE__RETENTION", "2s");
    let web = site.web();
    let image = sample("star_0.jpg");
    let id = id_of(&web.upload("?wait=0", "star.jpg", &image));
    assert_eq!(web.get(&format!("/results/{id}")).status, 202);
    let dropped = eventually("it is reported as dropped", || {
        Some(web.get(&format!("/results/{id}"))).filter(|answer| answer.status != 202)
    });
    assert_eq!(dropped.status, 410, "{dropped:?}");
    assert!(dropped.problem().contains("upload it again"), "{dropped:?}");
    let _worker = site.worker();
    let again = eventually("the image is classified when it is uploaded again", || {
        Some(web.upload("?wait=5s", "star.jpg", &image)).filter(|answer| answer.status == 200)
    });
    assert_eq!(label_of(&again), "noop");
}
