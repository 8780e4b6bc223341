use eirs_harness::{Site, eventually, form, image, request, sample};

#[test]
fn an_image_erased_in_flight_has_no_result_despite_kills() {
    let site = Site::with_script("touch begun; while [ ! -e go ]; do sleep 0.05; done; echo cat");
    let (mut web, _worker) = (site.web(), site.worker());
    let sent = web.upload("?wait=0", "secret.jpg", &image(1));
    let id = sent.json()["id"].as_str().expect("an id").to_owned();
    let begun = site.folder.path().join("begun");
    eventually("the worker has it", || begun.exists().then_some(()));
    let erased = request(&web.address, "DELETE", &format!("/results/{id}"), &[], b"").expect("an answer");
    assert_eq!(erased.status, 204, "{erased:?}");
    // The knowledge of that host is gone, like that of another host.
    web.process.kill();
    let web = site.web();
    std::fs::write(site.folder.path().join("go"), "").expect("written");
    let done = |path: &str| web.get(path).body.lines().any(|line| line == "eirs_replies_total 1");
    eventually("the job has ended", || done("/metrics").then_some(()));
    assert_eq!(web.get(&format!("/results/{id}")).status, 404);
    assert_eq!((site.stored_images(), site.stored_results()), (0, 0));
    assert_eq!(web.upload("", "x", &image(1)).json()["label"], "cat", "it can be uploaded again");
}

#[test]
fn an_upload_returns_the_label_and_nothing_else() {
    let site = Site::with_model();
    let (web, _worker) = (site.web(), site.worker());
    let answer = web.upload_bare(&sample("star_0.jpg"));
    assert_eq!((answer.status, answer.body.as_str()), (200, "star"));
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(answer.header("cache-status"), None);
    assert_eq!(web.upload_bare(&sample("star_0.jpg")).header("cache-status"), Some("eirs; hit"));

    let answer = web.upload("?top=3", "my star.jpg", &sample("star_0.jpg")).json();
    assert_eq!(answer["label"], "star");
    assert_eq!(answer["name"], "my star.jpg");
    assert_eq!(answer["cached"], true, "the second time it comes from the store");
    assert_eq!(answer["top"].as_array().map(Vec::len), Some(3));
    assert!(answer["confidence"].as_f64().is_some_and(|c| c > 0.5), "{answer}");
    for key in ["id", "model", "worker", "timings_ms"] {
        assert!(!answer[key].is_null(), "{key}: {answer}");
    }
    let id = answer["id"].as_str().expect("an id");
    assert_eq!(web.get(&format!("/results/{id}")).json()["label"], "star");
}

#[test]
fn several_images_in_one_upload_get_one_line_each() {
    let site = Site::new();
    let (web, _worker) = (site.web(), site.worker());
    let parts = [
        ("myfile", "a", &image(1)[..]),
        ("myfile", "b", b"no image"),
        ("image", "c", &image(3)),
        ("comment", "d", b"hello"),
    ];
    let headers = [("content-type", "multipart/form-data; boundary=XX")];
    let answer = request(&web.address, "POST", "/upload", &headers, &form(&parts)).expect("an answer");
    assert_eq!(answer.status, 200);
    let mut lines: Vec<serde_json::Value> =
        answer.body.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    lines.sort_by_key(|line| line["name"].to_string());
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert_eq!((&lines[0]["label"], &lines[2]["label"]), (&"noop".into(), &"noop".into()));
    assert_eq!(lines[1]["error"]["status"], 415);
}

#[test]
fn without_waiting_an_upload_gets_202_and_the_result_later() {
    let site = Site::new();
    let web = site.web();
    let answer = web.upload("?wait=0", "x", &image(1));
    assert_eq!(answer.status, 202);
    let (id, location) = (
        answer.json()["id"].as_str().expect("an id").to_owned(),
        answer.header("location").map(str::to_owned),
    );
    assert_eq!(location, Some(format!("/results/{id}?name=x")));
    assert!(answer.header("retry-after").and_then(|text| text.parse::<u32>().ok()).is_some(), "{answer:?}");
    assert_eq!(web.get(&format!("/results/{id}")).status, 202);
    let _worker = site.worker();
    assert_eq!(web.result(&id).json()["label"], "noop");
}

#[test]
fn the_result_of_a_shared_image_shows_only_the_clients_own_name() {
    let site = Site::new();
    let web = site.web();
    let locations = ["first & only.jpg", "second.jpg"].map(|name| {
        let answer = web.upload("?wait=0", name, &image(1));
        answer.header("location").expect("an address").to_owned()
    });
    let _worker = site.worker();
    let id = web.upload("", "x", &image(1)).json()["id"].as_str().expect("an id").to_owned();
    let shown = |path: &str| web.get(path).json()["name"].clone();
    assert_eq!(locations.each_ref().map(|path| shown(path)), ["first & only.jpg", "second.jpg"]);
    assert_eq!(
        shown(&format!("/results/{id}")),
        "image",
        "a client that does not give the name does not get it"
    );
}

#[test]
fn a_result_can_be_waited_for() {
    let site = Site::with_script("sleep 1; echo cat");
    let web = site.web();
    let id = web.upload("?wait=0", "x", &image(1)).json()["id"].as_str().expect("an id").to_owned();
    let path = format!("/results/{id}");
    assert_eq!(web.get(&format!("{path}?wait=100ms")).status, 202);
    let _worker = site.worker();
    let began = std::time::Instant::now();
    assert_eq!(web.get(&format!("{path}?wait=30s")).json()["label"], "cat");
    assert!(began.elapsed() < std::time::Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(web.get(&format!("{path}?wait=soon")).status, 400);
}

#[test]
fn a_query_that_does_not_do_what_its_client_means_is_refused() {
    let site = Site::new();
    let web = site.web();
    let id = web.upload("?wait=0&utm_source=mail&_=1", "x", &image(1)).json()["id"].clone();
    let of_result = |query: &str| web.get(&format!("/results/{}{query}", id.as_str().expect("an id")));
    for (refused, why) in [
        (web.upload("?wiat=0", "x", &image(2)), "unknown query parameter `wiat`; did you mean `wait`?"),
        (web.upload("?wait=0&wait=9s", "x", &image(2)), "query parameter `wait` has several values"),
        (web.upload("?version=a", "x", &image(2)), "only `GET /results/{id}` has it"),
        (of_result("?modle=default"), "did you mean `model`?"),
        (of_result("?fresh=1"), "only `POST /upload` has it"),
    ] {
        assert_eq!(refused.status, 400, "{why}");
        assert!(refused.problem().contains(why), "{why}: {}", refused.problem());
    }
    assert_eq!(of_result("?utm_source=mail").status, 202);
    assert_eq!(web.get("/status").json()["waiting"], 1, "nothing that was refused is queued");
}

#[test]
fn an_erased_image_is_gone_and_can_be_uploaded_again() {
    let site = Site::new();
    let (web, _worker) = (site.web(), site.worker());
    let id = web.upload("", "x", &image(1)).json()["id"].as_str().expect("an id").to_owned();
    let path = format!("/results/{id}");
    let erase = || request(&web.address, "DELETE", &path, &[], b"").expect("an answer").status;
    assert_eq!((web.get(&path).status, erase(), web.get(&path).status, erase()), (200, 204, 404, 404));
    assert_eq!(web.upload("", "x", &image(1)).json()["cached"], false, "nothing is remembered of it");
    assert_eq!(request(&web.address, "DELETE", "/results/cat", &[], b"").expect("an answer").status, 404);
}

#[test]
fn an_image_erased_during_classification_leaves_no_result() {
    let site = Site::with_script("sleep 1; echo cat");
    let web = site.web();
    let id = web.upload("?wait=0", "x", &image(1)).json()["id"].as_str().expect("an id").to_owned();
    let _worker = site.worker();
    let path = format!("/results/{id}");
    assert_eq!(request(&web.address, "DELETE", &path, &[], b"").expect("an answer").status, 204);
    eventually("nothing waits", || web.get("/metrics").body.contains("eirs_jobs_waiting 0").then_some(()));
    eventually("its result is gone", || (site.stored_results() == 0).then_some(()));
    assert_eq!(web.get(&path).status, 404);
}

#[test]
fn the_simple_endpoints_respond() {
    let site = Site::new();
    let web = site.web();
    assert_eq!(web.get("/").body, "Web Tier is running.");
    assert_eq!((web.get("/livez").status, web.get("/readyz").status), (200, 200));
    assert_eq!(web.get("/status").json()["host"], "local");
    assert!(web.get("/metrics").body.contains("eirs_jobs_sent_total"), "{}", web.get("/metrics").body);
    assert_eq!(web.get("/nowhere").problem(), "nothing is at this address");
    assert_eq!(web.get("/upload").status, 405);
    assert_eq!(web.get(&format!("/results/{}", "0".repeat(64))).status, 404);
    assert_eq!(web.get("/results/cat").status, 404);
}
