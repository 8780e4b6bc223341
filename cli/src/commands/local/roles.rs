//! Starts and stops the programs of `eirs local`.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context;
use eirs_platform::{
    lifecycle::sibling, process_tree::kill_children_of, settings::EXIT_BAD_SETTINGS, state_folder,
};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::{
    process::{Child, Command},
    signal::unix::{self, SignalKind, signal},
};

/// A started program.
#[derive(Debug)]
pub(super) struct Role {
    name: &'static str,
    child: Child,
    group: Option<Pid>,
    /// The times of recent kills.
    kills: Vec<Instant>,
}

/// Number of kills within [`KILLS_WITHIN`] above which there is a pause before the next start.
const MOST_KILLS: usize = 3;
/// See [`MOST_KILLS`].
const KILLS_WITHIN: Duration = Duration::from_secs(60);
/// The pause. If the kernel kills the program for lack of memory, it should not restart in a tight
/// loop.
const PAUSE: Duration = Duration::from_secs(5);

impl Role {
    /// Starts the program with this name from the folder of this one, in its own process group:
    /// Ctrl-C in a terminal then only reaches `eirs local`, which stops the programs in the right
    /// order.
    ///
    /// Call it on the main thread: the program is killed when the *thread* that started it ends.
    pub(super) fn start(name: &'static str, environment: &[(&str, OsString)]) -> anyhow::Result<Self> {
        let (child, group) = Self::spawn(name, environment)?;
        Ok(Self { name, child, group, kills: Vec::new() })
    }

    /// Starts the program again after its end.
    pub(super) fn start_again(&mut self, environment: &[(&str, OsString)]) -> anyhow::Result<()> {
        (self.child, self.group) = Self::spawn(self.name, environment)?;
        Ok(())
    }

    fn spawn(name: &str, environment: &[(&str, OsString)]) -> anyhow::Result<(Child, Option<Pid>)> {
        let program = sibling(name)?;
        let child = Command::new(&program)
            .args(["--with-parent", &std::process::id().to_string()])
            .envs(environment.iter().map(|(key, value)| (key, value)))
            .process_group(0)
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("{} cannot be started", program.display()))?;
        let group = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        Ok((child, group))
    }

    /// Returns the pause after which a restart may help, if the program was killed, for example by
    /// the kernel for lack of memory. `None` if it ended by itself: it has reported the reason, and
    /// would end again. An exception is a program that ran until it was killed: if it now refuses a
    /// file, the mistake can be corrected while the others serve.
    pub(super) fn pause_before_next_start(&mut self, status: ExitStatus) -> Option<Duration> {
        if is_bad_settings(status) && !self.kills.is_empty() {
            return Some(PAUSE);
        }
        status.signal()?;
        self.kills.retain(|kill| kill.elapsed() < KILLS_WITHIN);
        self.kills.push(Instant::now());
        Some(if self.kills.len() <= MOST_KILLS { Duration::ZERO } else { PAUSE })
    }

    /// Returns the name of the program.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Waits for the end of the program. Cancel-safe: it can be dropped and called again.
    pub(super) async fn ended(&mut self) -> ExitStatus {
        match self.child.wait().await {
            Ok(status) => status,
            // No other code waits for our children; if it happens nevertheless, the program has
            // ended.
            Err(_) => ExitStatus::from_raw(0),
        }
    }

    /// Returns whether the program has ended.
    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Drains the program.
    pub(super) fn ask_to_stop(&self) {
        self.signal(Signal::TERM);
    }

    /// Kills the program, and waits for its end.
    pub(super) async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.ended().await;
    }

    fn signal(&self, what: Signal) {
        // After it was reaped, its number may belong to another process.
        if let (Some(group), Some(_)) = (self.group, self.child.id()) {
            let _gone_meanwhile = kill_process_group(group, what);
        }
    }
}

/// Returns whether a program refused its settings or policies.
pub(super) fn is_bad_settings(status: ExitStatus) -> bool {
    status.code() == Some(i32::from(EXIT_BAD_SETTINGS))
}

/// Describes how a program ended, as the end of a sentence that starts with its name.
pub(super) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(0), _) => "ended unexpectedly".into(),
        (Some(code), _) => format!("ended with exit code {code}; its output is above"),
        (None, signal) => format!("was killed by signal {}", signal.unwrap_or_default()),
    }
}

/// Returns whether a program that was asked to stop did so. A program that did not handle signals
/// yet had nothing to finish.
pub(super) fn stopped_well(status: ExitStatus) -> bool {
    status.success() || status.signal() == Some(Signal::TERM.as_raw())
}

/// The signals that stop the service.
#[derive(Debug)]
pub(super) struct Signals {
    term: unix::Signal,
    int: unix::Signal,
}

impl Signals {
    /// Installs handlers for SIGTERM and SIGINT.
    pub(super) fn install() -> anyhow::Result<Self> {
        let installed = || -> io::Result<Self> {
            Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
        };
        installed().context("listening to signals")
    }

    /// Waits for the next signal.
    pub(super) async fn next(&mut self) {
        tokio::select! { _ = self.term.recv() => {}, _ = self.int.recv() => {} }
    }
}

/// Kills every worker in the controller's records, with its scripts; returns their number.
/// Elsewhere, workers outlive a controller on purpose.
pub(super) fn kill_workers(state: &Path) -> usize {
    let mut killed = 0;
    let records = fs::read_dir(state.join(state_folder::INSTANCES)).into_iter().flatten().flatten();
    for record in records.filter_map(|entry| read_record(&entry.path())) {
        if let Some(pid) =
            record.process.as_ref().filter(|process| record.is(process)).and_then(RecordedProcess::group)
        {
            let _gone_meanwhile = kill_process_group(pid, Signal::STOP);
            kill_children_of(pid);
            let _gone_meanwhile = kill_process_group(pid, Signal::KILL);
            killed += 1;
        }
    }
    killed
}

/// The needed part of the controller's record of an instance.
#[derive(Debug, Deserialize)]
struct Record {
    id: String,
    generation: Option<String>,
    process: Option<RecordedProcess>,
}

#[derive(Debug, Deserialize)]
struct RecordedProcess {
    pid: u32,
}

fn read_record(path: &Path) -> Option<Record> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

impl Record {
    /// Returns whether the process with this number is still that worker: it was started with this
    /// instance and generation.
    fn is(&self, process: &RecordedProcess) -> bool {
        let line = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
        let arguments: Vec<_> = line.split(|byte| *byte == 0).collect();
        let has = |flag: &str, value: &str| {
            arguments.windows(2).any(|pair| pair == [flag.as_bytes(), value.as_bytes()])
        };
        self.generation.as_ref().is_some_and(|generation| has("--generation", generation))
            && has("--instance", &self.id)
    }
}

impl RecordedProcess {
    fn group(&self) -> Option<Pid> {
        Pid::from_raw(self.pid.cast_signed()).filter(|pid| *pid != Pid::INIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_killed_program_is_restarted_with_a_pause_after_many_kills() {
        let child = Command::new("true").spawn().unwrap();
        let mut role = Role { name: "true", child, group: None, kills: Vec::new() };
        let (killed, ended) = (ExitStatus::from_raw(9), ExitStatus::from_raw(1 << 8));
        for _ in 0..MOST_KILLS {
            assert_eq!(role.pause_before_next_start(killed), Some(Duration::ZERO));
        }
        assert_eq!(role.pause_before_next_start(killed), Some(PAUSE));
        assert_eq!(role.pause_before_next_start(ended), None);
        role.ended().await;
    }

    #[tokio::test]
    async fn bad_settings_end_a_first_start_but_not_a_restart_after_a_kill() {
        let child = Command::new("true").spawn().unwrap();
        let mut role = Role { name: "true", child, group: None, kills: Vec::new() };
        let (killed, refused) = (ExitStatus::from_raw(9), ExitStatus::from_raw(78 << 8));
        assert_eq!(role.pause_before_next_start(refused), None);
        assert_eq!(role.pause_before_next_start(killed), Some(Duration::ZERO));
        for _ in 0..20 {
            assert_eq!(role.pause_before_next_start(refused), Some(PAUSE));
        }
        role.ended().await;
    }

    #[tokio::test]
    async fn only_the_recorded_worker_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("instances")).unwrap();
        // `sh` takes arguments after the script as parameters of the script.
        let start = |generation: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", "sleep 60; :", "x", "--instance", "default-1", "--generation", generation]);
            command.process_group(0).kill_on_drop(true).spawn().unwrap()
        };
        let (mut worker, mut other) = (start("g2"), start("g1"));
        for (name, child) in [("worker", &worker), ("other", &other)] {
            let record = serde_json::json!({"id": "default-1", "generation": "g2",
                "process": {"pid": child.id().unwrap()}});
            fs::write(folder.path().join("instances").join(format!("{name}.json")), record.to_string())
                .unwrap();
        }
        // Between fork and exec, a child has the command line of its parent.
        let is_itself = |child: &tokio::process::Child| {
            let line = fs::read(format!("/proc/{}/cmdline", child.id().unwrap())).unwrap();
            line.windows(12).any(|part| part == b"--generation")
        };
        let both = async {
            while !is_itself(&worker) || !is_itself(&other) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), both).await.unwrap();
        assert_eq!(kill_workers(folder.path()), 1);
        let status = tokio::time::timeout(Duration::from_secs(10), worker.wait()).await.unwrap().unwrap();
        assert_eq!(status.signal(), Some(9));
        assert!(other.try_wait().unwrap().is_none(), "that number now belongs to another process");
        other.kill().await.unwrap();
    }
}
