//! The clairvoyant: who knows the whole trace and every service time, and does the same work as cheaply as anybody could be
//! expected to. What it costs is what a policy is measured by.
//!
//! Its answer is a *feasible* schedule, one that is simulated on the same site as all others, and therefore no lower bound in the
//! strict sense: the true optimum is a scheduling problem that nobody solves exactly for a hundred thousand jobs. It is found in
//! two steps.
//!
//! 1. **Plan**, on a fluid: time in steps, work in units, a backlog `b` and a number of instances `k` as the state. In each step the
//!    plan pays `k` steps, and for each instance more than before the time of a start, which is billed too; the backlog falls by what
//!    `k` instances can do. No work may wait longer than the slack, the SLO less the service time: the backlog must stay below
//!    what arrived within the slack. That is the corridor between the cumulative arrivals `A(t)` and the deadlines `A(t - slack)`;
//!    dynamic programming finds the cheapest path through it. Batches, early starts and gaps that are cheaper slept or idled through
//!    all come out of it by themselves.
//! 2. **Simulate** the plan with instances started one start delay ahead. The fluid knows no randomness within a step, so that several
//!    slacks are tried, from careful to bold, with two prices of a start. The cheapest run that serves as large a share
//!    within the SLO as the policy did is the answer. Whatever the policy and the references did could have been done on
//!    purpose too: where one of them is cheaper at no smaller share, it is the answer.

use super::{
    outcome::Outcome,
    run::{Again, Driver, run},
    setup::{Micros, micros},
    site::{Load, Site, Victims},
};

/// Slacks to try, as shares of what the SLO leaves for waiting.
const SLACKS: [f64; 8] = [0.45, 0.65, 0.8, 0.9, 1.0, 1.15, 1.5, 2.5];
/// A plan takes no more cells than this, one byte each.
const MOST_CELLS: usize = 24_000_000;
/// Numbers of instances that a plan distinguishes; with more than that it goes in groups.
const MOST_COUNTS: u32 = 24;
/// Levels of the backlog that a plan distinguishes.
const MOST_LEVELS: usize = 160;
/// What a microsecond of work costs that waits too long, in microseconds of an instance.
const LATE: f32 = 50.0;

/// The cheapest way that was found to serve at least this share within the SLO. `others` are runs of the same load.
pub(super) fn clairvoyant(
    load: &Load<'_>,
    max: u32,
    share: f64,
    others: &[&Outcome],
    samples: u32,
) -> Outcome {
    let setup = load.setup;
    let delay = micros(setup.start_delay.mean);
    let minimum = micros(setup.billing_minimum);
    let mut best: Option<(f64, Vec<(Micros, u32)>)> = None;
    let mut tried: Vec<Vec<(Micros, u32)>> = Vec::new();
    let patience = micros(setup.slo).saturating_sub(micros(setup.service_time.mean));
    for slack in SLACKS {
        for start in [delay, delay.max(minimum.saturating_sub(delay))] {
            let slack = (patience as f64 * slack) as Micros;
            let orders = Plan::of(load, max, slack, start).orders(delay);
            if tried.contains(&orders) {
                continue;
            }
            let outcome = run(load, &mut Schedule::new(orders.clone(), max), 0);
            let figures = outcome.figures;
            let is_good = figures.within_slo >= share && figures.unfinished == 0;
            if is_good && best.as_ref().is_none_or(|(cost, _)| figures.cost_usd < *cost) {
                best = Some((figures.cost_usd, orders.clone()));
            }
            tried.push(orders);
        }
    }
    let as_good = others.iter().filter(|other| other.figures.within_slo >= share);
    let cheapest = as_good.min_by(|a, b| a.figures.cost_usd.total_cmp(&b.figures.cost_usd));
    match (best, cheapest) {
        (Some((cost, orders)), other) if other.is_none_or(|other| cost <= other.figures.cost_usd) => {
            run(load, &mut Schedule::new(orders, max), samples)
        }
        (_, Some(other)) => (*other).clone(),
        (_, None) => run(load, &mut Schedule::new(vec![(0, max)], max), samples),
    }
}

/// How many instances there shall be at work in each step.
#[derive(Debug)]
struct Plan {
    step: Micros,
    counts: Vec<u32>,
}

impl Plan {
    fn of(load: &Load<'_>, max: u32, slack: Micros, start: Micros) -> Self {
        let concurrency = Micros::from(load.setup.concurrency.max(1));
        let tail = slack + 2 * micros(load.setup.service_time.mean) + micros(load.setup.start_delay.mean);
        let length = load.trace.length + tail;
        let group = max.div_ceil(MOST_COUNTS).max(1);
        let choices = (max / group) as usize + 1;
        let most_steps = MOST_CELLS / (choices * MOST_LEVELS);
        let step = (slack / 8).clamp(1_000_000, 5_000_000).max(length / most_steps as u64 + 1);
        let steps = length.div_ceil(step) as usize;

        // The work that arrives in each step, and the work that arrived within the slack before its end.
        let mut arriving = vec![0u64; steps];
        let mut recent = vec![0u64; steps];
        let mut window: u64 = 0;
        let (mut newest, mut oldest) = (load.jobs().peekable(), load.jobs().peekable());
        for (number, (arriving, recent)) in arriving.iter_mut().zip(&mut recent).enumerate() {
            let end = (number as u64 + 1) * step;
            while let Some((_, work)) = newest.next_if(|(at, _)| *at < end) {
                *arriving += work / concurrency;
                window += work / concurrency;
            }
            while let Some((_, work)) = oldest.next_if(|(at, _)| at + slack < end) {
                window -= work / concurrency;
            }
            *recent = window;
        }
        // The most that can ever lie there: what the deadlines allow, or what even all instances leave.
        let full = u64::from(max) * step;
        let mut backlog = 0;
        let mut most = step;
        for (arriving, recent) in arriving.iter().zip(&recent) {
            backlog = (backlog + arriving).saturating_sub(full);
            most = most.max(*recent).max(backlog);
        }
        let unit = (most / (MOST_LEVELS as u64 - 2)).max(step / 8).max(1);
        let levels = (most / unit) as usize + 2;
        let grid = Grid {
            choices,
            levels,
            pay: (u64::from(group) * step) as f32,
            start: (u64::from(group) * start) as f32,
            late: LATE * unit as f32,
            serves: (0..choices).map(|k| whole(k as u64 * u64::from(group) * step, unit)).collect(),
            blind: micros(load.setup.start_delay.mean).div_ceil(step) as usize,
        };
        let mut carried = 0;
        let arriving: Vec<usize> = arriving
            .into_iter()
            .map(|work| {
                carried += work;
                let units = carried / unit;
                carried -= units * unit;
                units as usize
            })
            .collect();
        let allowed: Vec<usize> = recent.into_iter().map(|work| (work / unit) as usize).collect();
        let counts = grid.solve(&arriving, &allowed).into_iter().map(|k| u32::from(k) * group).collect();
        Self { step, counts }
    }

    /// When to have how many, with each instance ordered a start delay before it is wanted. Where one is wanted again within that
    /// time it is kept: a new one would cost as much.
    fn orders(&self, delay: Micros) -> Vec<(Micros, u32)> {
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
        changes.sort_unstable();
        let mut orders: Vec<(Micros, u32)> = vec![(0, 0)];
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
}

fn whole(work: u64, unit: u64) -> usize {
    ((work + unit / 2) / unit) as usize
}

/// The dynamic program. Prices are in microseconds of one instance.
#[derive(Debug)]
struct Grid {
    /// Numbers of instances, from none.
    choices: usize,
    /// Levels of the backlog, from none.
    levels: usize,
    /// The price of one choice more for one step, ...
    pay: f32,
    /// ... of starting it, ...
    start: f32,
    /// ... and of a unit of work that waits too long.
    late: f32,
    /// The units that each choice does in a step.
    serves: Vec<usize>,
    /// In so many steps at the beginning nobody can be ready.
    blind: usize,
}

impl Grid {
    /// The cheapest choice for each step, from nobody and nothing to do. Backwards, the price of what is still to come; then
    /// forwards along the choices.
    fn solve(&self, arriving: &[usize], allowed: &[usize]) -> Vec<u8> {
        let (choices, levels) = (self.choices, self.levels);
        let width = choices * levels;
        // What is left at the end is late.
        let mut later: Vec<f32> = (0..width).map(|cell| self.late * (cell / choices) as f32 * 10.0).collect();
        let mut price = vec![0f32; width];
        let mut chosen = vec![0u8; width * arriving.len()];
        let mut now = vec![0f32; choices];
        for (step, (arriving, allowed)) in arriving.iter().zip(allowed).enumerate().rev() {
            let usable = if step < self.blind { 1 } else { choices };
            let chosen = &mut chosen[step * width..(step + 1) * width];
            for level in 0..levels {
                let there = level + arriving;
                for (choice, now) in now.iter_mut().enumerate().take(usable) {
                    let left = there.saturating_sub(self.serves[choice]);
                    let late = left.saturating_sub(*allowed);
                    let then = later[left.min(levels - 1) * choices + choice];
                    *now = self.pay.mul_add(choice as f32, self.late.mul_add(late as f32, then));
                }
                let row = level * choices..(level + 1) * choices;
                let (price, chosen) = (&mut price[row.clone()], &mut chosen[row]);
                // As many as before or fewer: the best of them. The index is what is chosen.
                let mut best = 0;
                for before in 0..choices {
                    if before < usable && now[before] <= now[best] {
                        best = before;
                    }
                    (price[before], chosen[before]) = (now[best], best as u8);
                }
                // More than before, at the price of their start.
                let with_start = |choice: usize| self.start.mul_add(choice as f32, now[choice]);
                let mut best = usable - 1;
                for before in (0..usable.saturating_sub(1)).rev() {
                    let more = with_start(best) - self.start * before as f32;
                    if more < price[before] {
                        (price[before], chosen[before]) = (more, best as u8);
                    }
                    if with_start(before) < with_start(best) {
                        best = before;
                    }
                }
            }
            std::mem::swap(&mut price, &mut later);
        }
        let (mut level, mut before) = (0usize, 0usize);
        let forward = |(step, arriving): (usize, &usize)| {
            let choice = chosen[step * width + level * choices + before];
            before = usize::from(choice);
            level = (level + arriving).saturating_sub(self.serves[before]).min(levels - 1);
            choice
        };
        arriving.iter().enumerate().map(forward).collect()
    }
}

/// Does what was planned, and looks after what the plan did not foresee: while something waits the last one stays.
#[derive(Debug)]
struct Schedule {
    /// From when on how many are wanted, in order.
    orders: Vec<(Micros, u32)>,
    next: usize,
    wanted: u32,
    max: u32,
}

impl Schedule {
    fn new(orders: Vec<(Micros, u32)>, max: u32) -> Self {
        Self { orders, next: 0, wanted: 0, max }
    }
}

impl Driver for Schedule {
    fn pass(&mut self, site: &mut Site<'_>) -> Again {
        site.furnish(self.max, "default");
        while let Some((_, wanted)) = self.orders.get(self.next).filter(|(at, _)| *at <= site.now) {
            self.wanted = (*wanted).min(self.max);
            self.next += 1;
        }
        let backlog = site.depth();
        let is_at_end = self.next == self.orders.len();
        let left_over = backlog.visible > 0 || (is_at_end && backlog.in_flight > 0);
        let is_needed = left_over && (is_at_end || site.active() > 0);
        let wanted = if is_needed { self.wanted.max(1).min(self.max) } else { self.wanted };
        let is_settled = site.scale_to(wanted, Victims::Idle) && wanted == self.wanted;
        let next = self.orders.get(self.next).map_or(Micros::MAX, |(at, _)| *at);
        // After the last order somebody must still see to what comes back to the queue.
        let soon = site.now + 1_000_000;
        Again::At(if is_settled && !is_at_end { next } else { next.min(soon) })
    }
}
