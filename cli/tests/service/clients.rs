use std::{
    io::{Read, Write},
    net::Shutdown,
};

use eirs_harness::{Site, eventually, form, image, read_answer, request, upload};

#[test]
fn a_client_that_hangs_during_its_upload_blocks_no_other_and_is_disconnected() {
    let site = Site::new().set("EIRS_WEB__READ_TIMEOUT", "1s");
    let (web, _worker) = (site.web(), site.worker());
    let mut hanging: Vec<_> = (0..40).map(|_| web.connect()).collect();
    for stream in &mut hanging {
        stream
            .write_all(
                b"POST /upload HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 1000000\r\n\r\nBM",
            )
            .expect("sent");
    }
    assert_eq!(web.upload("", "x", &image(1)).status, 200, "others are served");
    let answer = read_answer(&mut hanging[0]).expect("an answer");
    assert_eq!(answer.status, 408, "{answer:?}");
}

#[test]
fn a_client_that_leaves_before_its_answer_finds_it_later() {
    let site = Site::new();
    let web = site.web();
    let mut leaving = web.connect();
    let body = image(7);
    let head = format!("POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    leaving.write_all(head.as_bytes()).and_then(|()| leaving.write_all(&body)).expect("sent");
    eventually("the image is stored", || (site.stored_images() == 1).then_some(()));
    leaving.shutdown(Shutdown::Both).expect("gone");
    drop(leaving);
    let _worker = site.worker();
    eventually("its result", || (site.stored_results() == 1).then_some(()));
    assert_eq!(web.upload("", "x", &image(7)).json()["label"], "noop");
    let in_flight = || web.get("/metrics").body.contains("eirs_uploads_in_flight 0").then_some(());
    eventually("the upload that was left is not counted any more", in_flight);
}

#[test]
fn an_aborted_upload_leaves_nothing() {
    let site = Site::new();
    let (web, _worker) = (site.web(), site.worker());
    for _ in 0..20 {
        let mut leaving = web.connect();
        leaving
            .write_all(b"POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nBM12345")
            .expect("sent");
    }
    assert_eq!(web.upload("", "x", &image(1)).status, 200);
    assert_eq!(site.stored_results(), 1, "only the whole one");
}

/// Counts segments of the store, and temporary files of uploads.
fn files(site: &Site) -> usize {
    let count = |name: &str| std::fs::read_dir(site.state().join(name)).map_or(0, Iterator::count);
    count("images") + count("uploads")
}

#[test]
fn a_large_image_is_stored_and_an_aborted_one_leaves_nothing() {
    let site = Site::new().set("EIRS_WEB__UPLOAD_MEMORY", "256KiB");
    let (web, _worker) = (site.web(), site.worker());
    let mut large = image(1);
    large.resize(6_000_000, 7);
    let head = format!("POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", large.len());
    let send = |bytes: &[u8]| {
        let mut stream = web.connect();
        stream.write_all(&[head.as_bytes(), bytes].concat()).expect("sent");
        stream
    };
    let leaving = send(&large[..5_000_000]);
    eventually("it arrives", || (files(&site) == 1).then_some(()));
    drop(leaving);
    eventually("nothing of it is left", || (files(&site) == 0).then_some(()));

    // The worker checks that the bytes match the id.
    assert_eq!(web.upload("", "x", &large).json()["label"], "noop");
    assert_eq!((files(&site), site.stored_images()), (1, 1));
    // A repeated upload needs no space.
    assert_eq!(web.upload("?fresh=true&wait=0", "x", &large[..5_999_999]).status, 202);
    assert_eq!(web.upload("", "x", &large).json()["cached"], true);
    eventually("no other file", || (files(&site) == 2).then_some(()));
}

#[test]
fn a_client_that_has_closed_its_sending_half_still_gets_its_answer() {
    let site = Site::new();
    let web = site.web();
    let ask = |request: &[u8]| {
        let mut half = web.connect();
        half.write_all(request).and_then(|()| half.shutdown(Shutdown::Write)).expect("sent");
        half
    };
    let form = form(&[("myfile", "x", &image(1))]);
    let head = format!(
        "POST /upload HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=XX\r\n\
         content-length: {}\r\n\r\n",
        form.len()
    );
    let mut waiting = ask(&[head.as_bytes(), &form].concat());
    eventually("the upload waits", || (web.get("/status").json()["uploads"] == 1).then_some(()));
    let _worker = site.worker();
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).expect("an answer");
    let answer = answer.replacen("HTTP/1.1 100 Continue\r\n\r\n", "", 1);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("noop"), "{answer}");
    let mut short = String::new();
    ask(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").read_to_string(&mut short).expect("an answer");
    assert!(short.contains("HTTP/1.1 200") && short.ends_with("ok\n"), "{short}");
    eventually("no connection is left", || {
        web.get("/metrics").body.contains("eirs_uploads_in_flight 0").then_some(())
    });
}

#[test]
fn the_same_image_from_fifty_clients_at_once_is_one_job() {
    let site = Site::with_script("echo once >> calls; sleep 0.3; echo cat");
    let (web, _worker) = (site.web(), site.worker());
    let answers: Vec<_> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..50)
            .map(|n| {
                scope.spawn({
                    let address = &web.address;
                    move || upload(address, "", &format!("{n}"), &image(1))
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().expect("no panic").expect("an answer")).collect()
    });
    for (number, answer) in answers.iter().enumerate() {
        assert_eq!((answer.status, &answer.json()["label"]), (200, &"cat".into()));
        assert_eq!(answer.json()["name"], number.to_string(), "every client gets its own name");
    }
    let calls = std::fs::read_to_string(site.folder.path().join("calls")).expect("the script's notes");
    assert_eq!(calls.lines().count(), 1, "the classifier was asked once");
}

#[test]
fn uploads_above_the_limit_get_retry_after() {
    let site = Site::new().set("EIRS_WEB__MAX_UPLOADS", "2");
    let web = site.web();
    std::thread::scope(|scope| {
        for number in 0..2 {
            let address = &web.address;
            scope.spawn(move || {
                upload(address, "?wait=20s", "x", &image(number)).map(|answer| assert_eq!(answer.status, 200))
            });
        }
        eventually("both are in flight", || (web.get("/status").json()["uploads"] == 2).then_some(()));
        let answer = web.upload("?wait=0", "x", &image(3));
        assert_eq!((answer.status, answer.header("retry-after")), (429, Some("1")));
        let _worker = site.worker();
        eventually("both are answered", || (web.get("/status").json()["uploads"] == 0).then_some(()));
    });
}

#[test]
fn a_full_backlog_is_503_for_new_images_and_not_for_known_ones() {
    let site = Site::new().set("EIRS_WEB__MAX_BACKLOG", "3");
    let web = site.web();
    {
        let _worker = site.worker();
        assert_eq!(web.upload("", "known", &image(100)).status, 200);
    }
    // The count may be a second old, so one more upload may pass.
    let statuses: Vec<_> = (0..5).map(|number| web.upload("?wait=0", "x", &image(number)).status).collect();
    assert!(statuses.contains(&202) && statuses.ends_with(&[503]), "{statuses:?}");
    let refused = web.upload("?wait=0", "x", &image(50));
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    assert_eq!(web.upload("?wait=0", "known", &image(100)).status, 200, "a known image needs no queue");
}

#[test]
fn one_client_has_its_share_of_the_queue() {
    let site = Site::new().set("EIRS_WEB__MAX_BACKLOG_PER_CLIENT", "2");
    let web = site.web();
    let statuses: Vec<_> = (0..3).map(|number| web.upload("?wait=0", "x", &image(number)).status).collect();
    assert_eq!(statuses, [202, 202, 503]);
    let refused = web.upload("?wait=0", "x", &image(3));
    assert!(
        refused.problem().contains("your address") && refused.header("retry-after").is_some(),
        "{refused:?}"
    );
    let _worker = site.worker();
    eventually("what it sent is done", || (site.stored_results() == 2).then_some(()));
    assert_eq!(web.upload("", "x", &image(3)).status, 200);
}

#[test]
fn deleting_a_waiting_image_ends_its_upload_and_the_next_one_works() {
    let site = Site::new();
    let web = site.web();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| web.upload("?wait=60s", "x", &image(1)));
        eventually("it waits", || (web.get("/status").json()["waiting"] == 1).then_some(()));
        let id = web.upload("?wait=0", "x", &image(1)).json()["id"].as_str().expect("an id").to_owned();
        let path = format!("/results/{id}");
        assert_eq!(request(&web.address, "DELETE", &path, &[], b"").expect("an answer").status, 204);
        let refused = waiting.join().expect("no panic");
        assert_eq!((refused.status, refused.problem().contains("deleted")), (410, true), "{refused:?}");
        assert_eq!(web.get(&path).status, 404);
    });
    let _worker = site.worker();
    assert_eq!(web.upload("", "x", &image(1)).json()["label"], "noop");
}
