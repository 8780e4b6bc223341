//! Inspects the controller from outside, and collects its complaints.

use std::{path::Path, time::Duration};

use chrono::{DateTime, Utc};
use eirs_controller::status::Status;
use eirs_platform::{
    settings::Settings,
    state_folder::{self, CONTROLLER_LOCK},
};
use serde::Serialize;

use super::queues::{Kind, Queue};
use crate::{
    commands::status,
    show::{ago, count},
};

/// Number of ticks without a pass after which the controller counts as hanging.
const MISSED_TICKS: u32 = 5;

/// The state of the controller.
#[derive(Debug, Default, Serialize)]
pub(super) struct Controller {
    pub(super) running: bool,
    pub(super) pid: Option<u32>,
    /// The time of its last pass.
    pub(super) at: Option<DateTime<Utc>>,
    /// No controller runs on this machine, but one may run on another.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) elsewhere: bool,
}

/// Inspects the state folder; also returns what the controller wrote.
pub(super) fn look(settings: &Settings) -> (Controller, Option<Status>) {
    let folder: &Path = &settings.local.state;
    let holder = state_folder::holder(folder, CONTROLLER_LOCK);
    let seen = status::read(&settings.status_file());
    let controller = Controller {
        running: holder.is_some(),
        pid: holder.and_then(|holder| holder.by),
        at: seen.as_ref().map(|seen| seen.at),
        elsewhere: false,
    };
    (controller, seen)
}

impl Controller {
    pub(super) fn text(&self, state: &str, now: DateTime<Utc>) -> String {
        match self {
            Self { running: true, pid, at, .. } => {
                let pid = pid.map_or_else(String::new, |pid| format!(", process {pid}"));
                let at =
                    at.map_or_else(|| "no pass yet".to_owned(), |at| format!("last pass {}", ago(at, now)));
                format!("The controller of {state} is running{pid}; {at}.\n")
            }
            Self { at: Some(at), .. } => {
                format!("No controller is running on {state}; the last pass was {}.\n", ago(*at, now))
            }
            Self { elsewhere: true, .. } => {
                "No controller is running on this machine; its view is on the web host.\n".to_owned()
            }
            Self { .. } => format!("No controller is running on {state}.\n"),
        }
    }
}

/// Returns all problems that need the operator, one sentence each.
pub(super) fn problems(
    controller: &Controller,
    seen: Option<&Status>,
    queues: &[Queue],
    now: DateTime<Utc>,
) -> Vec<String> {
    let mut problems = Vec::new();
    if controller.elsewhere {
        return problems;
    }
    if !controller.running {
        let waiting = queues.iter().filter(|queue| queue.kind == Kind::Requests && queue.depth.backlog() > 0);
        problems.extend(waiting.map(|queue| {
            let jobs = count(queue.depth.backlog(), "job");
            format!("{jobs} in {}, and no controller is running to start a worker", queue.name)
        }));
        return problems;
    }
    let Some(seen) = seen else { return problems };
    let silent = (now - seen.at).to_std().unwrap_or_default();
    if silent > seen.tick * MISSED_TICKS {
        let silent = humantime::format_duration(Duration::from_secs(silent.as_secs()));
        problems.push(format!(
            "the controller is running, but its last pass is {silent} old; see \
            its log"
        ));
    }
    problems.extend(
        seen.policy_errors.iter().map(|error| format!("policy {error}; the last good version is in force")),
    );
    problems.extend(seen.problems.iter().cloned());
    problems.extend(
        seen.operator_error.iter().map(|error| format!("orders {error}; the last good ones are in force")),
    );
    // A pause is an order and not a problem, unless clients wait because of it.
    problems.extend(seen.pools.iter().filter(|pool| !pool.would.is_empty()).filter_map(|pool| {
        let order = pool.paused.as_ref()?;
        let jobs = count(pool.visible.unwrap_or(0), "job");
        Some(format!(
            "the pool {} is paused {order}, with {jobs} waiting; it would {}",
            pool.name,
            pool.would.join(", ")
        ))
    }));
    // Both figures come from the same pass, so the jobs have not just arrived.
    let unwanted = seen.pools.iter().filter(|pool| pool.desired == 0 && pool.visible.unwrap_or(0) > 0);
    problems.extend(unwanted.map(|pool| {
        let jobs = count(pool.visible.unwrap_or(0), "job");
        format!(
            "{jobs} waiting in the pool {}, and its policy wants no worker for them ({})",
            pool.name, pool.reason
        )
    }));
    let failing = seen.pools.iter().flat_map(|pool| &pool.instances);
    problems.extend(failing.filter_map(|instance| {
        Some(format!(
            "every job fails on {}, which tries one job at a time: {}",
            instance.id,
            instance.failing.as_ref()?
        ))
    }));
    let crashed = seen.pools.iter().flat_map(|pool| &pool.instances).filter(|instance| instance.crashes > 0);
    problems.extend(crashed.map(|instance| {
        let error = instance.last_error.as_deref().unwrap_or("crashed");
        format!("{} {error}, {} in a row", instance.id, count(instance.crashes.into(), "time"))
    }));
    let refused = seen.pools.iter().flat_map(|pool| &pool.instances).filter_map(|instance| {
        let refused = instance.refused.as_ref()?;
        let why = if refused.capacity { "no capacity" } else { "it is broken" };
        let (word, times) = (refused.verb.word(), count(refused.count.into(), "time"));
        Some(format!("{} refused to {word} {times} in a row, {why}: {}", instance.id, refused.error))
    });
    problems.extend(refused);
    problems
}
