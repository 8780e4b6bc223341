//! `POST /upload`

pub(crate) mod answer;
mod body;
#[cfg(test)]
mod body_tests;
mod encoding;
pub(crate) mod erase;
mod fields;
mod form;
mod image_type;
mod multipart;
mod pace;
mod query;
#[cfg(any(test, fuzzing))]
pub(crate) mod reading;
pub(crate) mod results;
pub(crate) mod traced;

use std::{sync::Arc, time::Duration};

use eirs_platform::{
    clock::SharedClock,
    settings::Settings,
    trace::{Scope, TARGET},
};
use futures::{StreamExt, stream::FuturesUnordered};
use poem::{Body, Request, Response, handler, web::Data};
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug_span};

pub(crate) use self::{answer::json, body::FIELDS, image_type::TYPES};
use self::{
    answer::{Answer, Kind, View},
    body::{Images, Refused},
    query::{Call, check, model_and_top, query, switch, wait},
};
use crate::{
    access::Allowance,
    jobs::{Answer as Got, Image, Jobs, NoAnswer, Submitted, Ticket, Wanted},
    metrics::Metrics,
    problem::Problem,
    spool::Room,
};

/// Maximum time for storing and queueing an image after the client's own wait is over. Only a
/// barely available backend takes that long.
const QUEUEING: Duration = Duration::from_secs(30);
/// Maximum number of images of one upload that are being stored while the next one is read.
const MAX_UNSENT: usize = 16;

/// State shared by the handlers of uploads and of results.
#[derive(Debug)]
pub(crate) struct Uploads {
    pub(crate) settings: Settings,
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: SharedClock,
    /// One permit per upload that may be in flight.
    places: Arc<Semaphore>,
    /// Memory and disk for arriving bodies.
    room: Arc<Room>,
    /// Cancelled when this server drains: it takes no new uploads.
    draining: CancellationToken,
    /// Cancelled when the time for draining is over: held requests get their 202.
    give_up: CancellationToken,
}

impl Uploads {
    /// Creates the folder for arriving bodies if it is missing. `draining` is the process's own
    /// token.
    pub(crate) fn new(
        settings: Settings,
        jobs: Arc<Jobs>,
        metrics: Arc<Metrics>,
        clock: SharedClock,
        draining: CancellationToken,
    ) -> eirs_platform::Result<Self> {
        let web = &settings.web;
        // A folder named by the operator is on a disk chosen for this purpose.
        let store = web.upload_folder.is_none().then(|| jobs.images().clone());
        let room = Room::new(
            web.upload_memory.as_u64(),
            web.upload_disk.as_u64(),
            &settings.upload_folder(),
            store,
            web.max_image.as_u64(),
        )?;
        let places = Arc::new(Semaphore::new(web.max_uploads.min(Semaphore::MAX_PERMITS)));
        let give_up = CancellationToken::new();
        Ok(Self { settings, jobs, metrics, clock, places, room, draining, give_up })
    }

    /// Answers held requests with 202 now.
    pub(crate) fn give_up_waiting(&self) {
        self.give_up.cancel();
    }

    /// The token that is cancelled when this server takes no new uploads.
    pub(crate) fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// Number of uploads in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.settings.web.max_uploads - self.places.available_permits()
    }
}

/// The parameters of an upload: its query, its headers and its client.
#[derive(Debug, Clone)]
struct Parameters {
    began: Instant,
    wait: Duration,
    model: Arc<str>,
    fresh: bool,
    view: View,
    scope: Scope,
    /// The client's allowance, if clients are limited.
    client: Option<Allowance>,
}

/// Accepts one or several images. The answer has their labels, or where the labels will be.
#[handler]
pub(crate) async fn upload(request: &Request, body: Body, Data(uploads): Data<&Arc<Uploads>>) -> Response {
    let began = Instant::now();
    let _in_flight = InFlight::new(uploads, began);
    let scope = traced::upload(request);
    let response = match scope.run(take(request, body, uploads, began, &scope)).await {
        Ok(response) => response,
        Err(problem) => {
            refuse(uploads, "image".to_owned(), problem).into_response(View { json: true, top: 1 })
        }
    };
    traced::answered(&scope, response)
}

/// Counts an upload while it is in flight. A guard, because the handler's future is dropped if the
/// client disconnects.
struct InFlight<'a>(&'a Uploads, Instant);

impl<'a> InFlight<'a> {
    fn new(uploads: &'a Uploads, began: Instant) -> Self {
        uploads.metrics.in_flight.inc();
        Self(uploads, began)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.metrics.in_flight.dec();
        self.0.metrics.upload_seconds.observe(self.1.elapsed().as_secs_f64());
    }
}

async fn take(
    request: &Request,
    body: Body,
    uploads: &Arc<Uploads>,
    began: Instant,
    scope: &Scope,
) -> Result<Response, Problem> {
    if uploads.draining.is_cancelled() {
        return Err(Problem::draining());
    }
    let allowance = request.extensions().get::<Allowance>();
    let uploading = allowance.map(Allowance::upload).transpose()?;
    let all = || Problem::too_many_uploads("this server");
    let permit = (uploads.places.clone().try_acquire_owned().map_err(|_| all())?, uploading);
    let parameters = parameters(request, uploads, began, scope)?;
    let bare_name = query(request, "name");
    let stream = body.into_bytes_stream();
    let mut images = Images::of(stream, request.headers(), bare_name, &uploads.settings.web, &uploads.room)?;

    let mut begun: Vec<Begun> = Vec::new();
    while let Some(image) = images.next().instrument(debug_span!(target: TARGET, "read")).await? {
        if begun.len() == uploads.settings.web.max_images_per_upload {
            let detail =
                format!("an upload may have at most {} images", uploads.settings.web.max_images_per_upload);
            return Err(Problem::too_large(detail));
        }
        // Reads a client no faster than the store takes its images, so that they do not fill the
        // memory.
        if let Some(Begun::Waits(_, ticket)) =
            begun.len().checked_sub(MAX_UNSENT).and_then(|n| begun.get_mut(n))
        {
            let _reported_later = tokio::time::timeout(QUEUEING, uploads.jobs.wait_until_sent(ticket)).await;
        }
        // The request itself counted the first image.
        let further = if begun.is_empty() { None } else { allowance };
        begun.push(match further.map_or(Ok(()), Allowance::further_image) {
            Ok(()) => begin(uploads, image, &parameters).await,
            Err(problem) => Begun::Answered(refuse(uploads, name_of(image), problem)),
        });
    }
    let none = images.none();
    // Hand the rest of the body back to the listener; only it then notices a client that
    // disconnects.
    drop(images);
    match begun.len() {
        0 => Err(none),
        1 => {
            let begun = begun.pop().ok_or(none)?;
            Ok(end(uploads, begun, &parameters).await.into_response(parameters.view))
        }
        _ => {
            let ending: FuturesUnordered<_> = begun
                .into_iter()
                .map(|begun| {
                    let (uploads, parameters) = (uploads.clone(), parameters.clone());
                    async move {
                        // This future outlives the function.
                        let scope = parameters.scope.clone();
                        scope.run(end(&uploads, begun, &parameters)).await.into_line(parameters.view)
                    }
                })
                .collect();
            // Hold the permits until the answer is written.
            let lines = ending.map(move |line| {
                let _held = &permit;
                Ok::<_, std::io::Error>(line)
            });
            Ok(Response::builder().content_type("application/x-ndjson").body(Body::from_bytes_stream(lines)))
        }
    }
}

fn name_of(image: Result<Image, Refused>) -> String {
    image.map_or_else(|refused| refused.name, |image| image.name)
}

/// An image that was read.
enum Begun {
    Answered(Answer),
    Waits(String, Ticket),
}

/// Stores and sends one image if it is valid and there is room for it.
async fn begin(uploads: &Arc<Uploads>, image: Result<Image, Refused>, parameters: &Parameters) -> Begun {
    let image = match image {
        Ok(image) => image,
        Err(Refused { name, problem }) => return Begun::Answered(refuse(uploads, name, problem)),
    };
    uploads.metrics.image_bytes.inc_by(image.content.len());
    let name = image.name.clone();
    match submit(uploads, image, parameters).await {
        Ok(Submitted::Known(reply)) => {
            let answer =
                Answer { name, kind: Kind::Ended { reply, cached: true, total_ms: parameters.elapsed_ms() } };
            record_answer(uploads, &answer, parameters);
            Begun::Answered(answer)
        }
        Ok(Submitted::Waits(ticket)) => {
            if !ticket.first {
                uploads.metrics.coalesced.inc();
            }
            Begun::Waits(name, ticket)
        }
        Err(problem) => Begun::Answered(refuse(uploads, name, problem)),
    }
}

/// Returns a stored result without taking room in the queue, even if the queue is full.
async fn submit(uploads: &Arc<Uploads>, image: Image, parameters: &Parameters) -> Result<Submitted, Problem> {
    let id = image.id;
    let logged = |error: eirs_platform::Error| {
        tracing::error!(%id, %error, "an image could not be accepted");
        Problem::backend(&error)
    };
    let (model, queue) =
        uploads.jobs.model(&parameters.model).ok_or_else(|| Problem::not_found("there is no such model"))?;
    let wanted = Wanted { model, fresh: parameters.fresh };
    let looking = debug_span!(target: TARGET, "look", image.id = %id);
    let found = uploads.jobs.find(id, &wanted).instrument(looking).await;
    match found.map_err(logged)? {
        Some(Submitted::Waits(ticket)) => {
            if uploads.jobs.has_image(&ticket, &image).await.map_err(logged)? {
                return Ok(Submitted::Waits(ticket));
            }
            uploads.jobs.lacks_image(&ticket);
        }
        Some(known) => return Ok(known),
        None => {}
    }
    let admitted = match uploads.jobs.admit(&wanted.model, queue, parameters.client.as_ref()).await {
        Ok(admitted) => admitted,
        Err(full) if wanted.fresh => return Err(full),
        Err(full) => {
            let known = uploads.jobs.known(&(id, wanted.model.clone())).await.map_err(logged)?;
            return known.map(Submitted::Known).ok_or(full);
        }
    };
    Ok(Submitted::Waits(uploads.jobs.send(image, &wanted, admitted, &parameters.scope)))
}

/// Waits for the label until the client's wait is over or this server stops.
async fn end(uploads: &Uploads, begun: Begun, parameters: &Parameters) -> Answer {
    let (name, mut ticket) = match begun {
        Begun::Answered(answer) => return answer,
        Begun::Waits(name, ticket) => (name, ticket),
    };
    let known = |reply| Kind::Ended { reply, cached: true, total_ms: parameters.elapsed_ms() };
    let until = async {
        tokio::select! {
            () = tokio::time::sleep_until(parameters.began + parameters.wait) => {}
            () = uploads.give_up.cancelled() => {}
        }
    };
    let waiting = debug_span!(target: TARGET, "wait", image.id = %ticket.key.0, joined = !ticket.first);
    let ended = uploads.jobs.wait(&mut ticket, until).instrument(waiting).await;
    let kind = match ended {
        Some(Ok(Got::New(reply))) => Kind::Ended { reply, cached: false, total_ms: parameters.elapsed_ms() },
        Some(Ok(Got::Known(reply))) => known(reply),
        Some(Err(NoAnswer::Failed(error))) => Kind::Refused(Problem::backend(&error)),
        Some(Err(NoAnswer::Erased)) => Kind::Refused(Problem::erased(ticket.key.0)),
        Some(Err(NoAnswer::Dropped)) => Kind::Refused(Problem::dropped_meanwhile(ticket.key.0)),
        // A 202 is a promise, so it is sent only once the job is in the queue.
        None => match tokio::time::timeout(QUEUEING, uploads.jobs.wait_until_sent(&mut ticket)).await {
            Err(_late) => Kind::Refused(Problem::not_queued()),
            Ok(Ok(Some(reply))) => known(reply),
            Ok(Ok(None)) => {
                let eta_s = uploads.jobs.eta_s(&ticket.key).await;
                let (id, model) = ticket.key;
                Kind::Pending { id, model, eta_s }
            }
            Ok(Err(error)) => Kind::Refused(Problem::backend(&error)),
        },
    };
    let answer = Answer { name, kind };
    record_answer(uploads, &answer, parameters);
    answer
}

/// Counts and logs the answer to an image that was accepted.
fn record_answer(uploads: &Uploads, answer: &Answer, parameters: &Parameters) {
    let answered = answer.answered();
    // A pending answer is counted later, when the job ends.
    let is_counted_later = match &answer.kind {
        Kind::Pending { id, model, .. } => uploads.jobs.promise(&(*id, model.clone())),
        Kind::Ended { .. } | Kind::Refused(_) => false,
    };
    if !is_counted_later {
        uploads.metrics.answered(answered);
    }
    if let Some(id) = answer.id() {
        let total_ms = parameters.elapsed_ms();
        let answer = answered.name();
        tracing::debug!(%id, model = &*parameters.model, answer, total_ms, "{id}: {answer} after \
            {total_ms:.1} ms");
    }
}

fn refuse(uploads: &Uploads, name: String, problem: Problem) -> Answer {
    let answer = Answer { name, kind: Kind::Refused(problem) };
    uploads.metrics.answered(answer.answered());
    answer
}

fn parameters(
    request: &Request,
    uploads: &Uploads,
    began: Instant,
    scope: &Scope,
) -> Result<Parameters, Problem> {
    let web = &uploads.settings.web;
    check(request, Call::Upload)?;
    let wait = wait(request, web.wait, web.max_wait)?;
    let (model, top) = model_and_top(request, uploads)?;
    let fresh = query(request, "fresh").map_or(Some(false), |text| switch(&text));
    let fresh = fresh.ok_or_else(|| Problem::bad_request("fresh: must be 1 or 0, like `?fresh=1`"))?;
    let accept = request.header("accept").unwrap_or_default();
    let json = accept.contains("application/json") || accept.contains("+json");
    let client = request.extensions().get::<Allowance>().cloned();
    Ok(Parameters { began, wait, model, fresh, view: View { json, top }, scope: scope.clone(), client })
}

impl Parameters {
    fn elapsed_ms(&self) -> f64 {
        self.began.elapsed().as_secs_f64() * 1e3
    }
}
