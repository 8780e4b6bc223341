//! Measures a long-running service: files, memory and speed after a million jobs, and the time to
//! recover after a kill.

mod expiry;

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use eirs_platform::{
    backend::Backend, clock::SystemClock, queue::SharedQueue, settings::Settings, state_folder,
};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{
    board::{Bar, Board},
    cases::{Bench, upload},
    feeder::Feeder,
    service::{Service, noop_environment},
};

const CONNECTIONS: usize = 32;
/// Large enough for an image, in bytes.
const SMALL: usize = 1000;
/// The parts of the state folder that hold something for each image and each result.
const KEPT: [&str; 2] = [state_folder::IMAGES, state_folder::QUEUE];

pub(super) async fn measure(bench: &Bench, board: &mut Board, less: u64) -> anyhow::Result<()> {
    let jobs = 1_000_000 / less;
    board.table(format!("Endurance: {jobs} jobs at full speed, nothing to classify"));
    let folder = bench.folder()?;
    let service = Service::start(&folder, 1, noop_environment()).await?;
    let watch = Watch::start(&service.state).await?;
    upload(&service, jobs / 10, CONNECTIONS, SMALL, true).await?;
    let early = (service.web_memory_mb(), service.workers_memory_mb());
    let report = upload(&service, jobs - jobs / 10, CONNECTIONS, SMALL, true).await?;
    let late = (service.web_memory_mb(), service.workers_memory_mb());
    board.row("uploads", report.per_second, "uploads/s", Bar::None);
    let beside = mib(bytes_beside(&service.state)?);
    board.row("files beside images and results", beside, "MiB", Bar::AtMost(32.0));
    board.row("the largest write-ahead log meanwhile", mib(watch.largest_log()), "MiB", Bar::AtMost(16.0));
    let seen = watch.end().await?;
    let what = format!("the longest of {} commits of another process", seen.commits);
    board.row(what, ms(seen.longest_commit), "ms", Bar::AtMost(50.0));
    // A busy machine explains a part of this delay.
    board.row("the longest delay of a timer meanwhile", ms(seen.longest_delay), "ms", Bar::None);
    let growth = |early: f64, late: f64| (late / early - 1.0) * 100.0;
    board.row("web's memory over the last 90 %", growth(early.0, late.0), "% more", Bar::AtMost(5.0));
    board.row("the worker's", growth(early.1, late.1), "% more", Bar::AtMost(5.0));
    back_again(service, &folder, board).await?;
    fs::remove_dir_all(&folder)?;
    growth_at_a_backlog(bench, board, less).await?;
    expiry::measure(bench, board, jobs).await
}

/// Kills the service at full speed, and starts it again.
async fn back_again(mut service: Service, folder: &Path, board: &mut Board) -> anyhow::Result<()> {
    {
        let load = upload(&service, u64::MAX, CONNECTIONS, SMALL, true);
        // The load never ends by itself.
        let _under_way = tokio::time::timeout(Duration::from_secs(2), load).await;
    }
    service.kill();
    drop(service);
    let start = Instant::now();
    let service = Service::start(folder, 1, noop_environment()).await?;
    // No earlier upload has these bytes, so the result comes from the worker.
    upload(&service, 1, 1, SMALL + 1, true).await?;
    let seconds = start.elapsed().as_secs_f64();
    board.row("from a start after kill -9 to the first answer", seconds, "s", Bar::AtMost(1.0));
    service.stop().await
}

/// Measures jobs per second at a short backlog, at a long one, and at a short one again, so that
/// other load on the machine affects all of them.
async fn growth_at_a_backlog(bench: &Bench, board: &mut Board, less: u64) -> anyhow::Result<()> {
    let long = 1_000_000 / less;
    let seconds = 20.0 / less as f64;
    let mut rates = Vec::new();
    for backlog in [100, long, 100] {
        let folder = bench.folder()?;
        let service = Service::start(&folder, 0, noop_environment()).await?;
        let mut feeder = Feeder::with_images(&service.state, 1000).await?;
        let rate = feeder.rate(&service, backlog, seconds).await?;
        board.row(format!("at a backlog of {backlog}"), rate, "jobs/s", Bar::None);
        rates.push(rate);
        service.stop().await?;
    }
    let short = f64::midpoint(rates[0], rates[2]);
    board.row("long over short", rates[1] / short, "x", Bar::AtLeast(0.95));
    Ok(())
}

/// Watches the size of the log, and regularly writes to the queue like another process.
struct Watch {
    largest_log: Arc<AtomicU64>,
    looking: tokio::task::JoinHandle<()>,
    writing: tokio::task::JoinHandle<eirs_platform::Result<Seen>>,
    stop: CancellationToken,
}

/// The observations of a process that writes beside the others.
#[derive(Debug, Default)]
struct Seen {
    commits: u64,
    longest_commit: Duration,
    /// The delay of a timer, which is unrelated to the queue.
    longest_delay: Duration,
}

/// The interval between writes.
const STEP: Duration = Duration::from_millis(2);

impl Watch {
    async fn start(state: &Path) -> anyhow::Result<Self> {
        let (largest_log, stop) = (Arc::new(AtomicU64::new(0)), CancellationToken::new());
        let looking = tokio::spawn({
            let (largest, log) = (
                largest_log.clone(),
                state.join(format!("{}{}", state_folder::QUEUE, state_folder::LOG_SUFFIX)),
            );
            async move {
                loop {
                    largest.fetch_max(fs::metadata(&log).map_or(0, |file| file.len()), Relaxed);
                    sleep(STEP).await;
                }
            }
        });
        let mut settings = Settings::default();
        settings.local.state = state.to_owned();
        let queue = Backend::open(&settings, Arc::new(SystemClock)).await?.any_queue("bench").await?;
        let writing = tokio::spawn(write_beside(queue, stop.clone()));
        Ok(Self { largest_log, looking, writing, stop })
    }

    fn largest_log(&self) -> u64 {
        self.largest_log.load(Relaxed)
    }

    async fn end(self) -> anyhow::Result<Seen> {
        self.looking.abort();
        self.stop.cancel();
        Ok(self.writing.await??)
    }
}

async fn write_beside(queue: SharedQueue, stop: CancellationToken) -> eirs_platform::Result<Seen> {
    let mut seen = Seen::default();
    while !stop.is_cancelled() {
        let start = Instant::now();
        queue.send(vec!["x".into()]).await?;
        seen.longest_commit = seen.longest_commit.max(start.elapsed());
        seen.commits += 1;
        let held = queue.receive(10, Duration::ZERO).await?;
        queue.ack(&held.into_iter().map(|delivery| delivery.receipt).collect::<Vec<_>>()).await?;
        let start = Instant::now();
        sleep(STEP).await;
        seen.longest_delay = seen.longest_delay.max(start.elapsed().saturating_sub(STEP));
    }
    Ok(seen)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Returns the bytes in a state folder without images and results.
fn bytes_beside(state: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    let beside = walkdir::WalkDir::new(state)
        .into_iter()
        .filter_entry(|entry| entry.depth() != 1 || KEPT.iter().all(|kept| entry.file_name() != *kept));
    for entry in beside {
        let entry = entry?;
        bytes += if entry.file_type().is_file() { entry.metadata()?.len() } else { 0 };
    }
    Ok(bytes)
}
