//! Tests of the generator against a small server that responds as each test needs.

mod open_loop;
mod others;

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    fleet::Pool, images::ImageFile, options::OpenLoop, schedule::Schedule, truth::Truth, watch::State,
};

type Answers = Arc<dyn Fn(usize, &str, &[u8]) -> Response<Full<Bytes>> + Send + Sync>;

/// Serves on a free port, without a fleet. `answers` gets the number of the request, its path and
/// its body. A status of 444 closes the connection.
async fn serve(
    answers: impl Fn(usize, &str, &[u8]) -> Response<Full<Bytes>> + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (answers, count): (Answers, _) = (Arc::new(answers), Arc::new(AtomicUsize::new(0)));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (answers, count) = (answers.clone(), count.clone());
            let service = service_fn(move |request: Request<Incoming>| {
                let (answers, count) = (answers.clone(), count.clone());
                async move {
                    let path = request.uri().path_and_query().unwrap().to_string();
                    if path == "/events" {
                        return Ok(answer(404, &[], "no fleet"));
                    }
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let answer = answers(count.fetch_add(1, Ordering::SeqCst), &path, &body);
                    if answer.status() == 444 { Err("hang up") } else { Ok(answer) }
                }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *answer.status_mut() = status.try_into().unwrap();
    for (name, value) in headers {
        answer
            .headers_mut()
            .insert(hyper::header::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
    }
    answer
}

fn images(names: &[&str]) -> Vec<ImageFile> {
    // The content is the name, so that a server can respond with it.
    names.iter().map(|name| ImageFile::in_memory(name, Bytes::copy_from_slice(name.as_bytes()))).collect()
}

async fn load(address: SocketAddr, names: &[&str], change: impl FnOnce(&mut Options)) -> Report {
    let mut options = Options::new(format!("http://{address}").parse().unwrap(), images(names));
    options.concurrency = 2;
    options.timeout = Duration::from_secs(20);
    change(&mut options);
    run(options, Arc::new(())).await.unwrap()
}

/// The image in a multipart body.
fn image_of(body: &[u8]) -> Bytes {
    let start = body.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    let boundary = &body[..body.windows(2).position(|w| w == b"\r\n").unwrap()];
    let end = body.windows(boundary.len()).rposition(|w| w == boundary).unwrap() - 2;
    Bytes::copy_from_slice(&body[start..end])
}

#[tokio::test]
async fn every_image_is_uploaded_as_a_form_file_and_gets_its_label() {
    #[derive(Default)]
    struct Seen(Mutex<Vec<String>>);
    impl Watch for Seen {
        fn classified(&self, image: &str, label: &str, _took: Duration) {
            self.0.lock().unwrap().push(format!("{image} {label}"));
        }
    }
    let address = serve(|_, path, body| {
        let head = String::from_utf8_lossy(body);
        assert!(
            path == "/upload"
                && head.contains(
                    "form-data; name=\"myfile\"; filename=\"1.jpg\"\r\nContent-Type: image/jpeg\r\n"
                ),
            "{path} {head}"
        );
        answer(
            200,
            &[("content-type", "text/plain")],
            &format!("label of {}\n", String::from_utf8_lossy(&image_of(body))),
        )
    })
    .await;
    let seen = Arc::new(Seen::default());
    let mut options = Options::new(format!("{address}").parse().unwrap(), images(&["a/1.jpg", "b/1.jpg"]));
    options.requests = Some(5);
    let report = run(options, seen.clone()).await.unwrap();
    assert!(report.is_complete() && report.results == 5 && report.failed == 0, "{report}");
    let mut seen = seen.0.lock().unwrap().clone();
    seen.sort();
    assert_eq!(
        seen,
        [
            "a/1.jpg label of a/1.jpg",
            "a/1.jpg label of a/1.jpg",
            "a/1.jpg label of a/1.jpg",
            "b/1.jpg label of b/1.jpg",
            "b/1.jpg label of b/1.jpg"
        ]
    );
    let latency = report.latency_ms.unwrap();
    assert!(latency.p50 > 0.0 && latency.p50 <= latency.p95 && latency.p99 <= latency.max, "{latency:?}");
}

#[tokio::test]
async fn a_pending_image_is_polled_until_its_label_is_available() {
    let address = serve(|number, path, _| match (number, path) {
        (0, "/upload?model=x") => answer(202, &[("location", "/results/abc"), ("retry-after", "0")], "{}"),
        (1 | 2, "/results/abc") => answer(202, &[("retry-after", "0.03")], "{}"),
        (3, "/results/abc") => {
            answer(200, &[("content-type", "application/json")], r#"{"label":"tench","top":[]}"#)
        }
        _ => answer(500, &[], path),
    })
    .await;
    let report = load(address, &["1.jpg"], |options| {
        options.url = format!("http://{address}/upload?model=x").parse().unwrap();
        options.truth = Some(Truth { labels: vec![Some("Tench".into())], ..Truth::default() });
    })
    .await;
    assert!(report.is_complete() && report.pending == 1, "{report}");
    assert_eq!(report.accuracy.unwrap().correct, 1);
    assert!(report.latency_ms.unwrap().max >= 80.0, "20, 30 and 30 ms were waited");
}

#[tokio::test]
async fn a_busy_service_is_retried_after_the_time_that_it_asks_for() {
    let address = serve(|number, _, body| match number {
        0 => answer(503, &[("retry-after", "0.05")], "{}"),
        1 => answer(429, &[("retry-after", "0.05")], "{}"),
        _ => answer(200, &[], std::str::from_utf8(&image_of(body)).unwrap()),
    })
    .await;
    let report = load(address, &["1.jpg"], |_| {}).await;
    assert!(report.is_complete() && report.retried == 2, "{report}");
    assert!(report.latency_ms.unwrap().max >= 100.0);
}

#[tokio::test]
async fn failures_are_counted_by_kind_with_the_first_ones_as_examples() {
    let address = serve(|number, _, _| match number {
        0..4 => answer(
            422,
            &[("content-type", "application/problem+json")],
            r#"{"title":"t","detail":"cut short"}"#,
        ),
        4 => answer(500, &[], "oops"),
        5 => answer(200, &[], "<html>\n"),
        6 => answer(202, &[], ""),
        _ => answer(200, &[], "cat"),
    })
    .await;
    let report =
        load(address, &["1.jpg"], |options| (options.requests, options.concurrency) = (Some(8), 1)).await;
    assert_eq!((report.results, report.failed), (1, 7), "{report}");
    let kinds: Vec<_> =
        report.failures.iter().map(|(kind, failures)| (kind.as_str(), failures.count)).collect();
    assert_eq!(kinds, [("422", 4), ("500", 1), ("not a response of EIRS", 2)]);
    assert_eq!(report.failures["422"].first, ["1.jpg: 422: cut short"; 3]);
    assert!(
        !report.is_complete() && report.to_string().contains("4 x 422, e.g. 1.jpg: 422: cut short\n"),
        "{report}"
    );
}

#[tokio::test]
async fn a_closed_kept_connection_is_replaced_once() {
    let address =
        serve(
            |number, _, _| {
                if matches!(number, 1 | 3 | 4) { answer(444, &[], "") } else { answer(200, &[], "cat") }
            },
        )
        .await;
    // 0 responds; 1 closes the kept connection, and 2 responds on a new one; 3 closes, and so does
    // 4: that image fails.
    let report =
        load(address, &["1.jpg"], |options| (options.requests, options.concurrency) = (Some(4), 1)).await;
    assert_eq!((report.results, report.failed, report.reconnects), (3, 1, 2), "{report}");
    assert!(report.failures["connection lost"].first[0].contains("closed the connection"), "{report}");
}

#[tokio::test]
async fn a_service_that_never_responds_is_a_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let report = load(listener.local_addr().unwrap(), &["1.jpg"], |options| {
        options.timeout = Duration::from_millis(50)
    })
    .await;
    assert_eq!(report.failures["timeout"].first, ["1.jpg: no label within 50ms"]);
}

#[tokio::test]
async fn a_refused_connection_is_one_sentence() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = run(Options::new(url.parse().unwrap(), images(&["1.jpg"])), Arc::new(())).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("nothing listens at {url}: connection refused; `eirs local` starts a service there")
    );
}

#[tokio::test]
async fn a_stopped_run_reports_what_was_done() {
    let address = serve(|number, _, _| match number {
        0 => answer(200, &[], "cat"),
        _ => answer(503, &[("retry-after", "60")], ""),
    })
    .await;
    let stop = CancellationToken::new();
    struct StopAtFirst(CancellationToken);
    impl Watch for StopAtFirst {
        fn classified(&self, _: &str, _: &str, _: Duration) {
            self.0.cancel();
        }
    }
    let mut options = Options::new(format!("{address}").parse().unwrap(), images(&["1.jpg"]));
    (options.requests, options.concurrency, options.stop) = (Some(9), 1, stop.clone());
    let report = run(options, Arc::new(StopAtFirst(stop))).await.unwrap();
    assert_eq!((report.results, report.stopped.as_deref()), (1, Some("stopped by a signal")));
    assert!(!report.is_complete());
}

#[tokio::test]
async fn unique_uploads_differ_and_others_are_identical() {
    for (unique, different) in [(true, 10), (false, 1)] {
        let seen: Arc<Mutex<HashSet<Bytes>>> = Arc::default();
        let note = seen.clone();
        let address = serve(move |_, _, body| {
            note.lock().unwrap().insert(image_of(body));
            answer(200, &[], "cat")
        })
        .await;
        let report =
            load(address, &["1.bin"], |options| (options.requests, options.unique) = (Some(10), unique))
                .await;
        assert!(report.is_complete(), "{report}");
        assert_eq!(seen.lock().unwrap().len(), different);
    }
}

#[tokio::test]
async fn cached_labels_are_counted_and_their_share_is_reported() {
    let address = serve(|number, _, _| match number {
        0 => answer(200, &[], "cat"),
        _ => answer(200, &[("cache-status", "eirs; hit")], "cat"),
    })
    .await;
    let report = load(address, &["1.jpg"], |options| options.requests = Some(4)).await;
    assert_eq!((report.results, report.cached), (4, 3));
    let shown = report.to_string();
    assert!(
        shown.contains(
            "Results     4 (3 stored before)\n            75 % of the labels were stored already: "
        ),
        "{shown}"
    );
}

#[tokio::test]
async fn accuracy_counts_labelled_images_and_names_the_others() {
    let address = serve(|_, _, body| answer(200, &[], std::str::from_utf8(&image_of(body)).unwrap())).await;
    let report = load(address, &["a", "b", "c"], |options| {
        options.requests = Some(6);
        options.truth = Some(Truth {
            source: "x.csv".into(),
            labels: vec![Some("A".into()), Some("z".into()), None],
            remarks: vec!["rows 2 and 3 contradict each other: c is ignored".into()],
        });
    })
    .await;
    let shown = report.to_string();
    let accuracy = report.accuracy.unwrap();
    assert_eq!((accuracy.correct, accuracy.of, accuracy.share), (2, 4, 0.5));
    assert_eq!(accuracy.unlabelled, ["c"]);
    assert!(
        shown.contains(
            "Accuracy    0.5000 (2/4) against x.csv\n            z: 0 of 2 right, else b (2)\n            \
            no label is known for c\n            rows 2 and 3 contradict each other: c is \
            ignored\n"
        ),
        "{shown}"
    );
}
