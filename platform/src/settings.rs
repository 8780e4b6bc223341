//! The settings, in layers of rising precedence: compiled defaults → the settings file →
//! `EIRS_SECTION__KEY` → flags.
//!
//! All errors of the layers are collected, each with the source of the value and its key, so that
//! one start shows all mistakes (`settings/load.rs`). This file defines the settings. No secret is
//! a setting.

mod aws;
mod aws_limits;
pub(crate) mod collector;
mod distribution;
mod environment;
mod load;
mod mistyped;
mod model;
mod paths;
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

/// All settings of all EIRS programs, which share one file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The backend for queues, blobs and instances; never guessed.
    pub backend: BackendKind,
    /// The local backend.
    pub local: Local,
    /// The AWS backend.
    pub aws: Aws,
    /// The resources that `eirs setup` creates.
    pub setup: Setup,
    /// The delivery of messages, on any backend.
    pub queue: Queue,
    /// The web server.
    pub web: Web,
    /// The workers.
    pub worker: Worker,
    /// The controller.
    pub controller: Controller,
    /// Logs and traces.
    pub telemetry: Telemetry,
    /// The models for `?model=`; without that, `default`.
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
    /// The folder of the queue, the blobs and the controller's data.
    pub state: PathBuf,
    /// Sync confirmed data to the disk, so that it survives a power failure and not only a kill.
    pub sync: bool,
    /// How long an image is kept, in running time of the service; 0 keeps all.
    #[serde(with = "units::duration")]
    pub expire_images: Duration,
    /// How long a result is kept, in the same way.
    #[serde(with = "units::duration")]
    pub expire_results: Duration,
    /// Free space to keep on the disk of the state folder, at most a tenth of the disk; below it,
    /// new images are refused.
    pub keep_free: ByteSize,
}

/// `[queue]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Queue {
    /// How long a received job belongs to its worker, unless the worker renews the lease.
    #[serde(with = "units::duration")]
    pub visibility: Duration,
    /// After this many workers have crashed or hung while classifying a job, it becomes a dead
    /// letter.
    pub max_receives: u32,
    /// How long a failing job is retried before it is given up.
    #[serde(with = "units::duration")]
    pub retry_for: Duration,
    /// How long a job may wait for a worker before it becomes a dead letter.
    #[serde(with = "units::duration")]
    pub retention: Duration,
}

/// `[worker]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Worker {
    /// Number of threads that decode and classify; 0 is one per core.
    pub threads: usize,
    /// Maximum number of jobs held at once; 0 is one more than threads, so that one image is
    /// fetched while others are classified.
    pub slots: usize,
    /// Memory for decoding images, shared by all threads: an image waits for its part, and one that
    /// needs more than all is decoded alone.
    pub decode_memory: ByteSize,
    /// The duration of a long poll. A drain may have to wait for it.
    #[serde(with = "units::duration")]
    pub poll: Duration,
    /// Interval between renewals of leases; a third of the visibility timeout is a good value.
    #[serde(with = "units::duration")]
    pub heartbeat: Duration,
    /// Interval between reports to the controller.
    #[serde(with = "units::duration")]
    pub report_every: Duration,
    /// How long the worker may finish its jobs after a signal to stop; then it releases the rest.
    #[serde(with = "units::duration")]
    pub drain_deadline: Duration,
    /// In a cloud: how long a worker may hold no job and see no controller before it ends by
    /// itself; 0 is never.
    #[serde(with = "units::duration")]
    pub abandoned_after: Duration,
    /// How long everything may fail in a worker before it ends, to be replaced; 0 is never.
    #[serde(with = "units::duration")]
    pub replace_after: Duration,
    /// Jobs that take longer from receipt to end are logged; 0 is never.
    #[serde(with = "units::duration")]
    pub slow_after: Duration,
}

/// `[controller]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Controller {
    /// The folder of the policy files.
    pub policies: PathBuf,
    /// Maximum time between two passes.
    #[serde(with = "units::duration")]
    pub tick: Duration,
    /// Maximum number of instances of all pools together; 0 is no limit.
    pub instance_limit: u32,
    /// The action on the instances when the controller stops.
    pub on_exit: OnExit,
    /// The file for the controller's status, for `/status` and `eirs status`; by default in the
    /// state folder.
    pub status_file: Option<PathBuf>,
    /// The worker program that the process fleet starts; by default the `eirs-worker` beside this
    /// program.
    pub worker_program: Option<PathBuf>,
    /// Record observations and decisions in the state folder, for `eirs simulate`.
    pub recording: bool,
    /// Maximum size of the recording; then its oldest part is deleted.
    pub recording_size: ByteSize,
    /// `[controller.webhook]`
    pub webhook: AlertWebhook,
    /// `[controller.simulate]`
    pub simulate: Simulate,
}

/// The action on the instances when the controller stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnExit {
    /// They keep running; the next controller adopts them.
    Leave,
    /// They are drained and stopped first.
    Drain,
}

/// `[telemetry]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// The events that are logged: a level, or filter directives of `tracing`.
    pub filter: String,
    /// The format of the log.
    pub format: LogFormat,
    /// The collector for spans, over OTLP/HTTP; without it and `OTEL_EXPORTER_OTLP_ENDPOINT`, none
    /// are sent.
    pub otlp_endpoint: Option<String>,
    /// The fraction of traces begun here that are collected; the client decides for traces that it
    /// began.
    pub sample_ratio: f64,
}

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// The journal's protocol if systemd connected stderr to it, else text on stderr.
    Auto,
    /// Text on stderr.
    Text,
    /// The journal's protocol, with a journal field for each field.
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

/// A twelfth of a year, in whole units of humantime.
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
    /// Returns the file of the controller's status.
    pub fn status_file(&self) -> PathBuf {
        self.controller.status_file.clone().unwrap_or_else(|| self.local.state.join(state_folder::STATUS))
    }

    /// Returns the folder for arriving uploads that are not in memory.
    pub fn upload_folder(&self) -> PathBuf {
        let own = || match self.backend {
            // The disk of the images, to which the file will belong.
            BackendKind::Local => self.local.state.join(state_folder::UPLOADS),
            BackendKind::Aws => std::env::temp_dir(),
        };
        self.web.upload_folder.clone().unwrap_or_else(own)
    }

    /// Returns the name of this web host: the setting, or else `local` on a single machine, or the
    /// machine's name in a cloud.
    pub fn web_host(&self) -> String {
        let own = || match self.backend {
            BackendKind::Local => "local".to_owned(),
            BackendKind::Aws => own_name(),
        };
        self.web.host.clone().unwrap_or_else(own)
    }

    /// Returns what AWS would refuse in these settings, for any backend; with `backend = "aws"`,
    /// loading refuses the same.
    pub fn refused_by_aws(&self) -> Option<BadSettings> {
        let complaints = aws_limits::complaints(self);
        (!complaints.is_empty()).then_some(BadSettings(complaints))
    }

    /// Returns the violated relations between values.
    fn complaints(&self) -> Vec<String> {
        let in_cloud = self.backend == BackendKind::Aws;
        let rules = [
            (
                self.worker.heartbeat * 2 < self.queue.visibility,
                "worker.heartbeat: must be less than half of queue.visibility, or a late heartbeat loses the \
                 lease",
            ),
            (self.worker.heartbeat >= Duration::from_millis(100), "worker.heartbeat: must be at least 100ms"),
            (self.queue.max_receives >= 1, "queue.max_receives: must be at least 1, or no job is ever tried"),
            (
                in_cloud || self.worker.poll <= Duration::from_secs(20),
                "worker.poll: must be at most 20s, or a drain waits long for it",
            ),
            (self.worker.threads <= 1024, "worker.threads: must be at most 1024; 0 is one for each core"),
            (self.controller.tick >= Duration::from_millis(100), "controller.tick: must be at least 100ms"),
            (
                self.controller.recording_size >= ByteSize::kib(64),
                "controller.recording_size: must be at least 64KiB; `controller.recording = false` switches \
                 it off",
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

/// Returns the name of this machine, in characters that are valid in names.
fn own_name() -> String {
    let own = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut name: String = own.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    name.truncate(30);
    if name.is_empty() { "web".to_owned() } else { name }
}

fn is_share(value: f64) -> bool {
    (0.0..=1.0).contains(&value)
}

/// Returns whether a text can be part of the name of a queue, a key and a file on every backend.
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
