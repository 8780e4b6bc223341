//! Turns the outcome of a job, or its being pending, into an HTTP answer.

use std::sync::Arc;

use eirs_platform::job::{self, JobId, Outcome, Reply};
use poem::{
    IntoResponse, Response,
    http::{HeaderName, HeaderValue, StatusCode},
};
use poem_openapi::{Enum, Object, Union};
use serde::Serialize;

use crate::{
    jobs::eta::whole_seconds,
    metrics::Answered,
    problem::{self, Problem},
};

/// Marks an answer as a stored one, also if it is text (RFC 9211).
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

// `Serialize` writes the answer and `Object` describes it (see api.rs); a test compares the two.
// The derive of `Object` uses a lifetime `'a` of its own.

/// A classified image.
#[derive(Debug, Serialize, Object)]
#[oai(read_only_all)]
pub(crate) struct Finished<'r> {
    /// The image: the SHA-256 of its bytes.
    #[oai(validator(pattern = "^[0-9a-f]{64}$"))]
    id: String,
    /// The name under which it was uploaded.
    name: &'r str,
    /// The label.
    label: &'r str,
    /// The model's confidence in the label; from 0 to 1 if the model gives probabilities.
    confidence: f32,
    /// The best guesses, best first.
    top: Vec<Guess<'r>>,
    /// The model that classified it.
    model: &'r str,
    /// The version of the model: a digest of the model file, the labels and the settings that
    /// change its results. Empty for a result stored before versions existed.
    version: &'r str,
    /// Whether this is the stored result of an earlier upload.
    cached: bool,
    /// The instance that classified it.
    worker: &'r str,
    /// The time it took.
    timings_ms: Timings,
}

/// A label with the model's confidence.
#[derive(Debug, Serialize, Object)]
#[oai(read_only_all)]
struct Guess<'r> {
    /// The label, as in the model's label file.
    label: &'r str,
    /// From 0 to 1 if the model gives probabilities.
    confidence: f32,
}

/// Times in milliseconds.
#[derive(Debug, Default, Serialize, Object)]
#[oai(read_only_all)]
struct Timings {
    /// From the job's entry into the queue until a worker received it.
    queued: f64,
    /// From there until the result.
    classify: f64,
    /// From the request until this answer.
    total: f64,
}

/// An image that is stored and queued, and not classified yet.
#[derive(Debug, Serialize, Object)]
#[oai(read_only_all, skip_serializing_if_is_none)]
pub(crate) struct Pending<'r> {
    /// The image: the SHA-256 of its bytes.
    #[oai(validator(pattern = "^[0-9a-f]{64}$"))]
    id: String,
    /// The name under which it was uploaded; only in the answer to an upload.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'r str>,
    /// Always `pending`.
    status: Unfinished,
    /// The path of the result.
    location: String,
    /// Seconds after which to ask for the result.
    retry_after_s: u64,
    /// The estimated time until the result, in seconds; `retry_after_s` is this in whole seconds.
    eta_s: f64,
}

/// The state of an image without a label.
#[derive(Debug, Clone, Copy, Default, Serialize, Enum)]
#[serde(rename_all = "lowercase")]
#[oai(rename_all = "lowercase")]
enum Unfinished {
    #[default]
    Pending,
}

/// An image without a label, in an upload of several images.
#[derive(Debug, Serialize, Object)]
#[oai(read_only_all)]
pub(crate) struct Failed<'r> {
    /// The name under which it was uploaded.
    name: &'r str,
    /// The reason.
    error: problem::Document<'r>,
}

/// One line of the answer to an upload of several images: `Finished`, `Pending` or `Failed`,
/// distinguished by their fields.
#[derive(Debug, Serialize, Union)]
#[serde(untagged)]
pub(crate) enum Line<'r> {
    Finished(Finished<'r>),
    Pending(Pending<'r>),
    Failed(Failed<'r>),
}

/// The answer to one image of an upload.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) name: String,
    pub(crate) kind: Kind,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Ended { reply: Arc<Reply>, cached: bool, total_ms: f64 },
    Pending { id: JobId, model: Arc<str>, eta_s: f64 },
    Refused(Problem),
}

/// The form of the answer that the client wants.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    pub(crate) json: bool,
    pub(crate) top: usize,
}

impl Answer {
    /// The kind of answer, for the metrics.
    pub(crate) fn answered(&self) -> Answered {
        match &self.kind {
            Kind::Ended { reply, cached, .. } => Answered::of(&reply.outcome, *cached),
            Kind::Pending { .. } => Answered::Pending,
            Kind::Refused(problem) if problem.status.is_server_error() => Answered::Failed,
            Kind::Refused(_) => Answered::Refused,
        }
    }

    /// The image's id, if the image was accepted.
    pub(crate) fn id(&self) -> Option<JobId> {
        match &self.kind {
            Kind::Ended { reply, .. } => Some(reply.id),
            Kind::Pending { id, .. } => Some(*id),
            Kind::Refused(_) => None,
        }
    }

    /// The answer to an upload of one image.
    pub(crate) fn into_response(self, view: View) -> Response {
        match self.kind {
            Kind::Ended { ref reply, cached, total_ms } => {
                let mut response = match finished(reply, &self.name, cached, total_ms, view.top) {
                    Ok(finished) if view.json => json(StatusCode::OK, &finished),
                    Ok(finished) => Response::builder()
                        .content_type("text/plain; charset=utf-8")
                        .body(finished.label.to_owned()),
                    Err(problem) => problem.into_response(),
                };
                if cached {
                    response.headers_mut().insert(CACHE_STATUS, HeaderValue::from_static("eirs; hit"));
                }
                response
            }
            Kind::Pending { id, model, eta_s } => pending(id, Some(&self.name), &model, eta_s),
            Kind::Refused(problem) => problem.into_response(),
        }
    }

    /// The line of this image in the answer to an upload of several.
    pub(crate) fn into_line(self, view: View) -> String {
        let name = &self.name;
        let refused;
        let line = match &self.kind {
            Kind::Ended { reply, cached, total_ms } => {
                match finished(reply, name, *cached, *total_ms, view.top) {
                    Ok(finished) => Line::Finished(finished),
                    Err(problem) => {
                        refused = problem;
                        Line::Failed(Failed::new(name, &refused))
                    }
                }
            }
            Kind::Pending { id, model, eta_s } => Line::Pending(Pending::new(*id, Some(name), model, *eta_s)),
            Kind::Refused(problem) => Line::Failed(Failed::new(name, problem)),
        };
        serde_json::to_string(&line).expect("an answer has string keys and finite numbers only") + "\n"
    }
}

/// Converts a reply for the client that uploaded it as `name`. Returns a [`Problem`] if the job
/// ended without a label.
pub(crate) fn finished<'a>(
    reply: &'a Reply,
    name: &'a str,
    cached: bool,
    total_ms: f64,
    top: usize,
) -> Result<Finished<'a>, Problem> {
    match &reply.outcome {
        Outcome::Classified { top: guesses } => {
            let best =
                guesses.first().ok_or_else(|| Problem::gave_up(reply.id, "the classifier gave no label"))?;
            let top = &guesses[..top.clamp(1, guesses.len())];
            Ok(Finished {
                id: reply.id.to_string(),
                name,
                label: &best.label,
                confidence: best.confidence,
                top: top.iter().map(Guess::of).collect(),
                model: &reply.model,
                version: &reply.version,
                cached,
                worker: &reply.worker,
                timings_ms: Timings { queued: reply.queued_ms, classify: reply.classify_ms, total: total_ms },
            })
        }
        Outcome::Rejected { reason } => Err(Problem::rejected(reply.id, reason)),
        Outcome::GaveUp { reason } => Err(Problem::gave_up(reply.id, reason)),
    }
}

impl<'a> Failed<'a> {
    pub(crate) fn new(name: &'a str, problem: &'a Problem) -> Self {
        Self { name, error: problem.document() }
    }
}

impl<'a> Guess<'a> {
    fn of(guess: &'a job::Guess) -> Self {
        Self { label: &guess.label, confidence: guess.confidence }
    }
}

/// The name of an image that was uploaded without one.
pub(crate) const UNNAMED: &str = "image";

/// Percent-encodes a text as a query parameter.
fn percent(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let escaped =
        |byte: u8| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(escaped).collect()
}

impl<'a> Pending<'a> {
    pub(crate) fn new(id: JobId, name: Option<&'a str>, model: &str, eta_s: f64) -> Self {
        // The name is this client's own; another client that uploads the same image gets another
        // address.
        let model = Some(model).filter(|model| *model != eirs_platform::settings::Model::DEFAULT);
        let named = name.filter(|name| *name != UNNAMED).map(percent);
        let parameters =
            [model.map(|model| format!("model={model}")), named.map(|name| format!("name={name}"))];
        let query = parameters.into_iter().flatten().collect::<Vec<_>>().join("&");
        let mark = if query.is_empty() { "" } else { "?" };
        let (status, location) = (Unfinished::Pending, format!("/results/{id}{mark}{query}"));
        // An estimate is not more exact than a hundredth of a second.
        let eta = (eta_s * 100.0).round() / 100.0;
        Self { id: id.to_string(), name, status, location, retry_after_s: whole_seconds(eta_s), eta_s: eta }
    }
}

/// A 202: the image is stored and queued; `location` is where its result will be.
pub(crate) fn pending(id: JobId, name: Option<&str>, model: &str, eta_s: f64) -> Response {
    let pending = Pending::new(id, name, model, eta_s);
    let mut response = json(StatusCode::ACCEPTED, &pending);
    let mut header = |name: &'static str, value: String| {
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(name, value);
        }
    };
    header("location", pending.location);
    header("retry-after", pending.retry_after_s.to_string());
    response
}

/// A JSON answer.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let body = serde_json::to_string(body).expect("an answer has string keys and finite numbers only");
    Response::builder().status(status).content_type("application/json").body(body + "\n")
}
