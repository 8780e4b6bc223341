//! The site of a simulation: a job queue, machines that receive jobs from it, and a web host that
//! counts arrivals.
//!
//! Time is virtual, and events are processed in order. `jobs` handles jobs, `fleet` the orders of a
//! driver to machines, `reports` the reports of machines and web host.

mod jobs;

mod fleet;
mod scale;
mod throttle;

mod reports;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use chrono::{DateTime, TimeDelta, Utc};
use eirs_platform::{job, queue::Depth};

pub(super) use self::scale::Victims;
use self::{reports::Web, throttle::Throttle};
use super::{
    load::Load,
    outcome::Sample,
    setup::{Chance, Micros, Setup, Stream, micros},
};
use crate::fleet::State;

/// A scheduled event. Events of a machine belong to one of its lives, and are void in the next one.
#[derive(Debug, Clone, Copy)]
enum Event {
    Ready {
        machine: u32,
        life: u32,
    },
    Done {
        machine: u32,
        life: u32,
        job: u32,
    },
    Report {
        machine: u32,
        life: u32,
    },
    IdleCheck {
        machine: u32,
        life: u32,
    },
    Drain {
        machine: u32,
        life: u32,
    },
    DrainDue {
        machine: u32,
        life: u32,
    },
    Vanish {
        machine: u32,
        life: u32,
    },
    Gone {
        machine: u32,
        life: u32,
    },
    /// The lease of a job expires.
    Reappear {
        job: u32,
    },
    WebReport {
        number: u32,
    },
    NoteDepth,
    Restart,
    ClockJump,
    Edit {
        number: u32,
    },
}

/// An event with its time. Of several events at the same time, the one that was scheduled first
/// comes first. In a heap the next event is the greatest.
#[derive(Debug, Clone, Copy)]
struct Scheduled {
    at: Micros,
    number: u64,
    event: Event,
}

impl Scheduled {
    fn key(&self) -> Reverse<u128> {
        Reverse(u128::from(self.at) << 64 | u128::from(self.number))
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

/// A host with its own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Host {
    Queue,
    Web,
    Machine(u32),
}

/// What a machine is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Power {
    Off,
    Booting,
    /// Was started and will never be ready.
    Dead,
    Serving,
    Draining,
    Drained,
    Stopping,
}

/// An instance and its worker.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) power: Power,
    /// State in the fleet, according to the last order.
    state: State,
    since: DateTime<Utc>,
    drain_until: Option<DateTime<Utc>>,
    generation: u64,
    model: String,
    crashes: u32,
    /// Counts the starts and stops, so that events of an earlier life are void.
    life: u32,
    /// Number of the last start among all starts.
    pub(super) started_as: u64,
    ordered: Option<Micros>,
    last_done: Option<Micros>,
    stops_when_drained: bool,
    held: Vec<Held>,
    done: u64,
    idle_since: Option<Micros>,
    reported_idle: bool,
    checks_idle: bool,
    times_ms: Vec<f32>,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    job: u32,
    taken: Micros,
}

/// The queue, the machines, and the results so far.
#[derive(Debug)]
pub(super) struct Site<'a> {
    pub(super) load: &'a Load<'a>,
    pub(super) setup: &'a Setup,
    pub(super) now: Micros,
    /// Deviation of the controller's clock, in microseconds.
    clock_error: i64,
    /// Number of the site in the run. Faults of the controller belong to the first site.
    number: usize,
    events: BinaryHeap<Scheduled>,
    scheduled: u64,
    arrived: usize,
    pub(super) ended: usize,
    /// Jobs that can be received, in order.
    waiting: VecDeque<u32>,
    pub(super) machines: Vec<Machine>,
    /// Number of parked machines; the others are launched on demand.
    pub(super) parked: usize,
    /// Additional start delay of a launched machine.
    launch_extra: Micros,
    /// A machine for each slot that could receive a job now.
    free: Vec<u32>,
    pub(super) alive: usize,
    /// Whether drained machines stop by themselves, as only the controller stops them.
    stops_by_itself: bool,
    listens: bool,
    web: Web,
    /// Reports under way, with the time at which they were sent.
    mail: Vec<(job::Event, DateTime<Utc>)>,
    /// Set when the controller must be killed and restarted.
    pub(super) restarts: bool,
    /// Set when the policy file has a new text: the number of the edit.
    pub(super) edited: Option<usize>,
    throttle: Throttle,
    dispatch: Chance,
    victims: Chance,
    faults: Chance,
    depths: VecDeque<(Micros, Depth)>,
    /// Integral of the number of jobs in the system over time, in job microseconds.
    pub(super) job_micros: u128,
    /// Latency of each job in seconds; NaN without a result.
    pub(super) latencies_s: Vec<f32>,
    pub(super) killed: u64,
    pub(super) redelivered: u64,
    pub(super) starts: u64,
    pub(super) billed: Micros,
    /// Part of `billed` for launched machines.
    pub(super) billed_launched: Micros,
    /// Number of orders to instances.
    pub(super) orders: u64,
    /// Begin and end of each run of a machine.
    pub(super) spans: Vec<(Micros, Micros)>,
    /// From the start order to the end of the last job, for each run with a job.
    pub(super) worked: Vec<(Micros, Micros)>,
    /// Sum of the times that machines ran, without the rest of billing minimums.
    pub(super) ran: Micros,
    /// Maximum number of machines that may be alive after a start.
    pub(super) limit: usize,
    /// Actions that are never right, one sentence each.
    pub(super) wrong: Vec<String>,
    pub(super) samples: Vec<Sample>,
}

impl<'a> Site<'a> {
    pub(super) fn new(load: &'a Load<'a>, number: usize, listens: bool) -> Self {
        let setup = load.setup;
        let seed = setup.seed ^ (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let chance = |stream| Chance::of(seed, stream);
        let mut site = Self {
            load,
            setup,
            now: 0,
            clock_error: 0,
            number,
            events: BinaryHeap::new(),
            scheduled: 0,
            arrived: 0,
            ended: 0,
            waiting: VecDeque::new(),
            machines: Vec::new(),
            parked: usize::MAX,
            launch_extra: 0,
            free: Vec::new(),
            alive: 0,
            stops_by_itself: !listens,
            listens,
            web: Web::default(),
            mail: Vec::new(),
            restarts: false,
            edited: None,
            throttle: Throttle::default(),
            dispatch: chance(Stream::Dispatch),
            victims: chance(Stream::Victims),
            faults: chance(Stream::Faults),
            depths: VecDeque::new(),
            job_micros: 0,
            latencies_s: vec![f32::NAN; load.trace.arrivals.len()],
            killed: 0,
            redelivered: 0,
            starts: 0,
            billed: 0,
            billed_launched: 0,
            orders: 0,
            spans: Vec::new(),
            worked: Vec::new(),
            ran: 0,
            limit: usize::MAX,
            wrong: Vec::new(),
            samples: Vec::new(),
        };
        if !setup.faults.depth_lag.is_zero() {
            site.at(0, Event::NoteDepth);
        }
        if listens {
            site.begin_to_listen();
        }
        site
    }

    fn begin_to_listen(&mut self) {
        let faults = &self.setup.faults;
        self.at(micros(reports::EVERY), Event::WebReport { number: 0 });
        if self.number > 0 {
            return;
        }
        let every = [(faults.restart_every, Event::Restart), (faults.clock_jump_every, Event::ClockJump)];
        for (every, event) in every {
            if let Some(every) = every {
                self.at(micros(every), event);
            }
        }
        for (number, (at, _)) in faults.edits.iter().enumerate() {
            self.at(micros(*at), Event::Edit { number: number as u32 });
        }
    }

    /// Time on the clock of a host, which may differ from the controller's by up to `clock_skew`.
    pub(super) fn clock_of(&self, host: Host) -> DateTime<Utc> {
        let most = micros(self.setup.faults.clock_skew);
        if most == 0 {
            return self.wall();
        }
        let host = match host {
            Host::Queue => 1,
            Host::Web => 2,
            Host::Machine(machine) => 3 + u64::from(machine),
        };
        let chance = Chance::of(self.setup.seed.wrapping_add(host << 32), Stream::Clocks).unit();
        self.wall() + TimeDelta::microseconds(((2.0 * chance - 1.0) * most as f64) as i64)
    }

    /// Time on the controller's clock.
    pub(super) fn wall(&self) -> DateTime<Utc> {
        let micros = i64::try_from(self.now).unwrap_or(i64::MAX).saturating_add(self.clock_error);
        self.load.trace.starts_at + TimeDelta::microseconds(micros)
    }

    fn at(&mut self, at: Micros, event: Event) {
        self.scheduled += 1;
        self.events.push(Scheduled { at, number: self.scheduled, event });
    }

    /// Time of the next event or arrival.
    pub(super) fn next(&self) -> Option<Micros> {
        let arrival = self.load.trace.arrivals.get(self.arrived).copied();
        let event = self.events.peek().map(|fixed| fixed.at);
        match (arrival, event) {
            (Some(arrival), Some(event)) => Some(arrival.min(event)),
            (one, other) => one.or(other),
        }
    }

    /// Advances the time to `to`, before which there are no events.
    pub(super) fn advance(&mut self, to: Micros) {
        self.job_micros += u128::from(to.saturating_sub(self.now)) * (self.arrived - self.ended) as u128;
        self.now = self.now.max(to);
    }

    /// Processes the events before `end` that concern only this site: until a report is sent, the
    /// controller is killed or its policy is edited.
    pub(super) fn step_until(&mut self, end: Micros) {
        let concerns_other_sites =
            |site: &Self| !site.mail.is_empty() || site.restarts || site.edited.is_some();
        while let Some(now) = self.next().filter(|now| *now < end && !concerns_other_sites(self)) {
            self.step(now);
        }
    }

    /// Processes the next event or arrival, whose time is `now`.
    pub(super) fn step(&mut self, now: Micros) {
        self.advance(now);
        if self.load.trace.arrivals.get(self.arrived) == Some(&now) {
            self.arrive();
        } else if let Some(Scheduled { event, .. }) = self.events.pop() {
            self.handle(event);
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Ready { machine, life } if self.lives(machine, life) => self.become_ready(machine),
            Event::Done { machine, life, job } if self.lives(machine, life) => self.finish(machine, job),
            Event::Report { machine, life } if self.lives(machine, life) => self.report_regularly(machine),
            Event::IdleCheck { machine, life } if self.lives(machine, life) => self.check_idle(machine),
            Event::Drain { machine, life } if self.lives(machine, life) => self.begin_drain(machine),
            Event::DrainDue { machine, life } if self.lives(machine, life) => self.give_back(machine),
            Event::Vanish { machine, life } if self.lives(machine, life) && !self.is_calm() => {
                self.vanish(machine);
            }
            Event::Gone { machine, life } if self.lives(machine, life) => self.finish_stop(machine),
            Event::Reappear { job } => {
                self.redelivered += 1;
                self.offer(job);
            }
            Event::WebReport { number } => self.report_arrivals_regularly(number),
            Event::NoteDepth => self.note_depth(),
            Event::Restart if !self.is_calm() => {
                self.restarts = true;
                let every = self.setup.faults.restart_every.map_or(Micros::MAX, micros);
                self.at(self.now.saturating_add(every.max(1)), Event::Restart);
            }
            Event::ClockJump if !self.is_calm() => self.jump(),
            Event::Edit { number } => self.edited = Some(number as usize),
            _of_an_earlier_life => {}
        }
    }

    fn lives(&self, machine: u32, life: u32) -> bool {
        self.machines[machine as usize].life == life
    }

    fn become_ready(&mut self, machine: u32) {
        let m = &mut self.machines[machine as usize];
        m.power = Power::Serving;
        m.idle_since = Some(self.now);
        let life = m.life;
        if let Some(mean) = self.setup.faults.vanish_after {
            let lived = super::setup::Distribution { mean, shape: super::setup::Shape::Exponential };
            let lived = micros(lived.draw(&mut self.faults));
            self.at(self.now + lived, Event::Vanish { machine, life });
        }
        for _ in 0..self.setup.concurrency {
            self.ask(machine);
        }
        if self.listens {
            self.report(machine);
            self.at(self.now + micros(reports::EVERY), Event::Report { machine, life });
        }
    }

    /// Whether no more new faults occur.
    fn is_calm(&self) -> bool {
        self.setup.faults.until.is_some_and(|until| self.now >= micros(until))
    }

    /// Whether a fault with this probability occurs.
    pub(super) fn goes_wrong(&mut self, share: f64) -> bool {
        !self.is_calm() && self.faults.happens(share)
    }

    /// A random integer below `most`, from the stream of faults.
    pub(super) fn any_below(&mut self, most: usize) -> usize {
        self.faults.below(most)
    }

    fn jump(&mut self) {
        let faults = &self.setup.faults;
        let most = faults.clock_jump.as_micros() as f64;
        self.clock_error += ((2.0 * self.faults.unit() - 1.0) * most) as i64;
        let every = faults.clock_jump_every.map_or(Micros::MAX, micros);
        self.at(self.now.saturating_add(every.max(1)), Event::ClockJump);
    }

    /// Whether all requests have arrived and ended.
    pub(super) fn is_done(&self) -> bool {
        self.ended == self.load.trace.arrivals.len()
    }

    pub(super) fn has_mail(&self) -> bool {
        !self.mail.is_empty()
    }

    /// Takes the reports that were sent since the last call.
    pub(super) fn take_mail(&mut self) -> Vec<(job::Event, DateTime<Utc>)> {
        std::mem::take(&mut self.mail)
    }

    /// Bills the machines that still run, at the end of the run.
    pub(super) fn close(&mut self) {
        (0..self.machines.len() as u32).for_each(|machine| self.bill(machine));
    }

    /// Records a sample of the state.
    pub(super) fn sample(&mut self) {
        let count =
            |power: &[Power]| self.machines.iter().filter(|m| power.contains(&m.power)).count() as u32;
        let depth = self.depth();
        self.samples.push(Sample {
            at: self.now,
            visible: depth.visible,
            in_flight: depth.in_flight,
            ready: count(&[Power::Serving]),
            starting: count(&[Power::Booting, Power::Dead]),
            leaving: count(&[Power::Draining, Power::Drained, Power::Stopping]),
            orders: self.orders,
        });
    }
}
