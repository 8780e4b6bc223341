//! What a run is to do.

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

/// What to upload, where to, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// The service. `/upload` is the path of a URL without one.
    pub url: Url,
    /// What to upload. If there are more uploads than images, the images repeat.
    pub images: Vec<ImageFile>,
    /// The number of uploads at most.
    pub requests: Option<u64>,
    /// How long to begin uploads; those in flight at the end are awaited.
    pub duration: Option<Duration>,
    /// Uploads in flight: in a closed loop always this number, in an open loop at most.
    pub concurrency: usize,
    /// When to send; `None` is a closed loop.
    pub open: Option<OpenLoop>,
    /// The name of the multipart field.
    pub field: String,
    /// Whether the image is the whole body, without a form around it.
    pub bare: bool,
    /// Whether every upload is made a new image, by a comment in the file, so that no stored result
    /// is returned.
    pub unique: bool,
    /// What a good response is, and where its label is.
    pub expect: Expect,
    /// The `Authorization` header of every request.
    pub token: Option<HeaderValue>,
    /// The longest time from an upload to its label; in an open loop, from the moment at which the
    /// upload was due.
    pub timeout: Duration,
    /// The correct labels of the images, for the accuracy.
    pub truth: Option<Truth>,
    /// The goals of the run.
    pub slo: Slo,
    /// Ends the run early, with a report of what was done.
    pub stop: CancellationToken,
}

/// When the uploads of an open loop are due.
#[derive(Debug, Clone)]
pub struct OpenLoop {
    /// What was asked for, for the reader of a report.
    pub words: String,
    /// The rates, or the moments.
    pub schedule: Schedule,
    /// How uploads are spread over time at a rate.
    pub arrivals: Arrivals,
    /// The seed of random arrivals: the same seed gives the same moments.
    pub seed: u64,
}

impl OpenLoop {
    /// Evenly by this schedule; `words` says to the reader of a report where it is from.
    pub fn new(words: impl Into<String>, schedule: Schedule) -> Self {
        Self { words: words.into(), schedule, arrivals: Arrivals::Even, seed: 1 }
    }
}

impl FromStr for OpenLoop {
    type Err = String;

    /// Reads rates as [`Schedule`] does, such as `50` or `0..200@60s,200@5m`, and sends evenly.
    fn from_str(words: &str) -> Result<Self, String> {
        Ok(Self::new(words, words.parse()?))
    }
}

impl Options {
    /// Each image once, 32 at a time, as EIRS takes them.
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

    /// What every request of the run has.
    pub(crate) fn headers(&self) -> HeaderMap {
        self.token.iter().map(|token| (header::AUTHORIZATION, token.clone())).collect()
    }

    /// The images that a run uses and that have no label, each once.
    pub(crate) fn unlabelled(&self, uploads: u64) -> Vec<&str> {
        let used = usize::try_from(uploads).unwrap_or(usize::MAX).min(self.images.len());
        let missing = self.truth.iter().flat_map(|truth| truth.missing(&self.images[..used]));
        let mut seen = HashSet::new();
        missing.filter(|name| seen.insert(*name)).collect()
    }
}
