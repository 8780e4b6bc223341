//! The job queue: dispatches jobs, takes them back, and reports its depth.

use eirs_platform::queue::Depth;

use super::{Event, Held, Power, Site, reports};
use crate::simulate::setup::{Micros, micros};

impl Site<'_> {
    pub(super) fn arrive(&mut self) {
        let job = self.arrived as u32;
        self.arrived += 1;
        if self.listens {
            self.count_arrival();
        }
        self.offer(job);
    }

    /// Makes a job available. If several slots wait for one, a random slot gets it.
    pub(super) fn offer(&mut self, job: u32) {
        if self.free.is_empty() {
            self.waiting.push_back(job);
        } else {
            let slot = self.dispatch.below(self.free.len());
            let machine = self.free.swap_remove(slot);
            self.give(machine, job);
        }
    }

    pub(super) fn give(&mut self, machine: u32, job: u32) {
        let done = self.now + Micros::from(self.load.service[job as usize]);
        let m = &mut self.machines[machine as usize];
        m.held.push(Held { job, taken: self.now });
        m.idle_since = None;
        let life = m.life;
        self.at(done, Event::Done { machine, life, job });
    }

    pub(super) fn finish(&mut self, machine: u32, job: u32) {
        let (now, arrived) = (self.now, self.load.trace.arrivals[job as usize]);
        if !self.latencies_s[job as usize].is_nan() {
            self.wrong.push(format!("at {} s: job {job} ends for the second time", now / 1_000_000));
        }
        self.latencies_s[job as usize] = ((now - arrived) as f64 / 1e6) as f32;
        self.ended += 1;
        let listens = self.listens;
        let m = &mut self.machines[machine as usize];
        let Some(place) = m.held.iter().position(|held| held.job == job) else { return };
        let held = m.held.swap_remove(place);
        m.done += 1;
        m.last_done = Some(now);
        if listens && m.times_ms.len() < reports::MOST_TIMES {
            m.times_ms.push((now - held.taken) as f32 / 1e3);
        }
        if m.power == Power::Serving {
            self.ask(machine);
        } else if m.held.is_empty() {
            self.become_drained(machine);
        }
    }

    /// A free slot requests a job.
    pub(super) fn ask(&mut self, machine: u32) {
        if let Some(job) = self.waiting.pop_front() {
            return self.give(machine, job);
        }
        self.free.push(machine);
        let m = &mut self.machines[machine as usize];
        if m.held.is_empty() {
            m.idle_since = Some(self.now);
            self.expect_idle_check(machine);
        }
    }

    /// Returns the jobs of a machine to the queue once their leases have expired.
    pub(super) fn lose(&mut self, machine: u32) -> u64 {
        let (heartbeat, visibility) = (micros(self.setup.heartbeat).max(1), micros(self.setup.visibility));
        let held = std::mem::take(&mut self.machines[machine as usize].held);
        for Held { job, taken } in &held {
            let renewed = taken + (self.now - taken) / heartbeat * heartbeat;
            self.at(renewed + visibility, Event::Reappear { job: *job });
        }
        held.len() as u64
    }

    /// Returns the jobs of a draining worker to the queue at once, at the worker's own deadline.
    pub(super) fn give_back(&mut self, machine: u32) {
        if self.machines[machine as usize].power != Power::Draining {
            return;
        }
        let held = std::mem::take(&mut self.machines[machine as usize].held);
        self.redelivered += held.len() as u64;
        // The jobs that it has worked on must not end in this life.
        self.machines[machine as usize].life += 1;
        held.into_iter().for_each(|held| self.offer(held.job));
        self.become_drained(machine);
    }

    /// The true depth of the queue.
    pub(in crate::simulate) fn depth(&self) -> Depth {
        let visible = self.waiting.len();
        Depth { visible: visible as u64, in_flight: (self.arrived - self.ended - visible) as u64 }
    }

    pub(super) fn note_depth(&mut self) {
        self.depths.push_back((self.now, self.depth()));
        let lag = micros(self.setup.faults.depth_lag);
        while self.depths.get(1).is_some_and(|(at, _)| at + lag <= self.now) {
            self.depths.pop_front();
        }
        self.at(self.now + 1_000_000, Event::NoteDepth);
    }

    /// The depth that the queue reports: late, inaccurate, zero or an error.
    pub(in crate::simulate) fn read_depth(&mut self) -> Result<Depth, String> {
        let faults = &self.setup.faults;
        if self.goes_wrong(faults.depth_errors) {
            return Err("the depth could not be read".to_owned());
        }
        if self.goes_wrong(faults.depth_zero) {
            return Ok(Depth { visible: 0, in_flight: 0 });
        }
        let mut depth = self.depth();
        if let Some((_, before)) = self.depths.front() {
            depth = *before;
        }
        if self.goes_wrong(faults.depth_wild) {
            let mut any = || self.any_below(1_000_000) as u64;
            return Ok(Depth { visible: any(), in_flight: any() });
        }
        if faults.depth_noise > 0.0 && !self.is_calm() {
            let mut off = |count: u64| {
                let by = faults.depth_noise * (2.0 * self.faults.unit() - 1.0);
                (count as f64 * (1.0 + by)).round().max(0.0) as u64
            };
            depth = Depth { visible: off(depth.visible), in_flight: off(depth.in_flight) };
        }
        Ok(depth)
    }
}
