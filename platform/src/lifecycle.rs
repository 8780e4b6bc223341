//! The life of a process: it becomes ready, drains on a signal, and ends in time. A second signal
//! means now.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use sd_notify::NotifyState;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::Notify,
};
use tokio_util::sync::CancellationToken;

/// How often the line of `systemctl status` is brought up to date.
const STATUS_EVERY: Duration = Duration::from_secs(5);
/// The same while somebody may be waiting for the end.
const STATUS_EVERY_DRAINING: Duration = Duration::from_secs(1);

/// A handle on the process's life. Clones share it.
#[derive(Debug, Clone)]
pub struct Lifecycle {
    drain: CancellationToken,
    reload: Arc<Notify>,
    last_act: Arc<OnceLock<fn()>>,
    /// How often a loop must say that it goes on.
    watchdog: Option<Duration>,
}

impl Lifecycle {
    /// Listens to SIGTERM and SIGINT (drain; the second one exits at once) and SIGHUP (reload), and
    /// keeps systemd's watchdog content where there is one, for as long as the runtime runs.
    pub fn install() -> io::Result<Self> {
        let lifecycle = Self::install_for_loop()?;
        if let Some(every) = lifecycle.watchdog {
            tokio::spawn(feed_watchdog(every));
        }
        Ok(lifecycle)
    }

    /// The same for a process whose work is one loop: the watchdog hears of it when the loop says
    /// so by [`goes_on`](Self::goes_on), and a loop that is stuck is noticed although the runtime
    /// runs.
    pub fn install_for_loop() -> io::Result<Self> {
        let watchdog = sd_notify::watchdog_enabled().map(|limit| (limit / 3).max(Duration::from_millis(100)));
        let lifecycle = Self { watchdog, ..Self::detached(CancellationToken::new()) };
        let (term, int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::spawn(obey(term, int, lifecycle.drain.clone(), lifecycle.last_act.clone()));
        let (mut hangup, reload) = (signal(SignalKind::hangup())?, lifecycle.reload.clone());
        tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                reload.notify_one();
            }
        });
        Ok(lifecycle)
    }

    /// A life without signals, for tests: it drains when the token is cancelled.
    pub fn detached(drain: CancellationToken) -> Self {
        Self { drain, reload: Arc::default(), last_act: Arc::default(), watchdog: None }
    }

    /// Cancelled when the process must drain.
    pub fn drain(&self) -> &CancellationToken {
        &self.drain
    }

    /// What is done at a second signal, before the process leaves: nothing else of its own is.
    pub fn at_a_second_signal(&self, last_act: fn()) {
        let _the_first_one_counts = self.last_act.set(last_act);
    }

    /// Ends at the next request to reload.
    pub async fn reload_requested(&self) {
        self.reload.notified().await;
    }

    /// How often [`goes_on`](Self::goes_on) must be called at least; `None` where nobody watches.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Notifies systemd that the process is alive.
    pub fn goes_on(&self) {
        if self.watchdog.is_some() {
            tell(&[NotifyState::Watchdog]);
        }
    }

    /// Notifies systemd that the process serves.
    pub fn ready(&self, status: &str) {
        tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// Notifies systemd of what the process is doing, for `systemctl status`.
    pub fn status(&self, status: &str) {
        tell(&[NotifyState::Status(status)]);
    }

    /// Notifies systemd that the process drains.
    pub fn stopping(&self, status: &str) {
        tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
    }

    /// Notifies systemd that the stop in progress takes this long, whatever `TimeoutStopSec=` says:
    /// how long a drain may take is a setting, and a unit that nobody edited must not cut it short.
    pub fn takes(&self, longest: Duration) {
        // The crate's own variant ends at 71 minutes.
        tell(&[NotifyState::Custom(&format!("EXTEND_TIMEOUT_USEC={}", longest.as_micros()))]);
    }

    /// Keeps `systemctl status` up to date with what `summary` says, a line that is asked for every
    /// few seconds. From the drain on, which takes `drain` at most, systemd knows that the process
    /// is stopping. Without systemd this does nothing.
    pub fn keep_status(&self, drain: Duration, summary: impl Fn() -> String + Send + 'static) {
        if std::env::var_os("NOTIFY_SOCKET").is_some() {
            tokio::spawn(show(self.clone(), drain, summary));
        }
    }
}

/// A process that was not started by systemd has nobody to notify, and that is fine.
fn tell(states: &[NotifyState<'_>]) {
    let _nobody = sd_notify::notify(states);
}

async fn obey(mut term: Signal, mut int: Signal, drain: CancellationToken, last_act: Arc<OnceLock<fn()>>) {
    loop {
        let number = tokio::select! { _ = term.recv() => 15, _ = int.recv() => 2 };
        if drain.is_cancelled() {
            tracing::warn!(
                "second signal: ending at once; jobs in flight return to the queue when \
                their leases expire"
            );
            last_act.get().inspect(|act| act());
            // 128 and the signal's number, as shells report it.
            std::process::exit(128 + number);
        }
        drain.cancel();
    }
}

/// Runs on the runtime on purpose: when the runtime is stuck, systemd must notice.
async fn feed_watchdog(every: Duration) {
    let mut ticks = tokio::time::interval(every);
    loop {
        ticks.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}

async fn show(lifecycle: Lifecycle, drain: Duration, summary: impl Fn() -> String) {
    let mut shown = String::new();
    let mut show = |line: String| {
        if line != shown {
            lifecycle.status(&line);
            shown = line;
        }
    };
    let mut ticks = tokio::time::interval(STATUS_EVERY);
    while lifecycle.drain.run_until_cancelled(ticks.tick()).await.is_some() {
        show(summary());
    }
    lifecycle.stopping(&format!("draining: {}", summary()));
    // After the other: what it extends is the stop, which exists only now, however it was
    // requested.
    lifecycle.takes(drain);
    let mut ticks = tokio::time::interval(STATUS_EVERY_DRAINING);
    loop {
        ticks.tick().await;
        show(format!("draining: {}", summary()));
    }
}

/// Refuses huge pages for this process. The allocator asks for them, and a buffer of some kilobytes
/// then holds two megabytes; a process that mostly waits should not. Where the kernel cannot,
/// memory is what it is.
pub fn keep_memory_small() {
    let _unchanged = rustix::thread::disable_transparent_huge_pages(true);
}

/// Allows this process as many open files as it may allow itself, and answers how many these are.
/// Systems begin with 1,024, for programs that count files in bit sets; a server needs one for each
/// connection.
pub fn raise_file_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).map(|()| maximum);
    // Where it may not, as under a filter of system calls, it has what it was given.
    raised.unwrap_or(current).unwrap_or(u64::MAX)
}

/// Makes the kernel send this process a SIGTERM when its parent dies, so that nothing started by
/// `eirs local` outlives it.
pub fn drain_with_parent(parent: u32) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
    let now = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get().cast_unsigned());
    // It died before we asked.
    if now != parent {
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM)?;
    }
    Ok(())
}

/// The program of this name in the folder of the running one: roles start each other's executables,
/// never one from `$PATH` that may be of another version.
pub fn sibling(name: &str) -> io::Result<PathBuf> {
    let here = std::env::current_exe()?;
    let path = here.with_file_name(name);
    if path.is_file() {
        return Ok(path);
    }
    let folder = here.parent().unwrap_or(Path::new(".")).display();
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("{name} is not in {folder}, the folder of {}", here.display()),
    ))
}

/// Waits for `work`, at most until `deadline` has passed since the drain began; answers whether it
/// finished.
pub async fn finish_within(deadline: Duration, work: impl Future) -> bool {
    tokio::time::timeout(deadline, work).await.is_ok()
}
