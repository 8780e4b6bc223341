//! Runs a service for measurements, with the executables beside this one and its own state folder,
//! and measures its resources.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};
use eirs_load::Url;
use eirs_platform::{lifecycle::sibling, settings::Model, state_folder};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

const START: Duration = Duration::from_secs(30);

/// Running processes, which [`Service::stop`] drains. Dropping this kills them.
pub(super) struct Service {
    pub(super) url: Url,
    pub(super) state: PathBuf,
    web: Child,
    others: Vec<Child>,
    environment: Vec<(String, String)>,
}

/// Returns the settings of a model as environment variables.
pub(super) fn model_environment(model: &Model) -> Vec<(String, String)> {
    let value = serde_json::to_value(model).unwrap_or_default();
    let keys = value.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    keys.map(|(key, value)| (format!("EIRS_MODELS__DEFAULT__{}", key.to_uppercase()), text(value))).collect()
}

/// Returns the settings of the classifier that ignores its images.
pub(super) fn noop_environment() -> Vec<(String, String)> {
    [("EIRS_MODELS__DEFAULT__CLASSIFIER", "noop"), ("EIRS_WORKER__SLOTS", "32")]
        .map(|(k, v)| (k.into(), v.into()))
        .into()
}

impl Service {
    /// Starts web and this number of workers, and waits until they take jobs.
    pub(super) async fn start(
        folder: &Path,
        workers: usize,
        settings: Vec<(String, String)>,
    ) -> anyhow::Result<Self> {
        let mut service = Self::start_web(folder, settings).await?;
        for number in 0..workers {
            let mut command = service.command("eirs-worker")?;
            command.args(["--instance", &format!("bench-{number}")]);
            service.others.push(command.spawn().context("starting a worker")?);
        }
        service.wait_for_workers(workers).await?;
        Ok(service)
    }

    /// Starts web and a controller that starts workers on demand.
    pub(super) async fn start_from_zero(
        folder: &Path,
        settings: Vec<(String, String)>,
    ) -> anyhow::Result<Self> {
        Self::start_controlled(folder, settings, include_str!("../../../../policies/default.toml"), "1s")
            .await
    }

    /// The same with a policy and a tick.
    pub(super) async fn start_controlled(
        folder: &Path,
        settings: Vec<(String, String)>,
        policy: &str,
        tick: &str,
    ) -> anyhow::Result<Self> {
        let mut service = Self::start_web(folder, settings).await?;
        let policies = folder.join("policies");
        fs::create_dir_all(&policies)?;
        fs::write(policies.join("default.toml"), policy)?;
        let mut command = service.command("eirs-controller")?;
        command.arg("--policies").arg(policies).args(["--instance-limit", "2", "--on-exit", "drain"]);
        command.env("EIRS_CONTROLLER__TICK", tick);
        service.others.push(command.spawn().context("starting the controller")?);
        let status = service.state.join(state_folder::STATUS);
        within(START, "the controller's first look", || status.exists()).await?;
        Ok(service)
    }

    async fn start_web(folder: &Path, settings: Vec<(String, String)>) -> anyhow::Result<Self> {
        let state = folder.join("state");
        let address_file = folder.join(state_folder::WEB_ADDRESS);
        let _none = fs::remove_file(&address_file);
        let mut environment = settings;
        environment.push(("EIRS_LOCAL__STATE".into(), state.display().to_string()));
        environment.push(("EIRS_WORKER__THREADS".into(), "1".into()));
        environment.push(("EIRS_TELEMETRY__FILTER".into(), "warn".into()));
        let mut command = command_for("eirs-web", &environment)?;
        command.args(["--listen", "127.0.0.1:0"]).env("EIRS_WEB__ADDRESS_FILE", &address_file);
        command.env("EIRS_WEB__ADMIN_LISTEN", "127.0.0.1:0");
        let web = command.spawn().context("starting the web server")?;
        let address = || fs::read_to_string(&address_file).ok().filter(|text| !text.is_empty());
        within(START, "the web server to listen", || address().is_some()).await?;
        let url = address().unwrap_or_default().parse().map_err(anyhow::Error::msg)?;
        Ok(Self { url, state, web, others: Vec::new(), environment })
    }

    /// Starts another worker, which the caller must end.
    pub(super) fn worker(&self) -> anyhow::Result<Child> {
        self.command("eirs-worker")?.spawn().context("starting a worker")
    }

    fn command(&self, program: &str) -> anyhow::Result<Command> {
        command_for(program, &self.environment)
    }

    /// Waits until the workers have loaded their models and opened their queue; the first job shows
    /// that they take jobs.
    async fn wait_for_workers(&self, workers: usize) -> anyhow::Result<()> {
        let loaded = |child: &Child| open_files(child.id(), "bells/requests-") > 0;
        within(START, "the workers to start", || {
            self.others.iter().filter(|child| loaded(child)).count() >= workers
        })
        .await
    }

    /// Returns the CPU seconds of all processes, including workers that a controller started.
    pub(super) fn cpu_seconds(&self) -> f64 {
        self.pids().into_iter().filter_map(cpu_seconds).sum()
    }

    /// The same for the web server only.
    pub(super) fn web_cpu_seconds(&self) -> f64 {
        cpu_seconds(self.web.id()).unwrap_or(f64::NAN)
    }

    /// Returns the proportional memory of all processes, in MB.
    pub(super) fn memory_mb(&self) -> f64 {
        self.pids().into_iter().filter_map(|pid| pss_kb(pid).ok()).sum::<f64>() / 1e3
    }

    /// Returns the proportional memory of the web server, in MB.
    pub(super) fn web_memory_mb(&self) -> f64 {
        pss_kb(self.web.id()).unwrap_or(f64::NAN) / 1e3
    }

    /// Returns the proportional memory of the workers that were started here, in MB.
    pub(super) fn workers_memory_mb(&self) -> f64 {
        self.others.iter().filter_map(|child| pss_kb(child.id()).ok()).sum::<f64>() / 1e3
    }

    /// Kills all processes, like a crash.
    pub(super) fn kill(&mut self) {
        for child in self.others.iter_mut().chain([&mut self.web]) {
            let _gone = child.kill();
        }
    }

    fn pids(&self) -> Vec<u32> {
        let started = std::iter::once(self.web.id()).chain(self.others.iter().map(Child::id));
        let status = fs::read_to_string(self.state.join(state_folder::STATUS)).unwrap_or_default();
        let status: serde_json::Value = serde_json::from_str(&status).unwrap_or_default();
        let pools = status["pools"].as_array().cloned().unwrap_or_default();
        let instances =
            pools.iter().flat_map(|pool| pool["instances"].as_array().cloned().unwrap_or_default());
        let fleet = instances.filter_map(|instance| instance["pid"].as_u64()).map(|pid| pid as u32);
        started.chain(fleet).collect()
    }

    /// Drains all processes.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        for child in self.others.iter_mut().chain([&mut self.web]) {
            kill_process(Pid::from_child(child), Signal::TERM).context("stopping a process")?;
            let exited = async {
                while child.try_wait()?.is_none() {
                    sleep(Duration::from_millis(5)).await;
                }
                Ok::<_, std::io::Error>(())
            };
            tokio::time::timeout(START, exited).await.context("a process did not drain")??;
        }
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        for child in self.others.iter_mut().chain([&mut self.web]) {
            let _gone = child.kill();
            let _gone = child.wait();
        }
    }
}

fn command_for(program: &str, environment: &[(String, String)]) -> anyhow::Result<Command> {
    let mut command = Command::new(sibling(program)?);
    command.envs(environment.iter().cloned()).stdin(Stdio::null());
    Ok(command)
}

/// Polls until the condition holds.
pub(super) async fn within(limit: Duration, what: &str, is_so: impl Fn() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    while !is_so() {
        ensure!(Instant::now() < deadline, "waited in vain for {what}");
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Returns the user and system time of a process (proc(5), fields 14 and 15 of `stat`).
pub(super) fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<_> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks / rustix::param::clock_ticks_per_second() as f64)
}

/// Returns the memory of a process in kB, where shared pages count in proportion (proc(5),
/// `smaps_rollup`).
fn pss_kb(pid: u32) -> anyhow::Result<f64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).context("there is no Pss")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn open_files(pid: u32, part: &str) -> usize {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    links
        .filter_map(|link| fs::read_link(link.path()).ok())
        .filter(|path| path.to_string_lossy().contains(part))
        .count()
}
