//! What an operator can set, in layers: compiled defaults → the settings file → `EIRS_SECTION__KEY`
//! → flags.
//!
//! Every complaint about a layer is collected and names where the value came from and its key, so
//! that one start shows all mistakes. `settings/load.rs` does that; this file says what there is.
//! No secret is a setting.

mod aws;
mod aws_limits;
pub(crate) mod collector;
mod distribution;
mod environment;
mod load;
mod mistyped;
mod model;
mod secrets;
mod setup;
mod simulate;
pub mod units;
mod web;
mod webhook;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::state_folder;

pub use aws::{Aws, Endpoints};
pub use distribution::Distribution;
pub use load::{BadSettings, Layers};
pub use mistyped::nearest;
pub use model::{
    Alpha, Augment, Channels, Classifier, Colour, Engine, Filter, Layout, Model, PadPlace, PerChannel,
    Preset, Protocol, Provider, ResizeMode, Scores, Size, labels_beside,
};
pub use setup::{CpuCredits, Os, Setup, Update};
pub use simulate::Simulate;
pub use web::{Audience, Tls, Web, is_rate};
pub use webhook::{AlertWebhook, Webhook};

/// The exit code of every EIRS program for a bad configuration (`EX_CONFIG` of sysexits.h).
pub const EXIT_BAD_SETTINGS: u8 = 78;

/// Everything that can be set, for all EIRS programs: they share one file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where queues, blobs and instances live. Chosen here, never guessed.
    pub backend: BackendKind,
    /// The local backend.
    pub local: Local,
    /// The AWS backend.
    pub aws: Aws,
    /// What is set up there.
    pub setup: Setup,
    /// How messages are delivered, on any backend.
    pub queue: Queue,
    /// The web server.
    pub web: Web,
    /// The workers.
    pub worker: Worker,
    /// The controller.
    pub controller: Controller,
    /// Logs and traces.
    pub telemetry: Telemetry,
    /// What can be asked for with `?model=`; without it, `default`.
    pub models: BTreeMap<String, Model>,
}

/// A kind of backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackendKind {
    /// One machine: SQLite, a folder, child processes.
    Local,
    /// SQS, S3, EC2 and SSM.
    Aws,
}

/// `[local]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Local {
    /// The folder of the queue, the blobs and the controller's notes.
    pub state: PathBuf,
    /// Whether what was answered must survive a power cut, and not only a kill of every process.
    pub sync: bool,
    /// How long an image is kept, by the time that the service runs; 0 keeps all.
    #[serde(with = "units::duration")]
    pub expire_images: Duration,
    /// How long a result is kept, likewise.
    #[serde(with = "units::duration")]
    pub expire_results: Duration,
    /// So much stays free on the disk of the state folder, but a tenth of it at most: below, new
    /// images are refused.
    pub keep_free: ByteSize,
}

/// `[queue]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Queue {
    /// How long a job belongs to the worker that received it, unless the worker renews it.
    #[serde(with = "units::duration")]
    pub visibility: Duration,
    /// How many workers may die of a job before it is given up and put with the dead letters.
    pub max_receives: u32,
    /// For how long a job that fails is tried again before it is given up.
    #[serde(with = "units::duration")]
    pub retry_for: Duration,
    /// How long a job waits for a worker before it goes to the dead letters.
    #[serde(with = "units::duration")]
    pub retention: Duration,
}

/// `[worker]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Worker {
    /// Threads that decode and classify; 0 is one per core.
    pub threads: usize,
    /// Jobs held at once; 0 is one more than threads, so that an image is fetched while another is
    /// looked at.
    pub slots: usize,
    /// Memory for the images that are being decoded, of all threads together: an image waits for
    /// its part of it, and one that needs more is decoded alone.
    pub decode_memory: ByteSize,
    /// How long one long poll lasts. A drain may have to wait for it.
    #[serde(with = "units::duration")]
    pub poll: Duration,
    /// How often leases are renewed; a third of the visibility time-out is right.
    #[serde(with = "units::duration")]
    pub heartbeat: Duration,
    /// How often the worker reports to the controller.
    #[serde(with = "units::duration")]
    pub report_every: Duration,
    /// How long the worker may finish what it holds after a signal to stop; then it gives the rest
    /// back.
    #[serde(with = "units::duration")]
    pub drain_deadline: Duration,
    /// In a cloud: a worker that has held nothing for so long, and hears of no controller that
    /// would send it home, leaves by itself; 0 is never.
    #[serde(with = "units::duration")]
    pub abandoned_after: Duration,
    /// A worker for which everything has failed for so long leaves, to be replaced; 0 is never.
    #[serde(with = "units::duration")]
    pub replace_after: Duration,
    /// A job that took longer from its receipt to its end has a line in the log; 0 is never.
    #[serde(with = "units::duration")]
    pub slow_after: Duration,
}

/// `[controller]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Controller {
    /// The folder of the policy files.
    pub policies: PathBuf,
    /// The longest time between two looks at the queue and the fleet.
    #[serde(with = "units::duration")]
    pub tick: Duration,
    /// A cap on the instances of all pools together, whatever the policies say; 0 is none.
    pub instance_limit: u32,
    /// What becomes of the instances when the controller stops.
    pub on_exit: OnExit,
    /// Where the controller writes what it sees and does, for `/status` and `eirs status`; by
    /// default in the state folder.
    pub status_file: Option<PathBuf>,
    /// The worker program that the process fleet starts; by default the `eirs-worker` beside this
    /// program.
    pub worker_program: Option<PathBuf>,
    /// Whether what is seen and decided is recorded in the state folder, for `eirs simulate`.
    pub recording: bool,
    /// How large the recording becomes; then the oldest part of it goes.
    pub recording_size: ByteSize,
    /// `[controller.webhook]`
    pub webhook: AlertWebhook,
    /// `[controller.simulate]`
    pub simulate: Simulate,
}

/// What becomes of the instances when the controller stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnExit {
    /// They go on; the next controller adopts them.
    Leave,
    /// They are drained and stopped first.
    Drain,
}

/// `[telemetry]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// Which events are logged: a level, or `tracing`'s filter directives.
    pub filter: String,
    /// How.
    pub format: LogFormat,
    /// The collector that spans are sent to, over OTLP/HTTP; without it, and without
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`, to nobody.
    pub otlp_endpoint: Option<String>,
    /// The share of the traces begun here that are collected; a trace that a client began is
    /// collected if the client says so.
    pub sample_ratio: f64,
}

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// The journal's own protocol where systemd connected us to it, else text on stderr.
    Auto,
    /// Text on stderr.
    Text,
    /// The journal's own protocol, with every field a journal field.
    Journal,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            backend: BackendKind::Local,
            local: Local::default(),
            aws: Aws::default(),
            setup: Setup::default(),
            queue: Queue::default(),
            web: Web::default(),
            worker: Worker::default(),
            controller: Controller::default(),
            telemetry: Telemetry::default(),
            models: BTreeMap::from([(Model::DEFAULT.to_owned(), Model::default())]),
        }
    }
}

/// A twelfth of a year, as settings are written.
const MONTH: Duration = Duration::from_secs(2_630_016);

impl Default for Local {
    fn default() -> Self {
        Self {
            state: PathBuf::from(".eirs"),
            sync: false,
            expire_images: MONTH,
            expire_results: MONTH * 3,
            keep_free: ByteSize::gib(1),
        }
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            visibility: Duration::from_secs(30),
            max_receives: 5,
            retry_for: Duration::from_secs(3600),
            retention: Duration::from_secs(4 * 24 * 3600),
        }
    }
}

impl Default for Worker {
    fn default() -> Self {
        Self {
            threads: 0,
            slots: 0,
            decode_memory: ByteSize::mib(512),
            poll: Duration::from_secs(5),
            heartbeat: Duration::from_secs(10),
            report_every: Duration::from_secs(10),
            drain_deadline: Duration::from_secs(60),
            abandoned_after: Duration::from_secs(600),
            replace_after: Duration::from_secs(300),
            slow_after: Duration::from_secs(10),
        }
    }
}

impl Default for Controller {
    fn default() -> Self {
        Self {
            policies: PathBuf::from("policies"),
            tick: Duration::from_secs(5),
            instance_limit: 0,
            on_exit: OnExit::Leave,
            status_file: None,
            worker_program: None,
            recording: true,
            recording_size: ByteSize::mib(64),
            webhook: AlertWebhook::default(),
            simulate: Simulate::default(),
        }
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { filter: "info".into(), format: LogFormat::Auto, otlp_endpoint: None, sample_ratio: 1.0 }
    }
}

impl Settings {
    /// Where the controller's status is written and read.
    pub fn status_file(&self) -> PathBuf {
        self.controller.status_file.clone().unwrap_or_else(|| self.local.state.join(state_folder::STATUS))
    }

    /// Where the web server keeps what arrives and has no room in memory.
    pub fn upload_folder(&self) -> PathBuf {
        let own = || match self.backend {
            // On the same disk as the images, which it will be among.
            BackendKind::Local => self.local.state.join(state_folder::UPLOADS),
            BackendKind::Aws => std::env::temp_dir(),
        };
        self.web.upload_folder.clone().unwrap_or_else(own)
    }

    /// The name of this web host: the one that is set, or else `local` on one machine, and the
    /// machine's own in a cloud.
    pub fn web_host(&self) -> String {
        let own = || match self.backend {
            BackendKind::Local => "local".to_owned(),
            BackendKind::Aws => own_name(),
        };
        self.web.host.clone().unwrap_or_else(own)
    }

    /// What AWS would refuse of these settings, whatever the backend is now; `backend = "aws"`
    /// refuses to load them.
    pub fn refused_by_aws(&self) -> Option<BadSettings> {
        let complaints = aws_limits::complaints(self);
        (!complaints.is_empty()).then_some(BadSettings(complaints))
    }

    /// What no single value shows: every relation between values that must hold.
    fn complaints(&self) -> Vec<String> {
        let in_cloud = self.backend == BackendKind::Aws;
        let rules = [
            (
                self.worker.heartbeat * 2 < self.queue.visibility,
                "worker.heartbeat: must be less than half of queue.visibility, or a late heartbeat loses the lease",
            ),
            (self.worker.heartbeat >= Duration::from_millis(100), "worker.heartbeat: must be at least 100ms"),
            (self.queue.max_receives >= 1, "queue.max_receives: must be at least 1, or no job is ever tried"),
            (
                in_cloud || self.worker.poll <= Duration::from_secs(20),
                "worker.poll: must be at most 20s, or a drain waits long for it",
            ),
            (self.controller.tick >= Duration::from_millis(100), "controller.tick: must be at least 100ms"),
            (
                self.controller.recording_size >= ByteSize::kib(64),
                "controller.recording_size: must be at least 64KiB; `controller.recording = false` switches it off",
            ),
            (
                is_share(self.controller.simulate.boot_failure),
                "controller.simulate.boot_failure: must be a share, from 0 to 1",
            ),
            (
                is_share(self.controller.simulate.capacity_error),
                "controller.simulate.capacity_error: must be a share, from 0 to 1",
            ),
            (is_share(self.telemetry.sample_ratio), "telemetry.sample_ratio: must be a share, from 0 to 1"),
            (
                self.models.contains_key(Model::DEFAULT),
                "models: a model called `default` is \
                required",
            ),
        ];
        let broken = rules.into_iter().filter(|(holds, _)| !holds).map(|(_, complaint)| complaint.to_owned());
        let models = self.models.iter().flat_map(|(name, model)| {
            let name_complaint = (!is_name(name)).then(|| {
                format!("models.{name}: a model's name must be letters, digits and dashes, at most 60")
            });
            name_complaint
                .into_iter()
                .chain(model.complaints().into_iter().map(move |c| format!("models.{name}.{c}")))
        });
        let collector = self.telemetry.otlp_endpoint.as_deref().and_then(collector::complaint);
        broken
            .chain(collector.map(|why| format!("telemetry.otlp_endpoint: {why}")))
            .chain(self.web.complaints())
            .chain(self.controller.webhook.complaint())
            .chain(models)
            .chain(self.aws.complaints(in_cloud))
            .chain(if in_cloud { aws_limits::complaints(self) } else { Vec::new() })
            .chain(self.setup.complaints())
            .collect()
    }
}

/// What this machine calls itself, as far as it can be part of a name.
fn own_name() -> String {
    let own = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut name: String = own.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    name.truncate(30);
    if name.is_empty() { "web".to_owned() } else { name }
}

fn is_share(value: f64) -> bool {
    (0.0..=1.0).contains(&value)
}

/// Whether a text can be part of the name of a queue, a key and a file on every backend.
pub fn is_name(text: &str) -> bool {
    (1..=60).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn keys(prefix: &str, value: &Value, found: &mut Vec<(String, Value)>) {
        for (name, value) in value.as_object().into_iter().flatten() {
            let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            if value.is_object() { keys(&key, value, found) } else { found.push((key, value.clone())) }
        }
    }

    #[test]
    fn every_key_and_its_default_is_in_the_documentation() {
        let page = include_str!("../../docs/SETTINGS.md");
        let mut found = Vec::new();
        keys("", &serde_json::to_value(Settings::default()).unwrap(), &mut found);
        assert!(found.len() > 40, "{found:?}");
        for (key, value) in found {
            let key = key.strip_prefix("models.default.").unwrap_or(&key);
            let default = match value {
                Value::Null => String::new(),
                Value::String(text) => format!(" `{}`", text.replace(".0 ", "").replace(' ', "")),
                other => format!(" `{}`", other.to_string().replace(',', ", ")),
            };
            let row = format!("| `{key}` |{default} |");
            assert!(page.contains(&row), "docs/SETTINGS.md has no row {row}");
        }
    }
}
