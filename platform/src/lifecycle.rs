//! The lifecycle of a process: it becomes ready, drains on a signal, and ends in time. A second
//! signal ends it at once.

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

/// Interval between updates of the line in `systemctl status`.
const STATUS_EVERY: Duration = Duration::from_secs(5);
/// The same during a drain, when an operator may be waiting for its end.
const STATUS_EVERY_DRAINING: Duration = Duration::from_secs(1);

/// A shared handle on the lifecycle.
#[derive(Debug, Clone)]
pub struct Lifecycle {
    drain: CancellationToken,
    reload: Arc<Notify>,
    last_act: Arc<OnceLock<fn()>>,
    /// Interval at which a loop must report that it is alive.
    watchdog: Option<Duration>,
}

impl Lifecycle {
    /// Handles SIGTERM and SIGINT (drain; the second one exits at once) and SIGHUP (reload), and
    /// notifies systemd's watchdog, if there is one, while the runtime runs.
    pub fn install() -> io::Result<Self> {
        let lifecycle = Self::install_for_loop()?;
        if let Some(every) = lifecycle.watchdog {
            tokio::spawn(feed_watchdog(every));
        }
        Ok(lifecycle)
    }

    /// Like [`install`](Self::install), for a process whose work is one loop: the loop itself
    /// notifies the watchdog by [`goes_on`](Self::goes_on), so that a stuck loop is noticed even if
    /// the runtime runs.
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

    /// Creates a lifecycle without signals, for tests: it drains when the token is cancelled.
    pub fn detached(drain: CancellationToken) -> Self {
        Self { drain, reload: Arc::default(), last_act: Arc::default(), watchdog: None }
    }

    /// Returns the token that is cancelled when the process must drain.
    pub fn drain(&self) -> &CancellationToken {
        &self.drain
    }

    /// Sets what is done at a second signal before the process exits.
    pub fn at_a_second_signal(&self, last_act: fn()) {
        let _the_first_one_counts = self.last_act.set(last_act);
    }

    /// Completes at the next request to reload.
    pub async fn reload_requested(&self) {
        self.reload.notified().await;
    }

    /// Returns the maximum interval between calls of [`goes_on`](Self::goes_on); `None` without a
    /// watchdog.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Notifies systemd's watchdog that the process is alive.
    pub fn goes_on(&self) {
        if self.watchdog.is_some() {
            notify_systemd(&[NotifyState::Watchdog]);
        }
    }

    /// Notifies systemd that the process is ready.
    pub fn ready(&self, status: &str) {
        notify_systemd(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// Sets the line in `systemctl status`.
    pub fn status(&self, status: &str) {
        notify_systemd(&[NotifyState::Status(status)]);
    }

    /// Notifies systemd that the process drains.
    pub fn stopping(&self, status: &str) {
        notify_systemd(&[NotifyState::Stopping, NotifyState::Status(status)]);
    }

    /// Notifies systemd that the stop takes up to `longest`, regardless of `TimeoutStopSec=`: the
    /// drain deadline is a setting, and the unit must not cut it short.
    pub fn takes(&self, longest: Duration) {
        // The variant of the crate is limited to 71 minutes.
        notify_systemd(&[NotifyState::Custom(&format!("EXTEND_TIMEOUT_USEC={}", longest.as_micros()))]);
    }

    /// Updates the line in `systemctl status` from `summary` every few seconds. When the drain
    /// begins, notifies systemd that the process stops, which takes at most `drain`. Does nothing
    /// without systemd.
    pub fn keep_status(&self, drain: Duration, summary: impl Fn() -> String + Send + 'static) {
        if std::env::var_os("NOTIFY_SOCKET").is_some() {
            tokio::spawn(show(self.clone(), drain, summary));
        }
    }
}

/// Notifies systemd; ignored if the process was not started by it.
fn notify_systemd(states: &[NotifyState<'_>]) {
    let _no_systemd = sd_notify::notify(states);
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
            // 128 plus the number of the signal, as shells report it.
            std::process::exit(128 + number);
        }
        drain.cancel();
    }
}

/// Runs on the runtime on purpose: systemd must notice if the runtime is stuck.
async fn feed_watchdog(every: Duration) {
    let mut ticks = tokio::time::interval(every);
    loop {
        ticks.tick().await;
        notify_systemd(&[NotifyState::Watchdog]);
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
    // After the notification of the stop, because it extends that, which may not have been
    // requested by systemd.
    lifecycle.takes(drain);
    let mut ticks = tokio::time::interval(STATUS_EVERY_DRAINING);
    loop {
        ticks.tick().await;
        show(format!("draining: {}", summary()));
    }
}

/// Disables transparent huge pages for this process: with them, a buffer of a few kilobytes takes
/// two megabytes, which is not worth it for a process that mostly waits. Ignored if the kernel does
/// not support it.
pub fn keep_memory_small() {
    let _unchanged = rustix::thread::disable_transparent_huge_pages(true);
}

/// Raises the limit of open files to the maximum; returns the new limit. The default of 1,024 is
/// for programs that use bit sets of descriptors; a server needs one for each connection.
pub fn raise_file_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).map(|()| maximum);
    // Without permission, as under a filter of system calls, the limit is unchanged.
    raised.unwrap_or(current).unwrap_or(u64::MAX)
}

/// Makes the kernel send SIGTERM to this process when its parent dies, so that nothing started by
/// `eirs local` outlives it.
pub fn drain_with_parent(parent: u32) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
    let now = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get().cast_unsigned());
    // The parent died before the call.
    if now != parent {
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM)?;
    }
    Ok(())
}

/// Returns the path of another program in the folder of this one: programs start each other from
/// there, never from `$PATH`, which may have another version.
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

/// Waits for `work` for at most `deadline`; returns whether it finished.
pub async fn finish_within(deadline: Duration, work: impl Future) -> bool {
    tokio::time::timeout(deadline, work).await.is_ok()
}
