//! `[web.webhook]` and `[controller.webhook]`: the operator's receivers.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `[web.webhook]`: with an address and a key, every ended job is sent there.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Webhook {
    /// The address of the receiver.
    pub url: Option<String>,
    /// The file of the keys that sign requests, one per line.
    pub key: Option<PathBuf>,
    /// Maximum number of waiting events; further ones are dropped.
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
    /// The address of the receiver.
    pub url: Option<String>,
    /// The file of the keys that sign requests, one per line.
    pub key: Option<PathBuf>,
}

impl AlertWebhook {
    pub(super) fn complaint(&self) -> Option<String> {
        complaint("controller.webhook", self.url.as_deref(), self.key.is_some())
    }
}

/// Returns what is wrong with a section that names a receiver, as `key: what is wrong`.
fn complaint(section: &str, url: Option<&str>, has_key: bool) -> Option<String> {
    if url.is_some() != has_key {
        return Some(format!("{section}: needs both, `url` and `key`"));
    }
    let uri = url?.parse::<ureq::http::Uri>().ok();
    let is_address = uri.is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
    });
    (!is_address).then(|| format!("{section}.url: must be an address, like \"https://example.org/labels\""))
}
