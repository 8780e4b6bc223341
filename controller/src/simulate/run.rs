//! One run: a site for each pool, and who drives them.

use chrono::{DateTime, Utc};
use eirs_platform::job;

use super::{
    load::Load,
    outcome::Outcome,
    setup::{Micros, micros},
    site::Site,
};

/// Who decides how many instances there are.
pub(super) trait Driver {
    /// Looks, and gives orders; answers when to look again if nothing happens before.
    fn pass(&mut self, sites: &mut [Site<'_>]) -> Again;

    /// Whether it hears reports and the doorbell, and stops what has drained.
    fn listens(&self) -> bool {
        false
    }

    /// Hears reports that nothing held up, with the times of their sending by the queue's clock;
    /// answers whether it will look at once.
    fn hear(&mut self, _mail: Vec<(job::Event, DateTime<Utc>)>, _now: DateTime<Utc>) -> bool {
        false
    }

    /// The policy's file has a new text.
    fn edit(&mut self, _text: &str) {}

    /// It was killed, and was started again without its memory.
    fn restart(&mut self, _sites: &mut [Site<'_>]) {}

    /// With this number of instances on a site, and no work, it is at rest.
    fn rests_with(&self, _site: usize) -> usize {
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

/// After the last request a run goes on for this long at most, and for as long as one instance
/// alone would need for everything.
const AFTERMATH: Micros = 3_600_000_000;
/// A driver that looks more often at one moment will never have enough.
const MOST_PASSES: u32 = 30;

/// Runs a load under a driver until all requests have ended and the driver is at rest. With
/// `samples` it is noted that often how things stand.
pub(super) fn run(load: &Load<'_>, driver: &mut dyn Driver, samples: u32) -> Outcome {
    let mut outcomes = run_together(std::slice::from_ref(load), driver, samples);
    outcomes.pop().expect("a load has an outcome")
}

/// Runs several loads, a site for each, under one driver.
pub(super) fn run_together(loads: &[Load<'_>], driver: &mut dyn Driver, samples: u32) -> Vec<Outcome> {
    let listens = driver.listens();
    let mut sites: Vec<_> =
        loads.iter().enumerate().map(|(number, load)| Site::new(load, number, listens)).collect();
    let setup = loads[0].setup;
    let length = loads.iter().map(|load| load.trace.length).max().unwrap_or(0);
    let work: Micros = loads.iter().map(|load| load.work / u64::from(load.setup.concurrency.max(1))).sum();
    let last = length + AFTERMATH + work;
    let step = if samples == 0 { Micros::MAX } else { (length / u64::from(samples)).max(1_000_000) };
    let (mut next_sample, mut next_pass) = (if samples == 0 { Micros::MAX } else { 0 }, 0);
    let (mut now, mut passes, mut down_until) = (0, 0, None);
    loop {
        let next_site =
            sites.iter().enumerate().filter_map(|(number, site)| Some((site.next()?, number))).min();
        let (next_event, site) = next_site.unwrap_or((Micros::MAX, 0));
        let next = next_event.min(next_pass).min(next_sample);
        let is_at_rest =
            || sites.iter().enumerate().all(|(n, site)| site.is_done() && site.alive <= driver.rests_with(n));
        // Who kept instances pays for them until the end of the trace.
        if next > last || (now >= length && is_at_rest()) {
            break;
        }
        if next > now {
            passes = 0;
        }
        now = next;
        if next == next_sample {
            for site in &mut sites {
                site.advance(now);
                site.sample();
            }
            next_sample += step;
            continue;
        }
        // At the same moment things happen before anybody looks.
        if next == next_event {
            sites[site].step(now);
            // Whatever happens before anybody looks needs nobody else, until the trace ends and the
            // run may, too.
            if let [alone] = &mut sites[..] {
                alone.step_until(next_pass.min(next_sample).min(length).min(last));
                now = alone.now;
            }
        } else if down_until.take().is_some() {
            sites.iter_mut().for_each(|site| site.advance(now));
            driver.restart(&mut sites);
            next_pass = now;
        } else {
            sites.iter_mut().for_each(|site| site.advance(now));
            passes += 1;
            next_pass = match driver.pass(&mut sites) {
                Again::At(at) => at.max(now + 1),
                Again::Now if passes < MOST_PASSES => now,
                Again::Now => {
                    sites[0].wrong.push(format!("at {} s: it never comes to rest", now / 1_000_000));
                    now + 1_000_000
                }
            };
        }
        // One that is down already is not killed again.
        if std::mem::take(&mut sites[0].restarts) && down_until.is_none() {
            down_until = Some(now + micros(setup.faults.downtime));
        }
        if let Some(until) = down_until {
            // Reports wait in their queue until somebody reads them.
            next_pass = until;
            continue;
        }
        for site in sites.iter_mut().filter(|site| site.has_mail()) {
            let mail = site.take_mail();
            if driver.hear(mail, site.wall()) {
                next_pass = now;
            }
        }
        if let Some((_, text)) = sites[0].edited.take().and_then(|number| setup.faults.edits.get(number)) {
            driver.edit(text);
            next_pass = now;
        }
    }
    let end = |mut site: Site<'_>| {
        site.advance(now.max(length));
        if samples > 0 {
            site.sample();
        }
        site.close();
        Outcome::of(site)
    };
    sites.into_iter().map(end).collect()
}
