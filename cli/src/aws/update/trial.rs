//! Trials of machines: they only take the jobs of the trial, whose results are not stored.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use chrono::Utc;
use eirs_platform::{
    backend::{Backend, Responses},
    job::{self, Job, Reply},
    queue::SharedQueue,
};
use tokio::time::Instant;

use super::checks::Check;

/// Time limit for the first reply; the worker first loads its model.
const FIRST_WITHIN: Duration = Duration::from_secs(180);
/// Time limit for each further reply.
const NEXT_WITHIN: Duration = Duration::from_secs(60);
/// Number of missing replies after which a trial has failed.
const MISSED: usize = 3;
/// Interval after which jobs are sent again for machines that have received none.
const AGAIN: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_secs(1);

/// A trial of a model.
#[derive(Debug)]
pub(crate) struct Trial<'a> {
    backend: &'a Backend,
    model: &'a str,
    jobs: SharedQueue,
    responses: Responses,
}

impl<'a> Trial<'a> {
    /// Opens the queues, and removes the jobs of an interrupted trial.
    pub(crate) async fn open(backend: &'a Backend, model: &'a str) -> anyhow::Result<Self> {
        let jobs = backend.trial(model).await?;
        // SQS purges a queue at most once per minute; remaining jobs are harmless, since nothing
        // waits for their replies.
        let _refused = jobs.purge().await;
        let responses = backend.responses(&format!("update-{}", std::process::id())).await?;
        Ok(Self { backend, model, jobs, responses })
    }

    pub(crate) async fn close(self) -> anyhow::Result<()> {
        Ok(self.backend.close_responses(&self.responses).await?)
    }

    /// Sends all checks to one machine, one after the other, so that the times are its own. Returns
    /// the replies; `None` for missing ones.
    pub(crate) async fn ask_all(&self, checks: &[Check]) -> anyhow::Result<Vec<Option<Reply>>> {
        let (mut replies, mut patience) = (Vec::new(), FIRST_WITHIN);
        for check in checks {
            let missed = replies.iter().filter(|reply: &&Option<Reply>| reply.is_none()).count();
            if missed >= MISSED {
                replies.push(None);
                continue;
            }
            self.send(check).await?;
            let deadline = Instant::now() + patience;
            let mut answer = None;
            while answer.is_none() && Instant::now() < deadline {
                answer = self.receive().await?.into_iter().find(|reply| reply.id == check.id);
            }
            patience = NEXT_WITHIN;
            replies.push(answer);
        }
        Ok(replies)
    }

    /// Sends jobs until each of these machines has replied; returns the replies by machine.
    pub(crate) async fn ask_each(
        &self,
        machines: &[String],
        checks: &[Check],
    ) -> anyhow::Result<BTreeMap<String, Reply>> {
        let mut replies = BTreeMap::new();
        let (deadline, mut sent) = (Instant::now() + FIRST_WITHIN, None);
        let mut checks = checks.iter().cycle();
        while replies.len() < machines.len() && Instant::now() < deadline {
            if sent.is_none_or(|sent: Instant| sent.elapsed() >= AGAIN) {
                for check in checks.by_ref().take(machines.len() - replies.len()) {
                    self.send(check).await?;
                }
                sent = Some(Instant::now());
            }
            let known: BTreeSet<_> = machines.iter().collect();
            for reply in self.receive().await? {
                if known.contains(&reply.worker) {
                    replies.insert(reply.worker.clone(), reply);
                }
            }
        }
        Ok(replies)
    }

    async fn send(&self, check: &Check) -> anyhow::Result<()> {
        let job = Job {
            v: job::VERSION,
            id: check.id,
            name: check.name.clone(),
            model: self.model.to_owned(),
            reply_to: self.responses.name.clone(),
            sent_at: Utc::now(),
            fresh: true,
            trace: None,
        };
        Ok(self.jobs.send(vec![job::encode(&job)]).await?)
    }

    async fn receive(&self) -> anyhow::Result<Vec<Reply>> {
        let received = self.responses.queue.receive(10, POLL).await?;
        let receipts: Vec<_> = received.iter().map(|delivery| delivery.receipt.clone()).collect();
        if !receipts.is_empty() {
            self.responses.queue.ack(&receipts).await?;
        }
        Ok(received.iter().filter_map(|delivery| job::decode(&delivery.body).ok()).collect())
    }
}
