//! Plans on a fluid model: time in steps, work in units, with the backlog and the number of
//! instances as the state.
//!
//! In each step the plan pays for its instances, and for each additional one the time of a start,
//! which is billed too; the backlog shrinks by their work. No work may wait longer than the slack,
//! so the backlog must stay below the arrivals within the slack. This is the corridor between the
//! cumulative arrivals `A(t)` and the deadlines `A(t - slack)`; dynamic programming finds the
//! cheapest path through it. Batching, early starts, and whether to sleep or idle through a gap
//! follow from it.

use super::Orders;
use crate::simulate::{
    load::Load,
    outcome::Outcome,
    setup::{Micros, micros},
};

/// Factor by which the slack near late requests is reduced.
const REPAIR: f32 = 0.65;
/// Maximum number of cells of a plan, with one byte each.
const MOST_CELLS: usize = 24_000_000;
/// Maximum number of different instance counts in a plan. With more instances it uses groups.
const MOST_COUNTS: u32 = 24;
/// Maximum number of backlog levels in a plan. Above the last one all instances are needed.
const MOST_LEVELS: usize = 100;
/// Cost of a microsecond of work that waits too long, in microseconds of an instance.
const LATE: f32 = 50.0;

/// The load as a fluid: work that arrives in steps, and how long it may wait.
#[derive(Debug)]
pub(super) struct Fluid {
    step: Micros,
    /// Work that arrives in each step, in microseconds of one instance.
    arriving: Vec<u64>,
    /// Time that work may wait.
    slack: Micros,
    /// Share of `slack` that applies in each step.
    shares: Vec<f32>,
    delay: Micros,
    max: u32,
    /// Number of instances per group.
    group: u32,
}

impl Fluid {
    /// Makes the fluid of a load whose work may wait `slack`.
    pub(super) fn new(load: &Load<'_>, max: u32, slack: Micros) -> Self {
        let setup = load.setup;
        let concurrency = Micros::from(setup.concurrency.max(1));
        let delay = micros(setup.start_delay.mean);
        let slack = slack.max(1);
        let length =
            load.trace.length + slack.min(3_600_000_000) + 2 * micros(setup.service_time.mean) + delay;
        let group = max.div_ceil(MOST_COUNTS).max(1);
        let choices = (max / group) as usize + 1;
        let most_steps = MOST_CELLS / (choices * MOST_LEVELS);
        let step = (slack / 12).clamp(1_000_000, 5_000_000).max(length / most_steps as u64 + 1);
        let mut arriving = vec![0u64; length.div_ceil(step) as usize];
        for (at, work) in load.jobs() {
            arriving[(at / step) as usize] += work / concurrency;
        }
        let shares = vec![1.0; arriving.len()];
        Self { step, arriving, slack, shares, delay, max, group }
    }

    /// Reduces the slack near requests that were late.
    pub(super) fn repair(&mut self, load: &Load<'_>, outcome: &Outcome) {
        let slo = load.setup.slo.as_secs_f32();
        let mut repaired = 0;
        for (job, at) in load.trace.arrivals.iter().enumerate() {
            let latency = outcome.latencies_s[job];
            if latency <= slo {
                continue;
            }
            let until = at + (f64::from(if latency.is_nan() { slo } else { latency }) * 1e6) as Micros;
            let from = (at.saturating_sub(self.slack) / self.step) as usize;
            let to = ((until / self.step) as usize + 1).min(self.shares.len());
            for share in &mut self.shares[from.max(repaired)..to.max(repaired)] {
                *share *= REPAIR;
            }
            repaired = repaired.max(to);
        }
    }

    /// Finds the cheapest plan if a start costs as much as this time of an instance.
    pub(super) fn plan(&self, start: Micros) -> Plan {
        let Self { step, max, group, .. } = self;
        let choices = (max / group) as usize + 1;
        let blind = (self.delay / step) as usize;
        // One more choice serves a whole number of units per step: rounding would add up over time.
        let most = |fine: u64| {
            let arriving = self.in_units(fine);
            let allowed = self.allowed(&arriving);
            let reach = reach(&arriving, &allowed, (choices - 1) * fine as usize, blind);
            let most = reach.iter().copied().max().unwrap_or(0);
            (fine, arriving, allowed, reach, most)
        };
        let fits = |fine: &u64| most(*fine).4 < MOST_LEVELS;
        let (fine, arriving, allowed, reach, _) = most((2..=4).rev().find(fits).unwrap_or(1));
        let unit = u64::from(*group) * step / fine;
        let grid = Grid {
            choices,
            pay: (u64::from(*group) * step) as f32,
            start: (u64::from(*group) * start) as f32,
            late: LATE * unit as f32,
            serves: fine as usize,
            blind,
        };
        let levels: Vec<usize> = reach.into_iter().map(|units| (units + 1).min(MOST_LEVELS)).collect();
        let counts = grid.solve(&arriving, &allowed, &levels);
        Plan { step: *step, counts: counts.into_iter().map(|choice| u32::from(choice) * group).collect() }
    }

    /// Work that arrives in each step, in units of which one more choice serves `fine` per step. It
    /// is rounded up, so that a single request counts; the excess is subtracted from the next work,
    /// unless that arrives much later.
    fn in_units(&self, fine: u64) -> Vec<usize> {
        let unit = (u64::from(self.group) * self.step / fine).max(1);
        let half = (self.slack / self.step) as f32 / 2.0;
        let (mut ahead, mut quiet) = (0u64, 0u64);
        let units = |(work, share): (&u64, &f32)| {
            quiet = if *work == 0 { quiet + 1 } else { 0 };
            if quiet > (half * share) as u64 || half * share < 1.0 {
                ahead = 0;
            }
            let units = work.saturating_sub(ahead).div_ceil(unit);
            ahead = ahead + units * unit - work;
            units as usize
        };
        self.arriving.iter().zip(&self.shares).map(units).collect()
    }

    /// Backlog that is allowed at the end of each step: the arrivals within the slack.
    fn allowed(&self, arriving: &[usize]) -> Vec<usize> {
        let mut total = 0;
        let mut totals = vec![0];
        totals.extend(arriving.iter().map(|units| {
            total += units;
            total
        }));
        let allowed = |(number, share): (usize, &f32)| {
            let steps = (self.slack as f64 * f64::from(*share) / self.step as f64) as usize;
            totals[number + 1] - totals[(number + 1).saturating_sub(steps)]
        };
        self.shares.iter().enumerate().map(allowed).collect()
    }
}

/// Largest backlog after each step: what is allowed, or what remains even with all instances.
fn reach(arriving: &[usize], allowed: &[usize], full: usize, blind: usize) -> Vec<usize> {
    let mut backlog = 0usize;
    let after = |(number, (arriving, allowed)): (usize, (&usize, &usize))| {
        backlog = (backlog + arriving).saturating_sub(if number < blind { 0 } else { full });
        backlog.max(*allowed)
    };
    arriving.iter().zip(allowed).enumerate().map(after).collect()
}

/// The number of working instances in each step.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) step: Micros,
    pub(super) counts: Vec<u32>,
}

impl Plan {
    /// The number of instances from each time on, ordered a start delay before they are needed. An
    /// instance that is needed again within that time is kept, as a new one would cost as much.
    pub(super) fn orders(&self, delay: Micros) -> Orders {
        let top = self.counts.iter().copied().max().unwrap_or(0);
        let mut changes: Vec<(Micros, i64)> = Vec::new();
        for level in 1..=top {
            let mut until: Option<Micros> = None;
            for (number, _) in self.counts.iter().enumerate().filter(|(_, count)| **count >= level) {
                let (from, to) = (number as u64 * self.step, (number as u64 + 1) * self.step);
                let ordered = from.saturating_sub(delay);
                match until {
                    Some(before) if ordered <= before => {}
                    _ => {
                        changes.extend(until.map(|until| (until, -1)));
                        changes.push((ordered, 1));
                    }
                }
                until = Some(to);
            }
            changes.extend(until.map(|until| (until, -1)));
        }
        in_order(changes)
    }
}

/// Converts changes of the number of instances to the number from each time on.
pub(super) fn in_order(mut changes: Vec<(Micros, i64)>) -> Orders {
    changes.sort_unstable();
    let mut orders: Orders = vec![(0, 0)];
    let mut count = 0i64;
    for (at, change) in changes {
        count += change;
        let wanted = count.max(0) as u32;
        match orders.last_mut() {
            Some((last, before)) if *last == at => *before = wanted,
            _ => orders.push((at, wanted)),
        }
    }
    orders
}

/// The dynamic program. Prices are in microseconds of one instance.
#[derive(Debug)]
struct Grid {
    /// Number of different instance counts, beginning with zero.
    choices: usize,
    /// Price of one more choice for one step.
    pay: f32,
    /// Price of starting one more choice.
    start: f32,
    /// Price of a unit of work that waits too long.
    late: f32,
    /// Number of units that one more choice serves per step.
    serves: usize,
    /// Number of steps at the beginning in which no instance can be ready.
    blind: usize,
}

impl Grid {
    /// Finds the cheapest choice for each step, from no instances and no backlog: backwards the
    /// future price of each state, then forwards along the choices. `levels` are the numbers of
    /// backlog levels after each step.
    fn solve(&self, arriving: &[usize], allowed: &[usize], levels: &[usize]) -> Vec<u8> {
        let choices = self.choices;
        let most = levels.iter().copied().max().unwrap_or(0) + 1;
        // The backlog that is left at the end is late.
        let mut later: Vec<f32> =
            (0..most * choices).map(|cell| self.late * (cell / choices) as f32 * 10.0).collect();
        let mut price = vec![0f32; most * choices];
        // The levels before a step are those after the previous one.
        let before = |step: usize| if step == 0 { 1 } else { levels[step - 1] };
        let mut begins = Vec::with_capacity(arriving.len());
        let mut cells = 0;
        for step in 0..arriving.len() {
            begins.push(cells);
            cells += before(step) * choices;
        }
        let mut chosen = vec![0u8; cells];
        let mut now = vec![0f32; choices];
        for step in (0..arriving.len()).rev() {
            let usable = if step < self.blind { 1 } else { choices };
            for level in 0..before(step) {
                let there = level + arriving[step];
                for (choice, now) in now.iter_mut().enumerate().take(usable) {
                    let left = there.saturating_sub(self.serves * choice);
                    let late = left.saturating_sub(allowed[step]);
                    let then = later[left.min(levels[step] - 1) * choices + choice];
                    *now = self.pay.mul_add(choice as f32, self.late.mul_add(late as f32, then));
                }
                let chosen = &mut chosen[begins[step] + level * choices..][..choices];
                let price = &mut price[level * choices..][..choices];
                self.choose(&now[..usable], price, chosen);
            }
            std::mem::swap(&mut price, &mut later);
        }
        let (mut level, mut count) = (0usize, 0usize);
        let forward = |step: usize| {
            let choice = chosen[begins[step] + level.min(before(step) - 1) * choices + count];
            count = usize::from(choice);
            level = (level + arriving[step]).saturating_sub(self.serves * count);
            choice
        };
        (0..arriving.len()).map(forward).collect()
    }

    /// Finds the best choice for each previous number of instances, given the price of each choice
    /// without starts.
    fn choose(&self, now: &[f32], price: &mut [f32], chosen: &mut [u8]) {
        // As many as before or fewer: the best of these choices.
        let mut best = 0;
        for before in 0..price.len() {
            if before < now.len() && now[before] <= now[best] {
                best = before;
            }
            (price[before], chosen[before]) = (now[best], best as u8);
        }
        // More than before, including the price of starts.
        let mut best = now.len() - 1;
        let mut with_start = self.start.mul_add(best as f32, now[best]);
        for before in (0..best).rev() {
            let more = self.start.mul_add(-(before as f32), with_start);
            if more < price[before] {
                (price[before], chosen[before]) = (more, best as u8);
            }
            let this = self.start.mul_add(before as f32, now[before]);
            if this < with_start {
                (best, with_start) = (before, this);
            }
        }
    }
}
