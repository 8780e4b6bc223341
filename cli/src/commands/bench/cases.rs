//! The parts of the benchmark.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use eirs_load::{ImageFile, Options, Report, Url};
use eirs_platform::settings::{Engine, Model};
use eirs_worker::classify::{self, BareLoop, Image, bare_loop};
use rustix::fs::{IFlags, ioctl_setflags};
use tokio::time::{Instant, sleep};

use super::{
    board::{Bar, Board},
    feeder::Feeder,
    service::{Service, model_environment, noop_environment, within},
    yardstick,
};

/// Size of uploads that are not classified, in bytes.
const UPLOAD_BYTES: usize = 50_000;

/// A policy that stops an idle worker at once, so that the next upload finds none.
const QUICK_TO_GO: &str = "
[pool]
max = 1
[[rule]]
kind = \"backlog\"
[instance]
billing_minimum = \"0s\"
[scale_in]
idle = \"0s\"
window = \"0s\"
";

/// The state shared by the parts.
pub(super) struct Bench {
    pub(super) model: Model,
    images: Vec<ImageFile>,
    /// The amount of work is divided by this.
    pub(super) less: u64,
    pub(super) threads: usize,
    /// The parent of all folders, deleted at the end.
    root: tempfile::TempDir,
}

impl Bench {
    pub(super) fn new(model: Model, images: Vec<ImageFile>, less: u64) -> anyhow::Result<Self> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(2);
        let root = tempfile::Builder::new().prefix("eirs-bench-").tempdir()?;
        // For five minutes after a file is deleted, ext4 skips its inode, checking one at a time,
        // so a new file among many deleted ones takes a millisecond longer. This flag makes ext4
        // spread the folders, so that each is at a place without recent deletions.
        let _other_file_system =
            std::fs::File::open(root.path()).map(|folder| ioctl_setflags(folder, IFlags::TOPDIR));
        Ok(Self { model, images, less, threads, root })
    }

    pub(super) async fn measure(&mut self, part: &str, board: &mut Board) -> anyhow::Result<()> {
        let measured = match part {
            "bare" => {
                self.bare_and_served(board).await?;
                self.photos(board).await
            }
            "noop" => self.noop(board).await,
            "single" => self.single(board).await,
            "cached" => self.cached(board).await,
            "cold" => self.cold(board).await,
            "doorbell" => self.doorbell(board).await,
            "memory" => self.memory(board).await,
            "growth" => self.growth(board).await,
            "idle" => self.idle(board).await,
            other => bail!("there is no part `{other}`"),
        };
        measured.with_context(|| format!("measuring `{part}`"))
    }

    /// Creates a new folder for a service.
    pub(super) fn folder(&self) -> anyhow::Result<PathBuf> {
        // The name is random, and ext4 chooses the place by the name.
        Ok(tempfile::tempdir_in(&self.root)?.keep())
    }

    /// Returns the mean size of the images, in bytes.
    pub(super) async fn mean_bytes(&self) -> anyhow::Result<usize> {
        let mut bytes = 0;
        for image in &self.images {
            bytes += image.bytes().await?.len();
        }
        Ok(bytes / self.images.len())
    }

    pub(super) async fn bare(&self, model: &Model, threads: usize, images: u64) -> anyhow::Result<BareLoop> {
        let mut files = Vec::new();
        for image in &self.images {
            files.push(Image { name: image.name.clone(), bytes: image.bytes().await? });
        }
        let model = model.clone();
        let rounds = (images as usize).div_ceil(files.len()).max(1);
        tokio::task::spawn_blocking(move || bare_loop(&model, &files, threads, rounds)).await?
    }

    /// Returns a number of images that takes a few seconds.
    pub(super) async fn some_seconds(&self, model: &Model) -> anyhow::Result<u64> {
        let pilot = self.bare(model, self.threads, 20).await?;
        Ok(((6.0 * pilot.per_second) as u64 / self.less).clamp(40, 20_000))
    }

    /// Measures the plain loop, and the share of its speed that the service reaches: plain, served,
    /// plain again.
    async fn bare_and_served(&mut self, board: &mut Board) -> anyhow::Result<()> {
        let engine = classify::load(&self.model)?.engine().to_owned();
        let threads = self.threads;
        board.table(format!("Classifying: {engine}, {threads} threads, decode + resize + infer"));
        let count = self.some_seconds(&self.model).await?;
        let before = self.bare(&self.model, threads, count).await?;
        if let Some(path) =
            self.model.path.clone().or_else(|| Some(PathBuf::from("models/shapes/shapes.onnx")))
        {
            match self.python(&path, count).await {
                Ok(python) => {
                    board.row("Python loop (Pillow + onnxruntime)", python, "images/s", Bar::None);
                    board.row(
                        "bare loop over Python loop",
                        before.per_second / python,
                        "x",
                        Bar::AtLeast(1.2),
                    );
                }
                Err(why) => crate::show::aside(format_args!("the Python loop was not measured: {why:#}")),
            }
        }
        let folder = self.folder()?;
        let service = Service::start(&folder, threads, model_environment(&self.model)).await?;
        let (served, middle) = (self.load(&service, count, 32).await?, service.memory_mb());
        service.stop().await?;
        let after = self.bare(&self.model, threads, count).await?;
        let bare = f64::midpoint(before.per_second, after.per_second);
        board.row("bare loop", bare, "images/s", Bar::None);
        board.row("served at 32 connections", served.per_second, "images/s", Bar::None);
        board.row("served over bare", served.per_second / bare, "x", Bar::AtLeast(0.92));
        board.row("memory of all processes, proportional", middle, "MB", Bar::None);
        if !engine.starts_with("rten") {
            let rten = Model { engine: Engine::Rten, ..self.model.clone() };
            let count = self.some_seconds(&rten).await?;
            let rten = self.bare(&rten, threads, count).await?;
            board.row("bare loop with rten instead", rten.per_second, "images/s", Bar::None);
        }
        Ok(())
    }

    pub(super) async fn python(&self, model: &Path, count: u64) -> anyhow::Result<f64> {
        let folder = tempfile::tempdir()?;
        self.write_images(folder.path()).await?;
        let rounds = (count as usize / self.images.len() / self.threads).max(1);
        yardstick::python_loop(model, folder.path(), self.threads, rounds).await
    }

    /// Copies the images of the benchmark.
    pub(super) async fn write_images(&self, folder: &Path) -> anyhow::Result<()> {
        for image in &self.images {
            std::fs::write(folder.join(image.name.replace('/', "_")), image.bytes().await?)?;
        }
        Ok(())
    }

    async fn load(&self, service: &Service, requests: u64, concurrency: usize) -> anyhow::Result<Report> {
        self.load_to(&service.url, requests, concurrency).await
    }

    /// Uploads the images, made unique, to any service.
    pub(super) async fn load_to(
        &self,
        url: &Url,
        requests: u64,
        concurrency: usize,
    ) -> anyhow::Result<Report> {
        let options = Options {
            requests: Some(requests),
            concurrency,
            unique: true,
            ..Options::new(url.clone(), self.images.clone())
        };
        complete(eirs_load::run(options, Arc::new(())).await?)
    }

    /// Measures the service itself: unique uploads of 50 KB through the durable queue, with a
    /// classifier that does nothing.
    async fn noop(&mut self, board: &mut Board) -> anyhow::Result<()> {
        board.table("Nothing to classify: 50 KB uploads through the durable queue, 32 connections");
        let folder = self.folder()?;
        let service = Service::start(&folder, 1, noop_environment()).await?;
        upload(&service, 2_000 / self.less, 32, UPLOAD_BYTES, true).await?;
        let (before, count) = (service.cpu_seconds(), 20_000 / self.less);
        let report = upload(&service, count, 32, UPLOAD_BYTES, true).await?;
        let cpu_ms = (service.cpu_seconds() - before) * 1e3 / count as f64;
        board.row("uploads", report.per_second, "uploads/s", Bar::AtLeast(3000.0));
        board.row("CPU of all processes for an upload", cpu_ms, "ms", Bar::AtMost(0.5));
        latency(board, &report, Bar::None);
        service.stop().await
    }

    async fn single(&mut self, board: &mut Board) -> anyhow::Result<()> {
        board.table("Nothing to classify: 50 KB uploads through the durable queue, 1 connection");
        let folder = self.folder()?;
        let service = Service::start(&folder, 1, noop_environment()).await?;
        upload(&service, 200, 1, UPLOAD_BYTES, true).await?;
        let report = upload(&service, 4_000 / self.less, 1, UPLOAD_BYTES, true).await?;
        latency(board, &report, Bar::AtMost(1.5));
        service.stop().await
    }

    async fn cached(&mut self, board: &mut Board) -> anyhow::Result<()> {
        board.table("Repeated images: stored results, 32 connections");
        let folder = self.folder()?;
        let service = Service::start(&folder, 1, noop_environment()).await?;
        upload(&service, 100, 32, UPLOAD_BYTES, false).await?;
        let report = upload(&service, 40_000 / self.less, 32, UPLOAD_BYTES, false).await?;
        board.row("uploads", report.per_second, "uploads/s", Bar::AtLeast(5000.0));
        latency(board, &report, Bar::None);
        service.stop().await
    }

    /// Measures the start from zero workers.
    async fn cold(&mut self, board: &mut Board) -> anyhow::Result<()> {
        board.table("From zero workers");
        let mut firsts = Vec::new();
        for _ in 0..3 {
            let folder = self.folder()?;
            let service = Service::start_from_zero(&folder, model_environment(&self.model)).await?;
            let report = self.load(&service, 1, 1).await?;
            firsts.push(report.seconds);
            service.stop().await?;
        }
        firsts.sort_unstable_by(f64::total_cmp);
        board.row("the first upload, median of 3", firsts[1], "s", Bar::AtMost(0.7));

        let bare = self.bare(&self.model, self.threads, 100).await?;
        let folder = self.folder()?;
        let service = Service::start_from_zero(&folder, model_environment(&self.model)).await?;
        let report = self.load(&service, 100, 32).await?;
        let beyond = report.seconds - 100.0 / bare.per_second;
        board.row("100 images", report.seconds, "s", Bar::None);
        board.row("longer than the bare loop takes", beyond, "s", Bar::AtMost(2.0));
        service.stop().await
    }

    /// Measures the time from an upload after a quiet period to the start of a worker process, with
    /// the default tick, which is too long to help.
    async fn doorbell(&mut self, board: &mut Board) -> anyhow::Result<()> {
        board.table("The doorbell: from the first upload after a quiet time to the worker's process");
        let folder = self.folder()?;
        let service = Service::start_controlled(&folder, noop_environment(), QUICK_TO_GO, "5s").await?;
        let record = service.state.join("instances/default-1.json");
        let pid = || {
            let text = std::fs::read(&record).ok()?;
            serde_json::from_slice::<serde_json::Value>(&text).ok()?["process"]["pid"].as_u64()
        };
        let mut times = Vec::new();
        for _ in 0..20 / self.less.min(5) {
            // Longer than the quiet period of web.
            sleep(Duration::from_millis(2500)).await;
            let start = Instant::now();
            let uploaded = upload(&service, 1, 1, 2000, true);
            let started = async {
                while pid().is_none() {
                    anyhow::ensure!(start.elapsed() < Duration::from_secs(30), "no worker is started");
                    sleep(Duration::from_millis(1)).await;
                }
                Ok(start.elapsed().as_secs_f64() * 1e3)
            };
            let (uploaded, started) = tokio::join!(uploaded, started);
            uploaded?;
            times.push(started?);
            within(Duration::from_secs(30), "the worker to go", || !record.exists()).await?;
        }
        times.sort_unstable_by(f64::total_cmp);
        board.row(format!("median of {}", times.len()), times[times.len() / 2], "ms", Bar::AtMost(50.0));
        board.row("the worst", times[times.len() - 1], "ms", Bar::AtMost(50.0));
        service.stop().await
    }

    async fn memory(&mut self, board: &mut Board) -> anyhow::Result<()> {
        board.table("Memory, proportional");
        for (engine, most) in [(self.model.engine, 250.0), (Engine::Rten, 150.0)] {
            let model = Model { engine, ..self.model.clone() };
            let name = classify::load(&model)?.engine().to_owned();
            let count = self.some_seconds(&model).await? / 2;
            let folder = self.folder()?;
            let service = Service::start(&folder, 2, model_environment(&model)).await?;
            self.load(&service, count.max(40), 32).await?;
            let what = format!("web and two workers with {name} after {count} images on 32 connections");
            board.row(what, service.memory_mb(), "MB", Bar::AtMost(most));
            service.stop().await?;
            if name.starts_with("rten") {
                break;
            }
        }

        let folder = self.folder()?;
        let service = Service::start(&folder, 1, noop_environment()).await?;
        upload(&service, 1_000 / self.less, 100, 1_000_000, true).await?;
        board.row(
            "web under 100 connections of 1 MB images",
            service.web_memory_mb(),
            "MB",
            Bar::AtMost(60.0),
        );
        service.stop().await?;

        let folder = self.folder()?;
        let service = Service::start(&folder, 1, noop_environment()).await?;
        upload(&service, 20_000 / self.less, 32, 2_000, true).await?;
        let early = service.memory_mb();
        upload(&service, 80_000 / self.less, 32, 2_000, true).await?;
        board.row(format!("all processes after {} jobs", 20_000 / self.less), early, "MB", Bar::None);
        board.row(
            format!("after {} jobs", 100_000 / self.less),
            service.memory_mb(),
            "MB",
            Bar::AtMost(early * 1.1 + 2.0),
        );
        service.stop().await
    }

    /// Measures whether the queue becomes slower as it grows: a feeder keeps the length constant
    /// while a worker takes jobs.
    async fn growth(&mut self, board: &mut Board) -> anyhow::Result<()> {
        board.table("Growth: jobs done at a backlog");
        let mut rates = Vec::new();
        for backlog in [100, 100_000 / self.less] {
            let folder = self.folder()?;
            let service = Service::start(&folder, 0, noop_environment()).await?;
            let seconds = 8.0 / self.less as f64;
            let rate = Feeder::new(&service.state).await?.rate(&service, backlog, seconds).await?;
            board.row(format!("at {backlog}"), rate, "jobs/s", Bar::None);
            rates.push(rate);
            service.stop().await?;
        }
        board.row("long over short", rates[1] / rates[0], "x", Bar::AtLeast(0.9));
        Ok(())
    }

    async fn idle(&mut self, board: &mut Board) -> anyhow::Result<()> {
        board.table("An idle service: web and controller, no workers");
        let folder = self.folder()?;
        let service = Service::start_from_zero(&folder, model_environment(&self.model)).await?;
        sleep(Duration::from_secs(2)).await;
        let (before, start) = (service.cpu_seconds(), Instant::now());
        sleep(Duration::from_secs(20) / self.less as u32).await;
        let share = (service.cpu_seconds() - before) / start.elapsed().as_secs_f64() * 100.0;
        board.row("CPU of all processes", share, "% of a core", Bar::AtMost(0.5));
        service.stop().await
    }
}

/// Uploads random bytes of the given size.
pub(super) async fn upload(
    service: &Service,
    requests: u64,
    concurrency: usize,
    bytes: usize,
    unique: bool,
) -> anyhow::Result<Report> {
    upload_to(&service.url, requests, concurrency, bytes, unique).await
}

/// The same to any service.
pub(super) async fn upload_to(
    url: &Url,
    requests: u64,
    concurrency: usize,
    bytes: usize,
    unique: bool,
) -> anyhow::Result<Report> {
    // The header of a bitmap, and noise that cannot be compressed.
    let mut body = b"BM".to_vec();
    let mut noise = 0x9e37_79b9_u32;
    let next = || {
        // The linear congruential generator of "Numerical Recipes".
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (noise >> 24) as u8
    };
    body.extend([0; 12]);
    body.extend(40_u32.to_le_bytes());
    body.extend(std::iter::repeat_with(next).take(bytes.saturating_sub(body.len())));
    let image = ImageFile::in_memory("noise.bmp", body.into());
    let options = Options {
        requests: Some(requests.max(1)),
        concurrency,
        unique,
        ..Options::new(url.clone(), vec![image])
    };
    complete(eirs_load::run(options, Arc::new(())).await?)
}

/// Refuses a run with failures, whose figures mean nothing.
fn complete(report: Report) -> anyhow::Result<Report> {
    if report.failed > 0 || report.stopped.is_some() {
        bail!("{} of {} uploads failed: {:?}", report.failed, report.images, report.failures);
    }
    Ok(report)
}

fn latency(board: &mut Board, report: &Report, p50: Bar) {
    if let Some(latency) = &report.latency_ms {
        board.row("latency p50", latency.p50, "ms", p50);
        board.row("latency p99", latency.p99, "ms", Bar::None);
    }
}
