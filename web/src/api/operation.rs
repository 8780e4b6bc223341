//! The paths for operators and their tools: `/status`, `/events`, `/metrics`, `/doorbell`,
//! `/livez`, `/readyz`.

use poem::http::Method;
use poem_openapi::{
    registry::{MetaPath, MetaSchema, MetaTag, Registry},
    types::Type,
};
use serde_json::json;

use super::parts::{answer, body, inline, media, operation, path, refusal, storage, text, too_often};
use crate::{
    metrics::classic,
    operator::{controller::Written, status::Status},
    problem::Problem,
};

const TAG: &str = "operation";

/// The description of a path, with an example that has the port of the listener.
macro_rules! about {
    ($is_apart:expr, $text:literal, $method:literal, $path:literal) => {
        match $is_apart {
            true => concat!($text, "\n\n```\ncurl ", $method, "http://127.0.0.1:8001", $path, "\n```"),
            false => concat!($text, "\n\n```\ncurl ", $method, "http://127.0.0.1:8000", $path, "\n```"),
        }
    };
}

pub(super) fn register(registry: &mut Registry) {
    registry.create_tag(MetaTag {
        name: TAG,
        description: Some("The state of the service."),
        external_docs: None,
    });
    Status::register(registry);
}

/// `is_apart`: at the operator's own listener.
pub(super) fn status(is_apart: bool) -> MetaPath {
    let about = about!(
        is_apart,
        "Everything that the service knows about itself. `controller` is what the controller wrote in its \
last pass: queues, instances, decisions and their reasons.",
        "",
        "/status"
    );
    let example = Status::example(Written::example());
    let responses =
        vec![answer(200, "The current state.", vec![body::<Status>("application/json", example)])];
    path("/status", Method::GET, operation("status", TAG, "The whole service", about, responses))
}

/// `is_apart`: at the operator's own listener.
pub(super) fn events(is_apart: bool) -> MetaPath {
    let about = about!(
        is_apart,
        "Changes of the service, as server-sent events, until one side ends. `timeline` is sent once, \
with the last hour; `status` is sent at once and after every change, at least every five \
seconds, with the content of `/status`.",
        "-N ",
        "/events"
    );
    // OpenAPI 3.0 cannot describe a stream, so the schema is that of one event.
    let name =
        MetaSchema { enum_items: vec!["timeline".into(), "status".into()], ..MetaSchema::new("string") };
    let data = MetaSchema { description: Some("JSON in one line."), ..MetaSchema::new("string") };
    let data_now = serde_json::to_string(&Status::example(Written::default())).unwrap_or_default();
    let event = MetaSchema {
        required: vec!["event", "data"],
        properties: vec![("event", inline(name)), ("data", inline(data))],
        example: Some(json!({ "event": "status", "data": data_now })),
        ..MetaSchema::new("object")
    };
    let mut responses = vec![
        answer(
            200,
            "Events, until the client closes the connection.",
            vec![media("text/event-stream", event)],
        ),
        refusal("`too many watchers`: too many clients are following.", &[Problem::too_many_watchers()]),
    ];
    if !is_apart {
        responses.push(refusal(
            "`too many watchers`: too many clients of this address or token are following. `too \
            many requests`: it exceeds its rate.",
            &[Problem::too_many_watchers_of("this address"), too_often()],
        ));
    }
    path("/events", Method::GET, operation("events", TAG, "The service as it changes", about, responses))
}

pub(super) fn metrics() -> MetaPath {
    const ABOUT: &str = "For Prometheus: the metrics of this host, and the fleet as the controller \
        sees it.";
    let sample = "# HELP eirs_images Images, by how they were answered.\n# TYPE eirs_images counter\n\
                  eirs_images_total{answer=\"classified\"} 17\n# EOF\n";
    let formats = vec![text("application/openmetrics-text", sample), text("text/plain", &classic(sample))];
    let responses =
        vec![answer(200, "OpenMetrics if `Accept` asks for it, else the older text format.", formats)];
    path("/metrics", Method::GET, operation("metrics", TAG, "Metrics", ABOUT, responses))
}

/// `is_apart`: at the operator's own listener.
pub(super) fn doorbell(is_apart: bool) -> MetaPath {
    let about =
        about!(is_apart, "The controller starts a pass now, not at its next tick.", "-X POST ", "/doorbell");
    let responses = vec![
        answer(
            202,
            "The controller was notified.",
            vec![text("text/plain", "the controller starts a pass\n")],
        ),
        refusal("`storage unavailable`: the controller's queue could not be reached.", &[storage()]),
    ];
    path(
        "/doorbell",
        Method::POST,
        operation("doorbell", TAG, "Start a pass of the controller", about, responses),
    )
}

pub(super) fn livez() -> MetaPath {
    let responses = vec![answer(200, "It runs.", vec![text("text/plain", "ok\n")])];
    let operation = operation("livez", TAG, "Does it run?", "Whether the process answers at all.", responses);
    path("/livez", Method::GET, operation)
}

pub(super) fn readyz() -> MetaPath {
    let responses = vec![
        answer(200, "It accepts uploads.", vec![text("text/plain", "ok\n")]),
        refusal(
            "`shutting down`: it accepts no more uploads. `not ready`: queue or store cannot be \
            reached.",
            &[Problem::draining(), Problem::not_ready("the queue cannot be reached")],
        ),
        refusal("`storage full`: no space for new images at the moment.", &[Problem::disk_full()]),
    ];
    let about = "Whether the process accepts uploads, and reaches queue and store. For load \
        balancers.";
    path("/readyz", Method::GET, operation("readyz", TAG, "Readiness", about, responses))
}
