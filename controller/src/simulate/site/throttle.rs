//! The rate limit of starts.

use crate::simulate::setup::Micros;

/// EC2's throttling of StartInstances: a burst of five calls and two per second, and a burst of a
/// thousand instances and two per second.
#[derive(Debug)]
pub(super) struct Throttle {
    calls: f64,
    instances: f64,
    last: Micros,
}

impl Default for Throttle {
    fn default() -> Self {
        Self { calls: Self::CALLS, instances: Self::INSTANCES, last: 0 }
    }
}

impl Throttle {
    const CALLS: f64 = 5.0;
    const INSTANCES: f64 = 1000.0;
    const PER_SECOND: f64 = 2.0;

    pub(super) fn admits(&mut self, instances: usize, now: Micros) -> bool {
        let gained = Self::PER_SECOND * (now - self.last) as f64 / 1e6;
        self.last = now;
        self.calls = (self.calls + gained).min(Self::CALLS);
        self.instances = (self.instances + gained).min(Self::INSTANCES);
        // A call for more instances than the bucket holds waits until it is full.
        let needed = (instances as f64).min(Self::INSTANCES);
        let admits = self.calls >= 1.0 && self.instances >= needed;
        if admits {
            self.calls -= 1.0;
            self.instances -= needed;
        }
        admits
    }
}
