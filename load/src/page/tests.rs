use std::{sync::Arc, time::Duration};

use super::*;
use crate::{
    crew::Crew,
    fleet::{Pool, Sample},
    http::{Connection, Url},
    options::{OpenLoop, Options},
    slo::Slo,
    tally::Times,
    truth::Truth,
};

/// A run of half a minute that has something of everything, including a label that tries to inject
/// a script.
async fn report() -> Report {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url: Url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let mut options = Options::new(url.clone(), Vec::new());
    let open: OpenLoop = "40".parse().unwrap();
    (options.requests, options.open) = (None, Some(open));
    options.slo =
        Slo { p95: Some(Duration::from_millis(400)), errors: Some("1%".parse().unwrap()), ..Slo::default() };
    options.truth = Some(Truth { source: "labels.csv".into(), ..Truth::default() });
    let crew = Crew::new(options, Arc::new(()), Connection::open(&url).await.unwrap());
    for number in 0u64..1200 {
        let due = Duration::from_millis(number * 25);
        let took =
            Duration::from_millis(20 + number * 37 % 80 + if (300..400).contains(&number) { 400 } else { 0 });
        crew.tally().begun(due, Duration::from_micros(number % 70), false);
        crew.tally().answered(if number % 100 == 0 { 500 } else { 200 });
        let times = Times { due, took };
        match number % 100 {
            0 => crew.tally().failed(times, "500".into(), "a<script>.jpg: 500: \"oops\"".into()),
            1 | 2 => crew.tally().classified(times, "<img src=x>", Some("star")),
            _ => crew.tally().classified(times, "star", Some("Star")),
        }
    }
    let mut report = Report::of(&crew, None);
    report.images = 1200;
    let ready = |second: u64| if second < 12 { 1 } else { 4 };
    let pool = |second: u64| Pool {
        name: "default".into(),
        ready: Some(ready(second)),
        starting: Some(if (8..12).contains(&second) { 3 } else { 0 }),
        leaving: Some(0),
        desired: Some(if second < 8 { 1 } else { 4 }),
        visible: Some(if (7..13).contains(&second) { 37 } else { 2 }),
        in_flight: Some(ready(second)),
        arrivals_per_s: Some(40.0),
    };
    report.fleet = (0..30).map(|second| Sample { at_s: second as f64, pools: vec![pool(second)] }).collect();
    report
}

const COMMAND: &str = "eirs load --rate 40 --expect '<b>'";

/// To view the page: `EIRS_PAGE=/tmp/page.html cargo test ... page_has`.
#[tokio::test]
async fn the_page_has_every_figure_and_escapes_foreign_text() {
    let report = report().await;
    let page = page(&report, COMMAND, DateTime::UNIX_EPOCH);
    if let Some(file) = std::env::var_os("EIRS_PAGE") {
        std::fs::write(file, &page).unwrap();
    }
    let latency = report.latency_ms.unwrap();
    let figures = [
        "1970-01-01 00:00:00 UTC".to_owned(),
        escaped(COMMAND),
        escaped(&report.url),
        "<b>1200</b><span>images</span>".to_owned(),
        "<b>1188</b><span>with a label</span>".to_owned(),
        "<b>12</b><span>failed</span>".to_owned(),
        format!("<b>{:.1}</b><span>in a second</span>", report.per_second),
        format!("<b>{}</b><span>95 % within</span>", milliseconds(latency.p95)),
        format!("<b>{}</b><span>99 % within</span>", milliseconds(latency.p99)),
        format!("<b>{}</b><span>the slowest</span>", milliseconds(latency.max)),
        "<td>200</td><td>1188</td>".to_owned(),
        "<td>500</td><td>12</td>".to_owned(),
        "A goal is missed.".to_owned(),
        "met: errors at most 1%, it was <b>1%</b>".to_owned(),
        format!(
            "missed: p95 at most 400 ms, it was <b>{}</b>",
            report.slo.as_ref().unwrap().goals[0].found()
        ),
        "goal for p95: 400 ms".to_owned(),
        "star</td><td>0 of 24</td><td>&lt;img src=x&gt; (24)".to_owned(),
        "a&lt;script&gt;.jpg: 500: &quot;oops&quot;".to_owned(),
        "default: 1 to 4 ready, at most 37 waiting".to_owned(),
    ];
    for figure in figures {
        assert!(page.contains(&figure), "{figure}");
    }
    for title in ["Latency", "Throughput", "Distribution of the latency", "Fleet", "Backlog"] {
        assert!(page.contains(&format!("<b>{title}</b>")), "{title}");
    }
    assert_eq!(page.matches("<svg").count(), 5);
}

#[tokio::test]
async fn the_page_loads_nothing_and_has_no_scripts() {
    let report = report().await;
    let page = page(&report, COMMAND, DateTime::UNIX_EPOCH);
    let own = page.replace(&escaped(&report.url), "");
    for foreign in
        ["http:", "https:", "//", "<script", "<link", "<img", "<iframe", "@import", "url(", "src=\"", "href="]
    {
        assert!(!own.contains(foreign), "{foreign}");
    }
    assert!(page.contains("content=\"default-src 'none'; style-src 'unsafe-inline'\""));
    assert!(!page.contains("NaN") && !page.contains("inf"), "every value must be a number");
    let opened = |name: &str| {
        (
            page.matches(&format!("<{name}>")).count() + page.matches(&format!("<{name} ")).count(),
            page.matches(&format!("</{name}>")).count(),
        )
    };
    for name in ["svg", "text", "figure", "div", "table", "tr", "td", "section", "ul", "li", "p", "rect"] {
        let (opened, closed) = opened(name);
        assert_eq!(opened, closed, "{name}");
    }
}

#[tokio::test]
async fn an_empty_run_gives_a_page() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url: Url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let connection = Connection::open(&url).await.unwrap();
    let crew = Crew::new(Options::new(url, Vec::new()), Arc::new(()), connection);
    let page = page(&Report::of(&crew, Some("stopped by a signal".into())), COMMAND, DateTime::UNIX_EPOCH);
    assert!(page.contains("<b>Ended early.</b> stopped by a signal") && !page.contains("NaN"), "{page}");
}
