//! Puts the end of a job, or its not having ended yet, into an HTTP answer.

use std::sync::Arc;

use eirs_platform::job::{Guess, JobId, Outcome, Reply};
use poem::{IntoResponse, Response, http::StatusCode};
use serde::Serialize;

use crate::{metrics::Answered, problem::Problem};

/// A finished job, as one uploader sees it.
#[derive(Debug, Serialize)]
pub(crate) struct Finished<'a> {
    id: JobId,
    name: &'a str,
    label: &'a str,
    confidence: f32,
    top: &'a [Guess],
    model: &'a str,
    cached: bool,
    worker: &'a str,
    timings_ms: Timings,
}

#[derive(Debug, Serialize)]
struct Timings {
    queued: f64,
    classify: f64,
    total: f64,
}

/// A job that has not ended.
#[derive(Debug, Serialize)]
pub(crate) struct Pending<'a> {
    pub(crate) id: JobId,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) name: &'a str,
    status: &'static str,
    pub(crate) location: String,
    pub(crate) retry_after_s: u64,
}

/// What became of one image of an upload.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) name: String,
    pub(crate) kind: Kind,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Ended { reply: Arc<Reply>, cached: bool, total_ms: f64 },
    Pending { id: JobId, model: Arc<str>, retry_after_s: u64 },
    Refused(Problem),
}

/// How the client wants to see it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    pub(crate) json: bool,
    pub(crate) top: usize,
}

impl Answer {
    /// For the metrics.
    pub(crate) fn answered(&self) -> Answered {
        match &self.kind {
            Kind::Ended { reply, cached, .. } => match reply.outcome {
                Outcome::Classified { .. } if *cached => Answered::Cached,
                Outcome::Classified { .. } => Answered::Classified,
                Outcome::Rejected { .. } => Answered::Rejected,
                Outcome::GaveUp { .. } => Answered::Failed,
            },
            Kind::Pending { .. } => Answered::Pending,
            Kind::Refused(problem) if problem.status.is_server_error() => Answered::Failed,
            Kind::Refused(_) => Answered::Refused,
        }
    }

    /// The image, where it is one.
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
                match finished(reply, &self.name, cached, total_ms, view.top) {
                    Ok(finished) if view.json => json(StatusCode::OK, &finished),
                    Ok(finished) => Response::builder()
                        .content_type("text/plain; charset=utf-8")
                        .body(finished.label.to_owned()),
                    Err(problem) => problem.into_response(),
                }
            }
            Kind::Pending { id, model, retry_after_s } => pending(id, &self.name, &model, retry_after_s),
            Kind::Refused(problem) => problem.into_response(),
        }
    }

    /// The line of this image in the answer to an upload of several.
    pub(crate) fn into_line(self, view: View) -> String {
        #[derive(Serialize)]
        struct Failed<'a> {
            name: &'a str,
            error: Problem,
        }
        let line = match self.kind {
            Kind::Ended { ref reply, cached, total_ms } => {
                match finished(reply, &self.name, cached, total_ms, view.top) {
                    Ok(finished) => serde_json::to_string(&finished),
                    Err(error) => serde_json::to_string(&Failed { name: &self.name, error }),
                }
            }
            Kind::Pending { id, ref model, retry_after_s } => {
                serde_json::to_string(&Pending::new(id, &self.name, model, retry_after_s))
            }
            Kind::Refused(error) => serde_json::to_string(&Failed { name: &self.name, error }),
        };
        line.expect("an answer has string keys and finite numbers only") + "\n"
    }
}

/// A reply as the uploader of `name` sees it. A job that ended without a label is a problem.
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
            Ok(Finished {
                id: reply.id,
                name,
                label: &best.label,
                confidence: best.confidence,
                top: &guesses[..top.clamp(1, guesses.len())],
                model: &reply.model,
                cached,
                worker: &reply.worker,
                timings_ms: Timings { queued: reply.queued_ms, classify: reply.classify_ms, total: total_ms },
            })
        }
        Outcome::Rejected { reason } => Err(Problem::rejected(reply.id, reason)),
        Outcome::GaveUp { reason } => Err(Problem::gave_up(reply.id, reason)),
    }
}

impl<'a> Pending<'a> {
    fn new(id: JobId, name: &'a str, model: &str, retry_after_s: u64) -> Self {
        let query = if model == eirs_platform::settings::Model::DEFAULT {
            String::new()
        } else {
            format!("?model={model}")
        };
        Self { id, name, status: "pending", location: format!("/results/{id}{query}"), retry_after_s }
    }
}

/// 202: it is safely stored and queued, here is where its result will be.
pub(crate) fn pending(id: JobId, name: &str, model: &str, retry_after_s: u64) -> Response {
    let pending = Pending::new(id, name, model, retry_after_s);
    let mut response = json(StatusCode::ACCEPTED, &pending);
    let mut header = |name: &'static str, value: String| {
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(name, value);
        }
    };
    header("location", pending.location);
    header("retry-after", retry_after_s.to_string());
    response
}

/// A JSON answer.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let body = serde_json::to_string(body).expect("an answer has string keys and finite numbers only");
    Response::builder().status(status).content_type("application/json").body(body + "\n")
}
