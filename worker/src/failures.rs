//! The failed attempts at a job, which are kept in its message: a failed job is sent again with one
//! more failure, and the old message is acked. The job goes to the end of the queue, any worker can
//! take it, and the queue's delivery count, which limits redeliveries, starts again. So an outage
//! creates no dead letters.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use eirs_platform::job;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::time::Duration;

/// The member of the message; programs that do not know it ignore it.
const MEMBER: &str = "failed";
/// The wait before the second attempt; it doubles with each failure.
const FIRST_REST: Duration = Duration::from_millis(250);
const LONGEST_REST: Duration = Duration::from_secs(60);
/// The most that the time between two failures counts, so that neither a clock that jumps by a week
/// nor a long backlog ends the retries.
const LONGEST_STEP: Duration = Duration::from_secs(300);
/// Maximum length of a stored cause, in characters.
const CAUSE_CHARS: usize = 2000;

/// The failed attempts at a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Failures {
    /// The number of failures.
    pub(crate) count: u32,
    /// The time of the first failure.
    pub(crate) since: DateTime<Utc>,
    /// The time of the last failure; `None` in messages of older versions.
    #[serde(default)]
    last: Option<DateTime<Utc>>,
    /// The total time between failures, in milliseconds, where each interval counts for at most
    /// [`LONGEST_STEP`].
    #[serde(default)]
    lasted_ms: u64,
    /// The number of failures that killed a worker.
    #[serde(default)]
    pub(crate) fatal: u32,
    /// The cause of the last failure.
    pub(crate) why: String,
}

impl Failures {
    /// Reads the failures of a message. If they cannot be parsed, the job is tried as if it had
    /// none.
    fn of(message: &Map<String, Value>) -> Option<Self> {
        serde_json::from_value(message.get(MEMBER)?.clone()).ok()
    }

    /// Adds a failure; returns the failures and the new message. Unknown members stay in the
    /// message.
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

    /// Returns how long the job has been failing.
    pub(crate) fn lasted(&self, now: DateTime<Utc>) -> Duration {
        let passed = |since: DateTime<Utc>| (now - since).to_std().unwrap_or_default();
        match self.last {
            Some(last) => Duration::from_millis(self.lasted_ms) + passed(last).min(LONGEST_STEP),
            None => passed(self.since),
        }
    }

    /// Returns the reason to give the job up, if it has failed for `retry_for` or killed
    /// `most_fatal` workers.
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

    /// Returns the wait before the next attempt, which is cut at the end of the retries.
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
    fn failures_add_up_in_the_message_and_the_rest_of_it_stays() {
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
    fn a_job_is_given_up_after_retry_for_whatever_the_number_of_attempts() {
        let why = || "the backend is away".into();
        let failed =
            |count, fatal| Failures { count, since: at(0), last: None, lasted_ms: 0, fatal, why: why() };
        assert_eq!(failed(1000, 0).verdict(at(3599), HOUR, 5), None);
        let reason = failed(40, 0).verdict(at(3600), HOUR, 5).unwrap();
        assert_eq!(reason, "40 attempts failed within 1h; the last: the backend is away");
        assert!(failed(1, 0).verdict(at(0), Duration::ZERO, 5).is_some(), "`retry_for = 0` allows no retry");
        assert!(failed(5, 5).verdict(at(1), HOUR, 5).unwrap().contains("5 of them killed a worker"));
        assert_eq!(failed(5, 4).verdict(at(1), HOUR, 5), None);
    }

    #[test]
    fn a_jump_of_the_clock_does_not_end_the_retries() {
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
        // Without jumps, they end after an hour.
        let mut failures = failures.unwrap();
        let mut now = 3 * week + true_time;
        while failures.verdict(at(now), HOUR, 5).is_none() {
            now += 60;
            (failures, body) = Failures::one_more(&body, at(now), "away", false);
            assert!(failures.count < 100, "the retries never end");
        }
        assert!(failures.count > 40, "{failures:?}");
    }

    proptest! {
        #[test]
        fn waits_grow_to_a_minute_and_end_with_the_retries(count in 1u32..1000, passed in 0i64..8000) {
            let failures =
                Failures { count, since: at(0), last: None, lasted_ms: 0, fatal: 0, why: String::new() };
            let rest = failures.rest(at(passed), HOUR);
            prop_assert!(rest <= LONGEST_REST);
            prop_assert!(rest + Duration::from_secs(passed as u64) <= HOUR.max(Duration::from_secs(passed as u64)));
            prop_assert!(passed > 3000 || rest >= 2 * FIRST_REST);
        }
    }
}
