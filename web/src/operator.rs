//! What people see of the service: its status, live and as a page, and whether it is ready.

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

/// What is looked at for people, and for their tools.
#[derive(Debug)]
pub(crate) struct Operator {
    pub(crate) uploads: Arc<Uploads>,
    pub(crate) jobs: Arc<Jobs>,
    /// The controller's ear.
    pub(crate) reporter: Arc<Reporter>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) dead_letters: DeadLetters,
    pub(crate) webhook: Option<Arc<Webhook>>,
    /// The disk that images are stored on, where that is this machine's.
    pub(crate) disk: Option<Room>,
    /// Where uploads come encrypted.
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
