//! One upload: its request, made of pieces that are ready before the run, and what its answers
//! mean.

use std::time::Duration;

use bytes::Bytes;
use hyper::{
    Method, Request, StatusCode,
    header::{self, HeaderMap, HeaderValue},
};

use super::{
    Options,
    expect::Expect,
    images::{ImageFile, Uniquely},
};
use crate::http::{Pieces, Url, header_pair};

/// Why an image has no label.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{}{}", .0.as_u16(), and_detail(.1))]
    Status(StatusCode, String),
    #[error("no label within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    #[error("{0}")]
    Lost(String),
    #[error("a 202 without a Location")]
    NoLocation,
    #[error("a response without a label: {0}")]
    NoLabel(String),
    #[error("not what was expected: {0}")]
    Unexpected(String),
    #[error("not sent within {}: all connections were busy", humantime::format_duration(*.0))]
    NotSent(Duration),
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
            Self::Timeout(_) | Self::NotSent(_) => "timeout".into(),
            Self::Lost(_) => "connection lost".into(),
            Self::NoLocation | Self::NoLabel(_) => "not a response of EIRS".into(),
            Self::Unexpected(_) => "not what was expected".into(),
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
    is_bare: bool,
    upload_headers: HeaderMap,
    result_headers: HeaderMap,
    unique: Option<Uniquely>,
}

impl Uploader {
    pub(super) fn new(options: &Options) -> Self {
        // 128 random bits: no image holds them by chance.
        let random = [0; 2].map(|_| std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0));
        let boundary = format!("eirs-{:016x}{:016x}", random[0], random[1]);
        let multipart = HeaderValue::from_str(&format!("multipart/form-data; boundary={boundary}"));
        let multipart = multipart.expect("hex digits are fit for a header");
        let accept = match options.expect {
            Expect::Eirs => "text/plain, application/json;q=0.5",
            Expect::Pointer(_) => "application/json",
            Expect::Match(_) => "*/*",
        };
        let mut upload_headers = options.headers();
        upload_headers.extend([header_pair(header::ACCEPT, accept), (header::CONTENT_TYPE, multipart)]);
        let mut result_headers = options.headers();
        result_headers.extend([header_pair(header::ACCEPT, "application/json")]);
        Self {
            url: options.url.clone(),
            path: options.url.upload_path(""),
            field: options.field.replace(['"', '\r', '\n'], "_"),
            tail: format!("\r\n--{boundary}--\r\n").into(),
            boundary,
            is_bare: options.bare,
            upload_headers,
            result_headers,
            unique: options.unique.then(Uniquely::default),
        }
    }

    /// The upload of this image as the `number`th one.
    pub(super) fn upload(&self, image: &ImageFile, bytes: &Bytes, number: u64) -> Request<Pieces> {
        let [start, mark, rest] = match &self.unique {
            Some(unique) => unique.marked(bytes, number),
            None => [bytes.clone(), Bytes::new(), Bytes::new()],
        };
        if self.is_bare {
            let body = Pieces::of([start, mark, rest, Bytes::new(), Bytes::new()]);
            let mut request = self.url.request(Method::POST, &self.path, &self.upload_headers, body);
            request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(image.media_type));
            return request;
        }
        let head = format!(
            "--{}\r\nContent-Disposition: form-data; name=\"{}\"; filename=\"{}\"\r\nContent-Type: {}\r\n\r\n",
            self.boundary,
            self.field,
            image.file_name().replace(['"', '\r', '\n'], "_"),
            image.media_type
        );
        let body = Pieces::of([head.into(), start, mark, rest, self.tail.clone()]);
        self.url.request(Method::POST, &self.path, &self.upload_headers, body)
    }

    /// The question after a result that was not there yet.
    pub(super) fn result(&self, path: &str) -> Request<Pieces> {
        self.url.request(Method::GET, path, &self.result_headers, Pieces::default())
    }
}
