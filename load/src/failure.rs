//! The failure of an image.

use std::time::Duration;

use hyper::StatusCode;

/// The reason why an image has no label.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
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
    /// Returns the category under which the failure is counted.
    pub(crate) fn kind(&self) -> String {
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
