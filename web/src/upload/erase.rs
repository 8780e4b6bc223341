//! `DELETE /results/{id}`: erases an image, its job and its results, on every host.

use std::sync::Arc;

use eirs_platform::job::JobId;
use poem::{
    IntoResponse, Response, handler,
    http::StatusCode,
    web::{Data, Path},
};

use super::Uploads;
use crate::problem::Problem;

/// 204 once they are erased, 404 if the image is unknown.
#[handler]
pub(crate) async fn erase(Path(id): Path<String>, Data(uploads): Data<&Arc<Uploads>>) -> Response {
    erased(&id, uploads).await.unwrap_or_else(IntoResponse::into_response)
}

async fn erased(id: &str, uploads: &Uploads) -> Result<Response, Problem> {
    let id: JobId = id.parse().map_err(|error| Problem::not_found(format!("{error}")))?;
    let was_there = uploads.jobs.erase(id).await.map_err(|error| {
        tracing::error!(%id, %error, "an image could not be erased");
        Problem::backend(&error)
    })?;
    if !was_there {
        return Err(Problem::not_found(format!("no image {id} was uploaded here")));
    }
    tracing::info!(%id, "{id}: erased, with its results");
    Ok(StatusCode::NO_CONTENT.into_response())
}
