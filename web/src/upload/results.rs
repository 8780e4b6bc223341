//! `GET /results/{id}`: works on every web host, because all of them read the same store.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use eirs_platform::{
    Result,
    job::{JobId, Reply},
    version::is_version,
};
use poem::{
    IntoResponse, Request, Response, handler,
    http::StatusCode,
    web::{Data, Path},
};
use tokio::time::Instant;

use super::{
    Uploads,
    answer::{finished, json, pending},
    query::{Call, check, model_and_top, named, query, wait},
};
use crate::{access::Allowance, jobs::Key, problem::Problem};

/// Only for queues that cannot tell whether a given job is in them: a job older than this, whose
/// queue is empty, was dropped. SQS counts the jobs of a queue within a minute.
const LOST_AFTER: Duration = Duration::from_secs(120);
/// Maximum difference between the clocks of two machines.
const CLOCKS_DIFFER: TimeDelta = TimeDelta::seconds(5);

/// The result of an earlier upload: 200 if it is stored, 202 while it is pending, 410 if it will
/// not come, 404 if the image is unknown.
#[handler]
pub(crate) async fn result(
    request: &Request,
    Path(id): Path<String>,
    Data(uploads): Data<&Arc<Uploads>>,
) -> Response {
    waited(request, &id, uploads).await.unwrap_or_else(IntoResponse::into_response)
}

/// Looks for a result until there is one or the client's wait is over.
async fn waited(request: &Request, id: &str, uploads: &Uploads) -> std::result::Result<Response, Problem> {
    check(request, Call::Result)?;
    let wait = wait(request, Duration::ZERO, uploads.settings.web.max_wait)?;
    if wait.is_zero() {
        return look(request, id, uploads).await;
    }
    let until = Instant::now() + wait;
    // A waiting request takes a place, like an upload that waits; without one, it is answered at
    // once.
    let allowance = request.extensions().get::<Allowance>();
    let place = (uploads.places.clone().try_acquire_owned(), allowance.map(Allowance::upload).transpose());
    loop {
        let response = look(request, id, uploads).await?;
        let left = until.saturating_duration_since(Instant::now());
        let has_place = place.0.is_ok() && place.1.is_ok();
        if response.status() != StatusCode::ACCEPTED || left.is_zero() || !has_place {
            return Ok(response);
        }
        tokio::select! {
            () = uploads.jobs.news_of(id, left) => {}
            () = uploads.give_up.cancelled() => return Ok(response),
        }
    }
}

/// What is stored for an image and one model.
enum Found {
    Result(Arc<Reply>),
    Pending,
    Dropped,
    Nothing,
}

async fn look(request: &Request, id: &str, uploads: &Uploads) -> std::result::Result<Response, Problem> {
    let id: JobId = id.parse().map_err(|error| Problem::not_found(format!("{error}")))?;
    let (model, top) = model_and_top(request, uploads)?;
    let is_named = query(request, "model").is_some();
    if uploads.jobs.is_erased(id) {
        return Err(Problem::not_found(format!("no image {id} was uploaded here")));
    }
    let logged = |error: eirs_platform::Error| {
        tracing::error!(%id, %error, "a result could not be read");
        Problem::backend(&error)
    };
    let name = named(request);
    let shown = |reply: &Reply| {
        let total_ms = reply.queued_ms + reply.classify_ms;
        finished(reply, &name, true, total_ms, top).map(|finished| json(StatusCode::OK, &finished))
    };
    // Without `?model=`, look at all models: the image was uploaded for one of them.
    let others = uploads.jobs.model_names().filter(|other| !is_named && *other != model);
    let models: Vec<_> = std::iter::once(model.clone()).chain(others).collect();
    if let Some(version) = query(request, "version") {
        if !is_version(&version) {
            return Err(Problem::bad_request(
                "version: must be lower-case letters and digits, as in results",
            ));
        }
        for model in models {
            if let Some(reply) = uploads.jobs.of_version(&(id, model), &version).await.map_err(logged)? {
                return shown(&reply);
            }
        }
        return Err(Problem::not_found(format!("no result of the image {id} has version {version}")));
    }
    let mut is_dropped = false;
    for model in models {
        let key = (id, model);
        match of_model(uploads, &key).await.map_err(logged)? {
            Found::Result(reply) => return shown(&reply),
            Found::Pending => {
                return Ok(pending(id, None, &key.1, uploads.jobs.eta_s(&key).await));
            }
            Found::Dropped => is_dropped = true,
            Found::Nothing => {}
        }
    }
    if is_dropped {
        return Err(Problem::dropped(id));
    }
    let by = if is_named { format!(" for the model `{model}`") } else { String::new() };
    Err(Problem::not_found(format!("no image {id} was uploaded here{by}")))
}

async fn of_model(uploads: &Uploads, key: &Key) -> Result<Found> {
    if let Some(reply) = uploads.jobs.stored(key).await? {
        return Ok(Found::Result(reply));
    }
    let Some(asked_at) = uploads.jobs.asked_at(key).await? else {
        // The image may have expired before its results.
        let newest = uploads.jobs.newest(key).await?.map(Arc::new);
        return Ok(newest.map_or(Found::Nothing, Found::Result));
    };
    let is_waiting = may_come(uploads, key, asked_at).await;
    // Look again: a job that ended since the first look has a result now.
    if let Some(reply) = uploads.jobs.stored(key).await? {
        return Ok(Found::Result(reply));
    }
    if is_waiting && uploads.jobs.is_in_flight(key) {
        return Ok(Found::Pending);
    }
    let newest = uploads.jobs.newest(key).await?.map(Arc::new);
    // The newest result may have another version, from a worker that was not replaced yet. A result
    // from before the last upload counts only if no other will come.
    let newest = newest.filter(|reply| !is_waiting || reply.at + CLOCKS_DIFFER >= asked_at);
    Ok(match newest {
        Some(reply) => Found::Result(reply),
        None if is_waiting => Found::Pending,
        None => Found::Dropped,
    })
}

/// Returns whether a job for the image may still be in flight or waiting.
async fn may_come(uploads: &Uploads, key: &Key, asked_at: DateTime<Utc>) -> bool {
    if let Some(known) = uploads.jobs.has_job(key).await {
        return known;
    }
    let age = (uploads.clock.now() - asked_at).to_std().unwrap_or_default();
    let queue = &uploads.settings.queue;
    if age > queue.retention + queue.visibility {
        return false;
    }
    let is_old = age > LOST_AFTER || age > queue.retention;
    !is_old || uploads.jobs.has_jobs(&key.1).await
}
