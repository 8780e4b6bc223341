//! The messages between processes: jobs from web hosts, replies from workers, and the reports of
//! both to the controller. All have a version, are JSON, and ignore unknown fields, so that hosts
//! of adjacent versions understand each other during an upgrade.

use std::{collections::BTreeMap, fmt, str::FromStr};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use crate::trace::{self, TraceContext};

/// The version of all messages. A reader refuses a higher one.
pub const VERSION: u8 = 1;

/// The prefix of the notes that say for which models an image was uploaded.
pub const ASKED: &str = "asked/";

/// Identifies an image by its content: the SHA-256 of its bytes, in lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId([u8; 32]);

impl JobId {
    /// Computes the id of an image.
    pub fn of(image: &[u8]) -> Self {
        Self(Sha256::digest(image).into())
    }

    /// Finishes the id of bytes that were hashed as they arrived.
    pub fn from_digest(hasher: Sha256) -> Self {
        Self(hasher.finalize().into())
    }

    /// Returns the key of the image in the input store.
    pub fn image_key(&self) -> String {
        format!("images/{self}")
    }

    /// Returns the key of the image's result by this version of `model` in the output store.
    /// Without a version, the key of results from before versions existed.
    pub fn result_key(&self, model: &str, version: &str) -> String {
        match version {
            "" => format!("results/{model}/{self}.json"),
            version => format!("results/{model}/{version}/{self}.json"),
        }
    }

    /// Returns the key of the note that the image was uploaded for `model`, beside the images. Only
    /// used if a service has several models, which share images.
    pub fn asked_key(&self, model: &str) -> String {
        format!("{ASKED}{model}/{self}")
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut hex = [0u8; 64];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        f.write_str(std::str::from_utf8(&hex).expect("hex digits are ASCII"))
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The error for a text that is not a [`JobId`].
#[derive(Debug, thiserror::Error)]
#[error("an image id is 64 hexadecimal digits")]
pub struct NotAJobId;

impl FromStr for JobId {
    type Err = NotAJobId;

    fn from_str(text: &str) -> Result<Self, NotAJobId> {
        let digit = |c: u8| (c as char).to_digit(16).map(|d| d as u8).ok_or(NotAJobId);
        let mut bytes = [0; 32];
        if text.len() != 64 {
            return Err(NotAJobId);
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for JobId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for JobId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// An image to classify: the message from web to the request queue. The image is already stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// See [`VERSION`].
    pub v: u8,
    /// The image.
    pub id: JobId,
    /// The name that the client gave the image; only for display, never a path or a key.
    pub name: String,
    /// The model that classifies it.
    pub model: String,
    /// The response queue of the web host that waits.
    pub reply_to: String,
    /// When the web host accepted it.
    pub sent_at: DateTime<Utc>,
    /// True if the result must replace a stored one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fresh: bool,
    /// The trace of the job, with the span that sent it.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "trace::lenient")]
    pub trace: Option<TraceContext>,
}

/// A label with the model's confidence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Guess {
    /// The label, as in the model's label file.
    pub label: String,
    /// From 0 to 1 if the model gives probabilities.
    pub confidence: f32,
}

/// The outcome of a job. Every job has one of these three.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// The image was classified.
    Classified {
        /// The guesses, best first, never empty.
        top: Vec<Guess>,
    },
    /// The image can never be classified.
    Rejected {
        /// The reason, a sentence for the client.
        reason: String,
    },
    /// The job was given up after too many failed attempts; it is in the dead letter queue.
    GaveUp {
        /// The errors of the last attempts, as far as known.
        reason: String,
    },
}

/// The end of a job: the worker stores it as the result, and sends the same bytes as its reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// See [`VERSION`].
    pub v: u8,
    /// The image.
    pub id: JobId,
    /// The name under which this job was uploaded.
    pub name: String,
    /// The model that classified it.
    pub model: String,
    /// The version of the model; empty if a program without versions wrote this.
    #[serde(default)]
    pub version: String,
    /// The outcome.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The instance that classified it.
    pub worker: String,
    /// When it ended.
    pub at: DateTime<Utc>,
    /// The [`Job::sent_at`] of this job: an image can have a newer job as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<DateTime<Utc>>,
    /// Milliseconds from the acceptance by web to the receipt by the worker.
    pub queued_ms: f64,
    /// Milliseconds from the receipt to the result.
    pub classify_ms: f64,
    /// Milliseconds of that until a thread of the worker took the job: for fetching the image, and
    /// waiting for a thread.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub waited_ms: f64,
    /// The trace of the job, with the span of the worker.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "trace::lenient")]
    pub trace: Option<TraceContext>,
}

fn is_zero(number: &f64) -> bool {
    *number == 0.0
}

impl Reply {
    /// Returns the best label, if the image was classified.
    pub fn label(&self) -> Option<&str> {
        match &self.outcome {
            Outcome::Classified { top } => top.first().map(|guess| guess.label.as_str()),
            Outcome::Rejected { .. } | Outcome::GaveUp { .. } => None,
        }
    }

    /// Returns whether this answers a new upload of the image. A job that was given up is tried
    /// again.
    pub fn is_final(&self) -> bool {
        !matches!(self.outcome, Outcome::GaveUp { .. })
    }
}

/// The phase of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Loading its model; it receives no jobs yet.
    Starting,
    /// Receiving and classifying jobs.
    Ready,
    /// Finishing its jobs without receiving new ones, because it must stop.
    Draining,
    /// It has no jobs left and is about to end.
    Drained,
}

/// Statistics of the time from receipt to result, without waiting for a thread, of jobs since the
/// last report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceTimes {
    /// Number of jobs.
    pub count: u64,
    /// The mean, in milliseconds.
    pub mean_ms: f64,
    /// The 95th percentile, in milliseconds.
    pub p95_ms: f64,
}

/// A worker's report to the controller, every ten seconds and at every change of phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerReport {
    /// See [`VERSION`].
    pub v: u8,
    /// The instance it runs on.
    pub instance: String,
    /// Identifies the start of the instance: reports of an earlier start do not apply to this one.
    pub generation: String,
    /// The model that it serves.
    pub model: String,
    /// The version of the model that it has loaded; empty for workers without versions.
    #[serde(default)]
    pub version: String,
    /// The engine, such as `onnxruntime 1.23`.
    pub engine: String,
    /// Its phase.
    pub phase: Phase,
    /// Number of jobs that it holds.
    pub in_flight: u32,
    /// Maximum number of jobs that it can hold.
    pub slots: u32,
    /// Maximum number of jobs that it classifies at once; the others wait.
    #[serde(default)]
    pub at_once: u32,
    /// Number of jobs done since it started.
    pub done: u64,
    /// Since when it has held no job; `None` while it holds one.
    pub idle_since: Option<DateTime<Utc>>,
    /// Why all jobs fail there; `None` if they do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing: Option<String>,
    /// Service times since the last report.
    pub service: ServiceTimes,
    /// When this was written.
    pub at: DateTime<Utc>,
}

/// A web host's report to the controller: exact arrivals, every ten seconds, and at once after a
/// quiet time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WebReport {
    /// See [`VERSION`].
    pub v: u8,
    /// The web host.
    pub host: String,
    /// Number of jobs sent since the last report, by model.
    pub arrivals: BTreeMap<String, u64>,
    /// True if this was sent because a job arrived after a quiet time: the controller must not wait
    /// for the next tick.
    pub doorbell: bool,
    /// Start of the period of `arrivals`, by the same clock as `at`. Missing in reports of older
    /// hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<DateTime<Utc>>,
    /// When this was written.
    pub at: DateTime<Utc>,
}

/// A message on the queue of reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// From a worker.
    Worker(WorkerReport),
    /// From a web host.
    Web(WebReport),
}

/// The reason why a message cannot be parsed. That will not change, so do not retry it.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// Not the expected JSON.
    #[error("not a known message: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Written by a newer program.
    #[error("written in message version {0}, this program reads up to {VERSION}")]
    TooNew(u64),
}

/// Serializes a message.
pub fn encode(message: &impl Serialize) -> Bytes {
    serde_json::to_vec(message).expect("message types have string keys and finite numbers only").into()
}

/// Parses a message; refuses a newer version.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Unreadable> {
    #[derive(Deserialize)]
    struct Versioned {
        v: u64,
    }
    serde_json::from_slice(body).map_err(|error| match serde_json::from_slice::<Versioned>(body) {
        Ok(Versioned { v }) if v > u64::from(VERSION) => Unreadable::TooNew(v),
        _ => Unreadable::Malformed(error),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn reply(outcome: Outcome) -> Reply {
        Reply {
            v: VERSION,
            id: JobId::of(b"dog"),
            name: "a, \"b\"/c\n🐕.jpg".into(),
            model: "default".into(),
            version: "abc1".into(),
            outcome,
            worker: "i-1".into(),
            at: DateTime::UNIX_EPOCH,
            sent_at: None,
            queued_ms: 1.5,
            classify_ms: 2.5,
            waited_ms: 0.0,
            trace: TraceContext::read("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "a=1"),
        }
    }

    #[test]
    fn an_id_is_the_sha256_in_hex_and_can_be_parsed() {
        let id = JobId::of(b"abc");
        assert_eq!(id.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(id.to_string().parse::<JobId>().unwrap(), id);
    }

    #[test]
    fn every_outcome_is_restored_for_any_name() {
        for outcome in [
            Outcome::Classified { top: vec![Guess { label: "dog".into(), confidence: 0.75 }] },
            Outcome::Rejected { reason: "cut short".into() },
            Outcome::GaveUp { reason: "received 5 times".into() },
        ] {
            let sent = reply(outcome);
            assert_eq!(decode::<Reply>(&encode(&sent)).unwrap(), sent);
        }
    }

    #[test]
    fn unknown_fields_are_ignored_and_newer_versions_refused_by_number() {
        let mut value = serde_json::to_value(reply(Outcome::Rejected { reason: "no".into() })).unwrap();
        value["colour"] = "blue".into();
        assert!(decode::<Reply>(value.to_string().as_bytes()).is_ok());
        let error = decode::<Job>(br#"{"v":7,"shape":"unheard of"}"#).unwrap_err();
        assert!(error.to_string().contains("message version 7"), "{error}");
    }

    #[test]
    fn a_message_with_a_missing_or_invalid_trace_is_accepted() {
        let whole = reply(Outcome::Rejected { reason: "no".into() });
        for broken in [Value::Null, 7.into(), json!({}), json!({ "traceparent": "00-0-0-0" })] {
            let mut value = serde_json::to_value(&whole).unwrap();
            value["trace"] = broken;
            assert_eq!(
                decode::<Reply>(value.to_string().as_bytes()).unwrap(),
                Reply { trace: None, ..whole.clone() }
            );
        }
        let before = json!({
            "v": 1, "id": whole.id, "name": "n", "model": "m", "reply_to": "r",
            "sent_at": "2026-01-02T03:04:05Z"
        });
        let job = decode::<Job>(before.to_string().as_bytes()).unwrap();
        assert_eq!(job.trace, None);
        assert_eq!(serde_json::to_value(&job).unwrap(), before, "it is written as it was");
    }

    #[test]
    fn messages_and_results_without_versions_are_still_read() {
        let mut value = serde_json::to_value(reply(Outcome::Rejected { reason: "no".into() })).unwrap();
        value.as_object_mut().unwrap().remove("version");
        let read = decode::<Reply>(value.to_string().as_bytes()).unwrap();
        assert_eq!(read.version, "");
        let id = JobId::of(b"abc");
        assert_eq!(id.result_key("m", &read.version), format!("results/m/{id}.json"));
        assert_eq!(id.result_key("m", "abc1"), format!("results/m/abc1/{id}.json"));
    }

    proptest! {
        #[test]
        fn no_text_but_64_hex_digits_is_an_id(text in "\\PC{0,80}") {
            let is_hex = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
            prop_assert_eq!(text.parse::<JobId>().is_ok(), is_hex);
        }
    }
}
