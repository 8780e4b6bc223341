//! The fleet of the service under test, from its `GET /events` during the load. A service without
//! such a thing is one without a fleet.

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

/// A service that sends no event within this time has none.
const PATIENCE: Duration = Duration::from_secs(10);
/// A service that sent events and went away is asked again after this.
const AGAIN: Duration = Duration::from_secs(1);
/// More samples than this are not seen in a picture; then every second one goes.
const MOST: usize = 2000;

/// One pool at one moment. What the controller does not know is absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pool {
    /// The name of the token.
    pub name: String,
    /// Instances that take jobs.
    pub ready: Option<u64>,
    /// Those that will.
    pub starting: Option<u64>,
    /// Those that did.
    pub leaving: Option<u64>,
    /// How many the policy wants.
    pub desired: Option<u64>,
    /// Jobs that wait.
    pub visible: Option<u64>,
    /// Jobs that somebody works on.
    pub in_flight: Option<u64>,
    /// Jobs that arrive, in one second.
    pub arrivals_per_s: Option<f64>,
}

/// All pools at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sample {
    /// Seconds since the start of the run.
    pub at_s: f64,
    /// The pools.
    pub pools: Vec<Pool>,
}

/// What a `status` event says, as far as it is of interest here.
#[derive(Deserialize)]
struct Status {
    /// When the service said it, by its own clock.
    at: Option<DateTime<Utc>>,
    controller: Option<Controller>,
}

#[derive(Deserialize)]
struct Controller {
    /// When the controller last looked.
    at: Option<DateTime<Utc>>,
    #[serde(default)]
    pools: Vec<Pool>,
}

/// What was heard of the fleet.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    heard: Mutex<Heard>,
}

#[derive(Debug, Default)]
struct Heard {
    samples: Vec<Sample>,
    latest: Option<Sample>,
    /// When the service said something for the first time: what the controller saw before that is
    /// not of this run.
    since: Option<DateTime<Utc>>,
    /// One event in this many is kept as a sample.
    step: usize,
    events: usize,
}

impl Fleet {
    fn heard(&self) -> std::sync::MutexGuard<'_, Heard> {
        // A sample is there or not, whatever panics.
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How things stand, as far as it is known.
    pub(crate) fn latest(&self) -> Option<Sample> {
        self.heard().latest.clone()
    }

    /// All that was heard, in order.
    pub(crate) fn samples(&self) -> Vec<Sample> {
        let heard = self.heard();
        let latest = heard.latest.as_ref().filter(|latest| heard.samples.last() != Some(latest));
        heard.samples.iter().chain(latest).cloned().collect()
    }

    /// Listens for as long as it is not dropped, or until it is clear that there is nothing to
    /// hear.
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

    /// Listens until the service ends the stream; returns whether it sent anything.
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
            // The connection lives as long as somebody may ask on it.
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

    /// Takes in what a status says of this run.
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
    /// Of all pools together; absent where no pool knows it.
    pub(crate) fn sum(&self, value: fn(&Pool) -> Option<u64>) -> Option<u64> {
        self.pools.iter().filter_map(value).reduce(|one, other| one + other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_has_few_samples_and_they_are_spread_over_all_of_it() {
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
    fn what_the_controller_saw_before_the_run_is_not_of_it() {
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
    fn what_no_pool_knows_is_unknown_and_what_some_know_is_added() {
        let pool = |ready, visible| Pool { ready, visible, ..Pool::default() };
        let sample = Sample { at_s: 0.0, pools: vec![pool(Some(2), None), pool(Some(3), None)] };
        assert_eq!((sample.sum(|pool| pool.ready), sample.sum(|pool| pool.visible)), (Some(5), None));
    }
}
