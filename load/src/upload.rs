//! Builds the requests of an upload, from pieces that are prepared before the run.

use bytes::Bytes;
use hyper::{
    Method, Request,
    header::{self, HeaderMap, HeaderValue},
};

use crate::{
    expect::Expect,
    http::{Pieces, Url, header_pair},
    images::{ImageFile, Uniquely},
    options::Options,
};

/// Builds the requests of a run.
#[derive(Debug)]
pub(crate) struct Uploader {
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
    pub(crate) fn new(options: &Options) -> Self {
        // 128 random bits, which no image contains by chance.
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

    /// Returns the request of the `number`th upload, with this image.
    pub(crate) fn upload(&self, image: &ImageFile, bytes: &Bytes, number: u64) -> Request<Pieces> {
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
            "--{}\r\nContent-Disposition: form-data; name=\"{}\"; filename=\"{}\"\r\nContent-Type: {}\r\n\
             \r\n",
            self.boundary,
            self.field,
            image.file_name().replace(['"', '\r', '\n'], "_"),
            image.media_type
        );
        let body = Pieces::of([head.into(), start, mark, rest, self.tail.clone()]);
        self.url.request(Method::POST, &self.path, &self.upload_headers, body)
    }

    /// Returns the request that polls for a result.
    pub(crate) fn result(&self, path: &str) -> Request<Pieces> {
        self.url.request(Method::GET, path, &self.result_headers, Pieces::default())
    }
}
