//! Measures the web server under attack and with slow clients: thousands of silent connections,
//! hundreds of very slow uploads, one address that takes all connections, and many concurrent large
//! uploads. All traffic is on the loopback, from addresses in 127.0.0.0/8, and limited in number
//! and time.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use eirs_platform::lifecycle::raise_file_limit;
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{Instant, interval, sleep, timeout},
};

use super::{
    board::{Bar, Board},
    service::{Service, noop_environment},
};

/// Number of silent connections.
const IDLE: u32 = 10_000;
/// Number of uploads at a kilobyte per second.
const SLOW: u32 = 500;
/// Number of addresses from which both come.
const ADDRESSES: u32 = 20;
/// Normal uploads per second.
const HONEST: u64 = 100;
/// Maximum number of connections of one address (`web.max_connections_per_address`).
const SHARE: u32 = 1024;
/// Time limit for every step.
const NEVER: Duration = Duration::from_secs(120);
/// The size of the largest image, in bytes.
const LARGE: usize = 16 << 20;
/// Number of rounds, in which 4 and 64 concurrent large uploads alternate.
const ROUNDS: u32 = 3;
/// Size of [`bitmap_head`], in bytes.
const BITMAP_HEAD: usize = 18;

pub(super) async fn measure(folder: &Path, board: &mut Board, less: u64) -> anyhow::Result<()> {
    board.table("A siege");
    let (idle, slow) = (IDLE / less as u32, SLOW / less as u32);
    let files = raise_file_limit();
    ensure!(
        files > u64::from(idle + slow) + 2000,
        "a siege takes more files than the {files} of this process"
    );
    let service = Service::start(folder, 1, noop_environment()).await?;
    let target: SocketAddr =
        service.url.to_string().trim_start_matches("http://").trim_end_matches('/').parse()?;
    let seconds = 20 / less.min(4);
    let mut honest = Honest { target, sent: 0 };
    honest.p99(1).await?;

    let alone = honest.p99(seconds).await?;
    board.row(format!("p99 of {HONEST} uploads a second, alone"), alone, "ms", Bar::None);
    let silent = crowd(target, idle, Ipv4Addr::new(127, 0, 0, 2)).await?;
    let (before, start) = (service.web_cpu_seconds(), Instant::now());
    sleep(Duration::from_secs(seconds / 2)).await;
    let share = (service.web_cpu_seconds() - before) / start.elapsed().as_secs_f64() * 100.0;
    board.row(format!("CPU of web for {idle} idle connections"), share, "% of a core", Bar::AtMost(1.0));

    let mut dribbles = JoinSet::new();
    for number in 0..slow {
        dribbles.spawn(dribble(target, address(Ipv4Addr::new(127, 0, 0, 2), number)));
    }
    sleep(Duration::from_secs(2)).await;
    let besieged = honest.p99(seconds).await?;
    board.row(format!("the same p99 beside these and {slow} uploads of 1 KB/s"), besieged, "ms", Bar::None);
    board.row("besieged over alone", besieged / alone, "x", Bar::AtMost(2.0));
    board.row("memory of web meanwhile", service.web_memory_mb(), "MB", Bar::AtMost(120.0));
    dribbles.shutdown().await;
    drop(silent);

    let greedy = greed(target, SHARE + 200, Ipv4Addr::new(127, 0, 1, 1)).await?;
    let others = honest.p99(2).await?;
    let has = greedy.iter().filter(|stream| is_open(stream)).count() as f64;
    let what = format!("connections that one address has which opened {}", SHARE + 200);
    board.row(what, has, "", Bar::AtMost(f64::from(SHARE)));
    board.row("p99 of others meanwhile", others, "ms", Bar::None);
    drop(greedy);

    let uploads = 64 / less.min(4) as usize;
    let pixels: Arc<[u8]> = vec![7; LARGE - BITMAP_HEAD].into();
    let (mut four, mut many) = (Large::default(), Large::default());
    for round in 0..ROUNDS {
        four.add(large(&service, target, &pixels, uploads, 4, 2 * round).await?);
        many.add(large(&service, target, &pixels, uploads, uploads, 2 * round + 1).await?);
    }
    board.row("uploads of 16 MiB, 4 at once", four.per_second(), "uploads/s", Bar::None);
    board.row(format!("{uploads} at once"), many.per_second(), "uploads/s", Bar::None);
    board.row("many over four", many.per_second() / four.per_second(), "x", Bar::AtLeast(0.9));
    board.row(format!("most memory of web with {uploads} at once"), many.memory_mb, "MB", Bar::AtMost(100.0));
    service.stop().await
}

/// Returns one of the addresses from `first` on.
fn address(first: Ipv4Addr, number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(first) + number % ADDRESSES)
}

async fn connect(target: SocketAddr, from: Ipv4Addr) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    Ok(timeout(NEVER, socket.connect(target)).await??)
}

/// Opens connections and sends one request on each.
async fn crowd(target: SocketAddr, count: u32, first: Ipv4Addr) -> anyhow::Result<Vec<TcpStream>> {
    let mut opened = Vec::new();
    for batch in (0..count).collect::<Vec<_>>().chunks(100) {
        let mut some: FuturesUnordered<_> = batch.iter().map(|n| asked(target, address(first, *n))).collect();
        while let Some(stream) = some.next().await {
            opened.push(stream?.context("a connection was refused")?);
        }
    }
    Ok(opened)
}

/// Opens a connection that got a response; `None` if it was refused.
async fn asked(target: SocketAddr, from: Ipv4Addr) -> anyhow::Result<Option<TcpStream>> {
    let mut stream = connect(target, from).await?;
    let _refused_already = stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut answer = [0; 1024];
    let read = timeout(NEVER, stream.read(&mut answer)).await?.unwrap_or(0);
    Ok(answer[..read].starts_with(b"HTTP/1.1 200").then_some(stream))
}

/// Opens as many connections from one address as it gets.
async fn greed(target: SocketAddr, wanted: u32, from: Ipv4Addr) -> anyhow::Result<Vec<TcpStream>> {
    let mut got = Vec::new();
    for _ in 0..wanted {
        got.extend(asked(target, from).await?);
    }
    Ok(got)
}

/// Returns whether the server keeps the connection; otherwise its end can be read.
fn is_open(stream: &TcpStream) -> bool {
    matches!(stream.try_read(&mut [0; 1]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

/// Sends an upload that never ends.
async fn dribble(target: SocketAddr, from: Ipv4Addr) -> anyhow::Result<()> {
    let mut stream = connect(target, from).await?;
    stream.write_all(b"POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: 5000000\r\n\r\n").await?;
    let mut every = interval(Duration::from_secs(1));
    loop {
        every.tick().await;
        stream.write_all(&[b'B'; 1000]).await?;
    }
}

/// Clients with normal uploads.
struct Honest {
    target: SocketAddr,
    sent: u32,
}

impl Honest {
    /// Returns the 99th percentile of the latency of uploads, in milliseconds. Each counts from its
    /// due time.
    async fn p99(&mut self, seconds: u64) -> anyhow::Result<f64> {
        let mut uploads = JoinSet::new();
        let mut due = interval(Duration::from_secs(1) / HONEST as u32);
        for _ in 0..seconds * HONEST {
            let at = due.tick().await;
            self.sent += 1;
            let (target, number) = (self.target, self.sent);
            uploads.spawn(async move {
                upload(target, number, &[7; 2000 - BITMAP_HEAD]).await?;
                Ok::<_, anyhow::Error>(at.elapsed().as_secs_f64() * 1e3)
            });
        }
        let mut times = Vec::new();
        while let Some(time) = uploads.join_next().await {
            times.push(time??);
        }
        times.sort_unstable_by(f64::total_cmp);
        Ok(times[times.len() * 99 / 100])
    }
}

/// Returns the first bytes of a bitmap, different for every number.
fn bitmap_head(number: u32) -> [u8; BITMAP_HEAD] {
    let mut head = [0; BITMAP_HEAD];
    head[..2].copy_from_slice(b"BM");
    head[2..6].copy_from_slice(&number.to_le_bytes());
    head[14] = 40;
    head
}

/// Uploads the bitmap with this number and these pixels.
async fn upload(target: SocketAddr, number: u32, pixels: &[u8]) -> anyhow::Result<()> {
    let mut stream = connect(target, Ipv4Addr::LOCALHOST).await?;
    stream.set_nodelay(true)?;
    let mut head = format!(
        "POST /upload HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: image/bmp\r\ncontent-length: {}\r\n\r\n",
        BITMAP_HEAD + pixels.len()
    )
    .into_bytes();
    head.extend(bitmap_head(number));
    stream.write_all(&head).await?;
    stream.write_all(pixels).await?;
    let mut answer = Vec::new();
    timeout(NEVER, stream.read_to_end(&mut answer)).await??;
    if !answer.starts_with(b"HTTP/1.1 200") {
        bail!("an honest upload was answered {}", String::from_utf8_lossy(&answer));
    }
    Ok(())
}

/// The number of finished large uploads, their total time, and the peak memory of web.
#[derive(Default)]
struct Large {
    uploads: usize,
    took: Duration,
    memory_mb: f64,
}

impl Large {
    fn add(&mut self, other: Self) {
        self.uploads += other.uploads;
        self.took += other.took;
        self.memory_mb = self.memory_mb.max(other.memory_mb);
    }

    fn per_second(&self) -> f64 {
        self.uploads as f64 / self.took.as_secs_f64()
    }
}

/// Uploads large images, `at_once` at a time. The clients share the pixels: a buffer for each would
/// cost more than the server does, but only with concurrent uploads.
async fn large(
    service: &Service,
    target: SocketAddr,
    pixels: &Arc<[u8]>,
    uploads: usize,
    at_once: usize,
    series: u32,
) -> anyhow::Result<Large> {
    let places = Arc::new(tokio::sync::Semaphore::new(at_once));
    let start = Instant::now();
    let mut running = JoinSet::new();
    for number in 0..uploads as u32 {
        let (places, pixels) = (places.clone(), pixels.clone());
        running.spawn(async move {
            let _place = places.acquire_owned().await?;
            upload(target, (series + 1) << 16 | number, &pixels).await
        });
    }
    let (mut memory_mb, mut every) = (0.0_f64, interval(Duration::from_millis(50)));
    loop {
        tokio::select! {
            _ = every.tick() => memory_mb = memory_mb.max(service.web_memory_mb()),
            ended = running.join_next() => match ended {
                Some(ended) => ended??,
                None => break,
            },
        }
    }
    Ok(Large { uploads, took: start.elapsed(), memory_mb })
}
