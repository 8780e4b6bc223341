//! `[web.webhook]` and `[controller.webhook]`: addresses of the operator's that requests are sent
//! to.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `[web.webhook]`: with an address and a key, each job that ends is sent there.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Webhook {
    /// Where to: one address of the operator's.
    pub url: Option<String>,
    /// The file of the keys that what is sent is signed with, one in a line.
    pub key: Option<PathBuf>,
    /// The most events that wait to be taken; further ones are dropped.
    pub max_waiting: u64,
}

impl Default for Webhook {
    fn default() -> Self {
        Self { url: None, key: None, max_waiting: 100_000 }
    }
}

impl Webhook {
    pub(super) fn complaint(&self) -> Option<String> {
        complaint("web.webhook", self.url.as_deref(), self.key.is_some())
    }
}

/// `[controller.webhook]`: with an address and a key, alerts are sent there.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AlertWebhook {
    /// Where to: one address of the operator's.
    pub url: Option<String>,
    /// The file of the keys that what is sent is signed with, one in a line.
    pub key: Option<PathBuf>,
}

impl AlertWebhook {
    pub(super) fn complaint(&self) -> Option<String> {
        complaint("controller.webhook", self.url.as_deref(), self.key.is_some())
    }
}

/// What is wrong with a section that names a receiver, as `key: what is wrong`.
fn complaint(section: &str, url: Option<&str>, has_key: bool) -> Option<String> {
    if url.is_some() != has_key {
        return Some(format!("{section}: needs both, `url` and `key`"));
    }
    let uri = url?.parse::<ureq::http::Uri>().ok();
    let is_address = uri.is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
    });
    (!is_address).then(|| format!("{section}.url: should be an address, like \"https://example.org/labels\""))
}
