//! The queues, their purposes and depths.

use eirs_platform::{
    backend::{EVENTS, WEBHOOK, dead_letters_name, requests_name, responses_name, trial_name},
    queue::Depth,
};
use serde::Serialize;

use crate::show::{self, count};

/// A queue.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Queue {
    pub(super) name: String,
    pub(super) kind: Kind,
    #[serde(flatten)]
    pub(super) depth: Depth,
    /// A remark about something unusual.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remark: Option<String>,
}

/// The purpose of a queue, which follows from its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    Requests,
    DeadLetters,
    /// Jobs with which an update tries machines.
    Trial,
    Webhook,
    Responses,
    Events,
    Unknown,
}

impl Kind {
    pub(super) fn of(name: &str) -> Self {
        let begins = |with: String| name.starts_with(&with);
        match name {
            EVENTS => Self::Events,
            WEBHOOK => Self::Webhook,
            _ if begins(requests_name("")) => Self::Requests,
            _ if begins(dead_letters_name("")) => Self::DeadLetters,
            _ if begins(trial_name("")) => Self::Trial,
            _ if begins(responses_name("")) => Self::Responses,
            _ => Self::Unknown,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Requests => "jobs",
            Self::DeadLetters => "dead letters",
            Self::Webhook => "webhook",
            Self::Trial => "trials of machines",
            Self::Responses => "answers",
            Self::Events => "reports",
            Self::Unknown => "",
        }
    }
}

impl Queue {
    pub(super) fn new(name: &str, depth: Depth) -> Self {
        Self { name: name.to_owned(), kind: Kind::of(name), depth, remark: None }
    }
}

/// Formats the queues as a table.
pub(super) fn text(queues: &[Queue]) -> String {
    let row = |queue: &Queue| {
        let mut what = queue.kind.word().to_owned();
        if let Some(remark) = &queue.remark {
            what += &format!(", {remark}");
        }
        let (visible, in_flight) = (queue.depth.visible.to_string(), queue.depth.in_flight.to_string());
        vec![queue.name.clone(), visible, in_flight, what]
    };
    show::table(&["queue", "visible", "in flight", ""], &queues.iter().map(row).collect::<Vec<_>>())
}

/// Returns problems about dead letters.
pub(super) fn problems(queues: &[Queue]) -> Vec<String> {
    let dead = queues.iter().filter(|queue| queue.kind == Kind::DeadLetters && queue.depth.backlog() > 0);
    dead.map(|queue| {
        let letters = count(queue.depth.backlog(), "dead letter");
        format!("{letters} in {}; `eirs dead-letters list` says why", queue.name)
    })
    .collect()
}
