//! What workers and web tell the controller, when and in the words of the real ones
//! (`eirs-worker`'s and `eirs-web`'s `report.rs`).

use std::{collections::BTreeMap, time::Duration};

use chrono::TimeDelta;
use eirs_platform::job::{self, Phase, ServiceTimes, VERSION, WebReport, WorkerReport};

use super::{Event, Host, Power, Site};
use crate::simulate::setup::{Micros, micros};

/// Workers and web report this often.
pub(super) const EVERY: Duration = Duration::from_secs(10);
/// A worker calls itself idle when it has held nothing for so long.
const IDLE_AFTER: Micros = 1_000_000;
/// After so long without an arrival, web rings at the next one.
const QUIET: Micros = 2_000_000;
/// How many service times are kept for a report.
pub(super) const MOST_TIMES: usize = 10_000;

/// What web counted since its last report.
#[derive(Debug, Default)]
pub(super) struct Web {
    counted: u64,
    /// From when on.
    since: Micros,
    last_arrival: Option<Micros>,
    /// Its regular report of this number is the next one; a doorbell puts it off.
    number: u32,
}

impl Site<'_> {
    pub(super) fn count_arrival(&mut self) {
        self.web.counted += 1;
        let last = self.web.last_arrival.replace(self.now);
        if last.is_none_or(|last| self.now - last > QUIET) {
            self.report_arrivals(true);
        }
    }

    pub(super) fn report_arrivals_regularly(&mut self, number: u32) {
        if number == self.web.number {
            self.report_arrivals(false);
        }
    }

    fn report_arrivals(&mut self, doorbell: bool) {
        self.web.number = self.web.number.wrapping_add(1);
        self.at(self.now + micros(EVERY), Event::WebReport { number: self.web.number });
        let counted = std::mem::take(&mut self.web.counted);
        let counted_for = self.now - std::mem::replace(&mut self.web.since, self.now);
        if counted > 0 {
            let arrivals = BTreeMap::from([(self.load.model.clone(), counted)]);
            let at = self.clock_of(Host::Web);
            let since = at - TimeDelta::microseconds(counted_for as i64);
            self.send(job::Event::Web(WebReport {
                v: VERSION,
                host: "web".to_owned(),
                arrivals,
                doorbell,
                since: Some(since),
                at,
            }));
        }
    }

    pub(super) fn report_regularly(&mut self, machine: u32) {
        let it = &self.machines[machine as usize];
        if !matches!(it.power, Power::Serving | Power::Draining) {
            return;
        }
        let life = it.life;
        self.report(machine);
        self.at(self.now + micros(EVERY), Event::Report { machine, life });
    }

    /// Sees to it that a worker that stays idle says so.
    pub(super) fn expect_idle_check(&mut self, machine: u32) {
        let it = &mut self.machines[machine as usize];
        if self.listens && !it.told_idle && !it.checks_idle {
            it.checks_idle = true;
            let life = it.life;
            self.at(self.now + IDLE_AFTER, Event::IdleCheck { machine, life });
        }
    }

    pub(super) fn check_idle(&mut self, machine: u32) {
        let it = &mut self.machines[machine as usize];
        it.checks_idle = false;
        let (life, power) = (it.life, it.power);
        let Some(since) = it.idle_since.filter(|_| power == Power::Serving && !it.told_idle) else { return };
        if since + IDLE_AFTER <= self.now {
            return self.report(machine);
        }
        it.checks_idle = true;
        self.at(since + IDLE_AFTER, Event::IdleCheck { machine, life });
    }

    pub(super) fn report(&mut self, machine: u32) {
        if !self.listens {
            return;
        }
        let at = self.clock_of(Host::Machine(machine));
        let it = &mut self.machines[machine as usize];
        let idle_for = it.idle_since.map(|since| self.now - since);
        it.told_idle = idle_for.is_some_and(|idle| idle >= IDLE_AFTER);
        let report = WorkerReport {
            v: VERSION,
            instance: self.load.id(machine as usize),
            generation: it.generation.to_string(),
            model: it.model.clone(),
            version: String::new(),
            engine: "simulated".to_owned(),
            phase: match it.power {
                Power::Serving => Phase::Ready,
                Power::Draining => Phase::Draining,
                Power::Drained | Power::Stopping | Power::Off => Phase::Drained,
                Power::Booting | Power::Dead => Phase::Starting,
            },
            in_flight: it.held.len() as u32,
            slots: self.setup.concurrency,
            at_once: self.setup.concurrency,
            done: it.done,
            idle_since: idle_for.map(|idle| at - TimeDelta::microseconds(idle as i64)),
            failing: None,
            service: summary(&mut it.times_ms),
            at,
        };
        self.send(job::Event::Worker(report));
    }

    fn send(&mut self, event: job::Event) {
        if !self.goes_wrong(self.setup.faults.lost_reports) {
            self.mail.push((event, self.clock_of(Host::Queue)));
        }
    }
}

/// Sums up the times and forgets them.
fn summary(times_ms: &mut Vec<f32>) -> ServiceTimes {
    if times_ms.is_empty() {
        return ServiceTimes::default();
    }
    let count = times_ms.len();
    let (_, p95, _) = times_ms.select_nth_unstable_by((count * 95).div_ceil(100) - 1, f32::total_cmp);
    let p95_ms = f64::from(*p95);
    let mean_ms = times_ms.iter().map(|time| f64::from(*time)).sum::<f64>() / count as f64;
    times_ms.clear();
    ServiceTimes { count: count as u64, mean_ms, p95_ms }
}
