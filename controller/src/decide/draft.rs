//! The part of a plan that concerns one pool, while it is being made: how many instances the pool
//! wants, which start, and which may stop.

mod surplus;

use std::{collections::BTreeSet, time::Duration};

use super::{
    Known, budget,
    demand::{self, Load, Want},
    plan::{
        Action, Cause,
        Hold::{
            self, BackOff, Budget, Cordoned, Deaf, Incomplete, Limit, MaxStarting, NoCapacity, NoPlace,
            NoneStopped, Unheard,
        },
        PoolPlan,
    },
    rank::{name, worth},
    roster::{Roster, drain, is_canary, is_outdated, last_proof, left_alone_until, spare},
    size,
};
use crate::{
    fleet::Tier,
    observe::{InstanceView, age},
    policy::Policy,
};

/// A working instance is drained only after the pool had too many for at least this time, as it may
/// be needed again in a moment.
pub(super) const BUSY_WINDOW: Duration = Duration::from_secs(300);

/// Time that an instance should be ready before due jobs arrive.
const LEAD: Duration = Duration::from_secs(2);

/// The part of a plan that concerns one pool, while it is being made.
pub(super) struct Draft<'a> {
    name: &'a str,
    policy: &'a Policy,
    known: Known<'a>,
    roster: Roster<'a>,
    /// Whether the backlog and the instances of this pool could both be read.
    is_complete: bool,
    /// Instances that the pool may keep under the limit on all pools: its share of the number that
    /// it wants now or needed within its window.
    claim: u32,
    /// Number of starts in the plan.
    starts: u32,
    /// Number of drains in the plan of instances that counted as capacity.
    lost: u32,
    /// Ids of the instances that the plan drains because the pool does not need them.
    gone: BTreeSet<&'a str>,
    plan: PoolPlan,
}

/// Why instances are drained, from the reason with the fewest conditions to the one with the most.
#[derive(Debug, Clone, Copy)]
pub(super) enum Why {
    /// There are too many, whatever they are doing.
    TooMany(Cause),
    /// Another instance replaces them, now or soon.
    Replaced(Cause),
    /// Another pool needs the places, or more run than the limit on all pools allows (`is_over`).
    Rebalance { is_over: bool },
    /// They are not needed. Working instances are included only if `busy` is set.
    Surplus { busy: bool },
}

impl<'a> Draft<'a> {
    /// Counts the instances and computes how many the policy wants.
    pub(super) fn new(name: &'a str, policy: &'a Policy, known: Known<'a>) -> Self {
        let Known { seen, history } = known;
        let roster = Roster::of(name, Some(policy), known);
        let mut plan = roster.count();
        plan.depth = seen.pools.get(name).and_then(|pool| pool.depth);
        plan.affordable = policy.budget.instance_hours_per_day.and_then(|_| {
            budget::affordable(policy, history.used_today(name, policy, seen.at).time(), seen.at)
        });
        let onset = history.next_onset(name, policy);
        plan.prepares_at = onset.map(|onset| onset.from - (history.start_delay(name, policy) + LEAD));
        let is_complete = plan.depth.is_some() && seen.instances.is_some();
        for (instances, hold) in [
            (roster.silent, Deaf { instances: roster.silent }),
            (roster.unheard, Unheard { instances: roster.unheard }),
            (u32::from(!is_complete), Incomplete),
        ] {
            plan.holds.extend((instances > 0).then_some(hold));
        }
        let mut draft = Self {
            name,
            policy,
            known,
            roster,
            is_complete,
            claim: 0,
            starts: 0,
            lost: 0,
            gone: BTreeSet::new(),
            plan,
        };
        let is_time = draft.plan.prepares_at.is_some_and(|at| at <= seen.at);
        let due = onset.filter(|_| is_time).map(|onset| onset.jobs);
        match draft.load(due) {
            Some(load) => {
                draft.plan.wishes = demand::wishes(policy, &load, history.minutes(name), seen.at);
                draft.plan.load = Some(load);
                draft.plan.wished = demand::largest(&draft.plan.wishes);
                draft.plan.clamped = demand::clamp(policy, draft.plan.wished);
            }
            // The demand is unknown: keep the instances that run, and at least `min`. A late one is
            // kept as well, but not replaced: it would be at every pass.
            None => {
                draft.plan.wished = draft.plan.running();
                draft.plan.clamped = draft.plan.wished.max(policy.pool.min);
            }
        }
        draft
    }

    /// The input of the rules, with the jobs that are due; `None` if the backlog could not be read.
    fn load(&self, due: Option<u64>) -> Option<Load> {
        let Known { seen, history } = self.known;
        let (depth, ready) = (self.plan.depth?, self.plan.ready);
        let mut facts = history.facts(self.name, self.policy);
        if let Some(growth) = history.growth(self.name) {
            // Without a ready instance, the growth of the backlog is the arrival rate.
            let most = if ready == 0 { growth.most } else { f64::INFINITY };
            facts.arrivals_per_s = facts.arrivals_per_s.clamp(growth.least, most);
        }
        // The delay of the next start counts: while parked instances are left, no launch is needed.
        if self.roster.next_tier(self.known) == Some(Tier::Launched) {
            facts.start_delay_s = history.start_delay_of(self.name, self.policy, Tier::Launched);
        }
        let starting_s = self.roster.starting_s(facts.start_delay_s, seen.at);
        Some(Load { depth, facts, ready, starting_s, due })
    }

    /// Number of instances that the pool wants under the limit on all pools. It keeps what it
    /// needed within its window, so that it does not give up instances and then want them back.
    pub(super) fn want(&self) -> Want {
        let pool = &self.policy.pool;
        let lately = self.most_wished(self.policy.scale_in.window).unwrap_or(0).min(self.plan.running());
        let instances = self.plan.granted().max(lately.min(self.plan.affordable.unwrap_or(u32::MAX)));
        Want { min: pool.min, instances, weight: pool.weight }
    }

    /// Sets the pool's share under the limit on all pools.
    pub(super) fn get(&mut self, share: u32) {
        self.claim = share;
        self.plan.share = share.min(self.plan.granted());
        self.plan.desired = self.plan.share;
    }

    pub(super) fn into_plan(self) -> (String, PoolPlan) {
        (self.name.to_owned(), self.plan)
    }

    /// Number of instances that count as capacity once the actions so far are carried out.
    pub(super) fn running_after(&self) -> u32 {
        self.plan.running() + self.starts - self.lost
    }

    pub(super) fn lacks(&self) -> u32 {
        self.plan.share.saturating_sub(self.running_after())
    }

    pub(super) fn leaving(&self) -> u32 {
        size(self.roster.leaving.len())
    }

    /// 1 while a retiring instance serves: its replacement starts before it stops, even if the pool
    /// is at its `max`.
    fn replacement(&self) -> u32 {
        let retires = |view: &&InstanceView| view.instance.retires && !self.is_gone(view);
        let has_retiring = || self.roster.has_retiring && self.roster.serving.iter().any(retires);
        // With an incomplete observation nothing is drained, and every pass would start one more.
        u32::from(self.is_complete && self.plan.share > 0 && has_retiring())
    }

    /// Whether the pool wants one more instance and may start it now: within `max`, `max_step` and
    /// the budget.
    pub(super) fn wants_one(&self) -> bool {
        self.plan.share + self.replacement() > self.running_after() && self.may_start()
    }

    fn may_start(&self) -> bool {
        // Draining and stopping instances still take up places, and late ones are paid for.
        let alive = size(self.roster.alive()) + self.starts;
        let paid = self.running_after() + self.plan.late;
        self.plan.starting + self.starts < self.policy.scale_out.max_step
            && alive < self.policy.most() + self.replacement()
            && self.plan.affordable.is_none_or(|affordable| paid < affordable)
    }

    /// Instances that may be started, best first; empty if the pool wants none.
    pub(super) fn startable(&self) -> Vec<&'a InstanceView> {
        if self.wants_one() { self.roster.startable(self.known) } else { Vec::new() }
    }

    pub(super) fn start(&mut self, view: &InstanceView) {
        self.starts += 1;
        self.plan.launches += u32::from(view.instance.tier == Tier::Launched);
        self.plan.actions.push(Action::Start { id: view.instance.id.clone() });
    }

    /// The parked instance that was last seen ready longest ago, if the policy has `canary` and
    /// there is room beside the demand. Starting it finds a broken instance before it is needed.
    /// Once it is ready it is idle, and is drained.
    pub(super) fn canary(&self) -> Option<&'a InstanceView> {
        self.policy.pool.canary?;
        let is_room = self.is_complete
            && self.plan.starting + self.starts == 0
            && self.plan.running() == self.plan.share
            && self.plan.affordable.is_none_or(|affordable| self.running_after() < affordable)
            && self.may_start();
        let parked = if is_room { self.roster.startable(self.known) } else { Vec::new() };
        let silent = parked.into_iter().filter(|view| is_canary(view, self.policy, self.known));
        silent.min_by_key(|view| last_proof(view, self.known))
    }

    pub(super) fn send(&mut self, canary: &InstanceView) {
        self.plan.canary = Some(canary.instance.id.clone());
        self.start(canary);
    }

    fn hold(&mut self, hold: Hold) {
        if !self.plan.holds.contains(&hold) {
            self.plan.holds.push(hold);
        }
    }

    /// Records why the pool has fewer instances than it wants.
    pub(super) fn hold_missing(&mut self, is_room: bool) {
        if self.lacks() > 0 {
            self.hold(self.why_missing(is_room));
        } else if self.plan.share < self.plan.granted() {
            self.hold(Limit);
        }
        if self.plan.granted() < self.plan.clamped {
            self.hold(Budget);
        }
    }

    fn why_missing(&self, is_room: bool) -> Hold {
        let Known { seen, .. } = self.known;
        if size(self.roster.alive()) + self.starts >= self.policy.most() {
            return NoPlace;
        } else if !self.may_start() {
            return MaxStarting;
        } else if !is_room {
            return Limit;
        }
        // Without capacity, the earlier retry of the two tiers counts.
        let dry = [Tier::Parked, Tier::Launched].into_iter();
        if let Some(until) = dry.filter_map(|tier| self.roster.dry_until(tier, seen)).min() {
            return NoCapacity { until };
        }
        let is_cordoned = |view: &&&InstanceView| seen.operator.is_cordoned(&view.instance.id);
        let others = self.roster.stopped.iter().filter(|view| !is_cordoned(view));
        let until = others.filter_map(|view| left_alone_until(view, seen, self.known.history));
        match until.filter(|until| *until > seen.at).min() {
            Some(until) => BackOff { until },
            None => match size(self.roster.stopped.iter().filter(is_cordoned).count()) {
                0 => NoneStopped,
                instances => Cordoned { instances },
            },
        }
    }

    /// The one rule for whether an instance may be drained; returns the cause to record.
    fn may_go(&self, view: &InstanceView, why: Why) -> Option<Cause> {
        match why {
            Why::TooMany(cause) => Some(cause),
            Why::Replaced(Cause::Updated) => view.instance.retires.then_some(Cause::Updated),
            Why::Replaced(cause) => is_outdated(view, self.known.seen).then_some(cause),
            // A late instance may still become ready.
            Why::Rebalance { .. } if self.roster.is_late(view) => None,
            Why::Rebalance { is_over } => (is_over || self.is_paid_off(view)).then_some(Cause::OverShare),
            Why::Surplus { busy } => {
                let cause = spare(view, self.policy, self.known)?;
                ((busy || cause != Cause::NotNeeded) && self.is_paid_off(view)).then_some(cause)
            }
        }
    }

    /// Whether the instance has run for at least the billing minimum.
    fn is_paid_off(&self, view: &InstanceView) -> bool {
        age(view.instance.since, self.known.seen.at) >= self.policy.instance.billing_minimum
    }

    /// Serving instances that may be drained and are not yet, each with its cause.
    fn candidates(&self, why: Why) -> impl Iterator<Item = (&'a InstanceView, Cause)> {
        let stay = self.roster.serving.iter().copied().filter(|view| !self.is_gone(view));
        stay.filter_map(move |view| Some((view, self.may_go(view, why)?)))
    }

    /// Drains up to `count` of the instances that may go, starting with those of least worth, and
    /// returns how many.
    pub(super) fn dismiss(&mut self, count: u32, why: Why) -> u32 {
        if count == 0 {
            return 0;
        }
        let worth = |view| worth(view, self.roster.is_late(view), self.known);
        let candidates = self.candidates(why);
        let mut ranked: Vec<_> =
            candidates.map(|(view, cause)| ((worth(view), name(view)), view, cause)).collect();
        // Only a few out of possibly thousands are needed, so only those are sorted.
        if let Some(last) = (count as usize).checked_sub(1).filter(|last| *last < ranked.len()) {
            ranked.select_nth_unstable_by(last, |(a, ..), (b, ..)| a.cmp(b));
            ranked.truncate(count as usize);
        }
        ranked.sort_unstable_by(|(a, ..), (b, ..)| a.cmp(b));
        let went: Vec<_> = ranked.into_iter().map(|(_, view, cause)| (view, cause)).collect();
        for (view, cause) in &went {
            self.lost += u32::from(!self.roster.is_late(view));
            self.gone.insert(&view.instance.id);
            self.plan.actions.push(drain(view, &self.policy.scale_in, *cause));
        }
        if let Why::Rebalance { .. } = why {
            self.plan.desired = self.plan.desired.min(self.running_after());
        }
        size(went.len())
    }

    /// Number of instances that the pool may give up to other pools now. Its last one stays until
    /// the window is over, as in any scale-in.
    pub(super) fn may_give_up(&self, is_over: bool) -> u32 {
        let keeps = if is_over { self.plan.share } else { self.claim.max(self.plan.share).max(1) };
        let may_leave = is_over || self.leaving() + self.lost < self.policy.scale_in.max_step;
        if self.is_complete && may_leave { self.running_after().saturating_sub(keeps) } else { 0 }
    }

    /// Drains instances that are of no use, too many, replaced or not needed. Does nothing if the
    /// observation is incomplete.
    pub(super) fn scale_in(&mut self) {
        if !self.is_complete {
            self.plan.desired = self.plan.desired.max(self.plan.running());
            return;
        }
        self.plan.actions.extend(self.roster.departures(&self.policy.scale_in, self.known.seen.at));
        let (max, replacement) = (self.policy.most(), self.replacement());
        let affordable = self.plan.affordable.unwrap_or(u32::MAX);
        let running = self.plan.running() + self.plan.late;
        if running > affordable || running > max + replacement {
            let over_max = running.saturating_sub(max);
            self.dismiss(over_max, Why::TooMany(Cause::OverMax));
            let over_budget = running.saturating_sub(affordable).saturating_sub(over_max);
            self.dismiss(over_budget, Why::TooMany(Cause::OverBudget));
        }
        // Replacement is one at a time: nothing is replaced while another instance leaves or
        // starts.
        if self.roster.is_quiet() && self.starts == 0 && self.gone.is_empty() {
            let outdated = u32::from(!self.roster.new_version_died(self.known));
            let retiring = u32::from(replacement > 0 && self.running_after() > self.plan.share);
            if self.dismiss(outdated, Why::Replaced(Cause::OtherVersion)) == 0 {
                self.dismiss(retiring, Why::Replaced(Cause::Updated));
            }
        }
        let replacement = self.replacement();
        self.shed_surplus();
        if self.replacement() < replacement {
            // If the retiring instance was surplus, so is its replacement.
            self.shed_surplus();
        }
    }

    fn is_gone(&self, view: &InstanceView) -> bool {
        !self.gone.is_empty() && self.gone.contains(view.instance.id.as_str())
    }
}
