//! One upload: its request, made of pieces that are ready before the run, and what its answers mean.

use std::time::Duration;

use bytes::Bytes;
use hyper::{
    Method, Request, StatusCode,
    header::{self, HeaderMap, HeaderValue},
};

use super::images::{ImageFile, Uniquely};
use crate::http::{Answer, Pieces, Url, header_pair};

/// Why an image has no label.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{}{}", .0.as_u16(), and_detail(.1))]
    Status(StatusCode, String),
    #[error("no label within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    #[error("{0}")]
    Lost(String),
    #[error("a 202 without a Location to ask for the result")]
    NoLocation,
    #[error("an answer without a label: {0}")]
    NoLabel(String),
    #[error("cannot be read: {0}")]
    Unreadable(String),
}

fn and_detail(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(": {detail}") }
}

impl Failure {
    /// What failures are counted by.
    pub(super) fn kind(&self) -> String {
        match self {
            Self::Status(status, _) => status.as_u16().to_string(),
            Self::Timeout(_) => "timeout".into(),
            Self::Lost(_) => "connection lost".into(),
            Self::NoLocation | Self::NoLabel(_) => "not an answer of EIRS".into(),
            Self::Unreadable(_) => "file not readable".into(),
        }
    }
}

/// Makes the requests of a run.
#[derive(Debug)]
pub(super) struct Uploader {
    url: Url,
    path: String,
    field: String,
    boundary: String,
    tail: Bytes,
    upload_headers: HeaderMap,
    result_headers: HeaderMap,
    unique: Option<Uniquely>,
}

impl Uploader {
    pub(super) fn new(url: &Url, field: &str, unique: Option<Uniquely>) -> Self {
        // 128 random bits: no image holds them by chance.
        let random = [0; 2].map(|_| std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0));
        let boundary = format!("eirs-{:016x}{:016x}", random[0], random[1]);
        let multipart = HeaderValue::from_str(&format!("multipart/form-data; boundary={boundary}"));
        let multipart = multipart.expect("hex digits are fit for a header");
        Self {
            url: url.clone(),
            path: url.upload_path(""),
            field: field.replace(['"', '\r', '\n'], "_"),
            tail: format!("\r\n--{boundary}--\r\n").into(),
            boundary,
            upload_headers: HeaderMap::from_iter([
                header_pair(header::ACCEPT, "text/plain, application/json;q=0.5"),
                (header::CONTENT_TYPE, multipart),
            ]),
            result_headers: HeaderMap::from_iter([header_pair(header::ACCEPT, "application/json")]),
            unique,
        }
    }

    /// The upload of this image as the `number`th one.
    pub(super) fn upload(&self, image: &ImageFile, bytes: &Bytes, number: u64) -> Request<Pieces> {
        let head = format!(
            "--{}\r\nContent-Disposition: form-data; name=\"{}\"; filename=\"{}\"\r\nContent-Type: {}\r\n\r\n",
            self.boundary,
            self.field,
            image.file_name().replace(['"', '\r', '\n'], "_"),
            image.media_type
        );
        let [start, mark, rest] = match &self.unique {
            Some(unique) => unique.marked(bytes, number),
            None => [bytes.clone(), Bytes::new(), Bytes::new()],
        };
        let body = Pieces::of([head.into(), start, mark, rest, self.tail.clone()]);
        self.url.request(Method::POST, &self.path, &self.upload_headers, body)
    }

    /// The question after a result that was not there yet.
    pub(super) fn result(&self, path: &str) -> Request<Pieces> {
        self.url.request(Method::GET, path, &self.result_headers, Pieces::default())
    }
}

/// The label in a 200: the text alone, or the one of a result in JSON.
pub(super) fn label(answer: &Answer) -> Result<String, Failure> {
    let is_json =
        answer.header(header::CONTENT_TYPE).is_some_and(|kind| kind.starts_with("application/json"));
    if is_json {
        let result = answer.json();
        let label = result.get("label").and_then(|label| label.as_str());
        return label.map(str::to_owned).ok_or_else(|| Failure::NoLabel(answer.detail()));
    }
    let text = std::str::from_utf8(&answer.body).map(str::trim).unwrap_or_default();
    let is_label = !text.is_empty() && text.lines().nth(1).is_none() && !text.starts_with('<');
    is_label.then(|| text.to_owned()).ok_or_else(|| Failure::NoLabel(answer.detail()))
}
