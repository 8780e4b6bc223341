//! The operator's view of the service: status, live events, the page, and readiness.

pub(crate) mod controller;
pub(crate) mod live;
pub(crate) mod page;
pub(crate) mod ready;
pub(crate) mod status;

use std::sync::Arc;

use eirs_platform::{blobs::embedded::Room, settings::Settings};
use tokio_util::sync::CancellationToken;

use crate::{
    jobs::{Jobs, Reporter},
    listen::Tls,
    metrics::{DeadLetters, Metrics},
    upload::Uploads,
    webhook::Webhook,
};

/// State shared by the operator's handlers.
#[derive(Debug)]
pub(crate) struct Operator {
    pub(crate) uploads: Arc<Uploads>,
    pub(crate) jobs: Arc<Jobs>,
    /// Reports to the controller.
    pub(crate) reporter: Arc<Reporter>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) dead_letters: DeadLetters,
    pub(crate) webhook: Option<Arc<Webhook>>,
    /// The disk with the images, if it is one of this machine.
    pub(crate) disk: Option<Room>,
    /// The certificate, if uploads are encrypted.
    pub(crate) tls: Option<Arc<Tls>>,
    pub(crate) live: live::Live,
    pub(crate) reach: ready::Reach,
}

impl Operator {
    fn settings(&self) -> &Settings {
        &self.uploads.settings
    }

    fn draining(&self) -> &CancellationToken {
        self.uploads.draining()
    }
}
