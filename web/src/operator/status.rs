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

/// The format of metrics that scrapers ask for.
const OPENMETRICS: &str = "application/openmetrics-text";

/// The whole service, as far as this host knows it.
#[derive(Debug, Clone, Serialize, Object)]
#[oai(read_only_all)]
pub(crate) struct Status {
    /// The version of this web server.
    version: &'static str,
    /// When it looked.
    at: DateTime<Utc>,
    /// The name of this web host.
    host: String,
    /// Whether it is shutting down.
    draining: bool,
    /// Uploads in flight.
    uploads: usize,
    /// Jobs this host sent that are not answered.
    waiting: usize,
    /// What `?model=` may say.
    models: Vec<String>,
    /// The version of each model that is in force; one that is not known here yet is left out.
    versions: BTreeMap<String, String>,
    /// The largest image that is taken.
    max_image_bytes: u64,
    /// What the controller wrote last; null where there is none.
    #[oai(nullable)]
    pub(crate) controller: Written,
}

impl Status {
    /// Whether this is news to who knows `known`. A look alone is none: the times of looks do not
    /// count.
    pub(crate) fn is_news_after(&self, known: &Self) -> bool {
        // Every field is named, so that a new one is not forgotten here.
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

    /// The same without what the names of a cloud's accounts and roles are in.
    pub(crate) fn for_clients(&self) -> Self {
        let mut shown = self.clone();
        keep_names_back(&mut shown.controller.0);
        shown
    }

    /// For the description of the API.
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

/// The state of now.
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

/// Replaces texts in which a cloud names an account or a role: numbers of twelve digits, and
/// resource names.
fn keep_names_back(value: &mut Value) {
    match value {
        Value::String(text) => {
            let is_account = |word: &str| word.len() == 12 && word.bytes().all(|b| b.is_ascii_digit());
            let has_account = text.split(|c: char| !c.is_ascii_alphanumeric()).any(is_account);
            if has_account || text.contains("arn:") {
                "the operator sees why".clone_into(text);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(keep_names_back),
        Value::Object(values) => values.values_mut().for_each(keep_names_back),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The controller replaces its file whole, so that what is read is either the old one or the new
/// one.
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

/// The controller looks now, and not at its next tick. What it sees and does is its own affair.
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
    // As every client library of Prometheus answers: what is not asked for might not be understood.
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
    fn what_a_cloud_says_of_accounts_and_roles_is_the_operators() {
        let refusal = "not authorized: arn:aws:sts::123456789012:assumed-role/eirs-controller/i-0abc";
        let known = status(
            1,
            2,
            json!({
                "pools": [{ "reason": "8 jobs wait", "instances": [{ "id": "i-0123456789abcdef0", "refused": { "error": refusal } }] }],
                "problems": ["account 123456789012 has no such image"],
            }),
        );
        let shown = serde_json::to_string(&known.for_clients()).unwrap();
        assert!(!shown.contains("123456789012") && !shown.contains("arn:"), "{shown}");
        assert!(shown.contains("8 jobs wait") && shown.contains("i-0123456789abcdef0"), "{shown}");
        assert!(serde_json::to_string(&known).unwrap().contains(refusal));
    }

    #[test]
    fn a_later_look_that_sees_the_same_is_no_news() {
        let known = status(1, 2, json!({ "at": "then", "pools": [{ "ready": 1 }] }));
        let again = status(9, 2, json!({ "at": "now", "pools": [{ "ready": 1 }] }));
        assert!(!again.is_news_after(&known));
        assert!(!status(9, 2, Value::Null).is_news_after(&status(1, 2, Value::Null)));
    }

    #[test]
    fn whatever_else_has_changed_is_news() {
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
