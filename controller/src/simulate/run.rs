//! A run: a site for each pool, and the driver.

use chrono::{DateTime, Utc};
use eirs_platform::job;

use super::{
    load::Load,
    outcome::Outcome,
    setup::{Micros, micros},
    site::Site,
};

/// Decides how many instances run.
pub(super) trait Driver {
    /// Observes and gives orders. Returns the time of the next pass, unless an event comes before.
    fn pass(&mut self, sites: &mut [Site<'_>]) -> Again;

    /// Whether it receives reports and doorbells, and stops drained machines.
    fn listens(&self) -> bool {
        false
    }

    /// Receives reports, with their send times on the queue's clock. Returns whether it makes a
    /// pass now.
    fn hear(&mut self, _mail: Vec<(job::Event, DateTime<Utc>)>, _now: DateTime<Utc>) -> bool {
        false
    }

    /// Reads a new text of the policy file.
    fn edit(&mut self, _text: &str) {}

    /// Restarts after it was killed, without its state.
    fn restart(&mut self, _sites: &mut [Site<'_>]) {}

    /// Number of instances of a site with which the run may end when there are no jobs.
    fn settles_with(&self, _site: usize) -> usize {
        0
    }
}

/// The time of a driver's next pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// Now, to see the result of its actions.
    Now,
    /// At this time.
    At(Micros),
}

/// Maximum time that a run continues after the end of the trace, in addition to the time that a
/// single instance would need for all work.
const AFTERMATH: Micros = 3_600_000_000;
/// Number of passes at the same time after which the driver counts as never settling.
const MOST_PASSES: u32 = 30;

/// Runs a load under a driver until all requests have ended and the driver has settled. If
/// `samples` is not 0, about this many samples are recorded.
pub(super) fn run(load: &Load<'_>, driver: &mut dyn Driver, samples: u32) -> Outcome {
    let mut outcomes = run_together(std::slice::from_ref(load), driver, samples);
    outcomes.pop().expect("a load has an outcome")
}

/// Runs several loads, each on its own site, under one driver.
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
        let has_settled = || {
            sites.iter().enumerate().all(|(n, site)| site.is_done() && site.alive <= driver.settles_with(n))
        };
        // Instances are paid for until the end of the trace, if they are kept.
        if next > last || (now >= length && has_settled()) {
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
        // Events at the same time come before passes.
        if next == next_event {
            sites[site].step(now);
            // With a single site, events up to the next pass can be processed together, but not
            // beyond the end of the trace, where the run may end.
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
                    sites[0].wrong.push(format!("at {} s: the driver never settles", now / 1_000_000));
                    now + 1_000_000
                }
            };
        }
        // A controller that is down already is not killed again.
        if std::mem::take(&mut sites[0].restarts) && down_until.is_none() {
            down_until = Some(now + micros(setup.faults.downtime));
        }
        if let Some(until) = down_until {
            // Reports wait in the queue until the controller is back.
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
