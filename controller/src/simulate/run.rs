//! One run: a site, and who drives it.

use chrono::{DateTime, Utc};
use eirs_platform::job;

use super::{load::Load, outcome::Outcome, setup::Micros, site::Site};

/// Who decides how many instances there are.
pub(super) trait Driver {
    /// Looks, and gives orders; answers when to look again if nothing happens before.
    fn pass(&mut self, site: &mut Site<'_>) -> Again;

    /// Whether it hears reports and the doorbell, and stops what has drained.
    fn listens(&self) -> bool {
        false
    }

    /// Hears a report; answers whether it will look at once.
    fn hear(&mut self, _event: job::Event, _sent_at: DateTime<Utc>) -> bool {
        false
    }

    /// The policy's file has a new text.
    fn edit(&mut self, _text: &str) {}

    /// It was killed, and was started again without its memory.
    fn restart(&mut self, _site: &mut Site<'_>) {}

    /// With so many instances, and no work, it is at rest.
    fn rests_with(&self) -> usize {
        0
    }
}

/// When a driver looks again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// Once more now: it did something and wants to see what came of it.
    Now,
    /// At this moment.
    At(Micros),
}

/// After the last request a run goes on for this long at most, and for as long as one instance alone would need for everything.
const AFTERMATH: Micros = 3_600_000_000;
/// A driver that looks more often at one moment will never have enough.
const MOST_PASSES: u32 = 30;

/// Runs a load under a driver until all requests have ended and the driver is at rest. With `samples` it is noted so many times
/// how things stand.
pub(super) fn run(load: &Load<'_>, driver: &mut dyn Driver, samples: u32) -> Outcome {
    let mut site = Site::new(load, driver.listens());
    let length = load.trace.length;
    let last = length + AFTERMATH + load.work / u64::from(load.setup.concurrency.max(1));
    let step = if samples == 0 { Micros::MAX } else { (length / u64::from(samples)).max(1_000_000) };
    let (mut next_sample, mut next_pass) = (if samples == 0 { Micros::MAX } else { 0 }, 0);
    let mut passes = 0;
    loop {
        let next_event = site.next().unwrap_or(Micros::MAX);
        let next = next_event.min(next_pass).min(next_sample);
        let is_over = site.is_done() && site.now >= length && site.alive <= driver.rests_with();
        // Who kept instances pays for them until the end of the trace.
        if is_over || next > last {
            break;
        }
        if next > site.now {
            passes = 0;
        }
        if next == next_sample {
            site.advance(next);
            site.sample();
            next_sample += step;
            continue;
        }
        // At the same moment things happen before anybody looks.
        if next == next_event {
            site.step();
        } else {
            site.advance(next);
            passes += 1;
            next_pass = match driver.pass(&mut site) {
                Again::At(at) => at.max(site.now + 1),
                Again::Now if passes < MOST_PASSES => site.now,
                Again::Now => {
                    site.wrong.push(format!("at {} s: it never comes to rest", site.now / 1_000_000));
                    site.now + 1_000_000
                }
            };
        }
        for (event, sent_at) in site.take_mail() {
            if driver.hear(event, sent_at) {
                next_pass = site.now;
            }
        }
        if std::mem::take(&mut site.restarts) {
            driver.restart(&mut site);
            next_pass = site.now;
        }
        if let Some((_, text)) = site.edited.take().and_then(|number| load.setup.faults.edits.get(number)) {
            driver.edit(text);
            next_pass = site.now;
        }
    }
    if site.now < length {
        site.advance(length);
    }
    if samples > 0 {
        site.sample();
    }
    site.close();
    Outcome::of(site)
}
