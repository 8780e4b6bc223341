//! The state of the machines in memory: late descriptions, the orders given since, and what follows
//! from both. Pure: the time is a parameter, and nothing is called.
//!
//! EC2 is eventually consistent: its answers may be seconds old. For a while an order therefore
//! counts more than a description that does not reflect it yet, and a machine is removed only after
//! two listings without it.

use std::collections::BTreeMap;

use aws_sdk_ec2::types::InstanceStateName as Ec2State;
use chrono::{DateTime, TimeDelta, Utc};

use super::{
    machine::{self, Drain, Machine},
    places::Places,
};
use crate::fleet::{Instance, PoolSpec, State, Tier};

/// Time for which a description may not reflect an order yet.
const LAG: TimeDelta = TimeDelta::seconds(15);
/// Time for which a machine is described after an order, even if it seems stopped: the order may
/// have been carried out although its answer was lost.
const UNCERTAIN: TimeDelta = TimeDelta::seconds(90);
/// A launch that is later than its order by more than this was ordered by someone else.
const LAUNCHED_BY: TimeDelta = TimeDelta::minutes(5);
/// Time that the operating system has to end the worker after a gentle stop, before a forced one.
const STOP_GENTLY: TimeDelta = TimeDelta::minutes(3);

/// The machines, by id.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    entries: BTreeMap<String, Entry>,
    /// The places of the launched machines.
    places: Places,
}

/// One machine.
#[derive(Debug)]
struct Entry {
    machine: Machine,
    /// Time since which it is in its [`State`].
    since: DateTime<Utc>,
    /// The last order, until it is known to have failed.
    order: Option<Order>,
    /// Time from which it may be stopped by force.
    drain_until: Option<DateTime<Utc>>,
    crashes: u32,
    last_error: Option<String>,
    /// Number of listings in a row without it.
    left_out: u32,
}

#[derive(Debug, Clone, Copy)]
struct Order {
    verb: Verb,
    given: DateTime<Utc>,
    /// Launch time that was known at the time of the order. If it started since, its launch time is
    /// later.
    launched: DateTime<Utc>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Start,
    Stop,
}

impl Inventory {
    /// Applies a listing of all machines.
    pub(super) fn listed(&mut self, machines: Vec<Machine>, now: DateTime<Utc>) {
        for (id, entry) in &mut self.entries {
            let is_there = machines.iter().any(|machine| machine.id == *id);
            entry.left_out = if is_there { 0 } else { entry.left_out + 1 };
        }
        let left_out = self.entries.iter().filter(|(_, entry)| entry.left_out >= 2);
        let left_out: Vec<_> = left_out.map(|(id, _)| id.clone()).collect();
        left_out.iter().for_each(|id| self.remove(id, None, now));
        self.described(machines, now);
    }

    /// Applies descriptions of some machines.
    pub(super) fn described(&mut self, machines: Vec<Machine>, now: DateTime<Utc>) {
        for machine in machines {
            if !machine.exists() {
                self.remove(&machine.id, machine.reason.as_deref(), now);
                continue;
            }
            if machine.is_launched {
                self.places.take(&machine);
            }
            match self.entries.get_mut(&machine.id) {
                Some(entry) => entry.take(machine, now),
                None => _ = self.entries.insert(machine.id.clone(), Entry::new(machine, now)),
            }
        }
    }

    /// Removes machines that EC2 says do not exist, except recently launched ones, which EC2 may
    /// not know yet.
    pub(super) fn gone(&mut self, ids: &[String], now: DateTime<Utc>) {
        for id in ids {
            let is_new = |entry: &Entry| {
                entry.machine.is_launched && entry.order.is_some_and(|order| now - order.given < UNCERTAIN)
            };
            if !self.entries.get(id).is_some_and(is_new) {
                self.remove(id, None, now);
            }
        }
    }

    fn remove(&mut self, id: &str, why: Option<&str>, now: DateTime<Utc>) {
        let Some(entry) = self.entries.remove(id).filter(|entry| entry.machine.is_launched) else { return };
        let died = (entry.state() == State::Running).then(|| why.unwrap_or("EC2 does not say why"));
        self.places.leave(id, died, now);
    }

    /// Records that a machine was launched into a place.
    pub(super) fn launched(&mut self, machine: Machine, place: &str, now: DateTime<Utc>) {
        self.places.fill(place, &machine.id);
        let id = machine.id.clone();
        let mut entry = Entry::new(machine, now);
        entry.ordered(Verb::Start, now);
        self.entries.insert(id, entry);
    }

    /// EC2's id of an instance: the machine in its place, or the id itself.
    fn id<'n>(&'n self, name: &'n str) -> &'n str {
        self.places.machine(name).unwrap_or(name)
    }

    /// Name of the instance that a machine belongs to.
    pub(super) fn name(&self, id: &str) -> String {
        self.places.name_of(id).unwrap_or(id).to_owned()
    }

    /// All machines.
    pub(super) fn machines(&self) -> Vec<&Machine> {
        self.entries.values().map(|entry| &entry.machine).collect()
    }

    /// Ids of the machines that may change without a new order: those that are not stopped, and
    /// those with a recent order.
    pub(super) fn unsettled(&self, now: DateTime<Utc>) -> Vec<String> {
        let is_unsettled = |entry: &Entry| {
            entry.state() != State::Stopped || entry.order.is_some_and(|order| now - order.given < UNCERTAIN)
        };
        self.entries.iter().filter(|(_, entry)| is_unsettled(entry)).map(|(id, _)| id.clone()).collect()
    }

    /// The instances of these pools as the controller sees them. All stopped machines of a pool are
    /// included, even more than `max`: the zones of some may have no capacity.
    pub(super) fn view(&self, pools: &[PoolSpec]) -> Vec<Instance> {
        let view = |entry: &Entry| {
            let pool = pools.iter().find(|pool| pool.name == entry.machine.pool);
            let mut instance = entry.instance(pool);
            if let Some(place) = self.places.name_of(&entry.machine.id) {
                instance.tier = Tier::Launched;
                instance.machine = Some(std::mem::replace(&mut instance.id, place.to_owned()));
            }
            (instance.is_alive() || pool.is_some()).then_some(instance)
        };
        let mut all: Vec<_> = self.entries.values().filter_map(view).collect();
        for pool in pools {
            let retires = |entry: &Entry| entry.machine.is_launched && entry.machine.retires;
            let has_retiring =
                self.entries.values().any(|entry| entry.machine.pool == pool.name && retires(entry));
            all.extend(self.places.empty(pool, has_retiring));
        }
        all
    }

    /// The machine of an instance, if it was listed.
    pub(super) fn machine(&self, id: &str) -> Option<&Machine> {
        self.entries.get(self.id(id)).map(|entry| &entry.machine)
    }

    /// State of an instance according to its last order.
    pub(super) fn state(&self, id: &str) -> Option<State> {
        self.entries.get(self.id(id)).map(Entry::state)
    }

    /// Whether an instance may be stopped by force.
    pub(super) fn is_overdue(&self, id: &str, now: DateTime<Utc>) -> bool {
        self.entries.get(self.id(id)).and_then(|entry| entry.drain_until).is_some_and(|until| until <= now)
    }

    /// Ids of the machines that drain and still run, each with its generation.
    pub(super) fn draining(&self) -> Vec<(String, String)> {
        let draining = self.entries.iter().filter(|(_, entry)| entry.state() == State::Draining);
        draining.map(|(id, entry)| (id.clone(), entry.machine.generation().to_owned())).collect()
    }

    /// Records that a start was ordered in this generation, before it is known to be accepted.
    pub(super) fn start_ordered(&mut self, id: &str, generation: &str, model: &str, now: DateTime<Utc>) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        entry.ordered(Verb::Start, now);
        entry.machine.generation = Some(generation.to_owned());
        entry.machine.model = Some(model.to_owned());
    }

    /// Records that the start was accepted.
    pub(super) fn start_taken(&mut self, id: &str, now: DateTime<Utc>) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        entry.machine.state = Ec2State::Pending;
        // The time that the next controller will read from the tag.
        let ordered = entry.machine.generation.as_deref().and_then(machine::started_at);
        (entry.since, entry.drain_until) = (ordered.unwrap_or(now), None);
    }

    /// Records that the start was refused, which leaves the machine as it was.
    pub(super) fn start_refused(&mut self, id: &str) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.order = None;
        }
    }

    /// Records that a drain was ordered.
    pub(super) fn drain_ordered(&mut self, id: &str, drain: Drain) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        (entry.since, entry.drain_until) = (drain.since, Some(drain.until));
        entry.machine.drain = Some(drain);
    }

    /// Records that a stop was ordered, `by_force` if its drain was overdue.
    pub(super) fn stop_ordered(&mut self, id: &str, by_force: bool, now: DateTime<Utc>) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        if entry.machine.state != Ec2State::Stopping {
            (entry.machine.state, entry.since) = (Ec2State::Stopping, now);
        }
        entry.ordered(Verb::Stop, now);
        // After a forced stop there is nothing more to do.
        entry.drain_until = (!by_force).then_some(now + STOP_GENTLY);
    }
}

impl Entry {
    /// A machine that is seen for the first time; an earlier controller may have given it any
    /// order.
    fn new(machine: Machine, now: DateTime<Utc>) -> Self {
        let ordered = machine.generation.as_deref().and_then(machine::started_at);
        // The time of the order is more exact, if the launch is the one that it ordered.
        let started = ordered.filter(|at| machine.launched - at < LAUNCHED_BY).unwrap_or(machine.launched);
        let (since, drain_until) = match (machine.runs(), machine.drain_now()) {
            (true, None) => (started, None),
            (true, Some(drain)) => (drain.since, Some(drain.until)),
            (false, _) if machine.state == Ec2State::Stopping => (now, Some(now + STOP_GENTLY)),
            (false, _) => (now, None),
        };
        Self { machine, since, order: None, drain_until, crashes: 0, last_error: None, left_out: 0 }
    }

    fn ordered(&mut self, verb: Verb, given: DateTime<Utc>) {
        self.order = Some(Order { verb, given, launched: self.machine.launched });
    }

    fn take(&mut self, mut described: Machine, now: DateTime<Utc>) {
        let recent = self.order.filter(|order| now - order.given < LAG);
        let before = self.state();
        if recent.is_some_and(|order| {
            !order.may_be_reflected_in(&described) && described.state != self.machine.state
        }) {
            return;
        }
        // Tags are eventually consistent, too.
        if recent.is_some() {
            described.generation.clone_from(&self.machine.generation);
            described.model.clone_from(&self.machine.model);
        }
        if before == State::Draining && described.drain_now().is_none() {
            described.drain.clone_from(&self.machine.drain);
        }
        self.machine = described;
        let did_run = matches!(before, State::Running | State::Draining);
        match (did_run, self.machine.runs()) {
            (true, true) => {}
            // The answer to an order was lost, or someone else started it.
            (false, true) => *self = Self::new(self.machine.clone(), now).after(self),
            (true, false) => {
                self.since = now;
                self.drain_until = (self.state() == State::Stopping).then_some(now + STOP_GENTLY);
                if before == State::Running {
                    self.died();
                } else {
                    self.left();
                }
            }
            (false, false) if self.state() != before => {
                (self.since, self.drain_until) = (now, None);
                if self.order.is_some_and(|order| order.verb == Verb::Stop) {
                    self.left();
                }
            }
            (false, false) => {}
        }
    }

    /// Keeps the failures of the same machine.
    fn after(self, before: &Self) -> Self {
        Self { crashes: before.crashes, last_error: before.last_error.clone(), ..self }
    }

    /// Records that it stopped without an order.
    fn died(&mut self) {
        self.order = None;
        let reason = self.machine.reason.as_deref().unwrap_or("EC2 does not say why");
        self.last_error = Some(format!("stopped unexpectedly: {reason}"));
        self.crashes = self.crashes.saturating_add(1);
    }

    /// Records that it stopped as ordered.
    fn left(&mut self) {
        (self.crashes, self.last_error) = (0, None);
    }

    fn state(&self) -> State {
        match self.machine.state {
            Ec2State::Pending | Ec2State::Running if self.machine.drain_now().is_some() => State::Draining,
            Ec2State::Pending | Ec2State::Running => State::Running,
            Ec2State::Stopping => State::Stopping,
            _ => State::Stopped,
        }
    }

    fn instance(&self, pool: Option<&PoolSpec>) -> Instance {
        let (machine, state) = (&self.machine, self.state());
        let of_pool = || pool.map(|pool| pool.model.clone());
        let model = match state {
            State::Stopped => of_pool(),
            _ => machine.model.clone().or_else(of_pool),
        };
        let generation = match state {
            State::Stopped => machine.generation.clone(),
            _ => Some(machine.generation().to_owned()),
        };
        Instance {
            state,
            generation,
            drain_until: self.drain_until,
            crashes: self.crashes,
            last_error: self.last_error.clone(),
            retires: machine.retires,
            ..Instance::stopped(&machine.id, &machine.pool, model.unwrap_or_default(), self.since)
        }
    }
}

impl Order {
    /// Whether a description may be later than the order.
    fn may_be_reflected_in(&self, described: &Machine) -> bool {
        match self.verb {
            Verb::Start => described.runs() || described.launched > self.launched,
            Verb::Stop => !described.runs(),
        }
    }
}

#[cfg(test)]
mod tests;
