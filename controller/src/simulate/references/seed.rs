//! The simplest rule of a first version: all or nothing.

use super::{
    super::{
        run::{Again, Driver},
        setup::Micros,
        site::{Site, Victims},
    },
    depth,
};

/// Interval between two passes.
const EVERY: Micros = 15_000_000;

/// Every 15 seconds it runs `max` instances if more than ten messages wait, and none otherwise. It
/// ignores messages in flight and stops random instances by force; their jobs are lost to it until
/// the visibility timeout.
#[derive(Debug)]
pub(super) struct SeedRule {
    pub(super) max: u32,
    /// Number of waiting messages above which all instances run: ten by default.
    pub(super) backlog: u64,
}

impl SeedRule {
    fn wanted(&self, visible: u64) -> u32 {
        if visible > self.backlog { self.max } else { 0 }
    }
}

impl Driver for SeedRule {
    fn pass(&mut self, sites: &mut [Site<'_>]) -> Again {
        let [site, ..] = sites else { return Again::At(Micros::MAX) };
        site.furnish(self.max, "default");
        let Some(depth) = depth(site) else { return Again::At(site.now + EVERY) };
        let wanted = self.wanted(depth.visible);
        site.scale_to(wanted, Victims::Killed);
        Again::At(site.now + EVERY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eleven_messages_start_all_instances_and_ten_start_none() {
        let rule = SeedRule { max: 15, backlog: 10 };
        assert_eq!([0, 10, 11, 9999].map(|visible| rule.wanted(visible)), [0, 0, 15, 15]);
    }
}
