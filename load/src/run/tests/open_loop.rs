//! Tests of the open loop: the times of uploads, and the start of each latency.

use tokio::time::Instant;

use super::*;

fn open(words: &str) -> Option<OpenLoop> {
    Some(words.parse().unwrap())
}

async fn healthy() -> SocketAddr {
    serve(|_, _, _| answer(200, &[], "cat")).await
}

#[tokio::test]
async fn the_schedule_sets_the_number_of_uploads_and_images_repeat() {
    for (words, expected) in [("100@200ms", 20), ("0..200@100ms,100@100ms", 20), ("0@10ms,700@10ms", 7)] {
        let report = load(healthy().await, &["1.jpg", "2.jpg"], |options| {
            (options.open, options.requests) = (open(words), None);
        })
        .await;
        assert_eq!(
            (report.images, report.results, report.failed),
            (expected, expected, 0),
            "{words}: {report}"
        );
        assert!(report.is_well() && report.punctuality.is_some());
        let asked: f64 = report.timeline.iter().map(|point| point.asked_per_s * point.length_s).sum();
        assert_eq!(asked.round(), expected as f64);
    }
}

#[tokio::test]
async fn a_number_of_images_or_a_duration_ends_an_endless_rate() {
    let by_number = load(healthy().await, &["1.jpg"], |options| {
        (options.open, options.requests) = (open("1000"), Some(25));
    })
    .await;
    assert_eq!((by_number.images, by_number.results), (25, 25), "{by_number}");
    let by_time = load(healthy().await, &["1.jpg"], |options| {
        (options.open, options.requests) = (open("100"), None);
        options.duration = Some(Duration::from_millis(300));
    })
    .await;
    assert_eq!((by_time.images, by_time.results), (30, 30), "{by_time}");
}

#[tokio::test]
async fn a_closed_loop_ends_after_its_duration_and_awaits_uploads_in_flight() {
    let report = load(healthy().await, &["1.jpg"], |options| {
        options.requests = None;
        options.duration = Some(Duration::from_millis(150));
    })
    .await;
    assert!(report.results > 0 && report.results == report.images && report.is_well(), "{report}");
    assert!(report.seconds >= 0.14, "{report}");
}

#[tokio::test]
async fn an_endless_run_is_refused() {
    let mut options = Options::new("127.0.0.1:1".parse().unwrap(), images(&["1.jpg"]));
    (options.open, options.requests) = (open("5"), None);
    let error = run(options, Arc::new(())).await.unwrap_err().to_string();
    assert_eq!(error, "this run never ends: it needs a number of uploads or a duration");
}

/// Responds at once, except during a stall: uploads that arrive in it get a response at its end.
async fn stalling(from: Duration, length: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let first: Arc<Mutex<Option<Instant>>> = Arc::default();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let first = first.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let first = first.clone();
                async move {
                    request.into_body().collect().await.unwrap();
                    let start = *first.lock().unwrap().get_or_insert_with(Instant::now);
                    if (from..from + length).contains(&start.elapsed()) {
                        tokio::time::sleep_until(start + from + length).await;
                    }
                    Ok::<_, std::convert::Infallible>(answer(200, &[], "cat"))
                }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

/// The latencies with a server that stalls for a second: of 200 uploads in two seconds, 100 are due
/// in the stall.
async fn latencies_beside_a_stall(max_in_flight: usize) -> (Vec<f64>, Report) {
    #[derive(Default)]
    struct Seen(Mutex<Vec<f64>>);
    impl Watch for Seen {
        fn classified(&self, _: &str, _: &str, took: Duration) {
            self.0.lock().unwrap().push(took.as_secs_f64());
        }
    }
    let address = stalling(Duration::from_millis(500), Duration::from_secs(1)).await;
    let mut options = Options::new(format!("{address}").parse().unwrap(), images(&["1.jpg"]));
    (options.open, options.requests, options.concurrency) = (open("100@2s"), None, max_in_flight);
    let seen = Arc::new(Seen::default());
    let report = run(options, seen.clone()).await.unwrap();
    let mut latencies = seen.0.lock().unwrap().clone();
    latencies.sort_by(f64::total_cmp);
    (latencies, report)
}

#[tokio::test]
async fn a_stall_slows_every_upload_due_in_it_whatever_the_concurrency() {
    for (max_in_flight, is_capped) in [(1000, false), (3, true)] {
        let (latencies, report) = latencies_beside_a_stall(max_in_flight).await;
        assert_eq!(latencies.len(), 200, "{report}");
        // Uploads that were due in the stall waited from 0 to 1 s, evenly: half of these longer
        // than half a second. The bounds leave room for a busy machine, which can only make them
        // slower.
        let longer = |seconds: f64| latencies.iter().filter(|took| **took > seconds).count();
        assert!(longer(0.01) >= 95, "{} were slow: {report}", longer(0.01));
        assert!(longer(0.5) >= 45, "{} were very slow: {report}", longer(0.5));
        assert!(longer(0.9) >= 5, "{report}");
        let waited = report.punctuality.unwrap().waited;
        // The three in flight did not wait for a connection; the others did.
        assert_eq!(waited >= 90, is_capped, "{report}");
        assert_eq!(
            report.to_string().contains("waited because too many were in flight"),
            is_capped || waited > 0
        );
        let slowest = report.timeline.iter().filter_map(|point| point.max_ms).fold(0.0, f64::max);
        assert!(slowest > 900.0, "the timeline must show the stall: {slowest}");
    }
}

#[tokio::test]
async fn uploads_not_sent_within_the_timeout_have_failed() {
    // The server never responds. All are due at the same time, and the second one is started when
    // the first has timed out.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at_once = OpenLoop::new("5 at once", Schedule::from_moments([Duration::ZERO; 5]));
    let report = load(listener.local_addr().unwrap(), &["1.jpg"], |options| {
        (options.open, options.requests, options.concurrency) = (Some(at_once), None, 1);
        options.timeout = Duration::from_millis(100);
    })
    .await;
    assert_eq!((report.failed, report.failures["timeout"].count), (5, 5), "{report}");
    let said = &report.failures["timeout"].first;
    assert_eq!(said[0], "1.jpg: no label within 100ms");
    assert_eq!(said[1], "1.jpg: not sent within 100ms: all connections were busy");
    assert!(report.statuses.is_empty());
}

#[tokio::test]
async fn a_stopped_run_reports_uploads_that_were_due_but_not_started() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stop = CancellationToken::new();
    struct StopBehind(CancellationToken);
    impl Watch for StopBehind {
        fn progress(&self, state: &State<'_>) {
            if state.behind > Duration::from_millis(200) {
                self.0.cancel();
            }
        }
    }
    let mut options =
        Options::new(format!("{}", listener.local_addr().unwrap()).parse().unwrap(), images(&["1.jpg"]));
    (options.open, options.requests, options.concurrency) = (open("100"), None, 2);
    (options.duration, options.stop) = (Some(Duration::from_secs(60)), stop.clone());
    let report = run(options, Arc::new(StopBehind(stop))).await.unwrap();
    let never_begun = report.punctuality.unwrap().never_begun;
    assert!((20..5990).contains(&never_begun), "{report}");
    assert_eq!((report.stopped.as_deref(), report.images), (Some("stopped by a signal"), 2 + never_begun));
    assert!(!report.is_well());
}

#[tokio::test]
async fn a_trace_is_replayed_at_its_own_times() {
    let moments = Schedule::from_moments([0, 300, 300, 301].map(Duration::from_millis));
    let arrived: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let note = arrived.clone();
    let address = serve(move |_, _, _| {
        note.lock().unwrap().push(Instant::now());
        answer(200, &[], "cat")
    })
    .await;
    let report = load(address, &["1.jpg"], |options| {
        (options.open, options.requests) = (Some(OpenLoop::new("moments", moments)), None);
    })
    .await;
    assert_eq!(report.results, 4, "{report}");
    let arrived = arrived.lock().unwrap().clone();
    let since = |number: usize| (arrived[number] - arrived[0]).as_secs_f64();
    // Uploads may be late on a busy machine, but must not be early.
    assert!(since(1) > 0.2 && since(3) < 20.0, "{} {}", since(1), since(3));
}

#[tokio::test]
async fn goals_decide_whether_a_run_is_well() {
    let address = serve(|number, _, _| match number % 10 {
        0 => answer(500, &[], "oops"),
        _ => answer(200, &[], "cat"),
    })
    .await;
    let goals = |p95_s: u64, errors: Option<&'static str>| {
        move |options: &mut Options| {
            options.requests = Some(100);
            options.slo.p50 = Some(Duration::from_secs(p95_s));
            options.slo.errors = errors.map(|share| share.parse().unwrap());
        }
    };
    let missed = load(address, &["1.jpg"], goals(60, None)).await;
    assert!(
        !missed.is_well() && missed.to_string().contains("Goals       met: p50 at most 60.0 s, it was "),
        "{missed}"
    );
    assert!(missed.to_string().contains("missed: errors at most 0%, it was 10%"), "{missed}");
    let met = load(address, &["1.jpg"], goals(60, Some("20%"))).await;
    assert!(met.is_well() && !met.is_complete(), "{met}");
    let slow = load(address, &["1.jpg"], goals(0, Some("20%"))).await;
    assert!(!slow.is_well(), "{slow}");
}
