//! Lists the queues of the installation with their depths; the tags of a response queue show
//! whether its host is alive.

use chrono::{DateTime, Utc};
use eirs_platform::{
    aws::tag,
    backend::responses::{alive_at, is_orphaned},
    queue::{Depth, QueueOptions},
};
use futures::future::join_all;

use super::drift::{is_denied, short};
use crate::{
    aws::Account,
    commands::check::queues::{Kind, Queue},
    show::ago,
};

/// The inspected queues.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) queues: Vec<Queue>,
    pub(super) problems: Vec<String>,
    /// Number of web hosts that are alive.
    pub(super) hosts: usize,
}

/// One queue.
#[derive(Debug)]
struct Looked {
    queue: Queue,
    problem: Option<String>,
    /// Whether this is a response queue whose host is alive.
    has_host: bool,
}

pub(super) async fn look(account: &Account, now: DateTime<Utc>) -> Seen {
    let names = match account.sqs.names("").await {
        Ok(names) => names,
        Err(error) => {
            let problems = vec![format!("the queues cannot be listed: {}", short(&error.into()))];
            return Seen { problems, ..Seen::default() };
        }
    };
    let mut seen = Seen::default();
    for looked in join_all(names.iter().map(|name| look_at(account, name, now))).await {
        match looked {
            Ok(Some(Looked { queue, problem, has_host })) => {
                seen.queues.push(queue);
                seen.problems.extend(problem);
                seen.hosts += usize::from(has_host);
            }
            Ok(None) => {}
            Err(error) => seen.problems.push(short(&error)),
        }
    }
    seen
}

/// Inspects a queue; `None` if it belongs to another installation, or was just deleted.
async fn look_at(account: &Account, name: &str, now: DateTime<Utc>) -> anyhow::Result<Option<Looked>> {
    let tags = match account.sqs.tags(name).await {
        Ok(tags) => Some(tags),
        Err(error) if error.is_missing() => return Ok(None),
        // Credentials without permission to read tags may still read the depth.
        Err(error) if is_denied(&error.to_string()) => None,
        Err(error) => return Err(error.into()),
    };
    let kind = Kind::of(name);
    let is_ours = match &tags {
        // The prefix of another installation may start with ours: `eirs` and `eirs-test`.
        Some(tags) => tags.get(tag::INSTALLATION).is_some_and(|prefix| prefix == account.prefix()),
        None => kind != Kind::Unknown,
    };
    if !is_ours {
        return Ok(None);
    }
    let depth = match depth(account, name).await {
        Ok(depth) => depth,
        Err(error) if error.is_missing() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut queue = Queue::new(name, depth);
    let (mut problem, mut has_host) = (None, false);
    if let (Kind::Responses, Some(tags)) = (kind, &tags) {
        let tagged = tags.get(tag::ALIVE_AT);
        if is_orphaned(tagged, now) {
            let alive = alive_at(tagged).map_or_else(|| "?".to_owned(), |at| ago(at, now));
            queue.remark = Some("no host".to_owned());
            problem = Some(format!(
                "the web host of {name} was last alive {alive}; another running one would delete \
                the queue"
            ));
        } else if alive_at(tagged).is_some() {
            has_host = true;
        } else {
            queue.remark = Some("of an unknown host".to_owned());
        }
    }
    let model = name
        .split_once('-')
        .map(|(_, model)| model)
        .filter(|_| matches!(kind, Kind::Requests | Kind::DeadLetters | Kind::Trial));
    if model.is_some_and(|model| !account.settings.models.contains_key(model)) {
        queue.remark = Some("of no model of the settings".to_owned());
    }
    Ok(Some(Looked { queue, problem, has_host }))
}

async fn depth(account: &Account, name: &str) -> eirs_platform::Result<Depth> {
    account.sqs.open(name, QueueOptions::default()).await?.depth().await
}
