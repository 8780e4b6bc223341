//! KEDA's SQS scaler with the Kubernetes Horizontal Pod Autoscaler (HPA).

use std::collections::VecDeque;

use super::{
    super::{
        run::{Again, Driver},
        setup::Micros,
        site::{Site, Victims},
    },
    ceil, depth,
};

const SECOND: Micros = 1_000_000;
/// KEDA's `pollingInterval`: interval at which it checks whether there are messages.
const POLL: Micros = 30 * SECOND;
/// KEDA's `cooldownPeriod`: time after the last activity for which one replica is kept.
const COOLDOWN: Micros = 300 * SECOND;
/// The HPA's sync period.
const SYNC: Micros = 15 * SECOND;
/// The HPA's `scaleDown.stabilizationWindowSeconds`.
const STABILIZATION: Micros = 300 * SECOND;
/// Relative deviation from the target within which the HPA does nothing.
const TOLERANCE: f64 = 0.1;

/// The metric is the number of messages, waiting and in flight (`scaleOnInFlight`), with five per
/// replica. KEDA scales from zero to one, and back after 300 seconds without messages, polling
/// every 30 seconds. The HPA scales between one and `max` every 15 seconds, and KEDA reads the
/// queue each time (`useCachedMetrics` is off). The HPA at most doubles the number or adds four,
/// and scales in to the highest recommendation of the last 300 seconds.
///
/// Sources: keda.sh, "AWS SQS Queue" and "ScaledObject specification" (on `pollingInterval` and
/// `useCachedMetrics`); kubernetes.io, "Horizontal Pod Autoscaling", on the algorithm, the
/// tolerance of 10 % and the default `behavior`. All values are the defaults.
#[derive(Debug)]
pub(super) struct Keda {
    max: u32,
    /// `queueLength`, the target per replica: 5 by default.
    per_replica: f64,
    next_poll: Micros,
    last_active: Option<Micros>,
    recommended: VecDeque<(Micros, u32)>,
}

impl Keda {
    pub(super) fn new(max: u32, per_replica: f64) -> Self {
        Self { max, per_replica, next_poll: 0, last_active: None, recommended: VecDeque::new() }
    }

    /// Number of replicas that should run.
    fn wanted(&mut self, backlog: u64, replicas: u32, now: Micros) -> u32 {
        if now >= self.next_poll {
            self.next_poll = now + POLL;
            if backlog > 0 {
                self.last_active = Some(now);
            }
            let is_cool = self.last_active.is_none_or(|last| now - last >= COOLDOWN);
            if replicas == 0 {
                // KEDA scales from zero. The HPA is inactive meanwhile and loses its
                // recommendations.
                self.recommended.clear();
                return u32::from(backlog > 0).min(self.max);
            }
            if backlog == 0 && is_cool {
                return 0;
            }
        }
        if replicas == 0 { 0 } else { self.hpa(backlog, replicas, now) }
    }

    fn hpa(&mut self, backlog: u64, replicas: u32, now: Micros) -> u32 {
        let ratio = backlog as f64 / (self.per_replica * f64::from(replicas));
        let by_metric =
            if (ratio - 1.0).abs() <= TOLERANCE { replicas } else { ceil(backlog as f64 / self.per_replica) };
        let by_metric = by_metric.clamp(1, self.max.max(1));
        while self.recommended.front().is_some_and(|(at, _)| now - at >= STABILIZATION) {
            self.recommended.pop_front();
        }
        self.recommended.push_back((now, by_metric));
        let stable = self.recommended.iter().map(|(_, replicas)| *replicas).max().unwrap_or(by_metric);
        // The window only delays scaling in.
        let desired = if by_metric >= replicas { by_metric } else { stable.min(replicas) };
        desired.min((2 * replicas).max(replicas + 4)).min(self.max)
    }
}

impl Driver for Keda {
    fn pass(&mut self, sites: &mut [Site<'_>]) -> Again {
        let [site, ..] = sites else { return Again::At(Micros::MAX) };
        site.furnish(self.max, "default");
        let Some(depth) = depth(site) else { return Again::At(site.now + SYNC) };
        let wanted = self.wanted(depth.backlog(), site.active(), site.now);
        site.scale_to(wanted, Victims::Newest);
        Again::At(site.now + SYNC)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_starts_with_one_and_then_doubles_or_adds_four_up_to_the_metric() {
        let mut keda = Keda::new(15, 5.0);
        let at = |second: u64| second * SECOND;
        assert_eq!(keda.wanted(0, 0, at(0)), 0);
        // Nothing happens between two polls.
        assert_eq!(keda.wanted(100, 0, at(15)), 0);
        assert_eq!(keda.wanted(100, 0, at(30)), 1);
        assert_eq!(keda.wanted(100, 1, at(45)), 5);
        assert_eq!(keda.wanted(100, 5, at(60)), 10);
        assert_eq!(keda.wanted(100, 10, at(75)), 15);
        // 78 messages are within 10 % of the 75 for fifteen replicas.
        assert_eq!(keda.wanted(78, 15, at(90)), 15);
    }

    #[test]
    fn between_one_and_max_the_queue_is_read_at_each_sync() {
        let mut keda = Keda::new(15, 5.0);
        assert_eq!(keda.wanted(5, 0, 0), 1);
        assert_eq!(keda.wanted(20, 1, 15 * SECOND), 4, "at the sync and not at the next poll");
    }

    #[test]
    fn it_scales_in_to_the_highest_of_five_minutes_and_to_zero_five_minutes_after_the_last_message() {
        let mut keda = Keda::new(15, 5.0);
        let at = |second: u64| second * SECOND;
        assert_eq!(keda.wanted(50, 0, at(0)), 1);
        assert_eq!(keda.wanted(50, 1, at(15)), 5);
        assert_eq!(keda.wanted(50, 5, at(30)), 10);
        assert_eq!(keda.wanted(20, 10, at(60)), 10);
        for second in (75..330).step_by(15) {
            assert_eq!(keda.wanted(20, 10, at(second)), 10, "{second}");
        }
        // The last recommendation of ten, at 30 s, has left the window.
        assert_eq!(keda.wanted(20, 10, at(330)), 4);
        assert_eq!(keda.wanted(20, 4, at(345)), 4);
        assert_eq!(keda.wanted(0, 4, at(360)), 4);
        for second in (375..630).step_by(15) {
            let wanted = keda.wanted(0, 4, at(second));
            assert!(wanted >= 1, "{second}: {wanted}");
        }
        assert_eq!(keda.wanted(0, 1, at(660)), 0);
    }
}
