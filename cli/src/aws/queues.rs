//! The queues that setup makes: jobs and dead letters of each model, and the reports. Those of answers are made by the web
//! hosts themselves.

use eirs_platform::{
    backend::{
        EVENTS, dead_letters_name, dead_letters_options, events_options, requests_name, requests_options,
    },
    queue::QueueOptions,
    settings::Settings,
};

use super::Account;

/// A queue as it should be.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// Without the prefix.
    pub(crate) name: String,
    options: QueueOptions,
}

/// In the order in which they can be made: dead letters before the jobs that may end there.
pub(crate) fn wanted(settings: &Settings) -> Vec<Wanted> {
    let queue = &settings.queue;
    let of_model = |model: &String| {
        let (dead, jobs) = (dead_letters_name(model), requests_name(model));
        [
            Wanted { name: dead, options: dead_letters_options(queue) },
            Wanted { name: jobs, options: requests_options(queue, model) },
        ]
    };
    let events = Wanted { name: EVENTS.to_owned(), options: events_options(queue) };
    settings.models.keys().flat_map(of_model).chain([events]).collect()
}

impl Wanted {
    /// Whether it is there.
    pub(crate) async fn is_there(&self, account: &Account) -> anyhow::Result<bool> {
        match account.sqs.tags(&self.name).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_missing() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes it, or gives one that is there the options that it should have.
    pub(crate) async fn ensure(&self, account: &Account) -> anyhow::Result<()> {
        account.sqs.ensure(&self.name, self.options.clone()).await?;
        Ok(())
    }
}

/// Every queue of the installation that is there, those of answers too.
pub(crate) async fn all(account: &Account) -> anyhow::Result<Vec<String>> {
    let mut ours = Vec::new();
    for name in account.sqs.names("").await? {
        // Another installation's prefix may begin with ours: `eirs` and `eirs-test`.
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
