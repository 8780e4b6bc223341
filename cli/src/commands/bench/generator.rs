//! Measures the load generator: the latency that it adds, with a server that knows its own, and the
//! load that one core generates.
//!
//! Generator and server each have a thread and, if there are two, a core of their own. The server
//! measures the time from reading an upload to sending the response, and responds with it, so the
//! error of each single upload is known. Reading and writing in the server count as errors of the
//! generator.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, anyhow, ensure};
use bytes::Bytes;
use eirs_load::{ImageFile, OpenLoop, Options, Report, Watch};
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio::{net::TcpListener, sync::oneshot, time::Instant};
use tokio_util::sync::CancellationToken;

use super::board::{Bar, Board};

/// The delay of the server before it responds.
const DELAY: Duration = Duration::from_millis(5);
/// Maximum error of the generator at the 99th percentile, at 1,000 uploads per second, in
/// milliseconds.
const ERROR_MS: f64 = 1.0;
/// The rates at which the highest is searched.
const RATES: [u32; 9] = [1_000, 2_000, 3_000, 5_000, 7_000, 9_000, 12_000, 16_000, 20_000];

/// Other load on the machine can only increase the error, so the best of several rounds describes
/// the generator.
const ROUNDS: u32 = 5;

/// Measures the error at a moderate rate, and the highest rate.
pub(super) fn measure(board: &mut Board, less: u64) -> anyhow::Result<()> {
    board.table(format!(
        "The load generator at 1,000 uploads/s, against a server that knows its latency of 5 ms; the \
         quietest of {ROUNDS} rounds"
    ));
    let length = Duration::from_secs(5) / less as u32;
    let mut quietest = drive(1_000, length, DELAY)?;
    for _ in 1..ROUNDS {
        let run = drive(1_000, length, DELAY)?;
        if run.error_ms(0.99) < quietest.error_ms(0.99) {
            quietest = run;
        }
    }
    board.row("error p50", quietest.error_ms(0.5), "ms", Bar::None);
    board.row("error p99", quietest.error_ms(0.99), "ms", Bar::AtMost(ERROR_MS));
    board.row("error max", quietest.error_ms(1.0), "ms", Bar::None);
    let late = quietest.report.punctuality.context("an open loop knows how late it is")?;
    board.row("uploads began late by, p99", late.late_p99_ms, "ms", Bar::None);

    board.table("The load generator on one core: the highest rate with an error of at most 1 ms at p99");
    let mut best: Option<Run> = None;
    for rate in RATES {
        let mut kept = None;
        for _ in 0..ROUNDS {
            let run = drive(rate, length, Duration::ZERO)?;
            if run.report.per_second >= 0.99 * f64::from(rate) && run.error_ms(0.99) <= ERROR_MS {
                kept = Some(run);
                break;
            }
        }
        match kept {
            Some(run) => best = Some(run),
            None => break,
        }
    }
    let Some(best) = best else {
        // A busy machine must not prevent the other measurements.
        board.row("uploads: not even the lowest rate was kept", 0.0, "uploads/s", Bar::AtLeast(5_000.0));
        return Ok(());
    };
    board.row("uploads", best.rate.into(), "uploads/s", Bar::AtLeast(5_000.0));
    let latency = best.report.latency_ms.context("every upload was answered")?;
    board.row("latency p50 at that rate", latency.p50, "ms", Bar::None);
    board.row("latency p99 at that rate", latency.p99, "ms", Bar::None);
    board.row("error p99 at that rate", best.error_ms(0.99), "ms", Bar::AtMost(ERROR_MS));
    board.row("CPU of the generator's core", best.cpu_share * 100.0, "%", Bar::None);
    Ok(())
}

/// A run, with the error of each upload.
struct Run {
    rate: u32,
    report: Report,
    errors_us: Vec<f64>,
    cpu_share: f64,
}

impl Run {
    fn error_ms(&self, quantile: f64) -> f64 {
        let place = (self.errors_us.len() as f64 * quantile).ceil() as usize;
        self.errors_us.get(place.saturating_sub(1)).map_or(f64::NAN, |us| us / 1e3)
    }
}

/// The label is the time that the server measured.
#[derive(Default)]
struct Errors(Mutex<Vec<f64>>);

impl Watch for Errors {
    fn classified(&self, _image: &str, label: &str, took: Duration) {
        let true_us: f64 = label.parse().unwrap_or(f64::NAN);
        let mut errors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        errors.push(took.as_secs_f64() * 1e6 - true_us);
    }
}

fn drive(rate: u32, length: Duration, delay: Duration) -> anyhow::Result<Run> {
    let cores = cores()?;
    let end = CancellationToken::new();
    let (listening, address) = oneshot::channel();
    let (server_end, server_core) = (end.clone(), cores[cores.len() - 1]);
    let server = thread::spawn(move || on_core(server_core, serve(delay, listening, server_end))?);
    let generator_core = cores[0];
    // The calling thread already runs a runtime, and must keep its cores.
    let generator = thread::spawn(move || {
        on_core(generator_core, async move {
            let address = address.await.context("the server did not start")?;
            let url = address.to_string().parse().map_err(anyhow::Error::msg)?;
            let image = ImageFile::in_memory("noise.bmp", Bytes::from(vec![7; 2_000]));
            let options = Options {
                requests: None,
                duration: Some(length),
                concurrency: 1000,
                open: Some(rate.to_string().parse::<OpenLoop>().map_err(anyhow::Error::msg)?),
                ..Options::new(url, vec![image])
            };
            let errors = Arc::new(Errors::default());
            let before = thread_cpu();
            let report = eirs_load::run(options, errors.clone()).await?;
            let cpu_share = (thread_cpu() - before) / report.seconds;
            ensure!(report.failed == 0, "{} uploads failed: {:?}", report.failed, report.failures);
            let mut errors_us = std::mem::take(&mut *errors.0.lock().unwrap_or_else(PoisonError::into_inner));
            errors_us.sort_by(f64::total_cmp);
            anyhow::Ok(Run { rate, report, errors_us, cpu_share })
        })?
    });
    let run = generator.join();
    end.cancel();
    let served = server.join();
    let run = run.map_err(|_panic| anyhow!("the generator's thread died"))??;
    served.map_err(|_panic| anyhow!("the server's thread died"))??;
    Ok(run)
}

/// Returns the cores that this process may use, at least one.
fn cores() -> anyhow::Result<Vec<usize>> {
    let allowed = sched_getaffinity(None).context("reading the cores")?;
    let cores: Vec<_> = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect();
    ensure!(!cores.is_empty(), "no core is available");
    Ok(cores)
}

/// Runs a future on this thread, pinned to one core.
fn on_core<T>(core: usize, work: impl Future<Output = T>) -> anyhow::Result<T> {
    let mut only = CpuSet::new();
    only.set(core);
    sched_setaffinity(None, &only).context("choosing a core")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(work))
}

/// Returns the CPU seconds of this thread.
fn thread_cpu() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Responds to each upload after the delay, with the actual time in microseconds.
async fn serve(
    delay: Duration,
    listening: oneshot::Sender<SocketAddr>,
    end: CancellationToken,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let _generator_gone = listening.send(listener.local_addr()?);
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted?,
            () = end.cancelled() => return Ok(()),
        };
        stream.set_nodelay(true)?;
        let service = service_fn(move |request: Request<Incoming>| async move {
            let _upload = request.into_body().collect().await?;
            let read = Instant::now();
            if !delay.is_zero() {
                // The sleep may take longer; the response contains the actual time.
                tokio::time::sleep(delay).await;
            }
            let took_us = read.elapsed().as_secs_f64() * 1e6;
            Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::from(format!("{took_us:.1}")))))
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_upload_has_its_error_and_no_error_is_negative() {
        let run = drive(200, Duration::from_millis(300), Duration::from_millis(3)).unwrap();
        assert_eq!((run.report.results, run.errors_us.len()), (60, 60));
        assert!(run.errors_us[0] > 0.0 && run.errors_us.is_sorted());
        assert!(run.report.latency_ms.unwrap().p50 >= 3.0, "the delay of the server is part of the latency");
        assert!(run.error_ms(0.5) <= run.error_ms(0.99) && run.error_ms(0.99) <= run.error_ms(1.0));
    }
}
