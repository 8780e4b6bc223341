//! The only types that cross a process border: what a web host asks, what a worker answers, and the
//! small reports that both send to the controller. All of them carry a version, are JSON, and
//! ignore fields they do not know, so that hosts of neighbouring versions understand each other
//! during an upgrade.

use std::{collections::BTreeMap, fmt, str::FromStr};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use crate::trace::{self, TraceContext};

/// The version of every message in this file. A reader refuses a higher one.
pub const VERSION: u8 = 1;

/// Where the notes are that say for which models an image was uploaded.
pub const ASKED: &str = "asked/";

/// Names an image by its content: the SHA-256 of its bytes, written in lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId([u8; 32]);

impl JobId {
    /// The id of these image bytes.
    pub fn of(image: &[u8]) -> Self {
        Self(Sha256::digest(image).into())
    }

    /// The id of bytes that were hashed as they arrived.
    pub fn from_digest(hasher: Sha256) -> Self {
        Self(hasher.finalize().into())
    }

    /// The key of the image in the input store.
    pub fn image_key(&self) -> String {
        format!("images/{self}")
    }

    /// The key of the result that this version of `model` gave, in the output store. Without a
    /// version: where programs of a time without versions stored it.
    pub fn result_key(&self, model: &str, version: &str) -> String {
        match version {
            "" => format!("results/{model}/{self}.json"),
            version => format!("results/{model}/{version}/{self}.json"),
        }
    }

    /// The key that says that the image was uploaded for `model`, beside the images. It is there
    /// where one service has several models, whose images are the same.
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

/// What is wrong with a text that should have been a [`JobId`].
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

/// One image to classify: what web sends to the request queue. The image itself is already stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// See [`VERSION`].
    pub v: u8,
    /// The image, by content.
    pub id: JobId,
    /// The name the uploader gave it; only ever shown, never a path or a key.
    pub name: String,
    /// Which model shall look at it.
    pub model: String,
    /// The response queue of the web host that waits.
    pub reply_to: String,
    /// When web accepted it.
    pub sent_at: DateTime<Utc>,
    /// Whether a result that was stored before is to be replaced.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fresh: bool,
    /// The trace it belongs to, and who sent it there.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "trace::lenient")]
    pub trace: Option<TraceContext>,
}

/// One label and how sure the model is of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Guess {
    /// The label, as in the model's label file.
    pub label: String,
    /// From 0 to 1 where the model says so.
    pub confidence: f32,
}

/// How a job ended. There is no fourth way and no silent end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// The model saw it; the best guess first, never empty.
    Classified {
        /// The guesses, best first.
        top: Vec<Guess>,
    },
    /// The image can never work; the reason is a sentence for the uploader.
    Rejected {
        /// Why.
        reason: String,
    },
    /// It was received too often without an answer; it lies in the dead-letter queue.
    GaveUp {
        /// What the last attempts died of, as far as anybody knows.
        reason: String,
    },
}

/// The end of a job: the worker stores it as the result object and sends the same bytes as its
/// answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// See [`VERSION`].
    pub v: u8,
    /// The image, by content.
    pub id: JobId,
    /// The name under which this job was uploaded.
    pub name: String,
    /// The model that looked at it.
    pub model: String,
    /// The version of that model; empty where a program of a time without versions wrote this.
    #[serde(default)]
    pub version: String,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The instance that did it.
    pub worker: String,
    /// When it was done.
    pub at: DateTime<Utc>,
    /// [`Job::sent_at`] of the job that ended so: an image can have a job that ends and a newer
    /// one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<DateTime<Utc>>,
    /// Milliseconds from the acceptance by web to the receipt by the worker.
    pub queued_ms: f64,
    /// Milliseconds from the receipt to the result.
    pub classify_ms: f64,
    /// How much of that was over when a thread of the worker took it: the image was fetched, and
    /// the threads were busy.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub waited_ms: f64,
    /// The trace in which it was done, and by whom there.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "trace::lenient")]
    pub trace: Option<TraceContext>,
}

fn is_zero(number: &f64) -> bool {
    *number == 0.0
}

impl Reply {
    /// The best label, if it was classified.
    pub fn label(&self) -> Option<&str> {
        match &self.outcome {
            Outcome::Classified { top } => top.first().map(|guess| guess.label.as_str()),
            Outcome::Rejected { .. } | Outcome::GaveUp { .. } => None,
        }
    }

    /// Whether a new upload of the image is answered with this. A job that was given up is tried
    /// again.
    pub fn is_final(&self) -> bool {
        !matches!(self.outcome, Outcome::GaveUp { .. })
    }
}

/// What a worker is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Loading its model; it takes no job yet.
    Starting,
    /// Asking for jobs, holding any number of them.
    Ready,
    /// Told to go: it finishes what it holds and asks for nothing.
    Draining,
    /// Empty; it is about to leave.
    Drained,
}

/// Count, mean and tail of the time that jobs took since the last report, from receipt to result
/// without waiting for their turn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceTimes {
    /// How many jobs.
    pub count: u64,
    /// Their mean, in milliseconds.
    pub mean_ms: f64,
    /// Their 95th percentile, in milliseconds.
    pub p95_ms: f64,
}

/// What a worker tells the controller, every ten seconds and at every change of phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerReport {
    /// See [`VERSION`].
    pub v: u8,
    /// The instance it runs on.
    pub instance: String,
    /// Which boot of the instance: a report of an earlier one says nothing about this one.
    pub generation: String,
    /// The model it serves.
    pub model: String,
    /// The version of that model that it has loaded; empty where it is of a time without versions.
    #[serde(default)]
    pub version: String,
    /// What classifies, e.g. `onnxruntime 1.23`.
    pub engine: String,
    /// What it is doing.
    pub phase: Phase,
    /// Jobs it holds now.
    pub in_flight: u32,
    /// Jobs it can hold at once.
    pub slots: u32,
    /// Jobs it can classify at the same time; the others that it holds wait.
    #[serde(default)]
    pub at_once: u32,
    /// Jobs done since it started.
    pub done: u64,
    /// Since when it has held nothing; absent while it holds something.
    pub idle_since: Option<DateTime<Utc>>,
    /// Why everything fails there; absent where it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing: Option<String>,
    /// Service times since the last report.
    pub service: ServiceTimes,
    /// When this was written.
    pub at: DateTime<Utc>,
}

/// What a web host tells the controller: exact arrivals, every ten seconds, and a doorbell after a
/// quiet time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WebReport {
    /// See [`VERSION`].
    pub v: u8,
    /// The web host.
    pub host: String,
    /// Jobs sent since the last report, by model.
    pub arrivals: BTreeMap<String, u64>,
    /// True where this is sent because something arrived after a quiet time: do not wait for the
    /// next tick.
    pub doorbell: bool,
    /// From when on it counts, by the same clock as `at`. Absent in the reports of an older host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<DateTime<Utc>>,
    /// When this was written.
    pub at: DateTime<Utc>,
}

/// A message on the events queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// From a worker.
    Worker(WorkerReport),
    /// From a web host.
    Web(WebReport),
}

/// Why a message could not be read. It never will be: put it away, don't retry it.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// Not the JSON that was expected.
    #[error("not a known message: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Written by a newer program.
    #[error("written in message version {0}, this program reads up to {VERSION}")]
    TooNew(u64),
}

/// Writes a message.
pub fn encode(message: &impl Serialize) -> Bytes {
    serde_json::to_vec(message).expect("message types have string keys and finite numbers only").into()
}

/// Reads a message and refuses a newer version than it knows.
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
    fn an_id_is_the_sha256_in_hex_and_reads_back() {
        let id = JobId::of(b"abc");
        assert_eq!(id.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(id.to_string().parse::<JobId>().unwrap(), id);
    }

    #[test]
    fn every_outcome_survives_the_wire_whatever_the_name() {
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
    fn a_message_without_a_trace_or_with_one_that_cannot_be_read_is_a_message_all_the_same() {
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
            "v": 1, "id": whole.id, "name": "n", "model": "m", "reply_to": "r", "sent_at": "2026-01-02T03:04:05Z"
        });
        let job = decode::<Job>(before.to_string().as_bytes()).unwrap();
        assert_eq!(job.trace, None);
        assert_eq!(serde_json::to_value(&job).unwrap(), before, "and it is written as it was");
    }

    #[test]
    fn messages_of_a_time_without_versions_are_read_and_their_results_found_where_they_were() {
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
