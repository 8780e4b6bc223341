//! The rule that a first version of such a service has: all or nothing.

use super::super::{
    run::{Again, Driver},
    setup::Micros,
    site::{Site, Victims},
};

/// It looks this often.
const EVERY: Micros = 15_000_000;
/// More waiting messages than this call for everybody.
const BACKLOG: u64 = 10;

/// Every 15 seconds: `max` instances for a backlog of more than ten, else none. It sees only what waits, stops instances at random
/// and at once, and what they were working on is lost to it until its visibility time-out.
#[derive(Debug)]
pub(super) struct SeedRule {
    pub(super) max: u32,
}

impl SeedRule {
    fn wanted(&self, visible: u64) -> u32 {
        if visible > BACKLOG { self.max } else { 0 }
    }
}

impl Driver for SeedRule {
    fn pass(&mut self, site: &mut Site<'_>) -> Again {
        site.furnish(self.max, "default");
        let wanted = self.wanted(site.depth().visible);
        site.scale_to(wanted, Victims::Killed);
        Again::At(site.now + EVERY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eleven_call_for_all_and_ten_for_nobody() {
        let rule = SeedRule { max: 15 };
        assert_eq!([0, 10, 11, 9999].map(|visible| rule.wanted(visible)), [0, 0, 15, 15]);
    }
}
