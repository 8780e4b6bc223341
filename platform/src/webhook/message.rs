//! The content of a request: events of one kind, in the form of Standard Webhooks.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Serialize;
use sha2::{Digest, Sha256};

/// A request with its id and body. The same events make the same message.
#[derive(Debug, Clone)]
pub struct Message {
    /// Identifies the message: the same each time it is sent.
    pub id: String,
    /// The body as JSON.
    pub body: Bytes,
}

#[derive(Debug, Serialize)]
struct Body<'a, T> {
    #[serde(rename = "type")]
    kind: &'static str,
    /// The time of the newest event.
    timestamp: DateTime<Utc>,
    data: &'a [T],
}

impl Message {
    /// Creates a message from events and their names.
    pub fn new<'n>(
        kind: &'static str,
        newest: DateTime<Utc>,
        names: impl IntoIterator<Item = &'n str>,
        events: &[impl Serialize],
    ) -> Self {
        let body = Body { kind, timestamp: newest, data: events };
        let body = serde_json::to_vec(&body).expect("an event has string keys and finite numbers only");
        Self { id: format!("msg_{}", name_of(names)), body: body.into() }
    }
}

/// Computes a name from parts, each terminated by a byte that is in none of them.
pub fn name_of<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.as_bytes());
        hasher.update([0]);
    }
    hasher.finalize().iter().take(12).map(|byte| format!("{byte:02x}")).collect()
}
