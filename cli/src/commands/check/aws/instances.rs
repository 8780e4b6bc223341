//! Lists every instance with the tag of this installation, managed by a controller or not.

use std::collections::BTreeMap;

use aws_sdk_ec2::types::InstanceStateName as State;
use chrono::{DateTime, NaiveDateTime, Utc};
use console::style;
use eirs_platform::aws::tag;
use serde::Serialize;

use crate::{
    aws::{
        Account,
        instances::{Instance, described},
    },
    show::{self, count, since},
};

/// Number of instances of a group that are listed individually.
const ROWS: usize = 20;

/// An instance.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Machine {
    pub(super) id: String,
    /// `worker`, `web` or `builder`.
    pub(super) role: String,
    pub(super) pool: Option<String>,
    /// The state in EC2's terms, such as `running`.
    pub(super) state: String,
    /// The time of the last change of state, if EC2 reports it.
    pub(super) since: Option<DateTime<Utc>>,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) zone: String,
    /// `x86_64` or `arm64`.
    pub(super) architecture: String,
    pub(super) image: String,
    /// The name of the instance profile.
    pub(super) profile: Option<String>,
    pub(super) model: Option<String>,
    /// The generation: which start of the instance this is.
    pub(super) generation: Option<String>,
    /// Whether this start has a drain order.
    pub(super) draining: bool,
    /// Whether the instance belongs to the controller.
    pub(super) handed_over: bool,
    /// Whether the controller launched it on demand.
    pub(super) launched: bool,
}

/// Lists all instances except terminated ones.
pub(super) async fn list(account: &Account) -> anyhow::Result<Vec<Machine>> {
    let described = described(account, None).await?;
    let there = described.iter().filter(|instance| instance.state != State::Terminated);
    let mut machines: Vec<_> = there.map(Machine::of).collect();
    machines.sort_by(|a, b| (&a.role, &a.pool, &a.id).cmp(&(&b.role, &b.pool, &b.id)));
    Ok(machines)
}

impl Machine {
    fn of(instance: &Instance) -> Self {
        let tagged = |key: &str| instance.tag(key).map(str::to_owned);
        let since = match instance.state {
            State::Pending | State::Running => Some(instance.launched),
            _ => instance.transition.as_deref().and_then(transition),
        };
        // A drain order starts with its generation.
        let drained = instance.tag(tag::DRAIN).and_then(|drain| drain.split(' ').next());
        let generation = instance.tag(tag::GENERATION);
        Self {
            id: instance.id.clone(),
            role: tagged(tag::ROLE).unwrap_or_default(),
            pool: tagged(tag::POOL),
            state: instance.state.as_str().to_owned(),
            since,
            kind: instance.kind.clone(),
            zone: instance.zone.clone(),
            architecture: instance.architecture.clone(),
            image: instance.image.clone(),
            profile: instance.profile.clone(),
            model: tagged(tag::MODEL),
            draining: drained.is_some() && drained == Some(generation.unwrap_or(tag::BY_HAND)),
            generation: generation.map(str::to_owned),
            handed_over: instance.is_handed_over(),
            launched: instance.tag(tag::TIER).is_some(),
        }
    }

    /// Returns whether the instance is billed per second.
    pub(super) fn runs(&self) -> bool {
        matches!(self.state.as_str(), "pending" | "running")
    }

    /// Returns whether the instance is going to persist.
    pub(super) fn stays(&self) -> bool {
        self.state != State::ShuttingDown.as_str()
    }

    pub(super) fn is_web_host(&self) -> bool {
        self.role == tag::WEB && self.runs()
    }

    /// Returns whether a controller starts and stops the instance.
    pub(super) fn is_pooled(&self) -> bool {
        self.role == tag::WORKER && self.handed_over && self.pool.is_some()
    }

    /// Returns the heading under which the instance is listed.
    fn group(&self) -> String {
        match (self.role.as_str(), &self.pool) {
            (tag::WEB, _) => "web host".to_owned(),
            (tag::BUILDER, _) => "builder".to_owned(),
            (_, Some(pool)) if self.launched => format!("pool {pool}, launched"),
            (_, Some(pool)) if self.handed_over => format!("pool {pool}"),
            (_, Some(pool)) => format!("pool {pool}, not handed over"),
            (_, None) => "of no pool".to_owned(),
        }
    }
}

/// Parses the date in EC2's reason for a stop: `User initiated (2026-02-03 04:05:06 GMT)`.
fn transition(reason: &str) -> Option<DateTime<Utc>> {
    let date = reason
        .rsplit_once('(')?
        .1
        .trim_end_matches(')')
        .trim_end_matches("GMT")
        .trim_end_matches("UTC")
        .trim();
    NaiveDateTime::parse_from_str(date, "%Y-%m-%d %H:%M:%S").ok().map(|date| date.and_utc())
}

/// Reports running instances without a controller.
pub(super) fn unwatched(machines: &[Machine]) -> Option<String> {
    let running = machines.iter().filter(|machine| machine.is_pooled() && machine.runs());
    let ids: Vec<_> = running.map(|machine| machine.id.as_str()).collect();
    let (first, count) = (ids.first()?, count(ids.len() as u64, "instance"));
    Some(format!(
        "{count} of a pool ({first}{}) cost money and no controller would stop them",
        if ids.len() > 1 { ", ..." } else { "" }
    ))
}

/// Lists the instances by pool and state.
pub(super) fn text(machines: &[Machine], region: &str, now: DateTime<Utc>) -> String {
    if machines.is_empty() {
        return "There are no instances.\n".to_owned();
    }
    let mut groups: BTreeMap<String, Vec<&Machine>> = BTreeMap::new();
    machines.iter().for_each(|machine| groups.entry(machine.group()).or_default().push(machine));
    let mut text = String::new();
    for (name, machines) in groups {
        text += &format!("{}: {}\n", style(name).bold(), by_state(&machines));
        let (shown, rest): (Vec<_>, Vec<_>) = match machines.len() {
            ..=ROWS => (machines, Vec::new()),
            // If there are many, only those that are not stopped.
            _ => machines.into_iter().partition(|machine| machine.state != "stopped"),
        };
        if !shown.is_empty() {
            let rows: Vec<_> = shown.iter().map(|machine| row(machine, region, now)).collect();
            for line in show::table(&["instance", "state", "for", "type", "zone", "start"], &rows).lines() {
                text += &format!("  {line}\n");
            }
        }
        if !rest.is_empty() {
            text += &format!("  {} are stopped: {}\n", rest.len(), by_kind(&rest, region));
        }
    }
    text
}

fn row(machine: &Machine, region: &str, now: DateTime<Utc>) -> Vec<String> {
    let state = match machine.state.as_str() {
        "running" if machine.draining => style("draining").cyan(),
        "running" => style("running").green(),
        "pending" => style("pending").yellow(),
        "stopped" => style("stopped").dim(),
        other => style(other).cyan(),
    };
    // Seconds distinguish the starts; the JSON has the whole generation.
    let start = machine.generation.as_deref().unwrap_or_default();
    vec![
        machine.id.clone(),
        state.to_string(),
        machine.since.map_or_else(String::new, |at| since(at, now)),
        machine.kind.clone(),
        zone(machine, region),
        start.split('.').next().unwrap_or_default().to_owned(),
    ]
}

/// Returns the suffix of the zone: `a`.
fn zone(machine: &Machine, region: &str) -> String {
    machine.zone.strip_prefix(region).unwrap_or(&machine.zone).to_owned()
}

/// Formats as `2 running, 8 stopped`.
fn by_state(machines: &[&Machine]) -> String {
    let order = ["running", "pending", "stopping", "shutting-down", "stopped"];
    let counted = order.iter().filter_map(|state| {
        let count = machines.iter().filter(|machine| machine.state == *state).count();
        (count > 0).then(|| format!("{count} {state}"))
    });
    counted.collect::<Vec<_>>().join(", ")
}

/// Formats as `40 t3.small in a, 39 t3.small in b`.
fn by_kind(machines: &[&Machine], region: &str) -> String {
    let mut counts: BTreeMap<(&str, String), usize> = BTreeMap::new();
    machines
        .iter()
        .for_each(|machine| *counts.entry((&machine.kind, zone(machine, region))).or_default() += 1);
    let parts: Vec<_> =
        counts.into_iter().map(|((kind, zone), count)| format!("{count} {kind} in {zone}")).collect();
    parts.join(", ")
}

#[cfg(test)]
pub(super) mod tests {
    use chrono::TimeDelta;

    use super::*;

    /// A parked instance of a pool.
    pub(in super::super) fn machine(number: usize, pool: &str, state: &str) -> Machine {
        Machine {
            id: format!("i-{number:017x}"),
            role: tag::WORKER.into(),
            pool: Some(pool.into()),
            state: state.into(),
            since: Some(DateTime::UNIX_EPOCH),
            kind: "t3.small".into(),
            zone: if number.is_multiple_of(2) { "eu-central-1a".into() } else { "eu-central-1b".into() },
            architecture: "x86_64".into(),
            image: "ami-1".into(),
            profile: None,
            model: Some("default".into()),
            generation: Some("20260203T040506.123456Z".into()),
            draining: false,
            handed_over: true,
            launched: false,
        }
    }

    #[test]
    fn instances_are_grouped_by_purpose_and_fit_in_eighty_columns() {
        let mut machines: Vec<_> = (1..30).map(|number| machine(number, "default", "stopped")).collect();
        machines[0].state = "running".into();
        machines[1].state = "running".into();
        machines[1].draining = true;
        machines[2].state = "shutting-down".into();
        machines.push(Machine { handed_over: false, ..machine(50, "default", "stopped") });
        machines.push(Machine {
            role: tag::WEB.into(),
            pool: None,
            generation: None,
            ..machine(51, "", "running")
        });
        machines.push(Machine {
            role: tag::BUILDER.into(),
            pool: None,
            since: None,
            ..machine(52, "", "stopping")
        });
        let text = text(&machines, "eu-central-1", DateTime::UNIX_EPOCH + TimeDelta::seconds(98_000));
        let text = console::strip_ansi_codes(&text);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        insta::assert_snapshot!(text);
    }

    #[test]
    fn the_date_of_a_stop_is_read_from_the_reason() {
        let at = transition("User initiated (2026-02-03 04:05:06 GMT)").unwrap();
        assert_eq!(at.to_rfc3339(), "2026-02-03T04:05:06+00:00");
        assert_eq!(transition(""), None);
        assert_eq!(transition("Server.SpotInstanceTermination"), None);
    }
}
