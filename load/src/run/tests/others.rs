//! Tests with other services: other forms of uploads and responses, a token, a fleet.

use hyper::header::{self, HeaderValue};

use super::*;

#[tokio::test]
async fn another_service_gets_its_form_field_and_its_label_is_found() {
    let address = serve(|_, path, body| {
        let is_form = String::from_utf8_lossy(body).contains("form-data; name=\"file\";");
        let body =
            format!(r#"{{"predictions":[{{"class":"{}"}}]}}"#, if is_form { "cat" } else { "no form" });
        answer(
            201,
            &[("content-type", if path == "/predict" { "application/json" } else { "text/html" })],
            &body,
        )
    })
    .await;
    for (expect, results) in
        [("/predictions/0/class", 3), (r#""class":"(\w+)""#, 3), ("/other", 0), ("dog", 0)]
    {
        let report = load(address, &["1.jpg"], |options| {
            options.url = format!("http://{address}/predict").parse().unwrap();
            options.field = "file".into();
            options.expect = expect.parse().unwrap();
            options.requests = Some(3);
            options.truth = Some(Truth { labels: vec![Some("cat".into())], ..Truth::default() });
        })
        .await;
        assert_eq!(
            (report.results, report.accuracy.as_ref().unwrap().correct),
            (results, results),
            "{expect}: {report}"
        );
        assert_eq!(report.statuses[&201], 3);
        assert_eq!(report.failures.contains_key("not what was expected"), results == 0, "{report}");
    }
}

#[tokio::test]
async fn a_bare_image_is_the_whole_body() {
    let address = serve(|_, _, body| answer(200, &[], std::str::from_utf8(body).unwrap())).await;
    let report = load(address, &["name.png"], |options| {
        options.bare = true;
        options.expect = "^name.png$".parse().unwrap();
    })
    .await;
    assert!(report.is_well(), "{report}");
}

/// A service that requires a token, responds to uploads and reports its fleet; it closes the
/// connection after its events.
async fn guarded(events: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(move |request: Request<Incoming>| async move {
                let token =
                    request.headers().get(header::AUTHORIZATION).map(|token| token.as_bytes().to_vec());
                let path = request.uri().path().to_owned();
                request.into_body().collect().await.unwrap();
                Ok::<_, std::convert::Infallible>(match (token.as_deref(), path.as_str()) {
                    (Some(b"Bearer s3cret"), "/events") if !events.is_empty() => {
                        answer(200, &[("content-type", "text/event-stream")], events)
                    }
                    (Some(b"Bearer s3cret"), "/upload") => answer(200, &[], "cat"),
                    (Some(_), "/upload") => answer(403, &[], "no"),
                    (None, _) => answer(401, &[], "who?"),
                    _ => answer(404, &[], ""),
                })
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

fn with_token(options: &mut Options, token: &'static str) {
    options.token = Some(HeaderValue::from_static(token));
}

#[tokio::test]
async fn every_request_has_the_token() {
    let report = load(guarded("").await, &["1.jpg"], |options| with_token(options, "Bearer s3cret")).await;
    assert!(report.is_well(), "{report}");
    let report = load(guarded("").await, &["1.jpg"], |options| with_token(options, "Bearer other")).await;
    assert_eq!(report.failures["403"].count, 1, "{report}");
    let report = load(guarded("").await, &["1.jpg"], |_| {}).await;
    assert_eq!(report.failures["401"].count, 1, "{report}");
}

#[tokio::test]
async fn the_fleet_comes_from_the_events_and_others_are_ignored() {
    let events = concat!(
        ": keep-alive\n\n",
        "event: status\ndata: {\"controller\":null,\"web\":{}}\n\n",
        "event: other\ndata: {\"controller\":{\"pools\":[{\"name\":\"wrong\",\"ready\":9}]}}\n\n",
        "event: status\ndata: no JSON\n\n",
        "event: status\n\
         data: {\"controller\":{\"pools\":[{\"name\":\"default\",\"ready\":0,\"starting\":2,\n",
        "data: \"visible\":40,\"more\":[1]}]}}\n\n",
        "event: status\ndata: {\"controller\":{\"pools\":[{\"name\":\"default\",\"ready\":2,\"visible\":null,\"arrivals_per_s\":1.5}]}}\n\n",
    );
    let address = guarded(events).await;
    // Until the events have arrived.
    struct UntilHeard(CancellationToken);
    impl Watch for UntilHeard {
        fn progress(&self, state: &State<'_>) {
            if state.fleet.as_ref().is_some_and(|fleet| fleet.pools[0].ready == Some(2)) {
                self.0.cancel();
            }
        }
    }
    let stop = CancellationToken::new();
    let mut options = Options::new(format!("{address}").parse().unwrap(), images(&["1.jpg"]));
    with_token(&mut options, "Bearer s3cret");
    (options.requests, options.stop, options.duration) = (None, stop.clone(), Some(Duration::from_secs(30)));
    options.open = Some("10".parse().unwrap());
    let report = run(options, Arc::new(UntilHeard(stop))).await.unwrap();
    assert_eq!(report.stopped.as_deref(), Some("stopped by a signal"), "the fleet was heard of: {report}");
    let pools: Vec<_> = report.fleet.iter().take(2).flat_map(|sample| sample.pools.clone()).collect();
    let pool = |ready, starting, visible, arrivals_per_s| Pool {
        name: "default".into(),
        ready,
        starting,
        visible,
        arrivals_per_s,
        ..Pool::default()
    };
    assert_eq!(pools, [pool(Some(0), Some(2), Some(40), None), pool(Some(2), None, None, Some(1.5))]);
    assert!(report.to_string().contains("Fleet       default: 0 to 2 ready, at most 40 waiting"), "{report}");
}

#[tokio::test]
async fn a_service_without_events_has_no_fleet() {
    let report = load(guarded("").await, &["1.jpg"], |options| {
        with_token(options, "Bearer s3cret");
        (options.open, options.requests) = (Some("100".parse().unwrap()), Some(20));
    })
    .await;
    assert!(report.fleet.is_empty() && report.is_well(), "{report}");
}
