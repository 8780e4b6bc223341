//! The request queue: who gets a job, what becomes of it, and what the queue says lies in it.

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

    /// A job can be received; one that asks for it gets it. Who that is among several nobody can
    /// tell.
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
        let it = &mut self.machines[machine as usize];
        it.held.push(Held { job, taken: self.now });
        it.idle_since = None;
        let life = it.life;
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
        let it = &mut self.machines[machine as usize];
        let Some(place) = it.held.iter().position(|held| held.job == job) else { return };
        let held = it.held.swap_remove(place);
        it.done += 1;
        it.last_done = Some(now);
        if listens && it.times_ms.len() < reports::MOST_TIMES {
            it.times_ms.push((now - held.taken) as f32 / 1e3);
        }
        if it.power == Power::Serving {
            self.ask(machine);
        } else if it.held.is_empty() {
            self.become_drained(machine);
        }
    }

    /// A free slot asks for a job.
    pub(super) fn ask(&mut self, machine: u32) {
        if let Some(job) = self.waiting.pop_front() {
            return self.give(machine, job);
        }
        self.free.push(machine);
        let it = &mut self.machines[machine as usize];
        if it.held.is_empty() {
            it.idle_since = Some(self.now);
            self.expect_idle_check(machine);
        }
    }

    /// What it holds comes back to the queue when nobody has renewed the lease for a visibility
    /// time-out.
    pub(super) fn lose(&mut self, machine: u32) -> u64 {
        let (heartbeat, visibility) = (micros(self.setup.heartbeat).max(1), micros(self.setup.visibility));
        let held = std::mem::take(&mut self.machines[machine as usize].held);
        for Held { job, taken } in &held {
            let renewed = taken + (self.now - taken) / heartbeat * heartbeat;
            self.at(renewed + visibility, Event::Reappear { job: *job });
        }
        held.len() as u64
    }

    /// At its own deadline a draining worker releases what it holds: it can be received again at
    /// once.
    pub(super) fn give_back(&mut self, machine: u32) {
        if self.machines[machine as usize].power != Power::Draining {
            return;
        }
        let held = std::mem::take(&mut self.machines[machine as usize].held);
        self.redelivered += held.len() as u64;
        // What it did so far was for nothing: its results must not count.
        self.machines[machine as usize].life += 1;
        held.into_iter().for_each(|held| self.offer(held.job));
        self.become_drained(machine);
    }

    /// What lies in the queue in truth.
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

    /// What the queue says lies in it: late, off, nothing at all, or a failure.
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
