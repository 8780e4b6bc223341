//! Checks that the queues of models and reports exist, with the attributes of the settings.

use std::time::Duration;

use eirs_platform::{
    backend::{
        EVENTS, WEBHOOK, dead_letters_name, dead_letters_options, events_options, requests_name,
        requests_options, webhook_options,
    },
    queue::{QueueOptions, sqs::Difference},
};
use futures::future::join_all;

use super::Found;
use crate::{aws::Account, commands::check::aws::drift, show::span};

pub(super) async fn look(account: &Account) -> anyhow::Result<Found> {
    let settings = &account.settings;
    let mut wanted = vec![(EVENTS.to_owned(), events_options(&settings.queue))];
    if settings.web.webhook.url.is_some() {
        wanted.push((WEBHOOK.to_owned(), webhook_options()));
    }
    for model in settings.models.keys() {
        wanted.push((dead_letters_name(model), dead_letters_options(&settings.queue)));
        wanted.push((requests_name(model), requests_options(&settings.queue, model)));
    }
    let looked = join_all(wanted.iter().map(|(name, options)| look_at(account, name, options))).await;
    let looked = looked.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let nothing = looked.iter().all(|looked| matches!(looked, Looked::Missing));
    let mut differences = Vec::new();
    for ((name, _), looked) in wanted.iter().zip(looked) {
        let name = account.sqs.full_name(name);
        match looked {
            Looked::Missing => differences.push(drift::Difference::new(
                format!("the queue {name} is missing"),
                "`eirs setup` makes it",
            )),
            Looked::There(differs) => {
                differences.extend(differs.iter().map(|it| format!("the queue {name} {}", words(it)).into()));
            }
        }
    }
    Ok(Found { differences, nothing, ..Found::default() })
}

enum Looked {
    Missing,
    /// The attributes that differ.
    There(Vec<Difference>),
}

async fn look_at(account: &Account, name: &str, options: &QueueOptions) -> anyhow::Result<Looked> {
    match account.sqs.differences(name, options).await {
        Ok(differences) => Ok(Looked::There(differences)),
        Err(error) if error.is_missing() => Ok(Looked::Missing),
        Err(error) => Err(error.into()),
    }
}

/// Formats a difference as the end of a sentence.
fn words(Difference { attribute, is, should }: &Difference) -> String {
    let time =
        |seconds: &str| seconds.parse().map_or_else(|_| seconds.to_owned(), |s| span(Duration::from_secs(s)));
    let (is, should) = (is.as_deref().unwrap_or("nothing"), should.as_str());
    match attribute.as_str() {
        "MessageRetentionPeriod" => {
            format!("keeps messages for {}, and the settings say {}", time(is), time(should))
        }
        "VisibilityTimeout" => {
            format!("leases messages for {}, and the settings say {}", time(is), time(should))
        }
        "SqsManagedSseEnabled" => "is not encrypted by SQS".to_owned(),
        "RedrivePolicy" if is == "nothing" => {
            "has no redrive policy: a job that kills every worker never ends".to_owned()
        }
        "RedrivePolicy" => format!("has the redrive policy {is}, and the settings say {should}"),
        other => format!("has {other} {is}, and the settings say {should}"),
    }
}
