//! For drivers that say only how many instances they want.

use super::{Power, Site};

/// Who goes when a driver names only how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::simulate) enum Victims {
    /// Those not ready yet, then the newest: as Kubernetes ranks pods.
    Newest,
    /// The idle, then the busy, those first that were started first and so are paid off, and those
    /// last that are not ready yet.
    Idle,
    /// Anybody, and at once, whatever it holds.
    Killed,
}

impl Site<'_> {
    /// Those that were started and are not leaving.
    pub(in crate::simulate) fn active(&self) -> u32 {
        self.machines.iter().filter(|it| it.is_active()).count() as u32
    }

    /// Those that take jobs.
    pub(in crate::simulate) fn serving(&self) -> u32 {
        self.count(&[Power::Serving])
    }

    fn count(&self, powers: &[Power]) -> u32 {
        self.machines.iter().filter(|it| powers.contains(&it.power)).count() as u32
    }

    /// Starts and drains until this many are active, as far as possible. Answers whether there were
    /// enough.
    pub(in crate::simulate) fn scale_to(&mut self, wanted: u32, victims: Victims) -> bool {
        let active = self.active();
        if wanted > active {
            let off = self.machines.iter().enumerate().filter(|(_, it)| it.power == Power::Off);
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
        let all = self.machines.iter().enumerate().filter(|(_, it)| it.is_active());
        let mut ranked: Vec<_> = all.map(|(machine, _)| machine).collect();
        let rank = |machine: &usize| {
            let it = &self.machines[*machine];
            let is_ready = it.power == Power::Serving;
            match victims {
                Victims::Idle => (!is_ready, !it.held.is_empty(), it.started_as),
                Victims::Newest | Victims::Killed => (is_ready, false, u64::MAX - it.started_as),
            }
        };
        ranked.sort_by_key(rank);
        // Kubernetes gives pods thirty seconds, and lifecycle hooks longer; no job here takes that
        // long, as a rule.
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
