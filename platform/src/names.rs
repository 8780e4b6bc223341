//! Names of queues and versions.

/// The queue of reports.
pub const EVENTS: &str = "events";
/// The queue of the webhook's events, if the settings name a receiver.
pub const WEBHOOK: &str = "webhook";

/// Returns the name of a model's request queue.
pub fn requests_name(model: &str) -> String {
    format!("requests-{model}")
}

/// Returns the name of a model's queue of trials.
pub fn trial_name(model: &str) -> String {
    format!("trial-{model}")
}

/// Returns the name of a model's dead letter queue.
pub fn dead_letters_name(model: &str) -> String {
    format!("dead-{model}")
}

/// Returns the name of a web host's response queue.
pub fn responses_name(host: &str) -> String {
    format!("responses-{host}")
}

/// Returns whether a text can be a version, and so part of a key.
pub fn is_version(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}
