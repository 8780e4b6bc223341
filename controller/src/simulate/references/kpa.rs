//! Knative's pod autoscaler, by concurrency.

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
/// `tick-interval`
const TICK: Micros = 2 * SECOND;
/// `stable-window`
const STABLE: Micros = 60 * SECOND;
/// `panic-window-percentage` of it
const PANIC: Micros = 6 * SECOND;
/// `panic-threshold-percentage`: so much more than what is ready can do calls for panic.
const THRESHOLD: f64 = 2.0;
/// `max-scale-up-rate` and `max-scale-down-rate`, per tick
const UP_RATE: f64 = 1000.0;
const DOWN_RATE: f64 = 2.0;

/// Every two seconds it wants as many as the mean number of requests in the system, over sixty
/// seconds and over six, needs at the target concurrency, which here is the workers' own. When the
/// short mean needs twice what is ready it panics: it takes the higher of the two and does not
/// scale in until that has not been so for sixty seconds. From none the first request makes it look
/// at once (the activator). To none it goes when there was no request for sixty seconds:
/// `scale-to-zero-grace-period` bounds what the change of routes may take and keeps nobody, and
/// `scale-to-zero-pod-retention-period` is zero.
///
/// Sources: knative.dev, "About autoscaling" and "Configuring scale to zero";
/// `pkg/autoscaler/scaling/autoscaler.go` in knative/serving for the order of the steps. All values
/// are the defaults but the target, whose default utilisation of 70 % would make it dearer.
#[derive(Debug)]
pub(super) struct Kpa {
    max: u32,
    target: f64,
    /// Requests in the system, times microseconds, up to each tick.
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

    /// The mean number of requests in the system over a window up to now, or over as much of it as
    /// there was.
    fn mean(&self, window: Micros) -> f64 {
        let (Some((now, total)), Some((first, _))) = (self.totals.back(), self.totals.front()) else {
            return 0.0;
        };
        let from = now.saturating_sub(window).max(*first);
        let before = self.totals.iter().rev().find(|(at, _)| *at <= from);
        before.filter(|(at, _)| at < now).map_or(0.0, |(at, then)| (total - then) as f64 / (now - at) as f64)
    }

    /// How many there should be, where `ready` are ready.
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
        let (stable_wish, panic_wish) = (within(ceil(stable / self.target)), within(by_panic));
        if f64::from(by_panic) / base >= THRESHOLD {
            self.panics_since = Some(now);
        } else if self.panics_since.is_some_and(|since| since + STABLE < now) {
            (self.panics_since, self.most_in_panic) = (None, 0);
        }
        let mut wanted = stable_wish;
        if self.panics_since.is_some() {
            self.most_in_panic = self.most_in_panic.max(panic_wish).max(stable_wish);
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
        // The activator holds the first requests and has the autoscaler make one pod at once. Two
        // seconds are as good as that.
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

    /// The wishes at every tick, when there is this number of requests in the system from each
    /// second on, and everybody is ready at once.
    fn wishes(requests: &[(u64, u128)], until: u64) -> Vec<(u64, u32)> {
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
    fn a_steady_load_gets_what_it_needs_and_a_quiet_time_ends_in_nobody() {
        // Four requests from 60 s to 200 s. The six-second mean is 4·2/6 = 1.33 after a tick: two,
        // which is panic; then 2.67 and 4.
        let wishes = wishes(&[(0, 0), (60, 4), (200, 0)], 400);
        assert_eq!(&wishes[..3], [(62, 2), (64, 3), (66, 4)]);
        // The stable mean falls from 200 s on: below three after 15 s, and so on; it is nothing at
        // 260 s, and nobody is left.
        assert_eq!(&wishes[3..], [(216, 3), (230, 2), (246, 1), (260, 0)]);
    }

    #[test]
    fn in_panic_it_does_not_scale_in() {
        let wishes = wishes(&[(0, 1), (100, 10), (106, 0)], 240);
        let top = wishes.iter().map(|(_, wanted)| *wanted).max();
        assert_eq!(top, Some(10));
        let (second, _) = wishes.iter().skip_while(|(_, wanted)| *wanted < 10).nth(1).copied().unwrap();
        assert!(second >= 160, "{wishes:?}");
    }
}
