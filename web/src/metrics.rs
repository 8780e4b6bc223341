//! The content of `/metrics`, in the OpenMetrics text format or the older one: the counters of this
//! host, the controller's status, and the process's resources. All metrics are listed in
//! `metrics/catalogue.rs`.

mod catalogue;
mod classic;
mod connections;
mod dead_letters;
#[cfg(test)]
mod documents;
mod fleet;
mod process;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use chrono::{DateTime, Utc};
use eirs_platform::{blobs::embedded::RoomSeen, job::Outcome};
use poem::http::StatusCode;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder, text::encode},
    metrics::{
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use serde_json::Value;

use self::catalogue::{Class, Kind, Label, Metric, TurnedAway};
pub use self::connections::Connections;
pub(crate) use self::{
    catalogue::{Answered, Webhook},
    classic::classic,
    connections::{Closed, NotAccepted},
    dead_letters::DeadLetters,
};

#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    /// Images by kind of answer.
    images: Family<AnswerLabels, Counter>,
    pub(crate) upload_seconds: Histogram,
    pub(crate) image_bytes: Counter,
    pub(crate) jobs_sent: Counter,
    pub(crate) coalesced: Counter,
    pub(crate) replies: Counter,
    queued_seconds: Family<ModelLabels, Histogram, fn() -> Histogram>,
    service_seconds: Family<ModelLabels, Histogram, fn() -> Histogram>,
    /// Requests refused before they reached the routes.
    turned_away: Family<TurnedAwayLabels, Counter>,
    pub(crate) in_flight: Gauge,
    pub(crate) waiting: Gauge,
    http_responses: Family<ClassLabels, Counter>,
    webhook: Family<WebhookLabels, Counter>,
    /// Of the listener for uploads.
    pub(crate) connections: Connections,
    seen: Arc<Seen>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnswerLabels {
    answer: Answered,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClassLabels {
    class: Class,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TurnedAwayLabels {
    why: TurnedAway,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WebhookLabels {
    outcome: Webhook,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModelLabels {
    model: String,
}

/// Buckets from half a millisecond to about a minute.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.0005, 2.0, 18))
}

impl Metrics {
    /// Creates the metrics of a host with these models.
    pub(crate) fn new<'a>(models: impl Iterator<Item = &'a str>) -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            images: Family::default(),
            upload_seconds: seconds(),
            image_bytes: Counter::default(),
            jobs_sent: Counter::default(),
            coalesced: Counter::default(),
            replies: Counter::default(),
            queued_seconds: Family::new_with_constructor(seconds),
            service_seconds: Family::new_with_constructor(seconds),
            turned_away: Family::default(),
            in_flight: Gauge::default(),
            waiting: Gauge::default(),
            http_responses: Family::default(),
            webhook: Family::default(),
            connections: Connections::new(),
            seen: Arc::default(),
        };
        // Create all series at zero, because queries handle them better than series that appear
        // later.
        for answer in Answered::ALL {
            drop(metrics.images.get_or_create(&AnswerLabels { answer: *answer }));
        }
        for class in Class::ALL {
            drop(metrics.http_responses.get_or_create(&ClassLabels { class: *class }));
        }
        for why in TurnedAway::ALL {
            drop(metrics.turned_away.get_or_create(&TurnedAwayLabels { why: *why }));
        }
        for outcome in Webhook::ALL {
            drop(metrics.webhook.get_or_create(&WebhookLabels { outcome: *outcome }));
        }
        for model in models {
            let labels = ModelLabels { model: model.to_owned() };
            drop(metrics.queued_seconds.get_or_create(&labels));
            drop(metrics.service_seconds.get_or_create(&labels));
        }
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        // Metrics that are not counted here are collected at each scrape.
        let mut collected = Vec::new();
        for metric in Metric::ALL {
            match metric {
                Metric::Images => self.add(*metric, self.images.clone()),
                Metric::UploadSeconds => self.add(*metric, self.upload_seconds.clone()),
                Metric::ImageBytes => self.add(*metric, self.image_bytes.clone()),
                Metric::JobsSent => self.add(*metric, self.jobs_sent.clone()),
                Metric::JobsCoalesced => self.add(*metric, self.coalesced.clone()),
                Metric::Replies => self.add(*metric, self.replies.clone()),
                Metric::JobQueuedSeconds => self.add(*metric, self.queued_seconds.clone()),
                Metric::JobServiceSeconds => self.add(*metric, self.service_seconds.clone()),
                Metric::UploadsInFlight => self.add(*metric, self.in_flight.clone()),
                Metric::JobsWaiting => self.add(*metric, self.waiting.clone()),
                Metric::HttpResponses => self.add(*metric, self.http_responses.clone()),
                Metric::RequestsTurnedAway => self.add(*metric, self.turned_away.clone()),
                Metric::Connections => self.add(*metric, self.connections.open.clone()),
                Metric::ConnectionsRefused => self.add(*metric, self.connections.refused.clone()),
                Metric::ConnectionsClosed => self.add(*metric, self.connections.closed.clone()),
                Metric::WebhookEvents => self.add(*metric, self.webhook.clone()),
                other => collected.push(*other),
            }
        }
        self.registry.register_collector(Box::new(Collected { metrics: collected, seen: self.seen.clone() }));
    }

    fn add(&mut self, metric: Metric, value: impl prometheus_client::registry::Metric) {
        match metric.unit() {
            Some(unit) => self.registry.register_with_unit(metric.stem(), metric.help(), unit, value),
            None => self.registry.register(metric.name(), metric.help(), value),
        }
    }

    /// Counts the answer to an image.
    pub(crate) fn answered(&self, answer: Answered) {
        self.images.get_or_create(&AnswerLabels { answer }).inc();
    }

    /// Counts an answer with this HTTP status.
    pub(crate) fn responded(&self, status: u16) {
        let class = match status {
            500.. => Class::ServerError,
            400.. => Class::ClientError,
            300.. => Class::Redirection,
            _ => Class::Success,
        };
        self.http_responses.get_or_create(&ClassLabels { class }).inc();
    }

    /// Records a reply for one of our models: milliseconds in the queue, and with the worker.
    pub(crate) fn replied(&self, model: &str, queued_ms: f64, service_ms: f64) {
        let labels = ModelLabels { model: model.to_owned() };
        self.queued_seconds.get_or_create(&labels).observe(queued_ms / 1e3);
        self.service_seconds.get_or_create(&labels).observe(service_ms / 1e3);
    }

    /// Counts events of the webhook by outcome.
    pub(crate) fn webhook(&self, outcome: Webhook, count: u64) {
        self.webhook.get_or_create(&WebhookLabels { outcome }).inc_by(count);
    }

    /// Counts a request that was answered 401 or 429 before it reached the routes.
    pub(crate) fn turned_away(&self, status: StatusCode) {
        self.responded(status.as_u16());
        let why = if status == StatusCode::UNAUTHORIZED { TurnedAway::Token } else { TurnedAway::Rate };
        self.turned_away.get_or_create(&TurnedAwayLabels { why }).inc();
    }

    /// Returns all metrics as OpenMetrics. The parameters are collected for this scrape: the time
    /// as Unix seconds, the controller's status, the number of dead letters of each model, the
    /// expiry of the certificate, the room on the disk, and the number of events that wait for the
    /// webhook.
    pub(crate) fn encode(
        &self,
        now: f64,
        controller: &Value,
        dead_letters: BTreeMap<String, u64>,
        expires: Option<DateTime<Utc>>,
        disk: Option<RoomSeen>,
        webhook: Option<u64>,
    ) -> String {
        let mut samples = fleet::samples(now, controller);
        samples.extend(process::samples());
        for (model, letters) in dead_letters {
            samples.push(Sample::of(Metric::DeadLetters, &[(Label::Model, &model)], letters as f64));
        }
        if let Some(expires) = expires {
            samples.push(Sample::of(Metric::CertificateExpires, &[], expires.timestamp() as f64));
        }
        if let Some(RoomSeen { free, floor, below }) = disk {
            samples.push(Sample::of(Metric::StoreFree, &[], free as f64));
            samples.push(Sample::of(Metric::StoreFloor, &[], floor as f64));
            samples.push(Sample::of(Metric::StoreFull, &[], f64::from(u8::from(below))));
        }
        if let Some(waiting) = webhook {
            samples.push(Sample::of(Metric::WebhookWaiting, &[], waiting as f64));
        }
        let version = env!("CARGO_PKG_VERSION");
        samples.push(Sample::of(Metric::BuildInfo, &[(Label::Version, version)], 1.0));
        *self.seen.0.lock().unwrap_or_else(PoisonError::into_inner) = samples;
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        text
    }
}

impl Answered {
    /// The kind of answer for the outcome of a job.
    pub(crate) fn of(outcome: &Outcome, is_cached: bool) -> Self {
        match outcome {
            Outcome::Classified { .. } if is_cached => Self::Cached,
            Outcome::Classified { .. } => Self::Classified,
            Outcome::Rejected { .. } => Self::Rejected,
            Outcome::GaveUp { .. } => Self::Failed,
        }
    }
}

/// One value of one series.
#[derive(Debug, Clone, PartialEq)]
struct Sample {
    metric: Metric,
    labels: Vec<(&'static str, String)>,
    value: f64,
}

impl Sample {
    fn of(metric: Metric, labels: &[(Label, &str)], value: f64) -> Self {
        debug_assert!(labels.iter().map(|(label, _)| label).eq(metric.labels()), "{metric:?}: {labels:?}");
        let labels = labels.iter().map(|(label, value)| (label.name(), (*value).to_owned())).collect();
        Self { metric, labels, value }
    }
}

/// The samples collected for the current scrape.
#[derive(Debug, Default)]
struct Seen(Mutex<Vec<Sample>>);

/// Encodes the samples of the current scrape only, so that the series of a removed pool disappear.
#[derive(Debug)]
struct Collected {
    metrics: Vec<Metric>,
    seen: Arc<Seen>,
}

impl Collector for Collected {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let samples = self.seen.0.lock().unwrap_or_else(PoisonError::into_inner);
        for metric in &self.metrics {
            let mut series = samples.iter().filter(|sample| sample.metric == *metric).peekable();
            if series.peek().is_none() {
                continue;
            }
            let (unit, kind) = (metric.unit(), metric.metric_type());
            let mut family = encoder.encode_descriptor(metric.stem(), metric.help(), unit.as_ref(), kind)?;
            for sample in series {
                if sample.labels.is_empty() {
                    encode_value(*metric, sample.value, family)?;
                    break;
                }
                encode_value(*metric, sample.value, family.encode_family(&sample.labels)?)?;
            }
        }
        Ok(())
    }
}

fn encode_value(metric: Metric, value: f64, encoder: MetricEncoder<'_>) -> fmt::Result {
    match metric.kind() {
        Kind::Counter => ConstCounter::new(value).encode(encoder),
        Kind::Gauge | Kind::Histogram => ConstGauge::new(value).encode(encoder),
    }
}
