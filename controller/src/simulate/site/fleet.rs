//! The orders that a driver can give, and how the machines carry them out.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Event, Machine, Power, Site};
use crate::{
    fleet::{Instance, State, Tier},
    observe::InstanceView,
    policy::Policy,
    simulate::{
        load::Load,
        setup::{Micros, micros},
    },
};

/// Duration of a slow stop.
const SLOW_STOP: Duration = Duration::from_secs(300);

impl Load<'_> {
    pub(in crate::simulate) fn id(&self, machine: usize) -> String {
        format!("{}-{}", self.pool, machine + 1)
    }
}

impl Site<'_> {
    /// Ensures that there are at least `count` instances, named as by `MemoryFleet`, and that they
    /// serve this model when they are started.
    pub(in crate::simulate) fn furnish(&mut self, count: u32, model: &str) {
        let wall = self.wall();
        while self.machines.len() < count as usize {
            self.machines.push(Machine::new(wall));
        }
        for m in self.machines.iter_mut().filter(|m| m.power == Power::Off && m.model != model) {
            model.clone_into(&mut m.model);
        }
    }

    /// Does the same for a pool with this policy: instances beyond `max` are launched.
    pub(in crate::simulate) fn furnish_tiers(&mut self, policy: &Policy) {
        self.parked = policy.pool.max as usize;
        let longer = policy.launch.start_delay.saturating_sub(policy.pool.start_delay);
        self.launch_extra = micros(longer);
        self.furnish(policy.most(), &policy.pool.model);
    }

    fn start_delay(&self, machine: usize, started_as: u64) -> Micros {
        let extra = if machine < self.parked { 0 } else { self.launch_extra };
        self.load.start_delay(started_as) + extra
    }

    fn tier(&self, machine: usize) -> Tier {
        if machine < self.parked { Tier::Parked } else { Tier::Launched }
    }

    /// Lists the instances of a pool of `count`, and all others that are not off, into `listed`
    /// from `place` on. Returns the place after the last. Views that have not changed are reused.
    pub(in crate::simulate) fn list(
        &mut self,
        count: u32,
        listed: &mut Vec<InstanceView>,
        mut place: usize,
    ) -> Result<usize, String> {
        if self.goes_wrong(self.setup.faults.list_errors) {
            return Err("the fleet could not be listed".to_owned());
        }
        for (number, m) in self.machines.iter().enumerate() {
            if number >= count as usize && m.power == Power::Off {
                continue;
            }
            let tier = self.tier(number);
            let is_same = |view: &InstanceView| {
                view.instance.tier == tier && m.is_as_listed(&view.instance, number, self.load)
            };
            if !listed.get(place).is_some_and(is_same) {
                let instance = Instance { tier, ..m.listed(number, self.load) };
                let view = InstanceView { instance, heard: None };
                match listed.get_mut(place) {
                    Some(before) => *before = view,
                    None => listed.push(view),
                }
            }
            place += 1;
        }
        Ok(place)
    }

    /// Starts these in one call. Returns those that were refused, as far as the caller knows.
    pub(in crate::simulate) fn start(&mut self, machines: &[usize]) -> Vec<usize> {
        if machines.is_empty() {
            return Vec::new();
        }
        let faults = &self.setup.faults;
        let refuses_all =
            !self.throttle.admits(machines.len(), self.now) || self.goes_wrong(faults.capacity_errors);
        if refuses_all {
            return machines.to_vec();
        }
        let is_half_failed = self.goes_wrong(faults.half_failed);
        let mut refused = Vec::new();
        self.orders += machines.len() as u64;
        for machine in machines {
            if is_half_failed && self.goes_wrong(0.5) {
                refused.push(*machine);
            } else {
                self.start_one(*machine);
            }
        }
        if self.goes_wrong(faults.lost_answers) { machines.to_vec() } else { refused }
    }

    fn start_one(&mut self, machine: usize) {
        if self.machines[machine].power != Power::Off {
            return;
        }
        self.starts += 1;
        self.alive += 1;
        if self.alive > self.limit {
            self.wrong.push(format!(
                "at {} s: {} are alive, more than {}",
                self.now / 1_000_000,
                self.alive,
                self.limit
            ));
        }
        let delay = self.start_delay(machine, self.starts);
        let faults = &self.setup.faults;
        let is_dead = self.goes_wrong(faults.boot_failure);
        let dies = self.goes_wrong(faults.boot_crash);
        let (wall, now, starts) = (self.wall(), self.now, self.starts);
        let m = &mut self.machines[machine];
        m.power = if is_dead { Power::Dead } else { Power::Booting };
        (m.state, m.since, m.drain_until) = (State::Running, wall, None);
        m.generation += 1;
        m.started_as = starts;
        (m.ordered, m.last_done) = (Some(now), None);
        m.stops_when_drained = false;
        (m.done, m.idle_since, m.reported_idle, m.checks_idle) = (0, None, false, false);
        m.times_ms.clear();
        m.life += 1;
        let (machine, life) = (machine as u32, m.life);
        if dies {
            self.at(now + delay / 2, Event::Vanish { machine, life });
        }
        if !is_dead {
            self.at(now + delay, Event::Ready { machine, life });
        }
    }

    /// Orders one to finish its jobs in flight and to end.
    pub(in crate::simulate) fn drain(&mut self, machine: usize, deadline: Duration) {
        let wall = self.wall();
        self.orders += 1;
        let m = &mut self.machines[machine];
        if m.state != State::Running {
            return;
        }
        (m.state, m.since, m.drain_until) = (State::Draining, wall, Some(wall + deadline));
        match m.power {
            Power::Serving => {
                let (machine, life) = (machine as u32, m.life);
                self.at(self.now + micros(self.setup.order_delay), Event::Drain { machine, life });
            }
            // It has no jobs yet.
            Power::Booting | Power::Dead => {
                self.switch_off(machine as u32);
                self.machines[machine].state = State::Draining;
            }
            Power::Off | Power::Draining | Power::Drained | Power::Stopping => {}
        }
    }

    /// Handles the arrival of a drain order at the worker.
    pub(super) fn begin_drain(&mut self, machine: u32) {
        let m = &mut self.machines[machine as usize];
        // The order may have been withdrawn meanwhile.
        if m.power != Power::Serving || m.state == State::Running {
            return;
        }
        self.free.retain(|free| *free != machine);
        let m = &mut self.machines[machine as usize];
        m.power = Power::Draining;
        if m.held.is_empty() {
            return self.become_drained(machine);
        }
        let life = m.life;
        self.at(self.now + micros(self.setup.worker_drain_deadline), Event::DrainDue { machine, life });
        self.report(machine);
    }

    pub(super) fn become_drained(&mut self, machine: u32) {
        let m = &mut self.machines[machine as usize];
        m.power = Power::Drained;
        m.idle_since = m.idle_since.or(Some(self.now));
        let stops = m.stops_when_drained || self.stops_by_itself;
        self.report(machine);
        if stops {
            self.switch_off(machine);
        }
    }

    /// Stops one: gently before its drain is due, by force after it.
    pub(in crate::simulate) fn stop(&mut self, machine: usize) {
        self.orders += 1;
        let (wall, second) = (self.wall(), self.now / 1_000_000);
        let m = &mut self.machines[machine];
        let is_due = m.drain_until.is_some_and(|until| until <= wall);
        match m.power {
            Power::Off => {}
            // It is already stopping: only record the order.
            Power::Stopping => (m.state, m.drain_until) = (State::Stopping, None),
            Power::Booting | Power::Dead | Power::Drained => self.switch_off(machine as u32),
            Power::Draining if is_due => self.kill(machine),
            Power::Draining | Power::Serving => {
                let busy = m.held.len();
                if busy > 0 {
                    self.wrong.push(format!(
                        "at {second} s: {} is stopped with {busy} jobs",
                        self.load.id(machine)
                    ));
                }
                let m = &mut self.machines[machine];
                (m.state, m.since, m.stops_when_drained) = (State::Stopping, wall, true);
                if m.power == Power::Serving {
                    self.begin_drain(machine as u32);
                }
            }
        }
    }

    /// Stops one by force, with the jobs that it has.
    pub(in crate::simulate) fn kill(&mut self, machine: usize) {
        if matches!(self.machines[machine].power, Power::Off | Power::Stopping) {
            return;
        }
        self.free.retain(|free| *free as usize != machine);
        self.killed += self.lose(machine as u32);
        self.switch_off(machine as u32);
    }

    /// Switches a machine off: it is not billed any more, and can be started again after a delay.
    fn switch_off(&mut self, machine: u32) {
        self.bill(machine);
        let (wall, mut delay) = (self.wall(), micros(self.setup.stop_delay));
        if self.goes_wrong(self.setup.faults.slow_stop) {
            delay = micros(SLOW_STOP);
        }
        let m = &mut self.machines[machine as usize];
        (m.power, m.state, m.since) = (Power::Stopping, State::Stopping, wall);
        m.life += 1;
        let life = m.life;
        self.at(self.now + delay, Event::Gone { machine, life });
    }

    pub(super) fn finish_stop(&mut self, machine: u32) {
        let wall = self.wall();
        self.alive -= 1;
        let m = &mut self.machines[machine as usize];
        (m.power, m.state, m.since) = (Power::Off, State::Stopped, wall);
        m.drain_until = None;
        m.crashes = 0;
    }

    /// Lets a machine die with its jobs, without an order.
    pub(super) fn vanish(&mut self, machine: u32) {
        if matches!(self.machines[machine as usize].power, Power::Off | Power::Stopping) {
            return;
        }
        self.free.retain(|free| *free != machine);
        self.lose(machine);
        self.bill(machine);
        let wall = self.wall();
        self.alive -= 1;
        let m = &mut self.machines[machine as usize];
        (m.power, m.state, m.since) = (Power::Off, State::Stopped, wall);
        m.drain_until = None;
        m.life += 1;
        m.crashes += 1;
    }

    /// Bills as EC2 does: by the second while it runs, with a minimum per start. Pending and
    /// stopping are free.
    pub(super) fn bill(&mut self, machine: u32) {
        let m = &mut self.machines[machine as usize];
        let Some(ordered) = m.ordered.take() else { return };
        let started_as = m.started_as;
        self.worked.extend(m.last_done.map(|done| (ordered, done)));
        let pending = micros(self.setup.pending).min(self.start_delay(machine as usize, started_as));
        // A machine that is stopped while pending runs for a moment first.
        let runs = (ordered + pending).min(self.now);
        let ran = self.now - runs;
        self.spans.push((runs, self.now));
        self.ran += ran;
        let billed = ran.max(micros(self.setup.price.billing_minimum));
        self.billed += billed;
        if self.tier(machine as usize) == Tier::Launched {
            self.billed_launched += billed;
        }
    }
}

impl Machine {
    fn listed(&self, number: usize, load: &Load<'_>) -> Instance {
        Instance {
            state: self.state,
            generation: (self.generation > 0).then(|| self.generation.to_string()),
            drain_until: self.drain_until,
            crashes: self.crashes,
            ..Instance::stopped(load.id(number), &load.pool, &self.model, self.since)
        }
    }

    /// Whether the view equals the machine. A start changes `since`, and a model changes only while
    /// it is off.
    fn is_as_listed(&self, view: &Instance, number: usize, load: &Load<'_>) -> bool {
        self.state == view.state
            && self.since == view.since
            && self.drain_until == view.drain_until
            && self.crashes == view.crashes
            && view.generation.as_ref().map_or(0, |generation| generation.parse().unwrap_or(0))
                == self.generation
            && self.model == view.model
            && Self::number_of(view, load) == Some(number)
    }

    fn number_of(view: &Instance, load: &Load<'_>) -> Option<usize> {
        let number = view.id.strip_prefix(load.pool.as_str())?.strip_prefix('-')?;
        number.parse::<usize>().ok()?.checked_sub(1)
    }

    /// Whether it was started and not ordered to stop.
    pub(super) fn is_active(&self) -> bool {
        self.state == State::Running
    }

    fn new(since: DateTime<Utc>) -> Self {
        Self {
            power: Power::Off,
            state: State::Stopped,
            since,
            drain_until: None,
            generation: 0,
            model: String::new(),
            crashes: 0,
            life: 0,
            started_as: 0,
            ordered: None,
            last_done: None,
            stops_when_drained: false,
            held: Vec::new(),
            done: 0,
            idle_since: None,
            reported_idle: false,
            checks_idle: false,
            times_ms: Vec::new(),
        }
    }
}
