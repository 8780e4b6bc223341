//! The programs that `eirs local` starts, and their ends.

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

/// A program that was started.
#[derive(Debug)]
pub(super) struct Role {
    name: &'static str,
    child: Child,
    group: Option<Pid>,
    /// When it was killed lately.
    kills: Vec<Instant>,
}

/// A program that is killed more often than this ...
const MOST_KILLS: usize = 3;
/// ... within this time ...
const KILLS_WITHIN: Duration = Duration::from_secs(60);
/// ... is started again after a pause: where the kernel kills it for want of memory, it should not
/// be busy with dying.
const PAUSE: Duration = Duration::from_secs(5);

impl Role {
    /// Starts the program of this name in the folder of this one, in a process group of its own: a
    /// terminal's Ctrl-C reaches `eirs local` alone, which stops the others in the right order.
    ///
    /// Must be called on the main thread: the program ends when the *thread* that started it does.
    pub(super) fn start(name: &'static str, environment: &[(&str, OsString)]) -> anyhow::Result<Self> {
        let (child, group) = Self::spawn(name, environment)?;
        Ok(Self { name, child, group, kills: Vec::new() })
    }

    /// Starts it once more, after its end.
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

    /// After which pause a further start may help: somebody killed it, or the kernel for want of
    /// memory. `None` for one that ended by itself: it has said why, and would end again. Of one
    /// that ran until it was killed, a file that was good has a mistake now, which can be corrected
    /// while the others serve.
    pub(super) fn pause_before_next_start(&mut self, status: ExitStatus) -> Option<Duration> {
        if is_bad_settings(status) && !self.kills.is_empty() {
            return Some(PAUSE);
        }
        status.signal()?;
        self.kills.retain(|kill| kill.elapsed() < KILLS_WITHIN);
        self.kills.push(Instant::now());
        Some(if self.kills.len() <= MOST_KILLS { Duration::ZERO } else { PAUSE })
    }

    /// The name of the token.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Waits for its end. Can be dropped and called again.
    pub(super) async fn ended(&mut self) -> ExitStatus {
        match self.child.wait().await {
            Ok(status) => status,
            // Nobody else waits for our children; if it happens all the same, it is gone.
            Err(_) => ExitStatus::from_raw(0),
        }
    }

    /// Whether it has ended.
    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Drains it.
    pub(super) fn ask_to_stop(&self) {
        self.signal(Signal::TERM);
    }

    /// Kills it, and waits until it is gone.
    pub(super) async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.ended().await;
    }

    fn signal(&self, what: Signal) {
        // Once it has been waited for, its number may be somebody else's.
        if let (Some(group), Some(_)) = (self.group, self.child.id()) {
            let _gone_meanwhile = kill_process_group(group, what);
        }
    }
}

/// Whether a program refused its settings or policies.
pub(super) fn is_bad_settings(status: ExitStatus) -> bool {
    status.code() == Some(i32::from(EXIT_BAD_SETTINGS))
}

/// How a program ended, as the end of a sentence that starts with its name.
pub(super) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(0), _) => "ended unexpectedly".into(),
        (Some(code), _) => format!("ended with exit code {code}; its output is above"),
        (None, signal) => format!("was killed by signal {}", signal.unwrap_or_default()),
    }
}

/// Whether a program that was asked to stop did. One that had not begun to listen to signals had
/// nothing to finish.
pub(super) fn stopped_well(status: ExitStatus) -> bool {
    status.success() || status.signal() == Some(Signal::TERM.as_raw())
}

/// The signals to stop.
#[derive(Debug)]
pub(super) struct Signals {
    term: unix::Signal,
    int: unix::Signal,
}

impl Signals {
    /// Takes SIGTERM and SIGINT over.
    pub(super) fn install() -> anyhow::Result<Self> {
        let installed = || -> io::Result<Self> {
            Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
        };
        installed().context("listening to signals")
    }

    /// Ends at the next one.
    pub(super) async fn next(&mut self) {
        tokio::select! { _ = self.term.recv() => {}, _ = self.int.recv() => {} }
    }
}

/// Kills every worker that the controller has written down, and its scripts; returns how many there
/// were. Workers outlive a controller, which is right everywhere but here.
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

/// What is needed of the controller's note on an instance.
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
    /// Whether the process of this number is still that worker: it was started with this instance
    /// and generation.
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
    async fn a_program_is_started_again_after_a_kill_with_a_pause_after_many_and_not_after_an_end_of_its_own()
    {
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
    async fn a_mistake_in_a_file_ends_a_first_start_and_is_waited_for_after_a_kill() {
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
    async fn only_the_worker_that_was_written_down_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("instances")).unwrap();
        // `sh` takes what follows its script for the script's parameters.
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
        // Between fork and exec a child looks like its parent.
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
        assert!(other.try_wait().unwrap().is_none(), "that number is somebody else's now");
        other.kill().await.unwrap();
    }
}
