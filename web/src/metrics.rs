//! What `/metrics` shows, in the OpenMetrics text format. All names and labels are in this file.

use poem::http::StatusCode;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    /// Answered uploads, by status class and kind of answer.
    pub(crate) uploads: Family<UploadLabels, Counter>,
    pub(crate) upload_seconds: Histogram,
    pub(crate) image_bytes: Counter,
    pub(crate) jobs_sent: Counter,
    pub(crate) coalesced: Counter,
    pub(crate) replies: Counter,
    /// Requests that got no further than the door.
    turned_away: Family<TurnedAwayLabels, Counter>,
    pub(crate) in_hand: Gauge,
    pub(crate) waiting: Gauge,
    /// What the controller says, as far as it is there.
    pub(crate) backlog: Family<PoolLabels, Gauge>,
    pub(crate) desired: Family<PoolLabels, Gauge>,
    pub(crate) instances: Family<InstanceLabels, Gauge>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct UploadLabels {
    pub(crate) answer: Answered,
}

/// How an image was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Answered {
    Classified,
    Cached,
    Pending,
    Rejected,
    Refused,
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TurnedAwayLabels {
    why: TurnedAway,
}

/// Why a request got no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
enum TurnedAway {
    Token,
    Rate,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct PoolLabels {
    pub(crate) pool: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct InstanceLabels {
    pub(crate) pool: String,
    pub(crate) state: String,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("eirs"),
            uploads: Family::default(),
            // From half a millisecond to a minute.
            upload_seconds: Histogram::new(exponential_buckets(0.0005, 2.0, 18)),
            image_bytes: Counter::default(),
            jobs_sent: Counter::default(),
            coalesced: Counter::default(),
            replies: Counter::default(),
            turned_away: Family::default(),
            in_hand: Gauge::default(),
            waiting: Gauge::default(),
            backlog: Family::default(),
            desired: Family::default(),
            instances: Family::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register("images", "Images answered, by kind of answer", self.uploads.clone());
        registry.register(
            "upload_seconds",
            "Time from the request to its answer",
            self.upload_seconds.clone(),
        );
        registry.register("image_bytes", "Bytes of images received", self.image_bytes.clone());
        registry.register("jobs_sent", "Jobs sent to the request queues", self.jobs_sent.clone());
        registry.register("jobs_coalesced", "Images that joined a job in flight", self.coalesced.clone());
        registry.register("replies", "Answers received from workers", self.replies.clone());
        registry.register(
            "requests_turned_away",
            "Requests without a good token, or above their rate",
            self.turned_away.clone(),
        );
        registry.register("uploads_in_hand", "Uploads being handled now", self.in_hand.clone());
        registry.register(
            "jobs_waiting",
            "Jobs sent by this host and not answered yet",
            self.waiting.clone(),
        );
        registry.register(
            "backlog",
            "Jobs visible and in flight, as the controller sees it",
            self.backlog.clone(),
        );
        registry.register("instances_desired", "Instances the controller wants", self.desired.clone());
        registry.register(
            "instances",
            "Instances by state, as the controller sees them",
            self.instances.clone(),
        );
    }

    pub(crate) fn answered(&self, answer: Answered) {
        self.uploads.get_or_create(&UploadLabels { answer }).inc();
    }

    /// A request was answered 401 or 429 before anything looked at it.
    pub(crate) fn turned_away(&self, status: StatusCode) {
        let why = if status == StatusCode::UNAUTHORIZED { TurnedAway::Token } else { TurnedAway::Rate };
        self.turned_away.get_or_create(&TurnedAwayLabels { why }).inc();
    }

    /// All of it, as text.
    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        text
    }
}
