//! What became of a job so far, where it failed. It travels with the job, in its message: a job
//! that failed is sent once more and the old message is acked. So it goes to the end of the line,
//! any worker can go on with it, and the queue's own count of deliveries, which leads to the dead
//! letters, starts again: an outage buries nothing.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use eirs_platform::job;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::time::Duration;

/// The member of the message. Programs that do not know it pass it over.
const MEMBER: &str = "failed";
/// A job that failed rests so long before the first further attempt, then twice as long, and so on.
const FIRST_REST: Duration = Duration::from_millis(250);
const LONGEST_REST: Duration = Duration::from_secs(60);
/// From one failure to the next no more than this counts: a wall clock that leaps by a week ends no
/// retries, nor does a queue that was long.
const LONGEST_STEP: Duration = Duration::from_secs(300);
/// The number of characters of a cause that are kept.
const CAUSE_CHARS: usize = 2000;

/// The failed attempts at a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Failures {
    /// How many there were.
    pub(crate) count: u32,
    /// When the first was, ...
    pub(crate) since: DateTime<Utc>,
    /// ... and when the last; nothing in messages of a time without.
    #[serde(default)]
    last: Option<DateTime<Utc>>,
    /// For how long it has failed, by clocks that may leap: no wait between two failures counts for
    /// more than [`LONGEST_STEP`].
    #[serde(default)]
    lasted_ms: u64,
    /// How many of them took a worker with them.
    #[serde(default)]
    pub(crate) fatal: u32,
    /// What the last one failed of.
    pub(crate) why: String,
}

impl Failures {
    /// Those that a message tells of. What cannot be read is as good as absent: the job is tried.
    fn of(message: &Map<String, Value>) -> Option<Self> {
        serde_json::from_value(message.get(MEMBER)?.clone()).ok()
    }

    /// With one more, and the message that says so. Members that this version does not know stay in
    /// it.
    pub(crate) fn one_more(body: &[u8], now: DateTime<Utc>, why: &str, is_fatal: bool) -> (Self, Bytes) {
        let mut message: Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
        let before = Self::of(&message);
        let failures = Self {
            count: before.as_ref().map_or(0, |before| before.count).saturating_add(1),
            since: before.as_ref().map_or(now, |before| before.since),
            last: Some(now),
            lasted_ms: before.as_ref().map_or(0, |before| before.lasted(now).as_millis() as u64),
            fatal: before.map_or(0, |before| before.fatal).saturating_add(u32::from(is_fatal)),
            why: why.chars().take(CAUSE_CHARS).collect(),
        };
        message.insert(MEMBER.to_owned(), serde_json::json!(failures));
        (failures, job::encode(&message))
    }

    /// For how long it has failed.
    pub(crate) fn lasted(&self, now: DateTime<Utc>) -> Duration {
        let passed = |since: DateTime<Utc>| (now - since).to_std().unwrap_or_default();
        match self.last {
            Some(last) => Duration::from_millis(self.lasted_ms) + passed(last).min(LONGEST_STEP),
            None => passed(self.since),
        }
    }

    /// Why it is given up, if it is: it failed for as long as retries may go on, or took too many
    /// workers.
    pub(crate) fn verdict(&self, now: DateTime<Utc>, retry_for: Duration, most_fatal: u32) -> Option<String> {
        let (count, why) = (self.count, &self.why);
        let lasted = self.lasted(now);
        let attempts = if count == 1 { "attempt" } else { "attempts" };
        if self.fatal >= most_fatal {
            return Some(format!(
                "{count} {attempts} failed, {} of them killed a worker; the last: {why}",
                self.fatal
            ));
        }
        let shown = humantime::format_duration(Duration::from_secs(lasted.as_secs()));
        (lasted >= retry_for).then(|| format!("{count} {attempts} failed within {shown}; the last: {why}"))
    }

    /// How long it rests before the next attempt, which comes before retries end.
    pub(crate) fn rest(&self, now: DateTime<Utc>, retry_for: Duration) -> Duration {
        let rest = FIRST_REST.saturating_mul(1 << self.count.min(16)).min(LONGEST_REST);
        rest.min(retry_for.saturating_sub(self.lasted(now)))
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn failures_add_up_in_the_message_and_leave_the_rest_of_it_alone() {
        let body = br#"{"v":1,"name":"a","colour":"blue"}"#;
        let (first, body) = Failures::one_more(body, at(10), "away", false);
        assert_eq!((first.count, first.since, first.fatal), (1, at(10), 0));
        let (second, body) = Failures::one_more(&body, at(70), "still away", true);
        assert_eq!((second.count, second.since, second.fatal, &*second.why), (2, at(10), 1, "still away"));
        let message: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&message["colour"], &message["name"]), (&"blue".into(), &"a".into()));
        for broken in [&br#"{"v":1,"failed":7}"#[..], br#"{"v":1,"failed":{"count":-1}}"#] {
            assert_eq!(Failures::one_more(broken, at(10), "x", false).0.count, 1);
        }
    }

    #[test]
    fn a_job_is_given_up_when_it_failed_for_as_long_as_retries_may_go_on_and_not_for_their_number() {
        let why = || "the backend is away".into();
        let failed =
            |count, fatal| Failures { count, since: at(0), last: None, lasted_ms: 0, fatal, why: why() };
        assert_eq!(failed(1000, 0).verdict(at(3599), HOUR, 5), None);
        let reason = failed(40, 0).verdict(at(3600), HOUR, 5).unwrap();
        assert_eq!(reason, "40 attempts failed within 1h; the last: the backend is away");
        assert!(failed(1, 0).verdict(at(0), Duration::ZERO, 5).is_some(), "no retries at all");
        assert!(failed(5, 5).verdict(at(1), HOUR, 5).unwrap().contains("5 of them killed a worker"));
        assert_eq!(failed(5, 4).verdict(at(1), HOUR, 5), None);
    }

    #[test]
    fn a_leap_of_the_clock_ends_no_retries() {
        let week = 7 * 24 * 3600;
        let mut body = Bytes::from_static(b"{}");
        let (mut failures, mut true_time) = (None, 0);
        for (attempt, leap) in [0, week, 0, -week, 0, 3 * week].into_iter().enumerate() {
            true_time += 60;
            let now = at(true_time + leap);
            let (seen, next) = Failures::one_more(&body, now, "away", false);
            assert_eq!(seen.verdict(now, HOUR, 5), None, "attempt {attempt}");
            (failures, body) = (Some(seen), next);
        }
        // And without leaps they end after an hour that was seen to pass.
        let mut failures = failures.unwrap();
        let mut now = 3 * week + true_time;
        while failures.verdict(at(now), HOUR, 5).is_none() {
            now += 60;
            (failures, body) = Failures::one_more(&body, at(now), "away", false);
            assert!(failures.count < 100, "they never end");
        }
        assert!(failures.count > 40, "{failures:?}");
    }

    proptest! {
        #[test]
        fn rests_grow_to_a_minute_and_end_when_retries_do(count in 1u32..1000, passed in 0i64..8000) {
            let failures =
                Failures { count, since: at(0), last: None, lasted_ms: 0, fatal: 0, why: String::new() };
            let rest = failures.rest(at(passed), HOUR);
            prop_assert!(rest <= LONGEST_REST);
            prop_assert!(rest + Duration::from_secs(passed as u64) <= HOUR.max(Duration::from_secs(passed as u64)));
            prop_assert!(passed > 3000 || rest >= 2 * FIRST_REST);
        }
    }
}
