//! Schedules with knowledge of the whole trace and of all service times, which do the same work as
//! cheaply as can be found. A policy is measured by their cost, in three variants:
//!
//! - **SLO**: with at least the policy's share of requests within the SLO.
//! - **As fast**: with the policy's median and 95th percentile. What the policy costs beyond it is
//!   the price of not knowing the future; what it costs beyond the first variant is the price of
//!   speed.
//! - **Online**: as fast, and without starts before their jobs arrive. An instance is started only
//!   if there are jobs for one more, as by a policy that does not know the future; but when to
//!   stop, and how many instances are worth it, is known.
//!
//! Each is a *feasible* schedule, simulated on the same site as all others, and therefore an upper
//! bound of the optimum. The [`relaxation`] is a lower bound. Schedules are searched for in several
//! ways, and every run is checked against every goal:
//!
//! - [`fluid`]: the cheapest path of a backlog between arrivals and deadlines, repaired where
//!   random times made requests late.
//! - [`staffing`]: the number of instances for the arrivals of each time, with a reserve in
//!   proportion to its square root; a constant number; and the runs of policy and references
//!   without the time in which instances had nothing more to do.

mod fluid;
mod relaxation;
mod staffing;

use self::fluid::Fluid;
pub(super) use self::relaxation::least_cost;
use super::{
    load::Load,
    outcome::{Figures, Outcome},
    report::Bound,
    run::{Again, Driver, run},
    setup::{Micros, micros},
    site::{Site, Victims},
};

/// Initial slacks, as shares of the time that the SLO leaves for waiting. Those above one are for
/// goals below a share of one.
const SLACKS: [f32; 4] = [1.0, 1.6, 3.0, 8.0];
/// Number of times that a plan is repaired where requests were late.
const REPAIRS: usize = 7;
/// Number of bisections of the slack between zero and the policy's 95th percentile.
const HALVINGS: usize = 5;
/// Maximum number of jobs that a search simulates, but at least `FEWEST_RUNS` runs.
const MOST_JOBS: u64 = 3_000_000;
const FEWEST_RUNS: u64 = 4;
/// Relative tolerance within which a percentile counts as equally fast.
const TOLERANCE: f64 = 1.01;

/// The number of instances from each time on, in order.
type Orders = Vec<(Micros, u32)>;

/// The condition that a schedule must meet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Goal {
    /// At least this share of requests within the SLO.
    InTime { share: f64 },
    /// A median and a 95th percentile of at most these seconds.
    AsFast { p50_s: f64, p95_s: f64 },
}

impl Goal {
    pub(super) fn as_fast_as(figures: &Figures) -> Self {
        Self::AsFast { p50_s: figures.p50_s, p95_s: figures.p95_s }
    }

    fn is_met(self, figures: &Figures) -> bool {
        let within = |s: f64, most_s: f64| s <= most_s * TOLERANCE + 0.01;
        let is_good = match self {
            Self::InTime { share } => figures.within_slo >= share,
            Self::AsFast { p50_s, p95_s } => within(figures.p50_s, p50_s) && within(figures.p95_s, p95_s),
        };
        is_good && figures.unfinished == 0
    }

    /// A latency limit in seconds, and the share of requests that must keep it.
    fn limit_s(self, load: &Load<'_>) -> (f64, f64) {
        match self {
            Self::InTime { share } => (load.setup.slo.as_secs_f64(), share),
            Self::AsFast { p95_s, .. } => (p95_s * TOLERANCE + 0.01, 0.95),
        }
    }
}

/// The three bounds of a policy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) slo: Bound,
    pub(super) as_fast: Bound,
    pub(super) online: Bound,
}

/// Finds the bounds of a policy. `ours` is its run, `others` are runs of the same load.
pub(super) fn bounds(load: &Load<'_>, max: u32, ours: &Outcome, others: &[Outcome]) -> Bounds {
    let figures = &ours.figures;
    let (in_time, as_fast) = (Goal::InTime { share: figures.within_slo }, Goal::as_fast_as(figures));
    let (mut free, online) = std::thread::scope(|scope| {
        let online = scope.spawn(|| {
            let mut search = Search::new(load, max, true);
            search.as_fast(as_fast, ours, others);
            search.runs
        });
        let mut search = Search::new(load, max, false);
        search.as_fast(as_fast, ours, others);
        search.begin();
        search.in_time(figures.within_slo);
        // A search that panicked has found nothing.
        (search.runs, online.join().unwrap_or_default())
    });
    // Every run is also a possible schedule, and starting ahead is not required.
    free.extend(&online);
    free.extend(others.iter().map(|other| other.figures));
    free.push(*figures);
    let bound = |runs: &[Figures], goal: Goal| {
        let good = runs.iter().filter(|run| goal.is_met(run));
        let found = good.min_by(|a, b| a.cost_usd.total_cmp(&b.cost_usd)).copied().unwrap_or(*figures);
        let (limit_s, share) = goal.limit_s(load);
        Bound { found, least_usd: least_cost(load, limit_s, share).min(found.cost_usd) }
    };
    let starts_online = [&online[..], &[*figures]].concat();
    Bounds {
        slo: bound(&free, in_time),
        as_fast: bound(&free, as_fast),
        online: bound(&starts_online, as_fast),
    }
}

/// Finds the cheapest schedule with at least this share within the SLO, without a run to be as fast
/// as.
pub(super) fn in_time(load: &Load<'_>, max: u32, share: f64, others: &[Figures]) -> Figures {
    let mut search = Search::new(load, max, false);
    search.constants(Goal::InTime { share });
    search.in_time(share);
    let all = search.runs.iter().chain(others).filter(|run| Goal::InTime { share }.is_met(run));
    let best = all.min_by(|a, b| a.cost_usd.total_cmp(&b.cost_usd)).copied();
    best.unwrap_or_else(|| run(load, &mut Schedule::new(vec![(0, max)], max, false), 0).figures)
}

/// Runs schedules and keeps their figures.
struct Search<'a> {
    load: &'a Load<'a>,
    max: u32,
    /// Whether starts must not precede their jobs.
    online: bool,
    runs: Vec<Figures>,
    left: u64,
}

impl<'a> Search<'a> {
    fn new(load: &'a Load<'a>, max: u32, online: bool) -> Self {
        let mut search = Self { load, max, online, runs: Vec::new(), left: 0 };
        search.begin();
        search
    }

    fn begin(&mut self) {
        self.left = (MOST_JOBS / self.load.trace.arrivals.len().max(1) as u64).max(FEWEST_RUNS);
    }

    fn run(&mut self, orders: Orders) -> Option<Outcome> {
        self.left = self.left.checked_sub(1)?;
        let outcome = run(self.load, &mut Schedule::new(orders, self.max, self.online), 0);
        self.runs.push(outcome.figures);
        Some(outcome)
    }

    /// Bisects schedules that become cheaper and slower from `0` to `most`, and returns the last
    /// one that meets the goal.
    fn cheapest(&mut self, goal: Goal, most: u32, orders: impl Fn(u32) -> Orders) -> Option<u32> {
        let (mut good, mut bad) = (None, most + 1);
        let mut next = most / 2;
        loop {
            let outcome = self.run(orders(next))?;
            if goal.is_met(&outcome.figures) {
                good = Some(next)
            } else {
                bad = next
            }
            let low = good.map_or(0, |good| good + 1);
            if low >= bad {
                return good;
            }
            next = u32::midpoint(low, bad - 1);
        }
    }

    /// Searches for schedules that are as fast as the policy: its own run without waste, staffing
    /// by the arrivals, and fluid plans.
    fn as_fast(&mut self, goal: Goal, ours: &Outcome, others: &[Outcome]) {
        let Goal::AsFast { p95_s, .. } = goal else { return };
        let (load, max, delay) = (self.load, self.max, micros(self.load.setup.start_delay.mean));
        self.run(staffing::without_waste(ours));
        for other in others.iter().filter(|other| goal.is_met(&other.figures)) {
            self.run(staffing::without_waste(other));
        }
        for window_s in [20.0, 60.0, 300.0] {
            let mean = staffing::Mean::of(load, window_s);
            self.cheapest(goal, staffing::RESERVES, |rank| mean.orders(rank, delay, max));
        }
        self.constants(goal);
        let service = micros(load.setup.service_time.mean);
        let most = ((p95_s * 1e6) as Micros).saturating_sub(service);
        let price = self.prices()[0];
        let slack = |rank: u32| most * Micros::from(rank + 1) / (1 << HALVINGS);
        self.cheapest(goal, (1 << HALVINGS) - 1, |rank| {
            Fluid::new(load, max, slack(rank)).plan(price).orders(delay)
        });
    }

    fn constants(&mut self, goal: Goal) {
        let max = self.max;
        if max > 0 {
            self.cheapest(goal, max - 1, |fewer| vec![(0, max - fewer)]);
        }
    }

    /// Prices of a start in the time of an instance, to try. An instance that is needed for a
    /// moment is billed for longer, which the fluid cannot model.
    fn prices(&self) -> Vec<Micros> {
        let setup = self.load.setup;
        let delay = micros(setup.start_delay.mean).saturating_sub(micros(setup.pending));
        let minimum = micros(setup.price.billing_minimum);
        let mut prices = vec![delay, delay.max(minimum.saturating_sub(delay))];
        prices.dedup();
        prices
    }

    fn in_time(&mut self, share: f64) {
        for price in self.prices() {
            self.fluid(Goal::InTime { share }, price);
        }
    }

    /// Searches for fluid plans within the SLO, at this price of a start.
    fn fluid(&mut self, goal: Goal, price: Micros) {
        let load = self.load;
        let delay = micros(load.setup.start_delay.mean);
        let waits = micros(load.setup.slo).saturating_sub(micros(load.setup.service_time.mean));
        let mut best: Option<f64> = None;
        for bold in SLACKS {
            let slack = (waits.max(1_000_000) as f32 * bold) as Micros;
            let mut fluid = Fluid::new(load, self.max, slack);
            for repair in 0..=REPAIRS {
                let Some(outcome) = self.run(fluid.plan(price).orders(delay)) else { return };
                let figures = outcome.figures;
                if goal.is_met(&figures) {
                    best = Some(best.map_or(figures.cost_usd, |cost| cost.min(figures.cost_usd)));
                    // A plan that needed repair is at the limit: larger slacks will not do.
                    if repair > 0 {
                        return;
                    }
                    break;
                }
                // More expensive plans cannot be the result any more.
                if repair == REPAIRS || best.is_some_and(|cost| figures.cost_usd >= cost) {
                    return;
                }
                fluid.repair(load, &outcome);
            }
        }
    }
}

/// Executes a schedule, and handles what it did not foresee: while jobs wait, the last instance
/// stays.
#[derive(Debug)]
struct Schedule {
    /// The number of instances from each time on, in order.
    orders: Orders,
    next: usize,
    wanted: u32,
    max: u32,
    online: bool,
}

impl Schedule {
    fn new(orders: Orders, max: u32, online: bool) -> Self {
        Self { orders, next: 0, wanted: 0, max, online }
    }
}

impl Driver for Schedule {
    fn pass(&mut self, sites: &mut [Site<'_>]) -> Again {
        let [site, ..] = sites else { return Again::At(Micros::MAX) };
        site.furnish(self.max, "default");
        while let Some((_, wanted)) = self.orders.get(self.next).filter(|(at, _)| *at <= site.now) {
            self.wanted = (*wanted).min(self.max);
            self.next += 1;
        }
        let (backlog, active) = (site.depth(), site.active());
        let is_at_end = self.next == self.orders.len();
        let left_over = backlog.visible > 0 || (is_at_end && backlog.in_flight > 0);
        let is_needed = left_over && (is_at_end || active > 0);
        let mut wanted = if is_needed { self.wanted.max(1).min(self.max) } else { self.wanted };
        if self.online && wanted > active {
            let slots = u64::from(site.setup.concurrency.max(1));
            let for_jobs = u32::try_from(backlog.backlog().div_ceil(slots)).unwrap_or(u32::MAX);
            wanted = wanted.min(for_jobs.max(active));
        }
        let is_settled = site.scale_to(wanted, Victims::Idle) && wanted == self.wanted;
        let next = self.orders.get(self.next).map_or(Micros::MAX, |(at, _)| *at);
        // After the last order, jobs may still return to the queue.
        let soon = site.now + 1_000_000;
        Again::At(if is_settled && !is_at_end { next } else { next.min(soon) })
    }
}
