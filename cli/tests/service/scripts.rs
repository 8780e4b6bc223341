use serde_json::Value;

use eirs_harness::{Answer, Site, eventually, image};

/// Returns the answer of a service with the script `shell`, for an image that is tried for at most
/// a second.
fn answer_of(shell: &str) -> (Site, Answer) {
    let site = Site::with_script(shell)
        .set("EIRS_QUEUE__RETRY_FOR", "1s")
        .set("EIRS_MODELS__DEFAULT__TIMEOUT", "1s");
    let (web, _worker) = (site.web(), site.worker());
    let answer = web.upload("", "dog.jpg", &image(1));
    (site, answer)
}

#[test]
fn a_script_gets_a_path_and_prints_name_and_label() {
    let (_site, answer) = answer_of("test -f \"$1\" && echo \"$(basename \"$1\"),golden retriever, young\"");
    assert_eq!(answer.json()["label"], "golden retriever, young", "{answer:?}");
}

#[test]
fn a_failing_script_causes_a_dead_letter_with_a_reason() {
    for shell in
        ["echo oops >&2; exit 3", "kill -9 $$", "sleep 600", "yes label", "true", "printf '\\377\\376'"]
    {
        let (site, answer) = answer_of(shell);
        assert_eq!(answer.status, 500, "{shell}: {answer:?}");
        assert!(answer.problem().contains("the last: the script"), "{shell}: {answer:?}");
        let check = site.command("eirs").args(["check", "--json"]).output().expect("eirs check runs");
        let check: Value = serde_json::from_slice(&check.stdout).expect("JSON");
        assert!(check.to_string().contains("dead-default"), "{check}");
    }
}

#[test]
fn uploading_an_image_that_was_given_up_tries_it_again() {
    let site = Site::with_script("test -f fixed && echo cat || exit 1").set("EIRS_QUEUE__RETRY_FOR", "0s");
    let (web, _worker) = (site.web(), site.worker());
    assert_eq!(web.upload("", "x", &image(1)).status, 500);
    std::fs::write(site.folder.path().join("fixed"), "").expect("the operator fixes it");
    assert_eq!(web.upload("", "x", &image(1)).json()["label"], "cat");
}

#[test]
fn a_temporarily_failing_script_loses_no_job_and_reports_the_reason() {
    let site = Site::with_script("test -f back && echo cat || { echo no GPU >&2; exit 75; }");
    let (web, worker) = (site.web(), site.worker());
    let sent: Vec<_> = (0..20).map(|number| web.upload("?wait=0", "x", &image(number)).json()).collect();
    eventually("it is known that everything fails", || {
        worker.log().contains("every job fails").then_some(())
    });
    assert!(worker.log().contains("no GPU"), "{}", worker.log());
    std::fs::write(site.folder.path().join("back"), "").expect("the backend is back");
    for job in sent {
        let id = job["id"].as_str().expect("an id");
        eventually("it is done", || (web.result(id).status == 200).then_some(()));
        assert_eq!(web.result(id).json()["label"], "cat");
    }
}

#[test]
fn a_job_that_kills_its_workers_is_given_up_and_the_others_get_results() {
    for threads in ["1", "3"] {
        let site = Site::with_script("case \"$1\" in *kill*) kill -9 $PPID;; *) sleep 0.3; echo cat;; esac")
            .set("EIRS_WORKER__THREADS", threads)
            .set("EIRS_QUEUE__MAX_RECEIVES", "3");
        let web = site.web();
        let name = |number| if number == 1 { "kill.jpg" } else { "dog.jpg" };
        let sent: Vec<_> =
            (0..4).map(|number| web.upload("?wait=0", name(number), &image(number)).json()).collect();
        let done = |job: &Value| web.get(&format!("/results/{}", job["id"].as_str().expect("an id")));
        let mut deaths = 0;
        while sent.iter().any(|job| done(job).status == 202) {
            let mut worker = site.worker();
            eventually("it has died, or all is done", || {
                (worker.has_ended() || sent.iter().all(|job| done(job).status != 202)).then_some(())
            });
            deaths += u32::from(worker.has_ended());
        }
        assert!((2..=4).contains(&deaths), "{threads} threads: {deaths} workers died");
        for (number, job) in sent.iter().enumerate() {
            let answer = done(job);
            if number == 1 {
                assert!(
                    answer.status == 500 && answer.problem().contains("it killed its workers"),
                    "{answer:?}"
                );
            } else {
                assert_eq!(answer.json()["label"], "cat", "{threads} threads: {number}: {answer:?}");
            }
        }
    }
}

#[test]
fn long_jobs_are_left_to_idle_workers() {
    let site = Site::with_script("sleep 2; echo cat");
    let web = site.web();
    let _workers: Vec<_> = (0..3).map(|_| site.worker()).collect();
    let sent: Vec<_> = (0..3).map(|number| web.upload("?wait=0", "x", &image(number)).json()).collect();
    let worker = |job: &Value| {
        let id = job["id"].as_str().expect("an id");
        eventually("it is done", || {
            let answer = web.result(id);
            (answer.status == 200).then(|| answer.json()["worker"].as_str().expect("a worker").to_owned())
        })
    };
    let workers: std::collections::BTreeSet<_> = sent.iter().map(worker).collect();
    assert_eq!(workers.len(), 3, "{workers:?}");
}

#[test]
fn the_lease_of_a_long_job_is_renewed_and_it_runs_once() {
    let site = Site::with_script("echo once >> calls; sleep 5; echo cat");
    let (web, _first, _second) = (site.web(), site.worker(), site.worker());
    assert_eq!(web.upload("", "x", &image(1)).json()["label"], "cat");
    let calls = std::fs::read_to_string(site.folder.path().join("calls")).expect("the script's notes");
    assert_eq!(calls.lines().count(), 1, "a lease of two seconds, renewed until the job was done");
}
