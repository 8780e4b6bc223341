//! `GET /status`, `/livez`, `/readyz`, `/metrics`

use std::sync::Arc;

use chrono::{DateTime, Utc};
use poem::{IntoResponse, Response, handler, http::StatusCode, web::Data};
use serde::Serialize;
use serde_json::Value;

use crate::{
    App,
    answer::json,
    metrics::{InstanceLabels, PoolLabels},
    problem::Problem,
};

/// The whole service, as far as this host knows it.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    version: &'static str,
    at: DateTime<Utc>,
    host: String,
    draining: bool,
    /// Uploads in hand.
    uploads: usize,
    /// Jobs this host sent that are not answered.
    waiting: usize,
    /// What `?model=` may say.
    models: Vec<String>,
    /// The largest image that is taken.
    max_image_bytes: u64,
    /// What the controller wrote last; null where there is none.
    pub(crate) controller: Value,
}

#[handler]
pub(crate) async fn status(Data(app): Data<&Arc<App>>) -> Response {
    json(StatusCode::OK, &of(app).await)
}

/// The state of now.
pub(crate) async fn of(app: &App) -> Status {
    Status {
        version: env!("CARGO_PKG_VERSION"),
        at: app.clock.now(),
        host: app.settings.web_host(),
        draining: app.draining.is_cancelled(),
        uploads: app.uploads_in_hand(),
        waiting: app.jobs.waiting(),
        models: app.jobs.models().map(str::to_owned).collect(),
        max_image_bytes: app.settings.web.max_image.as_u64(),
        controller: controller_status(app).await,
    }
}

/// The controller replaces its file whole, so that what is read is either the old one or the new one.
async fn controller_status(app: &App) -> Value {
    let text = tokio::fs::read(app.settings.status_file()).await.unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or(Value::Null)
}

/// The process runs.
#[handler]
pub(crate) fn livez() -> &'static str {
    "ok\n"
}

/// The process takes uploads.
#[handler]
pub(crate) fn readyz(Data(app): Data<&Arc<App>>) -> Response {
    if app.draining.is_cancelled() { Problem::draining().into_response() } else { "ok\n".into_response() }
}

#[handler]
pub(crate) async fn metrics(Data(app): Data<&Arc<App>>) -> Response {
    app.metrics.waiting.set(app.jobs.waiting() as i64);
    show_fleet(app, &controller_status(app).await);
    Response::builder()
        .content_type("application/openmetrics-text; version=1.0.0; charset=utf-8")
        .body(app.metrics.encode())
}

/// Copies the controller's figures into the gauges.
fn show_fleet(app: &App, controller: &Value) {
    let gauges = &app.metrics;
    gauges.backlog.clear();
    gauges.desired.clear();
    gauges.instances.clear();
    for pool in controller["pools"].as_array().into_iter().flatten() {
        let Some(name) = pool["name"].as_str() else { continue };
        let labels = PoolLabels { pool: name.to_owned() };
        let number = |key: &str| pool[key].as_i64().unwrap_or(0);
        gauges.backlog.get_or_create(&labels).set(number("visible") + number("in_flight"));
        gauges.desired.get_or_create(&labels).set(number("desired"));
        for instance in pool["instances"].as_array().into_iter().flatten() {
            let state = instance["state"].as_str().unwrap_or("unknown").to_owned();
            gauges.instances.get_or_create(&InstanceLabels { pool: name.to_owned(), state }).inc();
        }
    }
}
