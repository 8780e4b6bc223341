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

/// Interval of the values of a CloudWatch metric.
const MINUTE: Micros = 60_000_000;
/// Number of consecutive low values that trigger scaling in.
const LOW_MINUTES: u32 = 15;
/// Share of the target below which a value is low.
const LOW: f64 = 0.9;

/// The metric is the number of waiting messages (`ApproximateNumberOfMessagesVisible`) per instance
/// in service; the target is the acceptable latency divided by the mean service time. The metric is
/// a minute old. Above the target the group grows at once in proportion; after fifteen minutes
/// below 90 % of the target it shrinks in proportion.
///
/// Sources: "Scaling policy based on Amazon SQS" and "Target tracking scaling policies" in the
/// Amazon EC2 Auto Scaling User Guide. The rule is simulated in its favour: on AWS the alarm for
/// scaling out needs three minutes, and a group without instances has no metric and never leaves
/// zero; here one minute suffices, and no instance counts as one.
#[derive(Debug)]
pub(super) struct TargetTracking {
    max: u32,
    /// Target number of messages per instance, with its concurrency.
    target: f64,
    /// Waiting messages and instances in service at the last minutes.
    published: VecDeque<(u64, u32)>,
    low_minutes: u32,
}

impl TargetTracking {
    pub(super) fn new(setup: &Setup, max: u32, share: f64) -> Self {
        let service = setup.service_time.mean.as_secs_f64().max(1e-3) / f64::from(setup.concurrency.max(1));
        let target = (share * setup.slo.as_secs_f64() / service).max(1.0);
        Self { max, target, published: VecDeque::new(), low_minutes: 0 }
    }

    /// Number of instances that should run.
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
            // Starting instances were started for the same messages.
            return fitting.max(active);
        }
        if self.low_minutes >= LOW_MINUTES {
            self.low_minutes = 0;
            return fitting.min(active);
        }
        // With no instance, any message exceeds the target.
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

    /// 30 s divided by 2 s is a target of fifteen messages per instance.
    fn rule() -> TargetTracking {
        TargetTracking::new(&Setup::default(), 15, 1.0)
    }

    #[test]
    fn it_grows_in_proportion_to_the_messages_of_a_minute_ago() {
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
    fn a_single_message_eventually_starts_an_instance() {
        let mut rule = rule();
        assert_eq!(rule.wanted(1, 0, 0), 0);
        assert_eq!(rule.wanted(1, 0, 0), 1);
    }
}
