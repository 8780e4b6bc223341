//! The response queue of a web host: each host has its own, so that it receives only its own
//! replies.
//!
//! On one machine it has a fixed name and is kept. In a cloud, each start of a host creates a queue
//! with a new name (SQS does not allow reusing a deleted name for a minute), renews it every few
//! minutes, and deletes it at the end. Queues of killed hosts are deleted by the others.

use std::time::Duration;

use super::{Backend, Queues, responses_name};
#[cfg(feature = "aws")]
use crate::aws::tag::ALIVE_AT;
use crate::{error::Result, queue::SharedQueue};

/// An open response queue.
#[derive(Debug, Clone)]
pub struct Responses {
    /// The name for `reply_to` of jobs.
    pub name: String,
    /// The queue.
    pub queue: SharedQueue,
}

impl Responses {
    /// Interval for calls of [`Backend::renew_responses`].
    pub const RENEW: Duration = Duration::from_secs(300);
    /// A queue that was not renewed for this time has no host: three renewals failed.
    pub const ORPHANED: Duration = Duration::from_secs(1000);
}

impl Backend {
    /// Opens the response queue of a starting web host.
    pub async fn responses(&self, host: &str) -> Result<Responses> {
        let name = match &self.queues {
            Queues::Memory(_) | Queues::Sqlite(_) => responses_name(host),
            #[cfg(feature = "aws")]
            Queues::Sqs(queues) => {
                let name = format!("{}-{}", responses_name(host), now().format("%y%m%d%H%M%S%3f"));
                let options = super::responses_options(&self.queue_settings);
                let alive = now().to_rfc3339();
                let queue = queues.create(&name, options, &[(ALIVE_AT, &alive)]).await?;
                return Ok(Responses { name, queue });
            }
        };
        Ok(Responses { queue: self.reply_queue(&name).await?, name })
    }

    /// Records that the host of this response queue is alive.
    #[cfg_attr(not(feature = "aws"), expect(unused_variables, reason = "only a cloud's queues come and go"))]
    pub async fn renew_responses(&self, responses: &Responses) -> Result<()> {
        match &self.queues {
            Queues::Memory(_) | Queues::Sqlite(_) => Ok(()),
            #[cfg(feature = "aws")]
            Queues::Sqs(queues) => queues.tag(&responses.name, ALIVE_AT, &now().to_rfc3339()).await,
        }
    }

    /// Deletes the response queue of a host that ends.
    #[cfg_attr(not(feature = "aws"), expect(unused_variables, reason = "only a cloud's queues come and go"))]
    pub async fn close_responses(&self, responses: &Responses) -> Result<()> {
        match &self.queues {
            Queues::Memory(_) | Queues::Sqlite(_) => Ok(()),
            #[cfg(feature = "aws")]
            Queues::Sqs(queues) => queues.delete(&responses.name).await,
        }
    }

    /// Deletes the response queues of killed hosts; returns their names.
    pub async fn sweep_responses(&self) -> Result<Vec<String>> {
        match &self.queues {
            Queues::Memory(_) | Queues::Sqlite(_) => Ok(Vec::new()),
            #[cfg(feature = "aws")]
            Queues::Sqs(queues) => sweep(queues).await,
        }
    }
}

#[cfg(feature = "aws")]
async fn sweep(queues: &crate::queue::sqs::SqsQueues) -> Result<Vec<String>> {
    let mut swept = Vec::new();
    for name in queues.names(&responses_name("")).await? {
        let tags = match queues.tags(&name).await {
            Ok(tags) => tags,
            // Its host has just deleted it.
            Err(error) if error.is_missing() => continue,
            Err(error) => return Err(error),
        };
        if is_orphaned(tags.get(ALIVE_AT), now()) {
            queues.delete(&name).await?;
            swept.push(name);
        }
    }
    Ok(swept)
}

/// Parses the time in the tag of a response queue at which its host was last alive.
#[cfg(feature = "aws")]
pub fn alive_at(tagged: Option<&String>) -> Option<chrono::DateTime<chrono::Utc>> {
    tagged.and_then(|text| chrono::DateTime::parse_from_rfc3339(text).ok()).map(|at| at.to_utc())
}

/// Returns whether a response queue has no host any more. False without the tag, because its owner
/// is unknown.
#[cfg(feature = "aws")]
pub fn is_orphaned(tagged: Option<&String>, now: chrono::DateTime<chrono::Utc>) -> bool {
    alive_at(tagged).is_some_and(|alive| (now - alive).to_std().is_ok_and(|age| age > Responses::ORPHANED))
}

#[cfg(feature = "aws")]
fn now() -> chrono::DateTime<chrono::Utc> {
    chrono::Utc::now()
}

#[cfg(all(test, feature = "aws"))]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn a_queue_is_orphaned_when_its_host_was_silent_for_three_renewals() {
        let text = now().to_rfc3339();
        let after = |seconds| is_orphaned(Some(&text), now() + TimeDelta::seconds(seconds));
        assert!(!after(3 * Responses::RENEW.as_secs() as i64));
        assert!(after(1001));
        assert!(!is_orphaned(None, now()), "there is no tag");
        assert!(!is_orphaned(Some(&"yesterday".to_owned()), now()));
    }
}
