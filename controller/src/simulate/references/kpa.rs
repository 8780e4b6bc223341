//! Knative's pod autoscaler (KPA), by concurrency.

use std::collections::VecDeque;

use super::{
    super::{
        run::{Again, Driver},
        setup::{Micros, Setup},
        site::{Site, Victims},
    },
    ceil,
};

const SECOND: Micros = 1_000_000;
/// `tick-interval`.
const TICK: Micros = 2 * SECOND;
/// `stable-window`.
const STABLE: Micros = 60 * SECOND;
/// The panic window: `panic-window-percentage` of the stable window.
const PANIC: Micros = 6 * SECOND;
/// `panic-threshold-percentage`: ratio of needed to ready pods from which on it panics.
const THRESHOLD: f64 = 2.0;
/// `max-scale-up-rate`, per tick.
const UP_RATE: f64 = 1000.0;
/// `max-scale-down-rate`, per tick.
const DOWN_RATE: f64 = 2.0;

/// Every two seconds it computes the number of pods for the mean number of requests in the system,
/// over 60 and over 6 seconds, at the target concurrency, which here is the workers' own. If the
/// short mean needs twice the ready pods, it panics: it uses the higher of both numbers, and does
/// not scale in until the condition has not held for 60 seconds. From zero the first request
/// triggers it at once (the activator). It scales to zero after 60 seconds without a request:
/// `scale-to-zero-grace-period` only bounds the change of routes and keeps no pods, and
/// `scale-to-zero-pod-retention-period` is zero.
///
/// Sources: knative.dev, "About autoscaling" and "Configuring scale to zero";
/// `pkg/autoscaler/scaling/autoscaler.go` in knative/serving for the order of the steps. All values
/// are the defaults except the target, whose default utilization of 70 % would make it more
/// expensive.
#[derive(Debug)]
pub(super) struct Kpa {
    max: u32,
    target: f64,
    /// Integral of the number of requests in the system over time, in request microseconds, at each
    /// tick.
    totals: VecDeque<(Micros, u128)>,
    panics_since: Option<Micros>,
    most_in_panic: u32,
}

impl Kpa {
    pub(super) fn new(setup: &Setup, max: u32, share: f64) -> Self {
        Self {
            max,
            target: f64::from(setup.concurrency.max(1)) * share,
            totals: VecDeque::from([(0, 0)]),
            panics_since: None,
            most_in_panic: 0,
        }
    }

    /// Mean number of requests in the system over the last `window`, or over the time so far if
    /// that is shorter.
    fn mean(&self, window: Micros) -> f64 {
        let (Some((now, total)), Some((first, _))) = (self.totals.back(), self.totals.front()) else {
            return 0.0;
        };
        let from = now.saturating_sub(window).max(*first);
        let before = self.totals.iter().rev().find(|(at, _)| *at <= from);
        before.filter(|(at, _)| at < now).map_or(0.0, |(at, then)| (total - then) as f64 / (now - at) as f64)
    }

    /// Number of pods that should run.
    fn wanted(&mut self, job_micros: u128, ready: u32, now: Micros) -> u32 {
        self.totals.push_back((now, job_micros));
        while self.totals.get(1).is_some_and(|(at, _)| at + STABLE <= now) {
            self.totals.pop_front();
        }
        let (stable, panic) = (self.mean(STABLE), self.mean(PANIC));
        let base = f64::from(ready.max(1));
        let (most, least) = (UP_RATE * base, (base / DOWN_RATE).floor());
        let within = |needed: u32| f64::from(needed).max(least).min(most).ceil() as u32;
        let by_panic = ceil(panic / self.target);
        let (desired_stable, desired_panic) = (within(ceil(stable / self.target)), within(by_panic));
        if f64::from(by_panic) / base >= THRESHOLD {
            self.panics_since = Some(now);
        } else if self.panics_since.is_some_and(|since| since + STABLE < now) {
            (self.panics_since, self.most_in_panic) = (None, 0);
        }
        let mut wanted = desired_stable;
        if self.panics_since.is_some() {
            self.most_in_panic = self.most_in_panic.max(desired_panic).max(desired_stable);
            wanted = self.most_in_panic;
        }
        if stable > 0.0 || self.panics_since.is_some() {
            return wanted.max(1).min(self.max);
        }
        0
    }
}

impl Driver for Kpa {
    fn pass(&mut self, sites: &mut [Site<'_>]) -> Again {
        let [site, ..] = sites else { return Again::At(Micros::MAX) };
        site.furnish(self.max, "default");
        let (active, ready) = (site.active(), site.serving());
        let mut wanted = self.wanted(site.job_micros, ready, site.now);
        // The activator holds the first requests and triggers the autoscaler at once. A tick of two
        // seconds is close to that.
        if active == 0 && site.depth().backlog() > 0 {
            wanted = wanted.max(1).min(self.max);
        }
        site.scale_to(wanted, Victims::Newest);
        Again::At(site.now + TICK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The changes of the number of pods, for these numbers of requests in the system from each
    /// second on, if pods are ready at once.
    fn desired(requests: &[(u64, u128)], until: u64) -> Vec<(u64, u32)> {
        let mut kpa = Kpa::new(&Setup::default(), 15, 1.0);
        let (mut total, mut active, mut changes) = (0, 0, Vec::new());
        for second in 0..=until {
            if second > 0 {
                let there = requests.iter().rev().find(|(from, _)| *from < second);
                total += there.map_or(0, |(_, count)| count * 1_000_000);
            }
            if second % 2 == 0 {
                let wanted = kpa.wanted(total, active, second * SECOND);
                if wanted != active {
                    changes.push((second, wanted));
                }
                active = wanted;
            }
        }
        changes
    }

    #[test]
    fn a_steady_load_gets_the_pods_it_needs_and_no_load_ends_at_zero() {
        // Four requests from 60 s to 200 s. After one tick the six-second mean is 4·2/6 = 1.33,
        // which needs two pods and causes panic; then it is 2.67 and 4.
        let desired = desired(&[(0, 0), (60, 4), (200, 0)], 400);
        assert_eq!(&desired[..3], [(62, 2), (64, 3), (66, 4)]);
        // From 200 s on the stable mean falls: it is below three after 15 s, and zero at 260 s.
        assert_eq!(&desired[3..], [(216, 3), (230, 2), (246, 1), (260, 0)]);
    }

    #[test]
    fn it_does_not_scale_in_during_panic() {
        let desired = desired(&[(0, 1), (100, 10), (106, 0)], 240);
        let top = desired.iter().map(|(_, wanted)| *wanted).max();
        assert_eq!(top, Some(10));
        let (second, _) = desired.iter().skip_while(|(_, wanted)| *wanted < 10).nth(1).copied().unwrap();
        assert!(second >= 160, "{desired:?}");
    }
}
