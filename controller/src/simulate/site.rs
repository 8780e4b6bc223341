//! The place where a simulation happens: a request queue, machines that drink from it, and web that counts what comes.
//!
//! Time is virtual and events are taken in order. What a driver may order of the machines is in `fleet`, what they and web
//! report in `reports`.

mod fleet;
mod reports;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use chrono::{DateTime, TimeDelta, Utc};
use eirs_platform::{job, queue::Depth};

pub(super) use self::fleet::Victims;
use self::{fleet::Throttle, reports::Web};
use super::{
    outcome::Sample,
    setup::{Chance, Micros, Setup, Stream, micros},
    trace::Trace,
};
use crate::fleet::State;

/// What all runs of one simulation share: the arrivals, and how long each job takes whoever does it.
#[derive(Debug)]
pub(super) struct Load<'a> {
    pub(super) trace: &'a Trace,
    pub(super) setup: &'a Setup,
    /// The model that all jobs are for.
    model: String,
    /// The service time of each job, in microseconds.
    service: Vec<u32>,
    /// All service times together.
    pub(super) work: Micros,
}

impl<'a> Load<'a> {
    pub(super) fn new(trace: &'a Trace, setup: &'a Setup, model: &str) -> Self {
        let mut chance = Chance::of(setup.seed, Stream::Service);
        let mut draw = |_: &Micros| u32::try_from(setup.service_time.draw(&mut chance).as_micros());
        let service: Vec<_> = trace.arrivals.iter().map(|at| draw(at).unwrap_or(u32::MAX).max(1)).collect();
        let work = service.iter().map(|time| Micros::from(*time)).sum();
        Self { trace, setup, model: model.to_owned(), service, work }
    }

    /// When each job arrives and how long it takes.
    pub(super) fn jobs(&self) -> impl Iterator<Item = (Micros, Micros)> {
        self.trace.arrivals.iter().copied().zip(self.service.iter().map(|time| Micros::from(*time)))
    }

    /// How long the start of this number takes, the same in every run.
    fn start_delay(&self, number: u64) -> Micros {
        let mut chance = Chance::of(self.setup.seed ^ number.wrapping_mul(0x9e37_79b9), Stream::Starts);
        micros(self.setup.start_delay.draw(&mut chance))
    }
}

/// What happens at a moment that was fixed before. A machine's events are of one of its lives and void in the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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
    /// A job whose lease nobody renews any more.
    Reappear {
        job: u32,
    },
    WebReport {
        number: u32,
    },
    NoteDepth,
    Restart,
    ClockJump,
}

/// What a machine does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Power {
    Off,
    Booting,
    /// It was started and will never be ready.
    Dead,
    Serving,
    Draining,
    Drained,
    Stopping,
}

/// One instance and the worker on it.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) power: Power,
    /// What the fleet says that it was told.
    state: State,
    since: DateTime<Utc>,
    drain_until: Option<DateTime<Utc>>,
    generation: u64,
    model: String,
    crashes: u32,
    not_before: Option<DateTime<Utc>>,
    /// Since its last start, or stop.
    life: u32,
    /// The order of this life's start among all starts.
    pub(super) started_as: u64,
    billed_from: Option<Micros>,
    stops_when_drained: bool,
    held: Vec<Held>,
    done: u64,
    idle_since: Option<Micros>,
    told_idle: bool,
    checks_idle: bool,
    times_ms: Vec<f32>,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    job: u32,
    taken: Micros,
}

/// The queue, the machines, and what came of it so far.
#[derive(Debug)]
pub(super) struct Site<'a> {
    pub(super) load: &'a Load<'a>,
    pub(super) setup: &'a Setup,
    pub(super) now: Micros,
    /// What the clocks show more than they should, in microseconds.
    clock_error: i64,
    events: BinaryHeap<Reverse<(Micros, u64, Event)>>,
    scheduled: u64,
    arrived: usize,
    pub(super) ended: usize,
    /// Jobs that can be received, in order.
    waiting: VecDeque<u32>,
    pub(super) machines: Vec<Machine>,
    /// A machine for each slot that could take a job now.
    free: Vec<u32>,
    pub(super) alive: usize,
    /// Nobody but a controller asks drained instances to stop: without one they stop by themselves.
    stops_by_itself: bool,
    listens: bool,
    web: Web,
    /// Reports on their way, and when they were sent.
    mail: Vec<(job::Event, DateTime<Utc>)>,
    /// Set when the controller is to be killed and started again.
    pub(super) restarts: bool,
    throttle: Throttle,
    dispatch: Chance,
    victims: Chance,
    pub(super) faults: Chance,
    depths: VecDeque<(Micros, Depth)>,
    /// Jobs that were in the system, times microseconds.
    pub(super) job_micros: u128,
    /// From arrival to result in seconds, by job; NaN where there is none yet.
    pub(super) latencies_s: Vec<f32>,
    pub(super) killed: u64,
    pub(super) redelivered: u64,
    pub(super) starts: u64,
    pub(super) billed: Micros,
    /// The sum of the times that instances ran, and what is billed beyond that is by the minimum.
    pub(super) ran: Micros,
    /// Never more than this may be alive by an order to start.
    pub(super) limit: usize,
    /// Orders that nobody should have given, in sentences.
    pub(super) wrong: Vec<String>,
    pub(super) samples: Vec<Sample>,
}

impl<'a> Site<'a> {
    pub(super) fn new(load: &'a Load<'a>, listens: bool) -> Self {
        let setup = load.setup;
        let chance = |stream| Chance::of(setup.seed, stream);
        let mut site = Self {
            load,
            setup,
            now: 0,
            clock_error: 0,
            events: BinaryHeap::new(),
            scheduled: 0,
            arrived: 0,
            ended: 0,
            waiting: VecDeque::new(),
            machines: Vec::new(),
            free: Vec::new(),
            alive: 0,
            stops_by_itself: !listens,
            listens,
            web: Web::default(),
            mail: Vec::new(),
            restarts: false,
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
            ran: 0,
            limit: usize::MAX,
            wrong: Vec::new(),
            samples: Vec::new(),
        };
        if listens {
            site.begin_to_listen();
        }
        site
    }

    fn begin_to_listen(&mut self) {
        let faults = &self.setup.faults;
        self.at(micros(reports::EVERY), Event::WebReport { number: 0 });
        if !faults.depth_lag.is_zero() {
            self.at(0, Event::NoteDepth);
        }
        let every = [(faults.restart_every, Event::Restart), (faults.clock_jump_every, Event::ClockJump)];
        for (every, event) in every {
            if let Some(every) = every {
                self.at(micros(every), event);
            }
        }
    }

    /// What the clocks show.
    pub(super) fn wall(&self) -> DateTime<Utc> {
        let micros = i64::try_from(self.now).unwrap_or(i64::MAX).saturating_add(self.clock_error);
        self.load.trace.starts_at + TimeDelta::microseconds(micros)
    }

    fn at(&mut self, at: Micros, event: Event) {
        self.scheduled += 1;
        self.events.push(Reverse((at, self.scheduled, event)));
    }

    /// When the next thing happens.
    pub(super) fn next(&self) -> Option<Micros> {
        let arrival = self.load.trace.arrivals.get(self.arrived).copied();
        let event = self.events.peek().map(|Reverse((at, ..))| *at);
        match (arrival, event) {
            (Some(arrival), Some(event)) => Some(arrival.min(event)),
            (one, other) => one.or(other),
        }
    }

    /// Lets time pass up to a moment before which nothing happens.
    pub(super) fn advance(&mut self, to: Micros) {
        self.job_micros += u128::from(to.saturating_sub(self.now)) * (self.arrived - self.ended) as u128;
        self.now = to;
    }

    /// Lets the next thing happen.
    pub(super) fn step(&mut self) {
        let Some(now) = self.next() else { return };
        self.advance(now);
        if self.load.trace.arrivals.get(self.arrived) == Some(&now) {
            self.arrive();
        } else if let Some(Reverse((_, _, event))) = self.events.pop() {
            self.happen(event);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Ready { machine, life } if self.lives(machine, life) => self.become_ready(machine),
            Event::Done { machine, life, job } if self.lives(machine, life) => self.finish(machine, job),
            Event::Report { machine, life } if self.lives(machine, life) => self.report_regularly(machine),
            Event::IdleCheck { machine, life } if self.lives(machine, life) => self.check_idle(machine),
            Event::Drain { machine, life } if self.lives(machine, life) => self.begin_drain(machine),
            Event::DrainDue { machine, life } if self.lives(machine, life) => self.give_back(machine),
            Event::Vanish { machine, life } if self.lives(machine, life) => self.vanish(machine),
            Event::Gone { machine, life } if self.lives(machine, life) => self.be_gone(machine),
            Event::Reappear { job } => {
                self.redelivered += 1;
                self.offer(job);
            }
            Event::WebReport { number } => self.report_arrivals_regularly(number),
            Event::NoteDepth => self.note_depth(),
            Event::Restart => {
                self.restarts = true;
                let every = self.setup.faults.restart_every.map_or(Micros::MAX, micros);
                self.at(self.now.saturating_add(every.max(1)), Event::Restart);
            }
            Event::ClockJump => self.jump(),
            _of_an_earlier_life => {}
        }
    }

    fn lives(&self, machine: u32, life: u32) -> bool {
        self.machines[machine as usize].life == life
    }

    fn arrive(&mut self) {
        let job = self.arrived as u32;
        self.arrived += 1;
        if self.listens {
            self.count_arrival();
        }
        self.offer(job);
    }

    /// A job can be received; whoever asks for one gets it. Who that is among several nobody can tell.
    fn offer(&mut self, job: u32) {
        if self.free.is_empty() {
            self.waiting.push_back(job);
        } else {
            let slot = self.dispatch.below(self.free.len());
            let machine = self.free.swap_remove(slot);
            self.give(machine, job);
        }
    }

    fn give(&mut self, machine: u32, job: u32) {
        let done = self.now + Micros::from(self.load.service[job as usize]);
        let it = &mut self.machines[machine as usize];
        it.held.push(Held { job, taken: self.now });
        it.idle_since = None;
        let life = it.life;
        self.at(done, Event::Done { machine, life, job });
    }

    fn finish(&mut self, machine: u32, job: u32) {
        let (now, arrived) = (self.now, self.load.trace.arrivals[job as usize]);
        self.latencies_s[job as usize] = ((now - arrived) as f64 / 1e6) as f32;
        self.ended += 1;
        let listens = self.listens;
        let it = &mut self.machines[machine as usize];
        let Some(place) = it.held.iter().position(|held| held.job == job) else { return };
        let held = it.held.swap_remove(place);
        it.done += 1;
        if listens && it.times_ms.len() < reports::MOST_TIMES {
            it.times_ms.push((now - held.taken) as f32 / 1e3);
        }
        if it.power == Power::Serving {
            self.ask(machine);
        } else if it.held.is_empty() {
            self.become_drained(machine);
        }
    }

    /// A free slot asks for a job.
    fn ask(&mut self, machine: u32) {
        if let Some(job) = self.waiting.pop_front() {
            return self.give(machine, job);
        }
        self.free.push(machine);
        let it = &mut self.machines[machine as usize];
        if it.held.is_empty() {
            it.idle_since = Some(self.now);
            self.expect_idle_check(machine);
        }
    }

    fn become_ready(&mut self, machine: u32) {
        let it = &mut self.machines[machine as usize];
        it.power = Power::Serving;
        it.idle_since = Some(self.now);
        let life = it.life;
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

    /// What it holds comes back to the queue when nobody has renewed the lease for a visibility time-out.
    fn lose(&mut self, machine: u32) -> u64 {
        let (heartbeat, visibility) = (micros(self.setup.heartbeat).max(1), micros(self.setup.visibility));
        let held = std::mem::take(&mut self.machines[machine as usize].held);
        for Held { job, taken } in &held {
            let renewed = taken + (self.now - taken) / heartbeat * heartbeat;
            self.at(renewed + visibility, Event::Reappear { job: *job });
        }
        held.len() as u64
    }

    /// At its own deadline a draining worker releases what it holds: it can be received again at once.
    fn give_back(&mut self, machine: u32) {
        if self.machines[machine as usize].power != Power::Draining {
            return;
        }
        let held = std::mem::take(&mut self.machines[machine as usize].held);
        self.redelivered += held.len() as u64;
        // What it did so far was for nothing: its results must not count.
        self.machines[machine as usize].life += 1;
        held.into_iter().for_each(|held| self.offer(held.job));
        self.become_drained(machine);
    }

    fn jump(&mut self) {
        let faults = &self.setup.faults;
        let most = faults.clock_jump.as_micros() as f64;
        self.clock_error += ((2.0 * self.faults.unit() - 1.0) * most) as i64;
        let every = faults.clock_jump_every.map_or(Micros::MAX, micros);
        self.at(self.now.saturating_add(every.max(1)), Event::ClockJump);
    }

    /// What lies in the queue in truth.
    pub(super) fn depth(&self) -> Depth {
        let visible = self.waiting.len();
        Depth { visible: visible as u64, in_flight: (self.arrived - self.ended - visible) as u64 }
    }

    fn note_depth(&mut self) {
        self.depths.push_back((self.now, self.depth()));
        let lag = micros(self.setup.faults.depth_lag);
        while self.depths.get(1).is_some_and(|(at, _)| at + lag <= self.now) {
            self.depths.pop_front();
        }
        self.at(self.now + 1_000_000, Event::NoteDepth);
    }

    /// What the queue says lies in it: late, off, nothing at all, or a failure.
    pub(super) fn read_depth(&mut self) -> Result<Depth, String> {
        let faults = &self.setup.faults;
        if self.faults.happens(faults.depth_errors) {
            return Err("the depth could not be read".to_owned());
        }
        if self.faults.happens(faults.depth_zero) {
            return Ok(Depth { visible: 0, in_flight: 0 });
        }
        let mut depth = self.depth();
        if let Some((_, before)) = self.depths.front() {
            depth = *before;
        }
        if faults.depth_noise > 0.0 {
            let mut off = |count: u64| {
                let by = faults.depth_noise * (2.0 * self.faults.unit() - 1.0);
                (count as f64 * (1.0 + by)).round().max(0.0) as u64
            };
            depth = Depth { visible: off(depth.visible), in_flight: off(depth.in_flight) };
        }
        Ok(depth)
    }

    /// Whether every request has arrived and come to its end.
    pub(super) fn is_done(&self) -> bool {
        self.ended == self.load.trace.arrivals.len()
    }

    /// Reports that were sent since this was last asked.
    pub(super) fn take_mail(&mut self) -> Vec<(job::Event, DateTime<Utc>)> {
        std::mem::take(&mut self.mail)
    }

    /// Bills what still runs; the run is over.
    pub(super) fn close(&mut self) {
        (0..self.machines.len() as u32).for_each(|machine| self.bill(machine));
    }

    /// Notes how things stand, for a picture.
    pub(super) fn sample(&mut self) {
        let count =
            |power: &[Power]| self.machines.iter().filter(|it| power.contains(&it.power)).count() as u32;
        let depth = self.depth();
        self.samples.push(Sample {
            at: self.now,
            visible: depth.visible,
            in_flight: depth.in_flight,
            ready: count(&[Power::Serving]),
            starting: count(&[Power::Booting, Power::Dead]),
            leaving: count(&[Power::Draining, Power::Drained, Power::Stopping]),
        });
    }
}
