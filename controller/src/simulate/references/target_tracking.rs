//! EC2 Auto Scaling's target tracking on the backlog per instance.

use std::collections::VecDeque;

use eirs_platform::queue::Depth;

use super::{
    super::{
        run::{Again, Driver},
        setup::{Micros, Setup},
        site::{Site, Victims},
    },
    ceil, depth,
};

/// A CloudWatch metric has one value a minute, ...
const MINUTE: Micros = 60_000_000;
/// ... and the alarm for scaling in needs fifteen of them, ...
const LOW_MINUTES: u32 = 15;
/// ... each below this share of the target.
const LOW: f64 = 0.9;

/// The metric is the number of messages that wait (`ApproximateNumberOfMessagesVisible`) over the
/// number of instances in service; the target is the acceptable latency over the mean service time.
/// The metric that is judged is a minute old. Above the target the group grows at once, in
/// proportion; after fifteen minutes below 90 % of it, it shrinks in proportion.
///
/// Sources: "Scaling policy based on Amazon SQS" and "Target tracking scaling policies" in the
/// Amazon EC2 Auto Scaling User Guide. It is kinder to the rule than AWS is: the alarm for scaling
/// out needs three minutes there, and a group of no instances has no metric at all, so that it
/// never leaves zero; here the first minute is enough, and none counts as one.
#[derive(Debug)]
pub(super) struct TargetTracking {
    max: u32,
    /// Messages for each instance, of each of its slots.
    target: f64,
    /// Messages that waited and instances in service at the last minutes.
    published: VecDeque<(u64, u32)>,
    low_minutes: u32,
}

impl TargetTracking {
    pub(super) fn new(setup: &Setup, max: u32, share: f64) -> Self {
        let service = setup.service_time.mean.as_secs_f64().max(1e-3) / f64::from(setup.concurrency.max(1));
        let target = (share * setup.slo.as_secs_f64() / service).max(1.0);
        Self { max, target, published: VecDeque::new(), low_minutes: 0 }
    }

    /// How many instances there must be, of `active` now.
    fn wanted(&mut self, visible: u64, in_service: u32, active: u32) -> u32 {
        self.published.push_back((visible, in_service));
        if self.published.len() < 2 {
            return active;
        }
        let Some((visible, in_service)) = self.published.pop_front() else { return active };
        let metric = visible as f64 / f64::from(in_service.max(1));
        let fitting = ceil(f64::from(in_service.max(1)) * metric / self.target).min(self.max);
        self.low_minutes = if metric < LOW * self.target { self.low_minutes + 1 } else { 0 };
        if metric > self.target {
            // Those that are starting are there already for this purpose.
            return fitting.max(active);
        }
        if self.low_minutes >= LOW_MINUTES {
            self.low_minutes = 0;
            return fitting.min(active);
        }
        // From zero any message is above the target of nothing.
        if active == 0 && visible > 0 { 1.min(self.max) } else { active }
    }
}

impl Driver for TargetTracking {
    fn pass(&mut self, sites: &mut [Site<'_>]) -> Again {
        let [site, ..] = sites else { return Again::At(Micros::MAX) };
        site.furnish(self.max, "default");
        let Some(Depth { visible, .. }) = depth(site) else { return Again::At(site.now + MINUTE) };
        let wanted = self.wanted(visible, site.serving(), site.active());
        site.scale_to(wanted, Victims::Newest);
        Again::At(site.now + MINUTE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 30 s over 2 s are fifteen messages for each instance.
    fn rule() -> TargetTracking {
        TargetTracking::new(&Setup::default(), 15, 1.0)
    }

    #[test]
    fn it_grows_in_proportion_to_what_waited_a_minute_ago() {
        let mut rule = rule();
        assert_eq!(rule.target, 15.0);
        assert_eq!(rule.wanted(90, 0, 0), 0);
        assert_eq!(rule.wanted(400, 0, 0), 6);
        assert_eq!(rule.wanted(400, 6, 6), 15);
        assert_eq!(rule.wanted(80, 15, 15), 15);
    }

    #[test]
    fn it_shrinks_after_fifteen_low_minutes_and_not_before() {
        let mut rule = rule();
        rule.wanted(30, 4, 4);
        for minute in 1..15 {
            assert_eq!(rule.wanted(30, 4, 4), 4, "{minute}");
        }
        assert_eq!(rule.wanted(30, 4, 4), 2);
        assert_eq!(rule.wanted(0, 2, 2), 2);
    }

    #[test]
    fn a_single_message_wakes_it_in_the_end() {
        let mut rule = rule();
        assert_eq!(rule.wanted(1, 0, 0), 0);
        assert_eq!(rule.wanted(1, 0, 0), 1);
    }
}
