//! The names of queues, and of versions.

/// The queue of the reports.
pub const EVENTS: &str = "events";
/// The queue of what the webhook sends. It is there where the settings name a receiver.
pub const WEBHOOK: &str = "webhook";

/// The request queue of a model.
pub fn requests_name(model: &str) -> String {
    format!("requests-{model}")
}

/// The trials of a model.
pub fn trial_name(model: &str) -> String {
    format!("trial-{model}")
}

/// The dead letters of a model.
pub fn dead_letters_name(model: &str) -> String {
    format!("dead-{model}")
}

/// The response queue of a web host.
pub fn responses_name(host: &str) -> String {
    format!("responses-{host}")
}

/// Whether a text can be a version, and so part of a key.
pub fn is_version(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}
