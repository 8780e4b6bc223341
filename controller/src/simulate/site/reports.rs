//! The reports of workers and web hosts to the controller, with the times and contents of the real
//! ones (`report.rs` of `eirs-worker` and `eirs-web`).

use std::{collections::BTreeMap, time::Duration};

use chrono::TimeDelta;
use eirs_platform::job::{self, Phase, ServiceTimes, VERSION, WebReport, WorkerReport};

use super::{Event, Host, Power, Site};
use crate::simulate::setup::{Micros, micros};

/// Interval of the reports of workers and web hosts.
pub(super) const EVERY: Duration = Duration::from_secs(10);
/// Time without a job after which a worker reports idle.
const IDLE_AFTER: Micros = 1_000_000;
/// Time without an arrival after which the next one rings the doorbell.
const QUIET: Micros = 2_000_000;
/// Maximum number of service times that are kept for a report.
pub(super) const MOST_TIMES: usize = 10_000;

/// The state of the web host since its last report.
#[derive(Debug, Default)]
pub(super) struct Web {
    counted: u64,
    /// Begin of the counted interval.
    since: Micros,
    last_arrival: Option<Micros>,
    /// Number of the next regular report; a doorbell replaces it.
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
        let m = &self.machines[machine as usize];
        if !matches!(m.power, Power::Serving | Power::Draining) {
            return;
        }
        let life = m.life;
        self.report(machine);
        self.at(self.now + micros(EVERY), Event::Report { machine, life });
    }

    /// Schedules the report of a worker that becomes idle.
    pub(super) fn expect_idle_check(&mut self, machine: u32) {
        let m = &mut self.machines[machine as usize];
        if self.listens && !m.reported_idle && !m.checks_idle {
            m.checks_idle = true;
            let life = m.life;
            self.at(self.now + IDLE_AFTER, Event::IdleCheck { machine, life });
        }
    }

    pub(super) fn check_idle(&mut self, machine: u32) {
        let m = &mut self.machines[machine as usize];
        m.checks_idle = false;
        let (life, power) = (m.life, m.power);
        let Some(since) = m.idle_since.filter(|_| power == Power::Serving && !m.reported_idle) else {
            return;
        };
        if since + IDLE_AFTER <= self.now {
            return self.report(machine);
        }
        m.checks_idle = true;
        self.at(since + IDLE_AFTER, Event::IdleCheck { machine, life });
    }

    pub(super) fn report(&mut self, machine: u32) {
        if !self.listens {
            return;
        }
        let at = self.clock_of(Host::Machine(machine));
        let m = &mut self.machines[machine as usize];
        let idle_for = m.idle_since.map(|since| self.now - since);
        m.reported_idle = idle_for.is_some_and(|idle| idle >= IDLE_AFTER);
        let report = WorkerReport {
            v: VERSION,
            instance: self.load.id(machine as usize),
            generation: m.generation.to_string(),
            model: m.model.clone(),
            version: String::new(),
            engine: "simulated".to_owned(),
            phase: match m.power {
                Power::Serving => Phase::Ready,
                Power::Draining => Phase::Draining,
                Power::Drained | Power::Stopping | Power::Off => Phase::Drained,
                Power::Booting | Power::Dead => Phase::Starting,
            },
            in_flight: m.held.len() as u32,
            slots: self.setup.concurrency,
            at_once: self.setup.concurrency,
            done: m.done,
            idle_since: idle_for.map(|idle| at - TimeDelta::microseconds(idle as i64)),
            failing: None,
            service: summary(&mut m.times_ms),
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

/// Summarizes the times and clears them.
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
