//! A plan on a fluid: time in steps, work in units, a backlog and a number of instances as the
//! state.
//!
//! In each step the plan pays for its instances, and for each one more than before the time of a
//! start, which is billed too; the backlog falls by what they can do. No work may wait longer than
//! the slack: the backlog must stay below what arrived within the slack. That is the corridor
//! between the cumulative arrivals `A(t)` and the deadlines `A(t - slack)`; dynamic programming
//! finds the cheapest path through it. Batches, early starts and gaps that are cheaper slept or
//! idled through all come out of it by themselves.

use super::Orders;
use crate::simulate::{
    load::Load,
    outcome::Outcome,
    setup::{Micros, micros},
};

/// Where requests came too late, what is near them may wait this share of what it might before.
const REPAIR: f32 = 0.65;
/// A plan takes no more cells than this, one byte each.
const MOST_CELLS: usize = 24_000_000;
/// Numbers of instances that a plan distinguishes; with more than that it goes in groups.
const MOST_COUNTS: u32 = 24;
/// Levels of the backlog that a plan distinguishes. Whatever lies above the last one calls for
/// everybody.
const MOST_LEVELS: usize = 100;
/// What a microsecond of work costs that waits too long, in microseconds of an instance.
const LATE: f32 = 50.0;

/// The load as a fluid: work that arrives in steps, and how long it may wait.
#[derive(Debug)]
pub(super) struct Fluid {
    step: Micros,
    /// The work that arrives in each step, for one slot: in microseconds of one instance.
    arriving: Vec<u64>,
    /// How long work may wait, ...
    slack: Micros,
    /// ... and the share of that in each step.
    shares: Vec<f32>,
    delay: Micros,
    max: u32,
    /// A plan goes in groups of this number of instances.
    group: u32,
}

impl Fluid {
    /// Of a load whose work may wait `slack`.
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

    /// Where requests came too late, what is near them may wait less.
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

    /// The cheapest plan, where a start costs as much as this time of an instance.
    pub(super) fn plan(&self, start: Micros) -> Plan {
        let Self { step, max, group, .. } = self;
        let choices = (max / group) as usize + 1;
        let blind = (self.delay / step) as usize;
        // A whole number of units is what one choice more does in a step: no rounding, or the plan
        // would be off by it for ever.
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

    /// The work that arrives in each step, in units of which one choice more does this number in a
    /// step. It is rounded up, so that a single request is not overlooked; what that is too much is
    /// taken off the next work, unless that comes much later.
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

    /// What may wait at the end of each step: what arrived within the slack.
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

/// The most that can lie there after each step: what may wait, or what even all instances leave.
fn reach(arriving: &[usize], allowed: &[usize], full: usize, blind: usize) -> Vec<usize> {
    let mut backlog = 0usize;
    let after = |(number, (arriving, allowed)): (usize, (&usize, &usize))| {
        backlog = (backlog + arriving).saturating_sub(if number < blind { 0 } else { full });
        backlog.max(*allowed)
    };
    arriving.iter().zip(allowed).enumerate().map(after).collect()
}

/// How many instances there shall be at work in each step.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) step: Micros,
    pub(super) counts: Vec<u32>,
}

impl Plan {
    /// When to have how many, with each instance ordered a start delay before it is wanted. Where
    /// one is wanted again within that time it is kept: a new one would cost as much.
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

/// Changes of the number of instances as the numbers from each moment on.
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
    /// Numbers of instances, from none.
    choices: usize,
    /// The price of one choice more for one step, ...
    pay: f32,
    /// ... of starting it, ...
    start: f32,
    /// ... and of a unit of work that waits too long.
    late: f32,
    /// The units that one choice more does in a step.
    serves: usize,
    /// The number of steps at the beginning in which nobody can be ready.
    blind: usize,
}

impl Grid {
    /// The cheapest choice for each step, from nobody and nothing to do. Backwards, the price of
    /// what is still to come; then forwards along the choices. `levels` are those that the backlog
    /// can have after each step.
    fn solve(&self, arriving: &[usize], allowed: &[usize], levels: &[usize]) -> Vec<u8> {
        let choices = self.choices;
        let most = levels.iter().copied().max().unwrap_or(0) + 1;
        // What is left at the end is late.
        let mut later: Vec<f32> =
            (0..most * choices).map(|cell| self.late * (cell / choices) as f32 * 10.0).collect();
        let mut price = vec![0f32; most * choices];
        // The levels before each step are those after the one before it.
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

    /// The best choice for each number of instances before, given the price of each choice without
    /// that of starts.
    fn choose(&self, now: &[f32], price: &mut [f32], chosen: &mut [u8]) {
        // As many as before or fewer: the best of them.
        let mut best = 0;
        for before in 0..price.len() {
            if before < now.len() && now[before] <= now[best] {
                best = before;
            }
            (price[before], chosen[before]) = (now[best], best as u8);
        }
        // More than before, at the price of their start.
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
