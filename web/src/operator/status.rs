//! `GET /status`, `/metrics`, `POST /doorbell`

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, Utc};
use eirs_platform::{blobs::embedded::Room, settings::Model};
use poem::{
    IntoResponse, Request, Response, handler,
    http::{
        StatusCode,
        header::{ACCEPT, VARY},
    },
    web::Data,
};
use poem_openapi::Object;
use serde::Serialize;
use serde_json::Value;

use super::{Operator, controller::Written};
use crate::{metrics::classic, problem::Problem, upload::json};

/// The media type that scrapers send for OpenMetrics.
const OPENMETRICS: &str = "application/openmetrics-text";

/// The state of the whole service, as this host sees it.
#[derive(Debug, Clone, Serialize, Object)]
#[oai(read_only_all)]
pub(crate) struct Status {
    /// The version of this web server.
    version: &'static str,
    /// The time of this state.
    at: DateTime<Utc>,
    /// The name of this web host.
    host: String,
    /// Whether it is shutting down.
    draining: bool,
    /// Uploads in flight.
    uploads: usize,
    /// Jobs of this host whose result is pending.
    waiting: usize,
    /// The models for `?model=`.
    models: Vec<String>,
    /// The version in force of each model; missing if not known here yet.
    versions: BTreeMap<String, String>,
    /// The maximum size of an image, in bytes.
    max_image_bytes: u64,
    /// The controller's status; null if there is none.
    #[oai(nullable)]
    pub(crate) controller: Written,
}

impl Status {
    /// Returns whether anything but the time has changed since `known`.
    pub(crate) fn is_news_after(&self, known: &Self) -> bool {
        // The pattern is exhaustive, so that a new field is not forgotten.
        let Self {
            version,
            at: _,
            host,
            draining,
            uploads,
            waiting,
            models,
            versions,
            max_image_bytes,
            controller,
        } = self;
        *version != known.version
            || *host != known.host
            || *draining != known.draining
            || *uploads != known.uploads
            || *waiting != known.waiting
            || *models != known.models
            || *versions != known.versions
            || *max_image_bytes != known.max_image_bytes
            || !is_same_but_for_its_time(&controller.0, &known.controller.0)
    }

    /// Returns the status without texts that name accounts or roles of a cloud.
    pub(crate) fn for_clients(&self) -> Self {
        let mut shown = self.clone();
        redact_names(&mut shown.controller.0);
        shown
    }

    /// An example for the API description.
    pub(crate) fn example(controller: Written) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            at: DateTime::UNIX_EPOCH,
            host: "local".to_owned(),
            draining: false,
            uploads: 2,
            waiting: 1,
            models: vec![Model::DEFAULT.to_owned()],
            versions: [(Model::DEFAULT.to_owned(), "0f1e2d3c4b5a6978".to_owned())].into(),
            max_image_bytes: 16 << 20,
            controller,
        }
    }
}

#[handler]
pub(crate) async fn status(Data(operator): Data<&Arc<Operator>>) -> Response {
    json(StatusCode::OK, &of(operator).await)
}

/// Returns the current state.
pub(crate) async fn of(operator: &Operator) -> Status {
    Status {
        version: env!("CARGO_PKG_VERSION"),
        at: operator.uploads.clock.now(),
        host: operator.settings().web_host(),
        draining: operator.draining().is_cancelled(),
        uploads: operator.uploads.in_flight(),
        waiting: operator.jobs.waiting(),
        models: operator.jobs.models().map(str::to_owned).collect(),
        versions: operator.jobs.versions_in_force(),
        max_image_bytes: operator.settings().web.max_image.as_u64(),
        controller: Written(controller_status(operator).await),
    }
}

/// Replaces texts that name a cloud's accounts or roles: numbers of twelve digits, and resource
/// names.
fn redact_names(value: &mut Value) {
    match value {
        Value::String(text) => {
            let is_account = |word: &str| word.len() == 12 && word.bytes().all(|b| b.is_ascii_digit());
            let has_account = text.split(|c: char| !c.is_ascii_alphanumeric()).any(is_account);
            if has_account || text.contains("arn:") {
                "the operator sees why".clone_into(text);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(redact_names),
        Value::Object(values) => values.values_mut().for_each(redact_names),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The controller replaces its file atomically, so a reader sees the old or the new one.
async fn controller_status(operator: &Operator) -> Value {
    let text = tokio::fs::read(operator.settings().status_file()).await.unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or(Value::Null)
}

fn is_same_but_for_its_time(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let others = |(key, _): &(&String, &Value)| *key != "at";
            one.iter().filter(others).eq(other.iter().filter(others))
        }
        _ => one == other,
    }
}

/// Makes the controller run a pass now instead of at its next tick.
#[handler]
pub(crate) async fn doorbell(Data(operator): Data<&Arc<Operator>>) -> Response {
    match operator.reporter.ring().await {
        Ok(()) => "the controller starts a pass\n".with_status(StatusCode::ACCEPTED).into_response(),
        Err(error) => {
            tracing::error!(%error, "the doorbell did not reach the controller");
            Problem::backend(&error).into_response()
        }
    }
}

#[handler]
pub(crate) async fn metrics(request: &Request, Data(operator): Data<&Arc<Operator>>) -> Response {
    operator.metrics.waiting.set(operator.jobs.waiting() as i64);
    let now = operator.uploads.clock.now().timestamp_micros() as f64 / 1e6;
    let (controller, dead_letters) = tokio::join!(controller_status(operator), operator.dead_letters.count());
    let expires = operator.tls.as_ref().and_then(|tls| tls.expires());
    let webhook = match &operator.webhook {
        Some(webhook) => Some(webhook.waiting().await),
        None => None,
    };
    let text = operator.metrics.encode(
        now,
        &controller,
        dead_letters,
        expires,
        operator.disk.as_ref().map(Room::look),
        webhook,
    );
    // All client libraries of Prometheus do this: send the newer format only if it is accepted.
    let (content_type, text) = if request.header(ACCEPT).is_some_and(|accept| accept.contains(OPENMETRICS)) {
        (format!("{OPENMETRICS}; version=1.0.0; charset=utf-8"), text)
    } else {
        ("text/plain; version=0.0.4; charset=utf-8".to_owned(), classic(&text))
    };
    Response::builder().content_type(&content_type).header(VARY, "accept").body(text)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use serde_json::json;

    use super::*;

    fn status(at_s: i64, uploads: usize, controller: Value) -> Status {
        let at = DateTime::UNIX_EPOCH + TimeDelta::seconds(at_s);
        Status { at, uploads, ..Status::example(Written(controller)) }
    }

    #[test]
    fn clients_do_not_see_the_names_of_accounts_and_roles() {
        let refusal = "not authorized: arn:aws:sts::123456789012:assumed-role/eirs-controller/i-0abc";
        let known = status(
            1,
            2,
            json!({
                "pools": [{
                    "reason": "8 jobs wait",
                    "instances": [{ "id": "i-0123456789abcdef0", "refused": { "error": refusal } }],
                }],
                "problems": ["account 123456789012 has no such image"],
            }),
        );
        let shown = serde_json::to_string(&known.for_clients()).unwrap();
        assert!(!shown.contains("123456789012") && !shown.contains("arn:"), "{shown}");
        assert!(shown.contains("8 jobs wait") && shown.contains("i-0123456789abcdef0"), "{shown}");
        assert!(serde_json::to_string(&known).unwrap().contains(refusal));
    }

    #[test]
    fn a_status_with_only_a_later_time_is_no_news() {
        let known = status(1, 2, json!({ "at": "then", "pools": [{ "ready": 1 }] }));
        let again = status(9, 2, json!({ "at": "now", "pools": [{ "ready": 1 }] }));
        assert!(!again.is_news_after(&known));
        assert!(!status(9, 2, Value::Null).is_news_after(&status(1, 2, Value::Null)));
    }

    #[test]
    fn any_other_change_is_news() {
        let known = status(1, 2, json!({ "at": "then", "pools": [{ "ready": 1, "at": 5 }] }));
        for (uploads, controller) in [
            (3, known.controller.0.clone()),
            (2, Value::Null),
            (2, json!({ "at": "then", "pools": [{ "ready": 2, "at": 5 }] })),
            (2, json!({ "at": "then", "pools": [{ "ready": 1, "at": 6 }] })),
            (2, json!({ "at": "then", "pools": [{ "ready": 1, "at": 5 }], "problems": [] })),
            (2, json!({ "pools": [] })),
        ] {
            let now = status(1, uploads, controller);
            assert!(now.is_news_after(&known) && known.is_news_after(&now), "{now:?}");
        }
        let leaving = Status { draining: true, ..status(1, 2, known.controller.0.clone()) };
        assert!(leaving.is_news_after(&known));
    }
}
