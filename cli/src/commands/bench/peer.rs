//! Compares with another service, which stores nothing: mosec, in a pinned version from its
//! package. Uploads to both alternate, so that the ratio holds on a busy machine.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::Context;
use eirs_load::{Report, Url};
use rustix::process::{Pid, Signal, kill_process_group};

use super::{
    board::{Bar, Board},
    cases::{Bench, upload, upload_to},
    service::{Service, cpu_seconds, model_environment, noop_environment, within},
    yardstick,
};

const PACKAGE: &str = "mosec==0.9.8";
const SERVER: &str = include_str!("mosec_server.py");
/// The size of a typical photo on the web, in bytes.
const BYTES: usize = 110_000;
const ROUNDS: usize = 3;

/// Measures both, or prints the reason if mosec is not available.
pub(super) async fn measure(bench: &Bench, board: &mut Board, less: u64) -> anyhow::Result<()> {
    noop(bench, board, less).await?;
    model(bench, board, less).await
}

/// Starts mosec and waits until it responds; `None` if it is not available.
async fn peer(bench: &Bench, model: Option<&Path>, workers: usize) -> anyhow::Result<Option<Peer>> {
    let peer = match Peer::start(&bench.folder()?, model, workers).await {
        Ok(peer) => peer,
        Err(why) => {
            crate::show::aside(format_args!("mosec was not measured: {why:#}"));
            return Ok(None);
        }
    };
    // mosec listens before its workers are ready.
    let answered = async {
        let ask = || async {
            match model {
                Some(_) => bench.load_to(&peer.url, 1, 1).await,
                None => upload_to(&peer.url, 1, 1, 1000, true).await,
            }
        };
        while ask().await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), answered).await.context("mosec answers nothing")?;
    Ok(Some(peer))
}

/// Without a model: the overhead of the services.
async fn noop(bench: &Bench, board: &mut Board, less: u64) -> anyhow::Result<()> {
    board.table("Beside mosec, which keeps nothing: no-op, multipart uploads of 110 KB, each another image");
    let Some(peer) = peer(bench, None, 2).await? else { return Ok(()) };
    let service = Service::start(&bench.folder()?, 1, noop_environment()).await?;
    upload(&service, 1000 / less, 8, BYTES, true).await?;
    upload_to(&peer.url, 1000 / less, 8, BYTES, true).await?;
    for (connections, least) in
        [(1, Bar::None), (8, Bar::AtLeast(0.7)), (32, Bar::AtLeast(1.0)), (100, Bar::AtLeast(0.7))]
    {
        let uploads = if connections == 1 { 2000 } else { 12_000 } / less;
        let (mut ours, mut theirs) = (Sums::default(), Sums::default());
        for _ in 0..ROUNDS {
            let before = service.cpu_seconds();
            let report = upload(&service, uploads, connections, BYTES, true).await?;
            ours.add(&report, service.cpu_seconds() - before);
            let before = peer.cpu_seconds();
            let report = upload_to(&peer.url, uploads, connections, BYTES, true).await?;
            theirs.add(&report, peer.cpu_seconds() - before);
        }
        let of = at(connections);
        board.row(of("EIRS"), median(&ours.per_second), "uploads/s", Bar::None);
        board.row(of("mosec"), median(&theirs.per_second), "uploads/s", Bar::None);
        board.row(of("EIRS over mosec"), ratio(&ours.per_second, &theirs.per_second), "x", least);
        let (p50, cpu) = match connections {
            1 => (Bar::AtMost(0.8), Bar::None),
            32 => (Bar::None, Bar::AtMost(0.35)),
            _ => (Bar::None, Bar::None),
        };
        board.row(of("p50 of EIRS"), median(&ours.p50), "ms", p50);
        board.row(of("p50 of mosec"), median(&theirs.p50), "ms", Bar::None);
        board.row(of("CPU of EIRS for an upload"), median(&ours.cpu_ms), "ms", cpu);
        board.row(of("CPU of mosec for an upload"), median(&theirs.cpu_ms), "ms", Bar::None);
    }
    service.stop().await
}

/// With the model and the photos: the share of the speed of a plain loop, in Rust and in Python.
async fn model(bench: &Bench, board: &mut Board, less: u64) -> anyhow::Result<()> {
    let (model, threads) = (&bench.model, bench.threads);
    let path = model.path.clone().unwrap_or_else(|| "models/shapes/shapes.onnx".into());
    board.table(format!(
        "Beside mosec and loops without a service: {}, {threads} cores, multipart uploads of {} KB, each \
         another image",
        path.file_stem().unwrap_or_default().display(),
        bench.mean_bytes().await? / 1000,
    ));
    let path = path.canonicalize().with_context(|| path.display().to_string())?;
    let Some(peer) = peer(bench, Some(&path), threads).await? else { return Ok(()) };
    let service = Service::start(&bench.folder()?, threads, model_environment(model)).await?;
    let count = bench.some_seconds(model).await?;
    for url in [&service.url, &peer.url] {
        bench.load_to(url, 400 / less, 8).await?;
    }
    let (mut bare, mut python) = (Vec::new(), Vec::new());
    let mut served = [8, 32].map(|connections| (connections, Sums::default(), Sums::default()));
    let mut memory_mb = Vec::new();
    for _ in 0..ROUNDS {
        bare.push(bench.bare(model, threads, count).await?.per_second);
        python.push(bench.python(&path, count).await?);
        for (connections, ours, theirs) in &mut served {
            let before = service.cpu_seconds();
            ours.add(
                &bench.load_to(&service.url, count, *connections).await?,
                service.cpu_seconds() - before,
            );
            if *connections == 32 {
                memory_mb.push(service.memory_mb());
            }
            let before = peer.cpu_seconds();
            theirs.add(&bench.load_to(&peer.url, count, *connections).await?, peer.cpu_seconds() - before);
        }
    }
    board.row("bare loop", median(&bare), "images/s", Bar::None);
    board.row("Python loop", median(&python), "images/s", Bar::None);
    for (connections, ours, theirs) in &served {
        let of = at(*connections);
        let (over_bare, over_python) = match connections {
            8 => (Bar::None, Bar::AtLeast(1.0)),
            _ => (Bar::AtLeast(0.93), Bar::None),
        };
        board.row(of("EIRS"), median(&ours.per_second), "images/s", Bar::None);
        board.row(of("EIRS over the bare loop"), ratio(&ours.per_second, &bare), "x", over_bare);
        board.row(of("EIRS over the Python loop"), ratio(&ours.per_second, &python), "x", over_python);
        board.row(of("mosec over the Python loop"), ratio(&theirs.per_second, &python), "x", Bar::None);
        board.row(of("CPU of EIRS for an image"), median(&ours.cpu_ms), "ms", Bar::None);
        board.row(of("CPU of mosec for an image"), median(&theirs.cpu_ms), "ms", Bar::None);
    }
    board.row("memory of EIRS, all processes, proportional", median(&memory_mb), "MB", Bar::AtMost(120.0));
    service.stop().await
}

fn at(connections: usize) -> impl Fn(&str) -> String {
    move |what| match connections {
        1 => format!("{what}, 1 connection"),
        many => format!("{what}, {many} connections"),
    }
}

/// The results of the rounds.
#[derive(Debug, Default)]
struct Sums {
    per_second: Vec<f64>,
    p50: Vec<f64>,
    cpu_ms: Vec<f64>,
}

impl Sums {
    fn add(&mut self, report: &Report, cpu_seconds: f64) {
        self.per_second.push(report.per_second);
        self.p50.extend(report.latency_ms.as_ref().map(|ms| ms.p50));
        self.cpu_ms.push(cpu_seconds * 1e3 / report.results as f64);
    }
}

/// Returns the median of the ratios of each round, whose measurements had the same disturbances.
fn ratio(ours: &[f64], theirs: &[f64]) -> f64 {
    let ratios: Vec<_> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
    median(&ratios)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// mosec in its own process group, ended when this is dropped.
struct Peer {
    url: Url,
    child: Child,
}

impl Peer {
    async fn start(folder: &Path, model: Option<&Path>, workers: usize) -> anyhow::Result<Self> {
        let packages = [&[PACKAGE], &yardstick::PACKAGES[..]].concat();
        let test = "import mosec, onnxruntime, PIL, numpy";
        let python = yardstick::environment("bench-mosec", test, &packages).await?;
        let port = free_port()?;
        fs::write(folder.join("python_loop.py"), yardstick::SCRIPT).context("writing the script")?;
        let script = folder.join("mosec_server.py");
        fs::write(&script, SERVER).context("writing the script")?;
        let log = fs::File::create(folder.join("mosec.log")).context("making a log")?;
        let child = Command::new(python)
            .arg(&script)
            .arg(workers.to_string())
            .args([
                "--address",
                "127.0.0.1",
                "--port",
                &port.to_string(),
                "--timeout",
                "30000",
                "--log-level",
                "warning",
            ])
            .args(["--path", &folder.join("mosec").display().to_string()])
            .envs(model.map(|model| ("MODEL", model)))
            .current_dir(folder)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("a second handle")?)
            .stderr(log)
            .spawn()
            .context("starting mosec")?;
        let url = format!("http://127.0.0.1:{port}/inference").parse().map_err(anyhow::Error::msg)?;
        let peer = Self { url, child };
        let listens = || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        within(Duration::from_secs(30), "mosec to listen", listens).await?;
        Ok(peer)
    }

    /// Returns the CPU seconds of all processes in the group.
    fn cpu_seconds(&self) -> f64 {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| group(*pid) == Some(self.child.id())).filter_map(cpu_seconds).sum()
    }
}

/// Returns the process group of a process (proc(5), field 5 of `stat`).
fn group(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(2)?.parse().ok()
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _gone = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _gone = self.child.wait();
    }
}

fn free_port() -> anyhow::Result<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("looking for a free port")?;
    Ok(listener.local_addr().context("looking for a free port")?.port())
}
