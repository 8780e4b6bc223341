//! Records the fleet of the tested service during the load, from its `GET /events`. Services
//! without this endpoint have no fleet.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use futures::StreamExt;
use hyper::{
    Method,
    header::{self, HeaderMap, HeaderValue},
};
use serde::{Deserialize, Serialize};
use sse_stream::SseStream;
use tokio::time::{Instant, sleep, timeout};

use crate::http::{Connection, Pieces, Url, header_pair};

/// How long to wait for the first response.
const PATIENCE: Duration = Duration::from_secs(10);
/// The wait before connecting again, if the service sent events before.
const AGAIN: Duration = Duration::from_secs(1);
/// Maximum number of samples, enough for a chart; above it, every second one is removed.
const MOST: usize = 2000;

/// One pool at one time. Values that the controller does not know are absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pool {
    /// The name of the pool.
    pub name: String,
    /// Ready instances.
    pub ready: Option<u64>,
    /// Starting instances.
    pub starting: Option<u64>,
    /// Instances that are leaving.
    pub leaving: Option<u64>,
    /// Instances that the policy wants.
    pub desired: Option<u64>,
    /// Waiting jobs.
    pub visible: Option<u64>,
    /// Jobs in flight.
    pub in_flight: Option<u64>,
    /// Arriving jobs per second.
    pub arrivals_per_s: Option<f64>,
}

/// All pools at one time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sample {
    /// Seconds since the start of the run.
    pub at_s: f64,
    /// The pools.
    pub pools: Vec<Pool>,
}

/// The relevant members of a `status` event.
#[derive(Deserialize)]
struct Status {
    /// The time of the event, by the clock of the service.
    at: Option<DateTime<Utc>>,
    controller: Option<Controller>,
}

#[derive(Deserialize)]
struct Controller {
    /// The time of the controller's last pass.
    at: Option<DateTime<Utc>>,
    #[serde(default)]
    pools: Vec<Pool>,
}

/// The recorded fleet.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    heard: Mutex<Heard>,
}

#[derive(Debug, Default)]
struct Heard {
    samples: Vec<Sample>,
    latest: Option<Sample>,
    /// The time of the first event. Passes of the controller before it do not belong to this run.
    since: Option<DateTime<Utc>>,
    /// One in this many events is kept as a sample.
    step: usize,
    events: usize,
}

impl Fleet {
    fn heard(&self) -> std::sync::MutexGuard<'_, Heard> {
        // A panic cannot leave a sample incomplete.
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the latest sample.
    pub(crate) fn latest(&self) -> Option<Sample> {
        self.heard().latest.clone()
    }

    /// Returns all samples, in order.
    pub(crate) fn samples(&self) -> Vec<Sample> {
        let heard = self.heard();
        let latest = heard.latest.as_ref().filter(|latest| heard.samples.last() != Some(latest));
        heard.samples.iter().chain(latest).cloned().collect()
    }

    /// Listens until it is dropped, or until it is clear that the service has no events.
    pub(crate) async fn listen(&self, url: &Url, headers: &HeaderMap, start: Instant) {
        let mut has_told = false;
        loop {
            has_told |= self.listen_once(url, headers, start).await;
            if !has_told {
                return;
            }
            sleep(AGAIN).await;
        }
    }

    /// Listens until the service ends the stream; returns whether it sent any event.
    async fn listen_once(&self, url: &Url, headers: &HeaderMap, start: Instant) -> bool {
        let mut headers = headers.clone();
        let (accept, events) = header_pair(header::ACCEPT, "text/event-stream");
        headers.insert(accept, events);
        let begin = async {
            let mut connection = Connection::open(url).await.ok()?;
            let request = url.request(Method::GET, "/events", &headers, Pieces::default());
            let answer = connection.begin(request).await.ok()?;
            let kind = answer.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
            let is_told =
                answer.status() == 200 && kind.is_some_and(|kind| kind.starts_with(b"text/event-stream"));
            // Dropping the connection would end the stream.
            is_told.then_some((connection, answer.into_body()))
        };
        let Ok(Some((_connection, body))) = timeout(PATIENCE, begin).await else { return false };
        let mut events = SseStream::new(body);
        let mut has_told = false;
        while let Some(Ok(event)) = events.next().await {
            let is_status = event.event.as_deref().is_none_or(|kind| kind == "status");
            let data = event.data.filter(|_| is_status);
            let Some(status) = data.and_then(|data| serde_json::from_str::<Status>(&data).ok()) else {
                continue;
            };
            has_told = true;
            self.hear(status, start.elapsed().as_secs_f64());
        }
        has_told
    }

    /// Records a status if it belongs to this run.
    fn hear(&self, status: Status, at_s: f64) {
        let since = *self.heard().since.get_or_insert(status.at.unwrap_or_default());
        let looked = |controller: &Controller| controller.at.is_none_or(|at| at >= since);
        if let Some(controller) = status.controller.filter(looked) {
            self.note(Sample { at_s, pools: controller.pools });
        }
    }

    fn note(&self, sample: Sample) {
        let mut heard = self.heard();
        heard.step = heard.step.max(1);
        if heard.events.is_multiple_of(heard.step) {
            heard.samples.push(sample.clone());
        }
        heard.events += 1;
        heard.latest = Some(sample);
        if heard.samples.len() >= MOST {
            let mut is_kept = false;
            heard.samples.retain(|_| {
                is_kept = !is_kept;
                is_kept
            });
            heard.step *= 2;
        }
    }
}

impl Sample {
    /// Returns the sum over all pools; `None` if no pool knows the value.
    pub(crate) fn sum(&self, value: fn(&Pool) -> Option<u64>) -> Option<u64> {
        self.pools.iter().filter_map(value).reduce(|one, other| one + other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_a_long_run_are_few_and_evenly_spread() {
        let fleet = Fleet::default();
        for second in 0..50_000u32 {
            fleet.note(Sample { at_s: second.into(), pools: Vec::new() });
        }
        let samples = fleet.samples();
        assert!(samples.len() > MOST / 3 && samples.len() <= MOST + 1, "{}", samples.len());
        let gaps = samples.windows(2).map(|pair| pair[1].at_s - pair[0].at_s);
        assert!(gaps.fold(0.0, f64::max) <= 64.0);
        assert_eq!((samples[0].at_s, samples[samples.len() - 1].at_s), (0.0, 49_999.0));
    }

    #[test]
    fn passes_before_the_run_are_ignored() {
        let fleet = Fleet::default();
        let hear = |at: &str, looked: &str, visible: u64| {
            let status = serde_json::json!({
                "at": format!("2026-03-04T12:00:{at}Z"),
                "controller": {
                    "at": format!("2026-03-04T12:00:{looked}Z"),
                    "pools": [{ "visible": visible }],
                },
            });
            fleet.hear(serde_json::from_value(status).unwrap(), 0.0);
        };
        hear("10", "07", 27);
        assert!(fleet.latest().is_none());
        hear("11", "07", 27);
        hear("12", "12", 3);
        hear("17", "17", 1);
        let seen: Vec<_> = fleet.samples().iter().map(|sample| sample.pools[0].visible).collect();
        assert_eq!(seen, [Some(3), Some(1)]);
    }

    #[test]
    fn sums_are_over_known_values_and_unknown_without_any() {
        let pool = |ready, visible| Pool { ready, visible, ..Pool::default() };
        let sample = Sample { at_s: 0.0, pools: vec![pool(Some(2), None), pool(Some(3), None)] };
        assert_eq!((sample.sum(|pool| pool.ready), sample.sum(|pool| pool.visible)), (Some(5), None));
    }
}
