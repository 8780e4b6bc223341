//! The list of all metrics: name, kind, unit, labels and meaning. The registry is built from it,
//! `docs/METRICS.md` shows it, and the dashboard and the alerts may use nothing else; tests check
//! that (`documents.rs`).

use prometheus_client::{
    encoding::{EncodeLabelValue, LabelValueEncoder},
    metrics::MetricType,
    registry::Unit,
};

/// The kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Only grows while the program runs; its series end in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size: its series end in `_bucket`, `_sum` and `_count`.
    Histogram,
}

/// A label of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Label {
    Answer,
    Class,
    Closed,
    Fault,
    Model,
    NotAccepted,
    Outcome,
    Percentile,
    Phase,
    Pool,
    State,
    Version,
    Why,
}

macro_rules! catalogue {
    ($($metric:ident = $name:literal $kind:ident [$($label:ident),*] $help:literal;)*) => {
        /// A metric.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Metric { $($metric),* }

        impl Metric {
            /// All metrics, in the order in which they are shown.
            pub(crate) const ALL: &[Self] = &[$(Self::$metric),*];

            /// The name, without the suffix of its kind.
            pub(crate) const fn name(self) -> &'static str {
                match self { $(Self::$metric => $name),* }
            }

            pub(crate) const fn kind(self) -> Kind {
                match self { $(Self::$metric => Kind::$kind),* }
            }

            pub(crate) const fn labels(self) -> &'static [Label] {
                match self { $(Self::$metric => &[$(Label::$label),*]),* }
            }

            /// The description, without a full stop.
            pub(crate) const fn help(self) -> &'static str {
                match self { $(Self::$metric => $help),* }
            }
        }
    };
}

catalogue! {
    // Of this web host.
    Images = "eirs_images" Counter [Answer] "Images, by how they were answered";
    UploadSeconds = "eirs_upload_seconds" Histogram [] "Time from an upload request to its response";
    ImageBytes = "eirs_image_bytes" Counter [] "Bytes of images received";
    JobsSent = "eirs_jobs_sent" Counter [] "Jobs sent to the request queues";
    JobsCoalesced = "eirs_jobs_coalesced" Counter [] "Images that joined a job in flight";
    Replies = "eirs_replies" Counter [] "Replies received from workers";
    JobQueuedSeconds = "eirs_job_queued_seconds" Histogram [Model] "Time from the acceptance of a job to its \
        receipt by the worker that finished it";
    JobServiceSeconds = "eirs_job_service_seconds" Histogram [Model] "Time from the receipt of a job to its \
        result, including the wait for a thread";
    UploadsInFlight = "eirs_uploads_in_flight" Gauge [] "Uploads in flight";
    JobsWaiting = "eirs_jobs_waiting" Gauge [] "Jobs sent by this host whose result is pending";
    HttpResponses = "eirs_http_responses" Counter [Class] "HTTP responses at every address, by class of \
        status";
    RequestsTurnedAway = "eirs_requests_turned_away" Counter [Why] "Requests refused for lack of a valid \
        token, or above their rate";
    Connections = "eirs_connections" Gauge [] "Open connections at the address for uploads";
    ConnectionsRefused = "eirs_connections_refused" Counter [NotAccepted] "Connections refused, by limit: \
        all places taken, the maximum of the address reached, no file descriptors left";
    ConnectionsClosed = "eirs_connections_closed" Counter [Closed] "Connections closed before their client \
        was done, by reason: header not complete in time, idle for too long, answer not read, place needed";
    WebhookEvents = "eirs_webhook_events" Counter [Outcome] "Ended jobs for the webhook, by outcome; \
        `failed` counts requests that the receiver did not accept";
    WebhookWaiting = "eirs_webhook_waiting" Gauge [] "Events waiting for the webhook's receiver; with a \
        webhook only";
    DeadLetters = "eirs_dead_letters" Gauge [Model] "Dead letters";
    CertificateExpires = "eirs_tls_certificate_expires_timestamp_seconds" Gauge [] "Expiry of the \
        certificate in force, as a Unix time; with HTTPS only";
    StoreFree = "eirs_store_free_bytes" Gauge [] "Free space on the disk of the state folder";
    StoreFloor = "eirs_store_floor_bytes" Gauge [] "Free space to keep on that disk; below it, new images \
        are refused";
    StoreFull = "eirs_store_full" Gauge [] "1 while new images are refused for lack of space";
    // Of the controller, if it runs on this host.
    ControllerUp = "eirs_controller_up" Gauge [] "1 while the controller is running, 0 when its last pass is \
        three ticks old and older than 30 seconds";
    ControllerLastPass = "eirs_controller_last_pass_timestamp_seconds" Gauge [] "Time of the controller's \
        last pass, as a Unix time";
    ControllerStart = "eirs_controller_start_time_seconds" Gauge [] "Start time of the controller, as a Unix \
        time";
    PolicyErrors = "eirs_policy_errors" Gauge [] "Errors in the policy files; the last good versions are in \
        force";
    Problems = "eirs_problems" Gauge [] "Observations that failed in the last pass; nothing is drained \
        meanwhile";
    Backlog = "eirs_backlog" Gauge [Pool] "Jobs waiting and in flight, as the controller sees it";
    QueueJobs = "eirs_queue_jobs" Gauge [Pool, Phase] "Jobs in the queue, waiting (`visible`) or in flight";
    ArrivalsPerSecond = "eirs_arrivals_per_second" Gauge [Pool] "Jobs arriving per second from all web \
        hosts, over about ten seconds";
    ArrivalsExpected = "eirs_arrivals_expected_per_second" Gauge [Pool] "Jobs per second expected when an \
        instance that starts now is ready";
    DonePerSecond = "eirs_done_per_second" Gauge [Pool] "Jobs done per second by the pool's workers, over \
        about ten seconds";
    InstancesDesired = "eirs_instances_desired" Gauge [Pool] "Instances the controller wants";
    InstancesMin = "eirs_instances_min" Gauge [Pool] "The policy's `min`";
    InstancesMax = "eirs_instances_max" Gauge [Pool] "The policy's `max`";
    Instances = "eirs_instances" Gauge [Pool, State] "Instances by state, as the controller sees them";
    InstancesCordoned = "eirs_instances_cordoned" Gauge [Pool] "Instances that an operator cordoned";
    InstancesRefused = "eirs_instances_refused" Gauge [Pool, Fault] "Instances that recently refused to \
        start or stop, by cause";
    InstancesCrashed = "eirs_instances_crashed" Gauge [Pool] "Instances that crashed after their last starts";
    PoolPaused = "eirs_pool_paused" Gauge [Pool] "1 while an operator has paused the pool";
    ServiceSeconds = "eirs_pool_service_seconds" Gauge [Pool] "Mean time from the receipt of a job to its \
        result, in the workers' last reports";
    WorkerSeconds = "eirs_worker_service_seconds" Gauge [Pool, Percentile] "Time from the receipt of a job \
        to its result in the pool's slowest worker: mean and 95th percentile of its last report";
    StartDelaySeconds = "eirs_start_delay_seconds" Gauge [Pool, Percentile] "Time from the start of an \
        instance until it is ready, as learnt";
    TodayInstanceSeconds = "eirs_today_instance_seconds" Gauge [Pool] "Running time of all instances since \
        the budget's midnight";
    TodayBudgetSeconds = "eirs_today_budget_seconds" Gauge [Pool] "Running time that the policy's budget \
        allows per day";
    TodayCost = "eirs_today_cost_usd" Gauge [Pool] "Cost of the instances since the budget's midnight at the \
        policy's price, in US dollars";
    TodayImages = "eirs_today_images" Gauge [Pool] "Jobs that arrived since the budget's midnight";
    // Of the process of this web server.
    BuildInfo = "eirs_build_info" Gauge [Version] "1, with the version of the program as a label";
    ProcessStart = "process_start_time_seconds" Gauge [] "Start time of the web server, as a Unix time";
    ProcessCpu = "process_cpu_seconds" Counter [] "Processor time used by the web server";
    ProcessMemory = "process_resident_memory_bytes" Gauge [] "Resident memory of the web server";
    ProcessFds = "process_open_fds" Gauge [] "Open file descriptors of the web server";
    ProcessMaxFds = "process_max_fds" Gauge [] "Maximum open file descriptors of the web server";
}

impl Metric {
    /// The unit, which is also the end of the name; counts and rates have none.
    pub(crate) fn unit(self) -> Option<Unit> {
        let ends = |unit: &str| self.name().strip_suffix(unit).is_some_and(|rest| rest.ends_with('_'));
        [Unit::Seconds, Unit::Bytes].into_iter().find(|unit| ends(unit.as_str()))
    }

    /// The name without its unit, which the library appends again.
    pub(crate) fn stem(self) -> &'static str {
        let name = self.name();
        let unit = self.unit().map_or(0, |unit| unit.as_str().len() + 1);
        &name[..name.len() - unit]
    }

    /// The type as announced.
    pub(crate) const fn metric_type(self) -> MetricType {
        match self.kind() {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
        }
    }
}

impl Label {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Answer => "answer",
            Self::Class => "class",
            Self::Closed => "reason",
            Self::Fault => "cause",
            Self::NotAccepted => "limit",
            Self::Model => "model",
            Self::Outcome => "outcome",
            Self::Percentile => "percentile",
            Self::Phase => "phase",
            Self::Pool => "pool",
            Self::State => "state",
            Self::Version => "version",
            Self::Why => "why",
        }
    }

    /// The possible values; empty if they are names chosen by the operator.
    pub(crate) const fn values(self) -> &'static [&'static str] {
        match self {
            Self::Answer => Answered::NAMES,
            Self::Class => Class::NAMES,
            Self::Closed => Closed::NAMES,
            Self::NotAccepted => NotAccepted::NAMES,
            Self::Fault => &["capacity", "broken"],
            Self::Percentile => &["mean", "p50", "p95"],
            Self::Phase => &["visible", "in_flight"],
            Self::State => &["stopped", "starting", "ready", "draining", "drained", "stopping"],
            Self::Outcome => Webhook::NAMES,
            Self::Why => TurnedAway::NAMES,
            Self::Model | Self::Pool | Self::Version => &[],
        }
    }
}

macro_rules! label_values {
    ($(#[$doc:meta])* $label:ident { $($value:ident = $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub(crate) enum $label { $($value),* }

        impl $label {
            pub(crate) const ALL: &[Self] = &[$(Self::$value),*];
            pub(crate) const NAMES: &[&str] = &[$($name),*];

            pub(crate) const fn name(self) -> &'static str {
                match self { $(Self::$value => $name),* }
            }
        }

        impl EncodeLabelValue for $label {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
                self.name().encode(encoder)
            }
        }
    };
}

label_values! {
    /// The kind of answer to an image.
    Answered {
        Classified = "classified",
        Cached = "cached",
        Pending = "pending",
        Rejected = "rejected",
        Refused = "refused",
        Failed = "failed",
    }
}

label_values! {
    /// The class of an HTTP status.
    Class {
        Success = "2xx",
        Redirection = "3xx",
        ClientError = "4xx",
        ServerError = "5xx",
    }
}

label_values! {
    /// The reason why a request was refused before it reached the routes.
    TurnedAway {
        Token = "token",
        Rate = "rate",
    }
}

label_values! {
    /// The outcome of events of the webhook.
    Webhook {
        Taken = "taken",
        Failed = "failed",
        Dropped = "dropped",
    }
}

label_values! {
    /// The limit for which a connection was refused.
    NotAccepted {
        Full = "full",
        Address = "address",
        Files = "files",
    }
}

label_values! {
    /// The reason why a connection was closed before its client was done.
    Closed {
        Header = "header",
        Idle = "idle",
        Unread = "unread",
        Crowded = "crowded",
    }
}
