//! `POST /upload`

pub(crate) mod answer;
mod body;
mod encoding;
pub(crate) mod erase;
mod fields;
mod form;
mod image_type;
mod multipart;
mod pace;
pub(crate) mod results;
pub(crate) mod traced;

use std::{num::IntErrorKind, sync::Arc, time::Duration};

use eirs_platform::{
    settings::{Model, units},
    trace::{Scope, TARGET},
};
use futures::{StreamExt, stream::FuturesUnordered};
use poem::{Body, Request, Response, handler, web::Data};
use tokio::time::Instant;
use tracing::{Instrument, debug_span};

use self::{
    answer::{Answer, Kind, View},
    body::{Images, Refused, shown_name},
};
pub(crate) use self::{
    answer::{how_it_ended, json},
    body::{FIELDS, Image},
    image_type::TYPES,
};
use crate::{
    App,
    access::Allowance,
    jobs::{Submitted, Ticket, Wanted},
    problem::Problem,
};

/// How long storing and queueing may take after the client's own wait is over. Only a service that is hardly there takes so long.
const QUEUEING: Duration = Duration::from_secs(30);
/// How many images of one upload may be on their way to the store while the next one is read.
const ON_THEIR_WAY: usize = 16;

/// What the client asks for beside the image.
#[derive(Debug, Clone)]
struct Wishes {
    began: Instant,
    wait: Duration,
    model: Arc<str>,
    fresh: bool,
    view: View,
    scope: Scope,
    /// Who it is, where that counts.
    client: Option<Allowance>,
}

/// Takes one image or several, and answers with labels, or with where they will be.
#[handler]
pub(crate) async fn upload(request: &Request, body: Body, Data(app): Data<&Arc<App>>) -> Response {
    let began = Instant::now();
    let _in_hand = InHand::new(app, began);
    let scope = traced::upload(request);
    let response = match scope.run(take(request, body, app, began, &scope)).await {
        Ok(response) => response,
        Err(problem) => refuse(app, "image".to_owned(), problem).into_response(View { json: true, top: 1 }),
    };
    traced::answered(&scope, response)
}

/// Counts an upload for as long as it is in hand, also where the client leaves and nobody comes back here.
struct InHand<'a>(&'a App, Instant);

impl<'a> InHand<'a> {
    fn new(app: &'a App, began: Instant) -> Self {
        app.metrics.in_hand.inc();
        Self(app, began)
    }
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.0.metrics.in_hand.dec();
        self.0.metrics.upload_seconds.observe(self.1.elapsed().as_secs_f64());
    }
}

async fn take(
    request: &Request,
    body: Body,
    app: &Arc<App>,
    began: Instant,
    scope: &Scope,
) -> Result<Response, Problem> {
    if app.draining.is_cancelled() {
        return Err(Problem::draining());
    }
    let allowance = request.extensions().get::<Allowance>();
    let uploading = allowance.map(Allowance::upload).transpose()?;
    let all = || Problem::too_many_uploads("this server");
    let permit = (app.uploads.clone().try_acquire_owned().map_err(|_| all())?, uploading);
    let wishes = wishes(request, app, began, scope)?;
    let bare_name = query(request, "name");
    let stream = body.into_bytes_stream();
    let mut images = Images::of(stream, request.headers(), bare_name, &app.settings.web, &app.room)?;

    let mut begun: Vec<Begun> = Vec::new();
    while let Some(image) = images.next().instrument(debug_span!(target: TARGET, "read")).await? {
        if begun.len() == app.settings.web.max_images_per_upload {
            let detail =
                format!("an upload may hold at most {} images", app.settings.web.max_images_per_upload);
            return Err(Problem::too_large(detail));
        }
        // A client that sends faster than the store takes is read as fast as that, and fills no memory here.
        if let Some(Begun::Waits(_, ticket)) =
            begun.len().checked_sub(ON_THEIR_WAY).and_then(|n| begun.get_mut(n))
        {
            let _reported_later = tokio::time::timeout(QUEUEING, app.jobs.wait_until_sent(ticket)).await;
        }
        // The first one was counted with the request.
        let further = if begun.is_empty() { None } else { allowance };
        begun.push(match further.map_or(Ok(()), Allowance::further_image) {
            Ok(()) => begin(app, image, &wishes).await,
            Err(problem) => Begun::Answered(refuse(app, name_of(image), problem)),
        });
    }
    let none = images.none();
    // What is left of the body is the listener's to read; only then does it see a client that leaves.
    drop(images);
    match begun.len() {
        0 => Err(none),
        1 => {
            let begun = begun.pop().ok_or(none)?;
            Ok(end(app, begun, &wishes).await.into_response(wishes.view))
        }
        _ => {
            let ending: FuturesUnordered<_> = begun
                .into_iter()
                .map(|begun| {
                    let (app, wishes) = (app.clone(), wishes.clone());
                    async move {
                        // This goes on when the function has returned.
                        let scope = wishes.scope.clone();
                        scope.run(end(&app, begun, &wishes)).await.into_line(wishes.view)
                    }
                })
                .collect();
            // The permit lives as long as the answer is being written.
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

/// An image on its way.
enum Begun {
    Answered(Answer),
    Waits(String, Ticket),
}

/// Stores and sends one image, if it is one and there is room for it.
async fn begin(app: &Arc<App>, image: Result<Image, Refused>, wishes: &Wishes) -> Begun {
    let image = match image {
        Ok(image) => image,
        Err(Refused { name, problem }) => return Begun::Answered(refuse(app, name, problem)),
    };
    app.metrics.image_bytes.inc_by(image.content.len());
    let name = image.name.clone();
    match submit(app, image, wishes).await {
        Ok(Submitted::Known(reply)) => {
            let answer =
                Answer { name, kind: Kind::Ended { reply, cached: true, total_ms: wishes.elapsed_ms() } };
            told(app, &answer, wishes);
            Begun::Answered(answer)
        }
        Ok(Submitted::Waits(ticket)) => {
            if ticket.first { &app.metrics.jobs_sent } else { &app.metrics.coalesced }.inc();
            Begun::Waits(name, ticket)
        }
        Err(problem) => Begun::Answered(refuse(app, name, problem)),
    }
}

/// What is known needs no room in the queue, and is answered however full that is.
async fn submit(app: &Arc<App>, image: Image, wishes: &Wishes) -> Result<Submitted, Problem> {
    let id = image.id;
    let logged = |error: eirs_platform::Error| {
        tracing::error!(%id, %error, "an image could not be taken");
        Problem::backend(&error)
    };
    let (model, queue) =
        app.jobs.model(&wishes.model).ok_or_else(|| Problem::not_found("there is no such model"))?;
    let wanted = Wanted { model, fresh: wishes.fresh };
    let looking = debug_span!(target: TARGET, "look", image.id = %id);
    let found = app.jobs.find(id, &wanted).instrument(looking).await;
    if let Some(known) = found.map_err(logged)? {
        if let Submitted::Waits(ticket) = &known {
            app.jobs.keep_whole(ticket, image).await.map_err(logged)?;
        }
        return Ok(known);
    }
    let admitted = app.jobs.admit(&wanted.model, queue, wishes.client.as_ref()).await?;
    Ok(Submitted::Waits(app.jobs.send(image, &wanted, admitted, &wishes.scope)))
}

/// Waits for the label as long as the client wants to, and at most until this server stops.
async fn end(app: &App, begun: Begun, wishes: &Wishes) -> Answer {
    let (name, mut ticket) = match begun {
        Begun::Answered(answer) => return answer,
        Begun::Waits(name, ticket) => (name, ticket),
    };
    let until = async {
        tokio::select! {
            () = tokio::time::sleep_until(wishes.began + wishes.wait) => {}
            () = app.give_up.cancelled() => {}
        }
    };
    let waiting = debug_span!(target: TARGET, "wait", image.id = %ticket.key.0, joined = !ticket.first);
    let ended = app.jobs.wait(&mut ticket, until).instrument(waiting).await;
    let kind = match ended {
        Some(Ok(reply)) => Kind::Ended { reply, cached: false, total_ms: wishes.elapsed_ms() },
        Some(Err(error)) => Kind::Refused(Problem::backend(&error)),
        // A 202 is a promise: it is given when the job is in the queue.
        None => match tokio::time::timeout(QUEUEING, app.jobs.wait_until_sent(&mut ticket)).await {
            Err(_late) => Kind::Refused(Problem::not_queued()),
            Ok(Ok(())) => {
                let retry_after_s = app.jobs.retry_after_s(&ticket.key).await;
                let (id, model) = ticket.key;
                Kind::Pending { id, model, retry_after_s }
            }
            Ok(Err(error)) => Kind::Refused(Problem::backend(&error)),
        },
    };
    let answer = Answer { name, kind };
    told(app, &answer, wishes);
    answer
}

/// Counts and logs what is said of an image that could be taken.
fn told(app: &App, answer: &Answer, wishes: &Wishes) {
    let answered = answer.answered();
    // Of one that is under way it is counted later how it ended.
    let is_counted_later = match &answer.kind {
        Kind::Pending { id, model, .. } => app.jobs.promise(&(*id, model.clone())),
        Kind::Ended { .. } | Kind::Refused(_) => false,
    };
    if !is_counted_later {
        app.metrics.answered(answered);
    }
    if let Some(id) = answer.id() {
        let total_ms = wishes.elapsed_ms();
        let answer = answered.name();
        tracing::debug!(%id, model = &*wishes.model, answer, total_ms, "{id}: {answer} after {total_ms:.1} ms");
    }
}

fn refuse(app: &App, name: String, problem: Problem) -> Answer {
    let answer = Answer { name, kind: Kind::Refused(problem) };
    app.metrics.answered(answer.answered());
    answer
}

fn wishes(request: &Request, app: &App, began: Instant, scope: &Scope) -> Result<Wishes, Problem> {
    let web = &app.settings.web;
    let wait = wait(request, web.wait, web.max_wait)?;
    let (model, top) = model_and_top(request, app)?;
    let fresh = query(request, "fresh").map_or(Some(false), |text| switch(&text));
    let fresh = fresh.ok_or_else(|| Problem::bad_request("fresh: should be 1 or 0, like `?fresh=1`"))?;
    let accept = request.header("accept").unwrap_or_default();
    let json = accept.contains("application/json") || accept.contains("+json");
    let client = request.extensions().get::<Allowance>().cloned();
    Ok(Wishes { began, wait, model, fresh, view: View { json, top }, scope: scope.clone(), client })
}

/// `?wait=`, within the longest one.
pub(crate) fn wait(request: &Request, unless_said: Duration, longest: Duration) -> Result<Duration, Problem> {
    let Some(text) = query(request, "wait") else { return Ok(unless_said) };
    let wait = wait_of(&text).map_err(|why| Problem::bad_request(format!("wait: {why}")))?;
    Ok(wait.min(longest))
}

/// The name that the client says the image has (`?name=`).
pub(crate) fn named(request: &Request) -> String {
    shown_name(query(request, "name").as_deref())
}

/// `?model=` and `?top=`, which results know, too.
pub(crate) fn model_and_top(request: &Request, app: &App) -> Result<(Arc<str>, usize), Problem> {
    let name = query(request, "model").unwrap_or_else(|| Model::DEFAULT.to_owned());
    let Some((model, _)) = app.jobs.model(&name) else {
        let known: Vec<_> = app.jobs.models().collect();
        let detail = format!("there is no model `{}`; there is {}", name.escape_debug(), known.join(", "));
        return Err(Problem::not_found(detail));
    };
    let top = query(request, "top").map_or(Some(usize::MAX), |text| top_of(&text));
    match top {
        Some(top) => Ok((model, top)),
        None => Err(Problem::bad_request("top: should be a number from 1 on, like `?top=3`")),
    }
}

/// A parameter that is on or off; one without a value is on.
fn switch(text: &str) -> Option<bool> {
    match text {
        "" | "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

/// A number of guesses. One that is larger than any list means all of them, however large it is.
fn top_of(text: &str) -> Option<usize> {
    match text.parse() {
        Ok(top) => Some(top).filter(|top| *top >= 1),
        Err(error) => (*error.kind() == IntErrorKind::PosOverflow).then_some(usize::MAX),
    }
}

/// A time to wait, `60s` or `1m`; a bare number is seconds, as in `Retry-After`.
fn wait_of(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_secs).or_else(|_| units::duration::parse(text))
}

/// A parameter of the query; one that is there several times counts as its first.
pub(crate) fn query(request: &Request, name: &str) -> Option<String> {
    let pairs: Vec<(String, String)> = request.params().unwrap_or_default();
    pairs.into_iter().find(|(key, _)| key == name).map(|(_, value)| value)
}

impl Wishes {
    fn elapsed_ms(&self) -> f64 {
        self.began.elapsed().as_secs_f64() * 1e3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_durations_or_seconds() {
        assert_eq!(wait_of("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(wait_of("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(wait_of("0"), Ok(Duration::ZERO));
        assert_eq!(wait_of("5"), Ok(Duration::from_secs(5)));
        assert!(wait_of("-1").is_err() && wait_of("soon").is_err() && wait_of("").is_err());
    }

    #[test]
    fn a_number_of_guesses_is_at_least_one_and_as_large_as_one_likes() {
        assert_eq!((top_of("1"), top_of("3")), (Some(1), Some(3)));
        assert_eq!(top_of("726328847470390673408"), Some(usize::MAX));
        for text in ["0", "-1", "2.5", "", "many", "-726328847470390673408"] {
            assert_eq!(top_of(text), None, "{text}");
        }
    }
}
