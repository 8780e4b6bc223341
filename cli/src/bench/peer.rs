//! Beside a service of others that keeps nothing: mosec, pinned, from its package. The same uploads
//! go to both in turns, so that the ratio holds however busy the machine is.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process_group};

use super::{
    board::{Bar, Board},
    cases::{upload, upload_to},
    service::{Service, cpu_seconds, noop_environment, within},
    yardstick,
};
use crate::http::Url;

const PACKAGE: &str = "mosec==0.9.8";
const SERVER: &str = include_str!("mosec_server.py");
/// As large as a photo for the web.
const BYTES: usize = 110_000;
const ROUNDS: usize = 3;

/// Measures both; says in one line why not, where the other cannot be had.
pub(super) async fn measure(folder: &Path, board: &mut Board, less: u64) -> anyhow::Result<()> {
    board.table("Beside mosec, which keeps nothing: no-op, multipart uploads of 110 KB, each another image");
    let peer = match Peer::start(folder).await {
        Ok(peer) => peer,
        Err(why) => {
            crate::show::aside(format_args!("mosec was not measured: {why:#}"));
            return Ok(());
        }
    };
    let service = Service::start(folder, 1, noop_environment()).await?;
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
            ours.add(
                report.per_second,
                report.latency_ms.as_ref().map(|ms| ms.p50),
                service.cpu_seconds() - before,
            );
            let before = peer.cpu_seconds();
            let report = upload_to(&peer.url, uploads, connections, BYTES, true).await?;
            theirs.add(
                report.per_second,
                report.latency_ms.as_ref().map(|ms| ms.p50),
                peer.cpu_seconds() - before,
            );
        }
        let of = |what: &str| match connections {
            1 => format!("{what}, 1 connection"),
            many => format!("{what}, {many} connections"),
        };
        board.row(of("EIRS"), ours.per_second(), "uploads/s", Bar::None);
        board.row(of("mosec"), theirs.per_second(), "uploads/s", Bar::None);
        board.row(of("EIRS over mosec"), ours.per_second() / theirs.per_second(), "x", least);
        let (p50, cpu) = match connections {
            1 => (Bar::AtMost(0.8), Bar::None),
            32 => (Bar::None, Bar::AtMost(0.35)),
            _ => (Bar::None, Bar::None),
        };
        board.row(of("p50 of EIRS"), ours.p50(), "ms", p50);
        board.row(of("p50 of mosec"), theirs.p50(), "ms", Bar::None);
        board.row(of("CPU of EIRS for an upload"), ours.cpu_ms(uploads), "ms", cpu);
        board.row(of("CPU of mosec for an upload"), theirs.cpu_ms(uploads), "ms", Bar::None);
    }
    service.stop().await
}

/// What came of the rounds.
#[derive(Debug, Default)]
struct Sums {
    per_second: Vec<f64>,
    p50: Vec<f64>,
    cpu_seconds: f64,
}

impl Sums {
    fn add(&mut self, per_second: f64, p50: Option<f64>, cpu_seconds: f64) {
        self.per_second.push(per_second);
        self.p50.extend(p50);
        self.cpu_seconds += cpu_seconds;
    }

    fn per_second(&self) -> f64 {
        median(&self.per_second)
    }

    fn p50(&self) -> f64 {
        median(&self.p50)
    }

    fn cpu_ms(&self, uploads: u64) -> f64 {
        self.cpu_seconds * 1e3 / (uploads * self.per_second.len() as u64) as f64
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// mosec, with its processes in a group of their own; ended when this is dropped.
struct Peer {
    url: Url,
    child: Child,
}

impl Peer {
    async fn start(folder: &Path) -> anyhow::Result<Self> {
        let python = yardstick::environment("bench-mosec", "import mosec", &[PACKAGE]).await?;
        let port = free_port()?;
        let script = folder.join("mosec_server.py");
        fs::write(&script, SERVER).context("writing the script")?;
        let log = fs::File::create(folder.join("mosec.log")).context("making a log")?;
        let child = Command::new(python)
            .arg(&script)
            .args([
                "2",
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
        // It listens before its workers are there.
        let answered = async {
            while upload_to(&peer.url, 1, 1, 1000, true).await.is_err() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), answered).await.context("mosec answers nothing")?;
        Ok(peer)
    }

    /// Of all processes of its group.
    fn cpu_seconds(&self) -> f64 {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| group(*pid) == Some(self.child.id())).filter_map(cpu_seconds).sum()
    }
}

/// The process group of a process (proc(5), field 5 of `stat`).
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
