//! What operators and their tools ask: `/status`, `/metrics`, `/livez`, `/readyz`.

use poem::http::Method;
use poem_openapi::{
    registry::{MetaPath, MetaTag, Registry},
    types::Type,
};

use super::parts::{answer, body, operation, path, refusal, text};
use crate::{
    problem::{Document, Problem},
    status::Status,
};

const TAG: &str = "operation";

pub(super) fn register(registry: &mut Registry) {
    registry.create_tag(MetaTag { name: TAG, description: Some("How the service is."), external_docs: None });
    Status::register(registry);
    Document::register(registry);
}

pub(super) fn status() -> MetaPath {
    const ABOUT: &str = "\
All that the service knows of itself. `controller` is what the controller wrote after its last pass: queues, instances, \
decisions and their reasons.

```
curl http://127.0.0.1:8000/status
```";
    let responses =
        vec![answer(200, "The state of now.", vec![body::<Status>("application/json", Status::example())])];
    path("/status", Method::GET, operation("status", TAG, "The whole service", ABOUT, responses))
}

pub(super) fn metrics() -> MetaPath {
    const ABOUT: &str = "For Prometheus: the figures of this host, and the fleet as the controller sees it.";
    let sample = "# HELP eirs_images Images answered, by kind of answer.\n# TYPE eirs_images counter\n\
                  eirs_images_total{answer=\"Classified\"} 17\n# EOF\n";
    let responses = vec![answer(200, "OpenMetrics.", vec![text("application/openmetrics-text", sample)])];
    path("/metrics", Method::GET, operation("metrics", TAG, "Metrics", ABOUT, responses))
}

pub(super) fn livez() -> MetaPath {
    let responses = vec![answer(200, "It runs.", vec![text("text/plain", "ok\n")])];
    let operation = operation("livez", TAG, "Does it run?", "Whether the process answers at all.", responses);
    path("/livez", Method::GET, operation)
}

pub(super) fn readyz() -> MetaPath {
    let responses = vec![
        answer(200, "It takes uploads.", vec![text("text/plain", "ok\n")]),
        refusal("`shutting down`: it takes no uploads any more.", &[Problem::draining()]),
    ];
    let about = "Whether the process takes uploads, for load balancers.";
    path("/readyz", Method::GET, operation("readyz", TAG, "Does it take uploads?", about, responses))
}
