//! The rule that a first version of such a service has: all or nothing.

use super::{
    super::{
        run::{Again, Driver},
        setup::Micros,
        site::{Site, Victims},
    },
    depth,
};

/// It looks this often.
const EVERY: Micros = 15_000_000;

/// Every 15 seconds: `max` instances for a backlog of more than ten, else none. It sees only what
/// waits, stops instances at random and at once, and what they were working on is lost to it until
/// its visibility time-out.
#[derive(Debug)]
pub(super) struct SeedRule {
    pub(super) max: u32,
    /// More waiting messages than this call for everybody: ten.
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
    fn eleven_call_for_all_and_ten_for_nobody() {
        let rule = SeedRule { max: 15, backlog: 10 };
        assert_eq!([0, 10, 11, 9999].map(|visible| rule.wanted(visible)), [0, 0, 15, 15]);
    }
}
