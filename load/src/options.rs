//! The options of a run.

use std::{collections::HashSet, str::FromStr, time::Duration};

use hyper::header::{self, HeaderMap, HeaderValue};
use tokio_util::sync::CancellationToken;

use crate::{
    expect::Expect,
    http::Url,
    images::ImageFile,
    schedule::{Arrivals, Schedule},
    slo::Slo,
    truth::Truth,
};

/// The images to upload, the service, and the kind of load.
#[derive(Debug, Clone)]
pub struct Options {
    /// The service. If the URL has no path, it is `/upload`.
    pub url: Url,
    /// The images to upload. If there are more uploads than images, the images repeat.
    pub images: Vec<ImageFile>,
    /// Maximum number of uploads.
    pub requests: Option<u64>,
    /// How long to start uploads; those in flight at the end are awaited.
    pub duration: Option<Duration>,
    /// Number of uploads in flight: constant in a closed loop, the maximum in an open loop.
    pub concurrency: usize,
    /// The schedule of an open loop; `None` for a closed loop.
    pub open: Option<OpenLoop>,
    /// The name of the multipart field.
    pub field: String,
    /// Whether the body is the bare image, without a multipart form.
    pub bare: bool,
    /// Whether to make every upload a new image, with a comment in the file, so that the service
    /// has no stored result for it.
    pub unique: bool,
    /// The form of a good response, and the position of its label.
    pub expect: Expect,
    /// The `Authorization` header of every request.
    pub token: Option<HeaderValue>,
    /// Maximum time from an upload to its label; in an open loop, from the time when the upload was
    /// due.
    pub timeout: Duration,
    /// The correct labels of the images, for the accuracy.
    pub truth: Option<Truth>,
    /// The goals of the run.
    pub slo: Slo,
    /// Ends the run early when cancelled, with a report so far.
    pub stop: CancellationToken,
}

/// The times of uploads in an open loop.
#[derive(Debug, Clone)]
pub struct OpenLoop {
    /// The schedule as given by the user, for the report.
    pub words: String,
    /// The rates or times.
    pub schedule: Schedule,
    /// The distribution of uploads over time at a rate.
    pub arrivals: Arrivals,
    /// The seed of random arrivals: the same seed gives the same times.
    pub seed: u64,
}

impl OpenLoop {
    /// Creates an open loop with even arrivals; `words` describes the schedule in the report.
    pub fn new(words: impl Into<String>, schedule: Schedule) -> Self {
        Self { words: words.into(), schedule, arrivals: Arrivals::Even, seed: 1 }
    }
}

impl FromStr for OpenLoop {
    type Err = String;

    /// Parses rates like [`Schedule`], such as `50` or `0..200@60s,200@5m`, with even arrivals.
    fn from_str(words: &str) -> Result<Self, String> {
        Ok(Self::new(words, words.parse()?))
    }
}

impl Options {
    /// Creates options for EIRS that upload each image once, 32 at a time.
    pub fn new(url: Url, images: Vec<ImageFile>) -> Self {
        Self {
            url,
            requests: Some(images.len() as u64),
            images,
            duration: None,
            concurrency: 32,
            open: None,
            field: "myfile".into(),
            bare: false,
            unique: false,
            expect: Expect::Eirs,
            token: None,
            timeout: Duration::from_secs(300),
            truth: None,
            slo: Slo::default(),
            stop: CancellationToken::new(),
        }
    }

    /// Returns the headers of every request.
    pub(crate) fn headers(&self) -> HeaderMap {
        self.token.iter().map(|token| (header::AUTHORIZATION, token.clone())).collect()
    }

    /// Returns the images without a label that a run uses, each once.
    pub(crate) fn unlabelled(&self, uploads: u64) -> Vec<&str> {
        let used = usize::try_from(uploads).unwrap_or(usize::MAX).min(self.images.len());
        let missing = self.truth.iter().flat_map(|truth| truth.missing(&self.images[..used]));
        let mut seen = HashSet::new();
        missing.filter(|name| seen.insert(*name)).collect()
    }
}
