//! For drivers that decide only the number of instances.

use super::{Power, Site};

/// Which instances stop if a driver reduces their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::simulate) enum Victims {
    /// Those that are not ready, and then the newest, as Kubernetes ranks pods.
    Newest,
    /// Idle ones, then busy ones, the longest-running first as their billing minimum is over, and
    /// last those that are not ready.
    Idle,
    /// Random ones, by force, with the jobs that they have.
    Killed,
}

impl Site<'_> {
    /// Number of instances that were started and not ordered to stop.
    pub(in crate::simulate) fn active(&self) -> u32 {
        self.machines.iter().filter(|m| m.is_active()).count() as u32
    }

    /// Number of instances that take jobs.
    pub(in crate::simulate) fn serving(&self) -> u32 {
        self.count(&[Power::Serving])
    }

    fn count(&self, powers: &[Power]) -> u32 {
        self.machines.iter().filter(|m| powers.contains(&m.power)).count() as u32
    }

    /// Starts or drains instances until `wanted` are active, as far as possible. Returns whether
    /// all starts succeeded.
    pub(in crate::simulate) fn scale_to(&mut self, wanted: u32, victims: Victims) -> bool {
        let active = self.active();
        if wanted > active {
            let off = self.machines.iter().enumerate().filter(|(_, m)| m.power == Power::Off);
            let chosen: Vec<_> = off.map(|(machine, _)| machine).take((wanted - active) as usize).collect();
            let refused = self.start(&chosen);
            return refused.is_empty() && chosen.len() == (wanted - active) as usize;
        }
        if wanted < active {
            self.scale_in((active - wanted) as usize, victims);
        }
        true
    }

    fn scale_in(&mut self, count: usize, victims: Victims) {
        let all = self.machines.iter().enumerate().filter(|(_, m)| m.is_active());
        let mut ranked: Vec<_> = all.map(|(machine, _)| machine).collect();
        let rank = |machine: &usize| {
            let m = &self.machines[*machine];
            let is_ready = m.power == Power::Serving;
            match victims {
                Victims::Idle => (!is_ready, !m.held.is_empty(), m.started_as),
                Victims::Newest | Victims::Killed => (is_ready, false, u64::MAX - m.started_as),
            }
        };
        ranked.sort_by_key(rank);
        // Kubernetes allows pods 30 s by default, and lifecycle hooks more; few jobs take that long
        // here.
        let deadline = self.setup.worker_drain_deadline;
        for place in 0..count.min(ranked.len()) {
            if victims == Victims::Killed {
                let other = place + self.victims.below(ranked.len() - place);
                ranked.swap(place, other);
                self.kill(ranked[place]);
            } else {
                self.drain(ranked[place], deadline);
            }
        }
    }
}
