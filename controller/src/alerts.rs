//! Alerts for the operator: found in each pass, and sent to a webhook.
//!
//! The alerts that hold now are compared with those that the receiver last accepted, and the
//! difference is sent. There is no queue: a receiver that was down for an hour gets the alerts that
//! hold then.

mod burn;
mod sender;

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use eirs_platform::webhook::name_of;
use serde::{Deserialize, Serialize};

use self::burn::{Burn, Queue};
pub use self::sender::Sender;
use crate::{
    decide::{History, Hold, Plan, PoolPlan},
    observe::{Observation, age},
    policy::{Policies, Policy},
    refusals::{Refused, Verb},
};

/// Time for which an alert must hold before it is sent.
const BEGINS: Duration = Duration::from_secs(60);
/// Time for which an alert must not hold before it ends.
const ENDS: Duration = Duration::from_secs(300);
/// Number of failures in a row from which on an instance causes an alert.
const FAILURES: u32 = 3;

/// The kind of an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Half of the daily budget is used.
    #[serde(rename = "budget_50")]
    Budget50,
    /// Four fifths of the daily budget are used.
    #[serde(rename = "budget_80")]
    Budget80,
    /// The rest of the daily budget pays for no instance.
    #[serde(rename = "budget_100")]
    Budget100,
    /// No reports are received, no instance reports, or many instances stopped reporting or working
    /// at the same time.
    Deaf,
    /// The fleet has no capacity for the instances that are needed.
    NoCapacity,
    /// Instances repeatedly fail to start.
    StartsFail,
    /// Jobs take longer than the policy's `p95` for too much of the time.
    SloBurn,
}

/// An alert about a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// Kind of the alert.
    pub alert: Kind,
    /// Name of the pool.
    pub pool: String,
    /// The alert as one sentence.
    pub summary: String,
    /// Time at which it began.
    pub since: DateTime<Utc>,
}

/// The message about an alert that begins or ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// Id of the event: the same in every attempt to send it, and unique otherwise.
    event: String,
    state: State,
    #[serde(flatten)]
    alert: Alert,
    /// Time at which the alert ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Firing,
    Resolved,
}

/// The alerts that the receiver knows, and those that begin or end.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Ledger {
    #[serde(default)]
    known: BTreeMap<String, Alert>,
    /// Alerts that began or ended and were not sent yet, with the time of that.
    #[serde(skip)]
    pending: BTreeMap<String, (DateTime<Utc>, Alert)>,
}

impl Alert {
    fn key(&self) -> String {
        format!("{} {:?}", self.pool, self.alert)
    }
}

impl Ledger {
    /// The events to send now if exactly these alerts hold.
    pub(crate) fn observe(&mut self, alerts: Vec<Alert>, now: DateTime<Utc>) -> Vec<Event> {
        let hold: BTreeMap<_, _> = alerts.into_iter().map(|alert| (alert.key(), alert)).collect();
        self.pending.retain(|key, _| hold.contains_key(key) != self.known.contains_key(key));
        let begin = hold.iter().filter(|(key, _)| !self.known.contains_key(*key));
        let end = self.known.iter().filter(|(key, _)| !hold.contains_key(*key));
        for (key, alert) in begin.chain(end) {
            self.pending.entry(key.clone()).or_insert_with(|| (now, alert.clone()));
        }
        let event = |(key, (at, alert)): (&String, &(DateTime<Utc>, Alert))| {
            let (state, after, until) = match self.known.contains_key(key) {
                false => (State::Firing, BEGINS, None),
                true => (State::Resolved, ENDS, Some(*at)),
            };
            let event = name_of([key, &format!("{state:?}"), &alert.since.to_rfc3339()].map(String::as_str));
            let event = Event { event, state, alert: alert.clone(), until };
            (age(*at, now) >= after).then_some(event)
        };
        self.pending.iter().filter_map(event).collect()
    }

    /// Records that the receiver accepted these events.
    pub(crate) fn taken(&mut self, events: Vec<Event>) {
        for Event { state, alert, .. } in events {
            let key = alert.key();
            self.pending.remove(&key);
            match state {
                State::Firing => drop(self.known.insert(key, alert)),
                State::Resolved => drop(self.known.remove(&key)),
            }
        }
    }
}

/// Finds alerts and sends them.
#[derive(Debug, Default)]
pub(crate) struct Alerts {
    burns: BTreeMap<String, Burn>,
    ledger: Ledger,
    /// `None` if no webhook is configured.
    sender: Option<Sender>,
}

impl Alerts {
    /// Makes alerts with the ledger of an earlier controller.
    pub(crate) fn with_ledger(ledger: Ledger) -> Self {
        Self { ledger, ..Self::default() }
    }

    pub(crate) fn send_by(&mut self, sender: Option<Sender>) {
        self.sender = sender;
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Sends the events of this pass.
    pub(crate) async fn update(
        &mut self,
        policies: &Policies,
        seen: &Observation,
        plan: &Plan,
        history: &History,
    ) {
        let Some(sender) = &mut self.sender else { return };
        self.burns.retain(|pool, _| policies.pools.contains_key(pool));
        for (name, policy) in &policies.pools {
            let Some(p95) = policy.p95() else { continue };
            let Some(load) = plan.pools.get(name).and_then(|part| part.load) else { continue };
            let queue = Queue {
                waiting: load.depth.visible,
                waits: history.waits_since(name).map_or(Duration::ZERO, |since| age(since, seen.at)),
                done_per_s: done_per_s(name, seen),
                service_s: load.facts.service_s,
            };
            let is_late = queue.waiting > 0 && queue.sojourn_s() > p95.as_secs_f64();
            self.burns.entry(name.clone()).or_default().note(is_late, seen.at);
        }
        let alerts = find(policies, seen, plan, history, &self.burns);
        sender.update(&mut self.ledger, alerts, seen.at).await;
    }
}

/// Jobs per second that the instances of a pool recently completed.
fn done_per_s(pool: &str, seen: &Observation) -> f64 {
    let own = seen.instances.iter().flatten().filter(|view| view.instance.pool == pool);
    own.filter_map(|view| Some(view.heard.as_ref()?.done_per_s)).sum()
}

/// The part of the daily budget that a pool has used, in per cent, rounded down to the steps of the
/// alerts.
pub(crate) fn budget_step(used_s: f64, policy: &Policy, affordable: Option<u32>) -> u32 {
    let Some(hours) = policy.budget.instance_hours_per_day.filter(|hours| *hours > 0.0) else { return 0 };
    match used_s / 3600.0 / hours {
        ..0.5 => 0,
        ..0.8 => 50,
        // The last minutes of the budget pay for the drains.
        ..1.0 if affordable != Some(0) => 80,
        _ => 100,
    }
}

/// The alerts that hold now.
pub(crate) fn find(
    policies: &Policies,
    seen: &Observation,
    plan: &Plan,
    history: &History,
    burns: &BTreeMap<String, Burn>,
) -> Vec<Alert> {
    let mut alerts = Vec::new();
    for (name, policy) in &policies.pools {
        let mut add = |alert, summary| {
            alerts.push(Alert { alert, pool: name.clone(), summary, since: seen.at });
        };
        let part = plan.pools.get(name);
        let used_s = history.used_today(name, policy, seen.at).instance_s;
        let step = budget_step(used_s, policy, part.and_then(|part| part.affordable));
        let hours = policy.budget.instance_hours_per_day.unwrap_or_default();
        for (share, kind) in [(50, Kind::Budget50), (80, Kind::Budget80), (100, Kind::Budget100)] {
            if step >= share {
                add(
                    kind,
                    format!("{name}: {share} % of the day's budget of {hours} instance hours are used"),
                );
            }
        }
        if !seen.hears {
            add(Kind::Deaf, format!("{name}: no reports are received"));
        } else if let Some(hold) = held(part, |hold| matches!(hold, Hold::Deaf { .. } | Hold::Unheard { .. }))
        {
            add(Kind::Deaf, format!("{name}: {hold}"));
        }
        if let Some(hold) = held(part, |hold| matches!(hold, Hold::NoCapacity { .. })) {
            add(Kind::NoCapacity, format!("{name}: {hold}"));
        }
        if let Some(why) = failing(name, seen, history) {
            add(Kind::StartsFail, format!("{name}: {why}"));
        }
        if let Some(p95) = policy.p95()
            && burns.get(name).is_some_and(|burn| burn.is_high(seen.at))
        {
            let p95 = humantime::format_duration(p95);
            add(Kind::SloBurn, format!("{name}: jobs take longer than {p95} for too much of the time"));
        }
    }
    alerts
}

fn held(plan: Option<&PoolPlan>, is_wanted: impl Fn(&Hold) -> bool) -> Option<&Hold> {
    plan?.holds.iter().find(|hold| is_wanted(hold))
}

/// Why starts of a pool repeatedly fail; `None` if they do not.
fn failing(pool: &str, seen: &Observation, history: &History) -> Option<String> {
    let own = seen.instances.iter().flatten().filter(|view| view.instance.pool == pool);
    let why = |id: &String| {
        let is_wrong = |refused: &&Refused| refused.verb == Verb::Start && !refused.capacity;
        let refused = seen.refused.get(id).filter(is_wrong);
        let refused = refused.filter(|refused| refused.count >= FAILURES);
        let failed = history.career(id).filter(|career| career.failures >= FAILURES);
        let (count, why) = match (refused, failed) {
            (Some(refused), _) => (refused.count, refused.error.as_str()),
            (None, Some(career)) => (career.failures, career.failure.as_deref().unwrap_or("unknown")),
            (None, None) => return None,
        };
        Some(format!("{id} failed {count} times in a row: {why}"))
    };
    own.map(|view| &view.instance.id).find_map(why)
}

#[cfg(test)]
mod tests;
