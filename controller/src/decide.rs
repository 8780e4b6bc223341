//! The decision: policies, an observation and a history in, a plan out. No clock, no chance, no log, no I/O.
//!
//! In order: each rule's wish, the largest of them, the spare instances, `min` and `max`, the budget, the limit on all pools,
//! and then what holds it back. Every stage is kept in the plan. What must hold of any plan is said a second time in [`check`].

mod budget;
mod demand;
mod forecast;
mod queueing;
mod roster;

pub mod check;
pub mod history;
pub mod plan;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

pub(crate) use self::roster::left_alone_until;
pub use self::{
    demand::Load,
    history::{Facts, History},
    plan::{Action, Because, Cause, Hold, Plan, PoolPlan, Wish},
};
use self::{
    demand::Want,
    plan::Hold::{
        BackOff, Budget, Cordoned, Deaf, Incomplete, Limit, MaxStarting, MaxStep, NoCapacity, NoGoodPolicy,
        NoPlace, NoneStopped, NotIdle, PaidFor, SuddenDrop, TooEarly, WasHigher, WorthKeeping,
    },
    roster::{BUSY_WINDOW, Roster, cheapest_of, drain, is_canary, is_paid_off, last_proof},
};
use crate::{
    fleet::Tier,
    observe::{InstanceView, Observation, age},
    policy::{Policies, Policy, ScaleIn},
};

/// What to do now. `history` has seen `seen` already.
pub fn decide(policies: &Policies, seen: &Observation, history: &History) -> Plan {
    let mut drafts: Vec<_> =
        policies.pools.iter().map(|(name, policy)| Draft::new(name, policy, seen, history)).collect();
    let wants: Vec<_> = drafts.iter().map(|draft| draft.want(seen, history)).collect();
    for (draft, share) in drafts.iter_mut().zip(demand::shares(policies.instance_limit, &wants)) {
        draft.claim = share;
        draft.plan.share = share.min(draft.plan.granted());
        draft.plan.desired = draft.plan.share;
    }
    scale_out(&mut drafts, policies, seen, history);
    send_canaries(&mut drafts, policies, seen, history);
    for draft in &mut drafts {
        draft.scale_in(seen, history);
    }
    rebalance(&mut drafts, policies, seen, history);
    let mut pools: BTreeMap<_, _> =
        drafts.into_iter().map(|draft| (draft.name.to_owned(), draft.plan)).collect();
    pools.extend(without_policy(policies, seen, history));
    Plan { at: seen.at, pools }
}

/// A pool's part of the plan in the making.
struct Draft<'a> {
    name: &'a str,
    policy: &'a Policy,
    roster: Roster<'a>,
    /// The names of those that should have been ready by now.
    late: Vec<&'a str>,
    /// Whether everything about this pool could be seen.
    is_complete: bool,
    /// What it may keep under the limit on all pools: its share of what it wants now or needed within its window.
    claim: u32,
    /// Starts in the plan, ...
    starts: u32,
    /// ... and drains in it of those that it counted on.
    lost: u32,
    plan: PoolPlan,
}

impl<'a> Draft<'a> {
    /// What there is and what is wished.
    fn new(name: &'a str, policy: &'a Policy, seen: &'a Observation, history: &History) -> Self {
        let roster = Roster::of(name, Some(policy), seen, history);
        let depth = seen.pools.get(name).and_then(|pool| pool.depth);
        let (mut plan, mut late) = (count(&roster), Vec::new());
        plan.depth = depth;
        match depth {
            Some(depth) => {
                let mut facts = history.facts(name, policy);
                if let Some(growth) = history.growth(name) {
                    // While nobody works, what waits tells what arrives.
                    let most = if plan.ready == 0 { growth.most } else { f64::INFINITY };
                    facts.arrivals_per_s = facts.arrivals_per_s.clamp(growth.least, most);
                }
                let delay_s = |tier| history.start_delay_of(name, policy, tier);
                // By what comes next: while parked ones are left, nobody waits for a launch.
                if roster.next_tier(seen, history) == Some(Tier::Launched) {
                    facts.start_delay_s = delay_s(Tier::Launched);
                }
                late = roster.late(delay_s, seen, history);
                plan.late = size(late.len());
                plan.starting -= plan.late;
                let starting_s = roster.starting_s(facts.start_delay_s, seen.at);
                let load = Load { depth, facts, ready: plan.ready, starting_s };
                plan.wishes = demand::wishes(policy, &load, history.minutes(name), seen.at);
                plan.load = Some(load);
                plan.wished = demand::largest(&plan.wishes);
                plan.clamped = demand::clamp(policy, plan.wished);
            }
            // What is there is not judged; only what is kept in any case is certain.
            None => {
                plan.wished = plan.running();
                plan.clamped = plan.wished.max(policy.pool.min);
            }
        }
        plan.affordable = affordable(name, policy, seen, history);
        if roster.silent > 0 {
            plan.holds.push(Deaf { instances: roster.silent });
        }
        let is_complete = depth.is_some() && seen.instances.is_some();
        if !is_complete {
            plan.holds.push(Incomplete);
        }
        Self { name, policy, roster, late, is_complete, claim: 0, starts: 0, lost: 0, plan }
    }

    /// What it wants of the limit on all pools. What it needed a moment ago it will not give away and ask for again.
    fn want(&self, seen: &Observation, history: &History) -> Want {
        let pool = &self.policy.pool;
        let lately = history.most_wished(self.name, self.policy.scale_in.window, seen.at);
        let lately = lately.map_or(0, |wished| demand::clamp(self.policy, wished)).min(self.plan.running());
        let instances = self.plan.granted().max(lately.min(self.plan.affordable.unwrap_or(u32::MAX)));
        Want { min: pool.min, instances, weight: pool.weight }
    }

    /// Instances that it will count on once the actions so far are done.
    fn running_then(&self) -> u32 {
        self.plan.running() + self.starts - self.lost
    }

    /// Places that will be taken once the actions so far are done: what drains and stops keeps its own.
    fn alive_then(&self) -> u32 {
        size(self.roster.alive()) + self.starts
    }

    /// Whether one more may start beside those that start already, within `max`.
    fn may_start(&self) -> bool {
        // One that is late is paid for all the same.
        let paid = self.running_then() + self.plan.late;
        self.plan.starting + self.starts < self.policy.scale_out.max_step
            && self.alive_then() < self.most()
            && self.plan.affordable.is_none_or(|affordable| paid < affordable)
    }

    fn start(&mut self, view: &InstanceView) {
        self.starts += 1;
        self.plan.launches += u32::from(view.instance.tier == Tier::Launched);
        self.plan.actions.push(Action::Start { id: view.instance.id.clone() });
    }

    /// All that serve, those first that lose the least: nothing is lost with one that is late.
    fn cheapest(&self, seen: &Observation, history: &History) -> Vec<&'a InstanceView> {
        let mut all = self.roster.cheapest(seen, history);
        all.sort_by_key(|view| !self.late.contains(&view.instance.id.as_str()));
        all
    }

    /// How many leave, or will as the plan says.
    fn leaves(&self) -> u32 {
        size(self.roster.leaving.len()) + self.lost
    }

    fn lacks(&self) -> u32 {
        self.plan.share.saturating_sub(self.running_then())
    }

    /// One more than is needed, as long as one serves that retires: the other one comes before it goes, also where the pool may
    /// have no more than it has.
    fn relief(&self) -> u32 {
        // Where not everything could be seen nobody goes, and one more would come in each pass.
        u32::from(self.is_complete && self.plan.share > 0 && self.roster.has_retiring())
    }

    /// What may be started.
    fn wants(&self) -> u32 {
        (self.plan.share + self.relief()).saturating_sub(self.running_then())
    }

    /// Places that there are.
    fn most(&self) -> u32 {
        self.policy.most() + self.relief()
    }

    fn hold(&mut self, hold: Hold) {
        if !self.plan.holds.contains(&hold) {
            self.plan.holds.push(hold);
        }
    }

    /// Sends one away that serves.
    fn drain(&mut self, view: &InstanceView, cause: Cause) {
        self.lost += u32::from(!self.late.contains(&view.instance.id.as_str()));
        self.plan.actions.push(drain(view, &self.policy.scale_in, cause));
    }

    /// Sends away what is too much, of no use or overdue, as far as everything could be seen.
    fn scale_in(&mut self, seen: &Observation, history: &History) {
        if !self.is_complete {
            self.plan.desired = self.plan.desired.max(self.plan.running());
            return;
        }
        let useless = self.roster.useless.iter();
        let scale_in = &self.policy.scale_in;
        self.plan.actions.extend(useless.map(|(view, cause)| drain(view, scale_in, *cause)));
        self.plan.actions.extend(self.roster.stops(seen.at));

        let (max, relief) = (self.policy.most(), self.relief());
        let affordable = self.plan.affordable.unwrap_or(max).min(max);
        let running = self.plan.running() + self.plan.late;
        let is_relieved =
            running <= max + relief && self.plan.affordable.is_none_or(|affordable| running <= affordable);
        let [over_max, too_dear] =
            [max, affordable].map(|most| if is_relieved { 0 } else { running.saturating_sub(most) as usize });
        if too_dear > 0 {
            for (number, view) in self.cheapest(seen, history).into_iter().take(too_dear).enumerate() {
                self.drain(view, if number < over_max { Cause::OverMax } else { Cause::OverBudget });
            }
        }
        if let Some(view) = self.roster.next_to_replace(seen, history)
            && too_dear == 0
            && self.starts == 0
        {
            self.drain(view, Cause::OtherVersion);
        }
        if let Some(view) = self.roster.next_to_retire(seen, history)
            && relief > 0
            && self.running_then() > self.plan.share
            && self.starts == 0
            && !self.drained().contains(&view.instance.id)
        {
            self.drain(view, Cause::Updated);
        }
        // One that is late is waited for: it is not what serves, and goes when it has come or is given up.
        // Nor does one that was started to see whether it works make another superfluous.
        let is_sent = |view: &&&InstanceView| is_canary(view, self.policy, seen, history);
        let sent = size(self.roster.starting.iter().filter(is_sent).count());
        let sent = sent + u32::from(self.plan.canary.is_some());
        let running = self.running_then().saturating_sub(sent + relief);
        if running <= self.plan.share {
            return;
        }
        self.plan.desired = self.floor(running, seen, history).clamp(self.plan.share, running);
        let surplus = (running - self.plan.desired) as usize;
        if surplus == 0 {
            return;
        }
        let gone = self.drained();
        let leaving = self.roster.leaving.len() + gone.len();
        let step = (self.policy.scale_in.max_step as usize).saturating_sub(leaving);
        let mut dispensable = self.roster.dispensable(self.policy, seen, history);
        dispensable.retain(|(view, _)| !gone.contains(&view.instance.id));
        // Whoever works may go only where that leaves enough for all of the last minutes.
        let all_busy = self.surplus_for_long(running, seen, history) as usize;
        let at_rest = dispensable.iter().filter(|(_, cause)| *cause != Cause::NotNeeded).count();
        if all_busy <= at_rest {
            dispensable.retain(|(_, cause)| *cause != Cause::NotNeeded);
        }
        let all = dispensable.len().min(all_busy.max(at_rest));
        dispensable.retain(|(view, _)| is_paid_off(view, self.policy, seen));
        if dispensable.len() < surplus.min(all) {
            self.hold(PaidFor);
        }
        if all < surplus {
            self.hold(NotIdle);
        }
        if step < surplus.min(dispensable.len()) {
            self.hold(MaxStep);
        }
        let count = surplus.min(step).min(all);
        for (view, cause) in cheapest_of(dispensable, count, seen, history) {
            self.drain(view, cause);
        }
    }

    /// So many were too many for all of the last minutes: even those that work can go.
    fn surplus_for_long(&self, running: u32, seen: &Observation, history: &History) -> u32 {
        let window = self.policy.scale_in.window.max(BUSY_WINDOW);
        let wished = history.most_wished(self.name, window, seen.at);
        wished.map_or(0, |wished| running.saturating_sub(demand::clamp(self.policy, wished)))
    }

    /// How many the demand of the whole window calls for.
    fn floor(&mut self, running: u32, seen: &Observation, history: &History) -> u32 {
        let window = self.policy.scale_in.window;
        let is_recent = |moment: DateTime<Utc>| age(moment, seen.at) < window;
        let peak = history.peak_over(self.name, window, seen.at);
        let (Some(wished), Some(peak)) = (history.most_wished(self.name, window, seen.at), peak) else {
            self.hold(TooEarly);
            return running;
        };
        // Where a load has ended before, its end is no outage.
        if history.last_drop(self.name).is_some_and(is_recent) && !history.knows_gaps(self.name) {
            self.hold(SuddenDrop);
            return running;
        }
        // A job that came and was done between two looks is demand as well.
        let had_work = peak > 0 || history.last_arrival(self.name).is_some_and(is_recent);
        let least = u32::from(had_work && !self.policy.rules.is_empty());
        let lately = wished.max(least);
        let kept = history.worth_keeping(self.name, running, lately, self.policy, seen.at).max(least);
        let within =
            |wished| demand::clamp(self.policy, wished).min(self.plan.affordable.unwrap_or(u32::MAX));
        let (floor, by_window) = (within(kept), within(lately));
        if floor > self.plan.share {
            self.hold(if floor > by_window {
                WorthKeeping { instances: floor }
            } else {
                WasHigher { instances: floor }
            });
        }
        floor
    }

    fn drained(&self) -> BTreeSet<String> {
        let drains = self.plan.actions.iter().filter(|action| matches!(action, Action::Drain { .. }));
        drains.map(|action| action.id().to_owned()).collect()
    }
}

/// Starts, one at a time for the pool that has the fewest, while there is room.
fn scale_out(drafts: &mut [Draft<'_>], policies: &Policies, seen: &Observation, history: &History) {
    let Some(instances) = &seen.instances else { return };
    let alive = size(instances.iter().filter(|view| view.instance.is_alive()).count());
    let mut room = policies.instance_limit.map_or(u32::MAX, |limit| limit.saturating_sub(alive));
    let mut startable: Vec<_> = drafts
        .iter()
        .map(|draft| if draft.wants() > 0 { draft.roster.startable(seen, history) } else { Vec::new() })
        .map(Vec::into_iter)
        .collect();
    while room > 0 {
        let wants = |index: &usize| {
            let draft = &drafts[*index];
            startable[*index].len() > 0 && draft.wants() > 0 && draft.may_start()
        };
        let next = (0..drafts.len()).filter(wants).min_by_key(|index| drafts[*index].running_then());
        let Some((next, view)) = next.and_then(|next| Some((next, startable[next].next()?))) else { break };
        drafts[next].start(view);
        room -= 1;
    }
    for draft in drafts {
        let is_limited = draft.plan.share < draft.plan.granted();
        if draft.lacks() > 0 {
            draft.hold(if draft.alive_then() >= draft.policy.most() {
                NoPlace
            } else if !draft.may_start() {
                MaxStarting
            } else if room == 0 {
                Limit
            } else {
                let (cordoned, others): (Vec<&InstanceView>, Vec<_>) = draft
                    .roster
                    .stopped
                    .iter()
                    .copied()
                    .partition(|view| seen.operator.is_cordoned(&view.instance.id));
                let until = others.iter().filter_map(|view| left_alone_until(view, seen, history));
                let instances = size(cordoned.len());
                match until.filter(|until| *until > seen.at).min() {
                    _ if dry_until(&draft.roster, seen).is_some() => {
                        NoCapacity { until: dry_until(&draft.roster, seen).unwrap_or(seen.at) }
                    }
                    Some(until) => BackOff { until },
                    None if instances > 0 => Cordoned { instances },
                    None => NoneStopped,
                }
            });
        } else if is_limited {
            draft.hold(Limit);
        }
        if draft.plan.granted() < draft.plan.clamped {
            draft.hold(Budget);
        }
    }
}

/// When one is tried again of those for which there was no capacity, whichever comes first.
fn dry_until(roster: &Roster<'_>, seen: &Observation) -> Option<DateTime<Utc>> {
    [Tier::Parked, Tier::Launched].into_iter().filter_map(|tier| roster.dry_until(tier, seen)).min()
}

/// Starts the instance that has not been seen ready for longest, where the policy asks for that and there is room beside the
/// demand: whoever does not work any more shall be found before it is needed. When it is ready it is idle, and goes.
fn send_canaries(drafts: &mut [Draft<'_>], policies: &Policies, seen: &Observation, history: &History) {
    let Some(instances) = &seen.instances else { return };
    let mut alive = size(instances.iter().filter(|view| view.instance.is_alive()).count());
    alive += drafts.iter().map(|draft| draft.starts).sum::<u32>();
    for draft in drafts.iter_mut().filter(|draft| draft.policy.pool.canary.is_some()) {
        let is_room = policies.instance_limit.is_none_or(|limit| alive < limit)
            && draft.plan.affordable.is_none_or(|affordable| draft.running_then() < affordable)
            && draft.is_complete
            && draft.lacks() == 0
            && draft.plan.starting == 0
            && draft.plan.running() <= draft.plan.share
            && draft.starts == 0
            && draft.may_start();
        let mut parked = draft.roster.startable(seen, history);
        parked.retain(|view| is_canary(view, draft.policy, seen, history));
        let longest = parked.into_iter().min_by_key(|view| last_proof(view, history));
        if let Some(view) = longest.filter(|_| is_room) {
            draft.plan.canary = Some(view.instance.id.clone());
            draft.start(view);
            alive += 1;
        }
    }
}

/// Under the limit on all pools, who has more than its share makes place for who has less: as in any scale-in, no more at a time than
/// may leave, and nobody who is not paid off. Where the limit itself was lowered, nobody waits.
fn rebalance(drafts: &mut [Draft<'_>], policies: &Policies, seen: &Observation, history: &History) {
    let Some(limit) = policies.instance_limit else { return };
    let running: u32 = drafts.iter().map(Draft::running_then).sum();
    let lacking: u32 = drafts.iter().map(Draft::lacks).sum();
    // Places that become free anyway are waited for.
    let leaving: u32 = drafts.iter().map(|draft| size(draft.roster.leaving.len())).sum();
    let is_over = running > limit;
    let mut too_many = (running + lacking).saturating_sub(limit);
    if !is_over {
        too_many = too_many.min(lacking.saturating_sub(leaving));
    }
    while too_many > 0 {
        // The last one of a pool goes when the window is over, like any last one.
        let excess = |draft: &Draft<'_>| {
            let keeps = if is_over { draft.plan.share } else { draft.claim.max(draft.plan.share).max(1) };
            let may_leave = is_over || draft.leaves() < draft.policy.scale_in.max_step;
            if draft.is_complete && may_leave { draft.running_then().saturating_sub(keeps) } else { 0 }
        };
        let mut order: Vec<_> = (0..drafts.len()).filter(|index| excess(&drafts[*index]) > 0).collect();
        order.sort_by_key(|index| std::cmp::Reverse(excess(&drafts[*index])));
        let chosen = order.into_iter().find_map(|index| {
            let draft = &drafts[index];
            let gone = draft.drained();
            let cheapest = draft.roster.cheapest(seen, history).into_iter().find(|view| {
                !gone.contains(&view.instance.id)
                    && !draft.late.contains(&view.instance.id.as_str())
                    && (is_over || is_paid_off(view, draft.policy, seen))
            });
            cheapest.map(|view| (index, view))
        });
        let Some((index, view)) = chosen else { return };
        let draft = &mut drafts[index];
        draft.drain(view, Cause::OverShare);
        draft.plan.desired = draft.plan.desired.min(draft.running_then());
        too_many -= 1;
    }
}

/// Instances of pools without a policy: drained where the policy was taken away, left alone where it cannot be read.
fn without_policy(policies: &Policies, seen: &Observation, history: &History) -> Vec<(String, PoolPlan)> {
    let alive = seen.instances.iter().flatten().filter(|view| view.instance.is_alive());
    let mut names: BTreeSet<_> = alive.map(|view| &view.instance.pool).collect();
    names.extend(&policies.unreadable);
    names.retain(|name| !policies.pools.contains_key(*name));
    let plan = |name: &String| {
        let roster = Roster::of(name, None, seen, history);
        let mut plan = count(&roster);
        if policies.unreadable.contains(name) {
            plan.desired = size(roster.useless.len());
            plan.holds.push(NoGoodPolicy);
        } else {
            let drains = roster.useless.iter().map(|(view, cause)| drain(view, &ScaleIn::default(), *cause));
            plan.actions.extend(drains.chain(roster.stops(seen.at)));
        }
        (name.clone(), plan)
    };
    names.into_iter().map(plan).collect()
}

fn affordable(name: &str, policy: &Policy, seen: &Observation, history: &History) -> Option<u32> {
    policy.budget.instance_hours_per_day?;
    budget::affordable(policy, history.used_today(name, policy, seen.at).time(), seen.at)
}

fn count(roster: &Roster<'_>) -> PoolPlan {
    let starting = size(roster.starting.len());
    let ready = size(roster.serving.len()) - starting;
    let leaving = size(roster.leaving.len() + roster.useless.len());
    PoolPlan { ready, starting, leaving, ..PoolPlan::default() }
}

fn size(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
pub(crate) mod tests;
