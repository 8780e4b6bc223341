//! An event of the webhook: a job that ended.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use eirs_platform::{
    job::{Guess, Outcome, Reply},
    queue::Delivery,
    webhook::{Message, name_of},
};
use serde::{Deserialize, Serialize};

/// A job that ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Event {
    /// Identifies the event: the same each time it is sent.
    event: String,
    /// The image: the SHA-256 of its bytes.
    id: String,
    /// The name under which the job was uploaded.
    name: String,
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    confidence: Option<f32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    top: Vec<Guess>,
    /// The reason why there is no label.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    model: String,
    version: String,
    worker: String,
    at: DateTime<Utc>,
    queued_ms: f64,
    classify_ms: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Classified,
    Rejected,
    GaveUp,
}

/// Encodes the event for the queue.
pub(super) fn encode(reply: &Reply) -> Bytes {
    serde_json::to_vec(&Event::of(reply)).expect("an event has string keys and finite numbers only").into()
}

impl Event {
    fn of(reply: &Reply) -> Self {
        let (status, top, reason) = match &reply.outcome {
            Outcome::Classified { top } => (Status::Classified, top.clone(), None),
            Outcome::Rejected { reason } => (Status::Rejected, Vec::new(), Some(reason.clone())),
            Outcome::GaveUp { reason } => (Status::GaveUp, Vec::new(), Some(reason.clone())),
        };
        let (id, at) = (reply.id.to_string(), reply.at.to_rfc3339());
        Self {
            event: name_of([&*id, &reply.model, &reply.version, &at]),
            id,
            name: reply.name.clone(),
            status,
            label: top.first().map(|best| best.label.clone()),
            confidence: top.first().map(|best| best.confidence),
            top,
            reason,
            model: reply.model.clone(),
            version: reply.version.clone(),
            worker: reply.worker.clone(),
            at: reply.at,
            queued_ms: reply.queued_ms,
            classify_ms: reply.classify_ms,
        }
    }
}

/// Builds a request with these events. An event that cannot be parsed is logged and left out.
pub(super) fn message(batch: &[Delivery]) -> Message {
    let read = |delivery: &Delivery| {
        let event = serde_json::from_slice(&delivery.body);
        event
            .inspect_err(|error| tracing::error!(%error, "webhook: an event that cannot be read was dropped"))
            .ok()
    };
    let data: Vec<Event> = batch.iter().filter_map(read).collect();
    let newest = data.iter().map(|event| event.at).max().unwrap_or_default();
    Message::new("eirs.jobs.ended", newest, data.iter().map(|event| event.event.as_str()), &data)
}

#[cfg(test)]
pub(crate) mod tests {
    use eirs_platform::{queue::Receipt, testing};
    use serde_json::{Value, json};

    use super::*;

    pub(crate) fn reply(image: &str) -> Reply {
        Reply {
            version: "0f1e2d3c4b5a6978".to_owned(),
            worker: "w1".to_owned(),
            at: DateTime::UNIX_EPOCH,
            classify_ms: 2.0,
            ..testing::reply(
                image,
                Outcome::Classified { top: vec![Guess { label: "heart".to_owned(), confidence: 0.5 }] },
            )
        }
    }

    fn delivery(reply: &Reply) -> Delivery {
        let receipt = Receipt(reply.id.to_string());
        Delivery { body: encode(reply), receipt, receives: 1, sent_at: DateTime::UNIX_EPOCH }
    }

    fn body(message: &Message) -> Value {
        serde_json::from_slice(&message.body).unwrap()
    }

    #[test]
    fn an_event_has_the_outcome_of_the_job() {
        let good = reply("a");
        let bad =
            Reply { outcome: Outcome::Rejected { reason: "the JPEG ends early".to_owned() }, ..reply("b") };
        let message = message(&[delivery(&good), delivery(&bad)]);
        let body = body(&message);
        assert_eq!(body["type"], "eirs.jobs.ended");
        let said = |n: usize, key: &str| body["data"][n][key].clone();
        assert_eq!(
            (said(0, "status"), said(0, "label"), said(0, "confidence")),
            (json!("classified"), json!("heart"), json!(0.5))
        );
        assert_eq!((said(0, "id"), said(0, "name")), (json!(good.id.to_string()), json!("a.jpg")));
        assert_eq!((said(1, "status"), said(1, "reason")), (json!("rejected"), json!("the JPEG ends early")));
        assert_eq!(said(1, "label"), Value::Null);
    }

    #[test]
    fn equal_events_make_equal_messages_and_different_ones_do_not() {
        let (a, b) = (delivery(&reply("a")), delivery(&reply("b")));
        let of = |batch: &[Delivery]| message(batch);
        let (once, again) = (of(&[a.clone(), b.clone()]), of(&[a.clone(), b.clone()]));
        assert_eq!((&once.id, &once.body), (&again.id, &again.body));
        assert_ne!(once.id, of(&[a]).id);
        let later = Reply { at: DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(1), ..reply("b") };
        assert_ne!(of(&[b]).id, of(&[delivery(&later)]).id, "the image was classified again");
    }
}
