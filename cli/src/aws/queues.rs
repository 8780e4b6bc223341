//! The queues that setup creates: jobs and dead letters of each model, and reports. Response queues
//! are created by the web hosts.

use std::time::Duration;

use eirs_platform::{
    backend::{
        EVENTS, WEBHOOK, dead_letters_name, dead_letters_options, events_options, requests_name,
        requests_options, trial_name, trial_options, webhook_options,
    },
    queue::QueueOptions,
    settings::Settings,
};
use tokio::time::Instant;

use super::{Account, Poll};

/// Time until the name of a deleted queue can be used again; SQS documents a minute.
const NAME_IS_FREE_WITHIN: Duration = Duration::from_secs(90);

/// The desired state of a queue.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// The name without the prefix.
    pub(crate) name: String,
    pub(crate) options: QueueOptions,
}

/// Returns the queues in the order of creation: dead letters before the jobs that refer to them.
pub(crate) fn wanted(settings: &Settings) -> Vec<Wanted> {
    let queue = &settings.queue;
    let of_model = |model: &String| {
        let (dead, jobs) = (dead_letters_name(model), requests_name(model));
        [
            Wanted { name: dead, options: dead_letters_options(queue) },
            Wanted { name: jobs, options: requests_options(queue, model) },
            Wanted { name: trial_name(model), options: trial_options(queue) },
        ]
    };
    let events = Wanted { name: EVENTS.to_owned(), options: events_options(queue) };
    let webhook = settings.web.webhook.url.as_ref();
    let webhook = webhook.map(|_| Wanted { name: WEBHOOK.to_owned(), options: webhook_options() });
    settings.models.keys().flat_map(of_model).chain([events]).chain(webhook).collect()
}

impl Wanted {
    /// Returns whether the queue exists.
    pub(crate) async fn is_there(&self, account: &Account) -> anyhow::Result<bool> {
        match account.sqs.tags(&self.name).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_missing() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Creates or updates the queue. The name of a deleted queue can be used again after a minute.
    pub(crate) async fn ensure(&self, account: &Account, say: &dyn Fn(&str)) -> anyhow::Result<()> {
        let (deadline, mut poll) = (Instant::now() + NAME_IS_FREE_WITHIN, Poll::new());
        loop {
            match account.sqs.ensure(&self.name, self.options.clone()).await {
                Err(error)
                    if error.to_string().contains("QueueDeletedRecently") && Instant::now() < deadline =>
                {
                    let name = account.sqs.full_name(&self.name);
                    say(&format!(
                        "the queue {name} was deleted a moment ago; SQS keeps its name for a minute"
                    ));
                    poll.wait().await;
                }
                ended => return Ok(ended?),
            }
        }
    }
}

/// Returns all existing queues of the installation, including response queues.
pub(crate) async fn all(account: &Account) -> anyhow::Result<Vec<String>> {
    let mut ours = Vec::new();
    for name in account.sqs.names("").await? {
        // The prefix of another installation may start with ours: `eirs` and `eirs-test`.
        let tags = match account.sqs.tags(&name).await {
            Ok(tags) => tags,
            Err(error) if error.is_missing() => continue,
            Err(error) => return Err(error.into()),
        };
        if tags.get(eirs_platform::aws::tag::INSTALLATION).is_some_and(|prefix| prefix == account.prefix()) {
            ours.push(name);
        }
    }
    Ok(ours)
}
