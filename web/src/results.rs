//! `GET /results/{id}`: works on every web host, for results are stored where all of them look.

use std::sync::Arc;

use eirs_platform::job::JobId;
use poem::{
    IntoResponse, Request, Response, handler,
    http::StatusCode,
    web::{Data, Path},
};

use crate::{
    App,
    answer::{finished, json, pending},
    problem::Problem,
    upload::model_and_top,
};

/// The result of an earlier upload: 200 when it is there, 202 while it is coming, 404 when the image is unknown.
#[handler]
pub(crate) async fn result(
    request: &Request,
    Path(id): Path<String>,
    Data(app): Data<&Arc<App>>,
) -> Response {
    look(request, &id, app).await.unwrap_or_else(IntoResponse::into_response)
}

async fn look(request: &Request, id: &str, app: &App) -> Result<Response, Problem> {
    let id: JobId = id.parse().map_err(|error| Problem::not_found(format!("{error}")))?;
    let (model, top) = model_and_top(request, app)?;
    let key = (id, model.clone());
    let logged = |error: eirs_platform::Error| {
        tracing::error!(%id, %error, "a result could not be looked up");
        Problem::backend(&error)
    };
    if let Some(reply) = app.jobs.stored(&key).await.map_err(logged)? {
        let total_ms = reply.queued_ms + reply.classify_ms;
        let finished = finished(&reply, &reply.name, true, total_ms, top)?;
        return Ok(json(StatusCode::OK, &finished));
    }
    if app.jobs.is_in_flight(&key) || app.jobs.is_uploaded(id).await.map_err(logged)? {
        return Ok(pending(id, None, &model, app.jobs.retry_after_s(&key).await));
    }
    Err(Problem::not_found(format!("no image {id} was uploaded here")))
}
