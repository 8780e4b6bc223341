//! Measures the page: bytes and time of a visit, and the CPU of the web server with many open
//! pages.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use eirs_load::http::{Answer, Connection, Pieces, Url, header_pair};
use futures::future::try_join_all;
use http_body_util::BodyExt;
use hyper::{
    Method,
    header::{self, HeaderMap},
};
use serde_json::json;
use tokio::{
    task::AbortHandle,
    time::{Instant, sleep},
};

use super::{
    board::{Bar, Board},
    cases::upload,
    service::{Service, noop_environment},
};
use crate::browser::{Browser, Installed};

/// Number of open pages.
const PAGES: u64 = 200;
/// Number of page loads, of which the median counts.
const LOADS: usize = 9;

pub(super) async fn measure(folder: &Path, board: &mut Board, less: u64) -> anyhow::Result<()> {
    board.table("The page");
    let service = Service::start_from_zero(folder, noop_environment()).await?;
    let kilobytes = first_visit(&service.url).await? as f64 / 1e3;
    board.row("what a first visit loads", kilobytes, "KB", Bar::AtMost(100.0));
    match Installed::find() {
        Some(installed) => {
            let url = service.url.to_string();
            let paint = tokio::task::spawn_blocking(move || first_paint(&installed, &url)).await??;
            let what = format!("first paint in Chromium, nothing cached, median of {LOADS}");
            board.row(what, paint, "ms", Bar::AtMost(200.0));
        }
        None => board.row(
            "first paint: not measured, chromium and chromedriver are not installed",
            f64::NAN,
            "ms",
            Bar::AtMost(200.0),
        ),
    }
    // One upload first, so that every page has seen a worker start before the measurement.
    upload(&service, 1, 1, 2000, true).await?;
    let seconds = 10 / less.min(5);
    let alone = web_share(&service, seconds).await?;
    let pages = Pages::open(&service.url).await?;
    let share = web_share(&service, seconds).await?;
    ensure!(pages.fewest() > seconds / 2, "a page heard little: what was measured is not what was meant");
    drop(pages);
    board.row("CPU of web beside four uploads a second", alone, "% of a core", Bar::None);
    board.row(format!("the same with {PAGES} open pages"), share, "% of a core", Bar::AtMost(5.0));
    service.stop().await
}

/// Returns the bytes of the page and all its files, without headers.
async fn first_visit(url: &Url) -> anyhow::Result<usize> {
    let mut connection = Connection::open(url).await?;
    let page = ask(&mut connection, url, "/").await?;
    let text = String::from_utf8_lossy(&page.body);
    let named: BTreeSet<_> = text.split('"').filter(|part| part.starts_with("/assets/")).collect();
    ensure!(!named.is_empty(), "the page names no file of its own");
    let mut bytes = page.body.len();
    for name in named {
        bytes += ask(&mut connection, url, name).await?.body.len();
    }
    Ok(bytes)
}

async fn ask(connection: &mut Connection, url: &Url, path: &str) -> anyhow::Result<Answer> {
    let headers = HeaderMap::from_iter([header_pair(header::ACCEPT, "text/html, */*")]);
    let answer = connection.ask(url.request(Method::GET, path, &headers, Pieces::default())).await?;
    ensure!(answer.status == 200, "{path} answers {}", answer.status);
    Ok(answer)
}

/// Returns the milliseconds from the start of a visit to the first contentful paint.
fn first_paint(installed: &Installed, url: &str) -> anyhow::Result<f64> {
    const PAINT: &str = "
const [entry] = performance.getEntriesByName('first-contentful-paint');
return entry ? entry.startTime : null;";
    let browser = Browser::start(installed)?;
    browser.devtools("Network.enable", &json!({}))?;
    browser.devtools("Network.setCacheDisabled", &json!({"cacheDisabled": true}))?;
    let mut times = Vec::new();
    for _ in 0..LOADS {
        browser.open(url)?;
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        let paint = loop {
            if let Some(paint) = browser.script(PAINT, &[])?.as_f64() {
                break paint;
            }
            ensure!(std::time::Instant::now() < deadline, "the page paints nothing");
            std::thread::park_timeout(Duration::from_millis(10));
        };
        times.push(paint);
    }
    times.sort_unstable_by(f64::total_cmp);
    Ok(times[LOADS / 2])
}

/// Returns the CPU of web, in per cent of a core, during a few uploads.
async fn web_share(service: &Service, seconds: u64) -> anyhow::Result<f64> {
    let (before, start) = (service.web_cpu_seconds(), Instant::now());
    while start.elapsed() < Duration::from_secs(seconds) {
        upload(service, 1, 1, 2000, true).await?;
        sleep(Duration::from_millis(250)).await;
    }
    Ok((service.web_cpu_seconds() - before) / start.elapsed().as_secs_f64() * 100.0)
}

/// Open pages, as the server sees them: event streams with readers.
struct Pages {
    /// The number of received pieces of each stream.
    heard: Vec<Arc<AtomicU64>>,
    readers: Vec<AbortHandle>,
}

impl Pages {
    async fn open(url: &Url) -> anyhow::Result<Self> {
        let opened = try_join_all((0..PAGES).map(|_| Self::open_one(url)));
        let (heard, readers) = opened.await.context("opening the pages")?.into_iter().unzip();
        Ok(Self { heard, readers })
    }

    async fn open_one(url: &Url) -> anyhow::Result<(Arc<AtomicU64>, AbortHandle)> {
        let mut connection = Connection::open(url).await?;
        let headers = HeaderMap::from_iter([header_pair(header::ACCEPT, "text/event-stream")]);
        let request = url.request(Method::GET, "/events", &headers, Pieces::default());
        let answer = connection.begin(request).await?;
        ensure!(answer.status() == 200, "/events answers {}", answer.status());
        let heard = Arc::new(AtomicU64::new(0));
        let count = heard.clone();
        let reader = tokio::spawn(async move {
            // Dropping the connection would end the stream.
            let _connection = connection;
            let mut body = answer.into_body();
            while let Some(Ok(_piece)) = body.frame().await {
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Ok((heard, reader.abort_handle()))
    }

    fn fewest(&self) -> u64 {
        self.heard.iter().map(|heard| heard.load(Ordering::Relaxed)).min().unwrap_or(0)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.readers.iter().for_each(AbortHandle::abort);
    }
}
